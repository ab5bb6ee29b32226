"""Invariant I-4: the index can be thrown away and comes back the same from the segments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from store.errors import DamagedError, StoreBusy
from store.indexer import Indexer, take_indexer_lock
from store.journal import Journal
from store.reindex import NEW_NAME, reindex
from store.segment import list_segments
from store.volume import Store
from tests.unit.journal_workload import Workload, answers, make_store

SECOND = 1_000_000_000


def filled(root: Path, seed: int = 0) -> tuple[Store, Workload]:
    """A store with a few segments, the last one open, and nothing left in the log."""
    store = make_store(root)
    workload = Workload(store, seed)
    indexer = Indexer(store, segment_bytes=500_000)
    for now in range(8):
        workload.run(25)
        indexer.step(now * SECOND, everything=True)
    workload.create()
    workload.publish()
    indexer.step(8 * SECOND, everything=True)
    indexer.close()
    return store, workload


def ask(store: Store) -> dict[str, object]:
    with Journal(store) as journal:
        return answers(journal)


@pytest.mark.parametrize("seed", range(3))
def test_a_rebuilt_index_gives_the_same_answers(tmp_path: Path, seed: int) -> None:
    store, workload = filled(tmp_path, seed)
    before = ask(store)
    for path in store.index_dir.iterdir():
        path.unlink()
    store.index_dir.rmdir()
    seen: list[tuple[int, int]] = []
    report = reindex(store, lambda done, total: seen.append((done, total)))
    assert ask(store) == before
    assert report.last_lsn == workload.intake.lsn
    assert report.torn_bytes == 0
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == sum(f.path.stat().st_size for f in list_segments(store))


def test_indexing_goes_on_behind_a_rebuilt_index(tmp_path: Path) -> None:
    store, workload = filled(tmp_path)
    reindex(store)
    workload.run(30)
    indexer = Indexer(store, segment_bytes=500_000)
    indexer.step(0, everything=True)
    indexer.close()
    with Journal(store) as journal:
        workload.check(journal)
    assert not (store.root / NEW_NAME).exists()


def test_a_store_without_segments_gets_an_empty_index(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert reindex(store).last_lsn == 0


def test_it_refuses_while_an_indexer_runs(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    lock = take_indexer_lock(store)
    with pytest.raises(StoreBusy) as caught:
        reindex(store)
    assert "umount" in caught.value.hint
    os.close(lock)
    reindex(store)


def test_an_unfinished_batch_at_the_end_is_left_to_the_log(tmp_path: Path) -> None:
    store, workload = filled(tmp_path)
    workload.run(20)
    indexer = Indexer(store, segment_bytes=1 << 30)
    indexer.step(0)  # read, written and dropped without a commit
    indexer._write_all(indexer._batcher.take(0, settled=True, everything=True))
    indexer.close()
    last = list_segments(store)[-1]
    with last.path.open("r+b") as file:
        file.truncate(last.path.stat().st_size - 3)
    report = reindex(store)
    assert report.torn_bytes > 0
    assert report.last_lsn < workload.intake.lsn
    indexer = Indexer(store)
    indexer.step(0, everything=True)
    indexer.close()
    with Journal(store) as journal:
        workload.check(journal)


def test_damage_is_refused_and_the_old_index_stays(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    before = ask(store)
    victim = list_segments(store)[0].path
    whole = victim.read_bytes()
    victim.write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    with pytest.raises(DamagedError, match=victim.name):
        reindex(store)
    victim.write_bytes(whole)
    assert ask(store) == before
    victim.rename(victim.with_suffix(".lost"))
    with pytest.raises(DamagedError, match="LSN 1 should come before"):
        reindex(store)


def test_a_committed_batch_that_rotted_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    store, workload = filled(tmp_path)
    last = list_segments(store)[-1]
    assert last.last_lsn is None
    workload.lose_log()
    with last.path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    with pytest.raises(DamagedError) as caught:
        reindex(store)
    assert "truncate -s" in caught.value.hint
