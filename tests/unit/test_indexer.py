"""The indexer: what fsd logs, the journal answers, whatever happens to the indexer between."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from store import durable
from store.errors import DamagedError, IndexStale, StoreFull
from store.format import Kind
from store.indexer import Indexer, Loop
from store.journal import Journal
from store.scan import scan_segments
from store.segment import list_segments
from store.tail import IntakeTail
from store.volume import Store
from tests.unit.journal_workload import Workload, answers, make_store

SECOND = 1_000_000_000


def index_everything(store: Store, segment_bytes: int = 1 << 20) -> None:
    indexer = Indexer(store, segment_bytes)
    indexer.step(0, everything=True)
    indexer.close()


def test_the_journal_answers_what_was_logged(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    indexer = Indexer(store, segment_bytes=1 << 20)
    for now in range(6):
        workload.run(40)
        indexer.step(now * SECOND, everything=now % 2 == 1)
    with Journal(store) as journal:
        workload.check(journal)
    assert len(list_segments(store)) >= 2
    assert workload.page.indexed_lsn == workload.intake.lsn
    indexer.close()


def test_only_applied_ops_are_taken(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    workload.run(10)
    applied = workload.publish()
    workload.create()
    indexer = Indexer(store)
    indexer.step(0, everything=True)
    assert workload.page.indexed_lsn == applied
    workload.publish()
    indexer.step(0, everything=True)
    assert workload.page.indexed_lsn == workload.intake.lsn
    indexer.close()


def test_batches_wait_a_second_unless_poked(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    indexer = Indexer(store)
    indexer.step(10 * SECOND)
    assert workload.page.indexed_lsn == 0
    indexer.step(11 * SECOND)
    assert workload.page.indexed_lsn == workload.intake.lsn
    workload.create()
    workload.publish()
    indexer.step(11 * SECOND, everything=True)
    assert workload.page.indexed_lsn == workload.intake.lsn
    indexer.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_restart_at_any_point_gives_the_same_journal(tmp_path: Path, seed: int) -> None:
    """The indexer is dropped with whatever it has not committed, again and again."""
    store = make_store(tmp_path)
    workload, chance = Workload(store, seed), random.Random(seed)
    now = 0
    indexer = Indexer(store, segment_bytes=600_000)
    for _ in range(8):
        workload.run(25)
        for _ in range(chance.randrange(4)):
            now += chance.choice([0, SECOND // 3, SECOND])
            indexer.step(now)
        if chance.random() < 0.7:  # written to the segment, but not committed
            indexer._write_all(indexer._batcher.take(now, settled=True, everything=True))
        indexer.close()
        indexer = Indexer(store, segment_bytes=600_000)
    indexer.step(now, everything=True)
    indexer.close()
    found = [scanned.header for scanned in scan_segments(store)]
    assert [header.first_lsn for header in found[1:]] == [h.last_lsn + 1 for h in found[:-1]]
    assert [header.previous for header in found[1:]] == [h.digest for h in found[:-1]]
    with Journal(store) as journal:
        workload.check(journal)
        assert same_history(answers(journal), uninterrupted(tmp_path / "reference", seed, 200))


def uninterrupted(root: Path, seed: int, changes: int) -> dict[str, object]:
    """The answers of a journal that was made in one go from the same changes."""
    store = make_store(root)
    Workload(store, seed).run(changes)
    index_everything(store)
    with Journal(store) as journal:
        return answers(journal)


def same_history(one: dict[str, object], other: dict[str, object]) -> bool:
    """The same ops and files; points depend on where batches were cut."""
    return all(one[key] == other[key] for key in ("files", "payloads", "ops"))


def test_a_torn_batch_at_the_segments_end_is_made_again(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    workload.run(20)
    index_everything(store, 1 << 30)
    [file] = list_segments(store)
    size = file.path.stat().st_size
    with file.path.open("ab") as opened:
        opened.write(b"CDPBATCH" + bytes(5000))
    workload.run(20)
    index_everything(store, 1 << 30)
    assert file.path.stat().st_size > size
    with Journal(store) as journal:
        workload.check(journal)


def test_the_ring_goes_round_while_the_indexer_follows(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    indexer = Indexer(store)
    workload.create()
    for now in range(40):  # 40 MiB through a ring of 32
        for _ in range(8):
            workload.log(Kind.WRITE, 2, 0, workload.rng.randbytes(1 << 17))
        workload.publish()
        indexer.step(now * SECOND, everything=True)
    assert workload.page.indexed_lsn == workload.intake.lsn
    indexer.close()


def test_a_damaged_record_among_the_applied_ones_is_an_error(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    workload.create()
    for _ in range(10):
        workload.log(Kind.WRITE, 2, 0, bytes(5000))
    workload.publish()
    end = IntakeTail(store).end_of_log()
    assert end.ring is not None
    with end.ring.path.open("r+b") as file:
        file.seek(end.position - 12_000)
        file.write(b"?")
    indexer = Indexer(store)
    with pytest.raises(DamagedError, match="no valid record of LSN 13, yet ops are applied to 15"):
        indexer.step(0, everything=True)
    indexer.close()


def test_a_lost_index_is_refused_when_segments_know_more(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    workload.run(100)
    index_everything(store, segment_bytes=100_000)
    before = {file.path.name: file.path.read_bytes() for file in list_segments(store)}
    assert not any("open" in name for name in before)
    for path in store.index_dir.iterdir():
        path.unlink()
    with pytest.raises(IndexStale, match="the index ends at LSN 0"):
        Indexer(store)
    assert {f.path.name: f.path.read_bytes() for f in list_segments(store)} == before


def test_a_lost_index_is_refused_when_the_log_has_moved_on(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    workload.run(10)
    index_everything(store, 1 << 30)
    for path in store.index_dir.iterdir():
        path.unlink()
    workload.lose_log()
    workload.create()
    workload.publish()
    indexer = Indexer(store)
    with pytest.raises(IndexStale):
        indexer.step(0, everything=True)
    indexer.close()
    assert len(list_segments(store)) == 1


def test_a_full_disk_delays_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    workload.run(60)
    real, room = durable.pwrite_all, [120_000]

    def limited(fd: int, data: bytes, offset: int) -> None:
        part = data[: room[0]]
        room[0] -= len(part)
        real(fd, part, offset)
        if len(part) < len(data):
            raise StoreFull("no space left for the store")

    monkeypatch.setattr(durable, "pwrite_all", limited)
    indexer = Indexer(store, segment_bytes=100_000)
    for _ in range(5):
        with pytest.raises(StoreFull):
            indexer.step(0, everything=True)
        indexer.reset()
        room[0] += 30_000
    room[0] = 1 << 40
    indexer.step(0, everything=True)
    with Journal(store) as journal:
        workload.check(journal)
    indexer.close()


class Process:
    """The indexer as fsd runs it."""

    def __init__(self, store: Store) -> None:
        reading, self.line = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "store.indexer", str(store.root)],
            stdin=reading,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
            text=True,
        )
        os.close(reading)

    def end(self) -> tuple[int, str]:
        """Wait for it; exit code and what it logged."""
        _, errors = self.process.communicate()
        return self.process.returncode, errors

    def close_line(self) -> None:
        os.close(self.line)


def wait_indexed(workload: Workload, process: Process) -> None:
    os.write(process.line, b"!")
    while workload.page.indexed_lsn < workload.intake.lsn:
        assert process.process.poll() is None, process.end()


def test_the_process_answers_pokes_and_ends_with_its_parent(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    process = Process(store)
    for _ in range(3):
        workload.run(20)
        wait_indexed(workload, process)
    assert workload.page.indexer_pid == process.process.pid
    workload.run(20)
    process.close_line()
    assert process.end() == (0, "")
    assert workload.page.indexed_lsn == workload.intake.lsn
    assert workload.page.indexer_pid == 0
    with Journal(store) as journal:
        workload.check(journal)


def test_the_process_finishes_on_sigterm_and_ignores_ctrl_c(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    process = Process(store)
    wait_indexed(workload, process)
    process.process.send_signal(signal.SIGINT)
    workload.run(20)
    process.process.send_signal(signal.SIGTERM)
    assert process.end() == (0, "")
    assert workload.page.indexed_lsn == workload.intake.lsn
    process.close_line()


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    for _ in range(3):
        process = Process(store)
        workload.run(60)
        os.write(process.line, b"!")
        while workload.page.indexed_lsn == 0:
            assert process.process.poll() is None, process.end()
        process.process.kill()
        process.end()
        process.close_line()
    index_everything(store)
    with Journal(store) as journal:
        workload.check(journal)


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    first = Process(store)
    wait_indexed(workload, first)
    second = Process(store)
    workload.run(20)
    first.close_line()
    assert first.end() == (0, "")
    workload.run(20)
    wait_indexed(workload, second)
    second.close_line()
    assert second.end() == (0, "")


def test_the_process_says_why_it_fails(tmp_path: Path) -> None:
    process = Process(make_store(tmp_path))
    process.close_line()
    assert process.end() == (0, "")
    store = make_store(tmp_path / "other")
    (store.root / "volume.toml").unlink()
    process = Process(store)
    process.close_line()
    code, errors = process.end()
    assert code == 1
    assert "no cdpfs store at" in errors


def test_the_process_ends_with_3_when_the_log_is_damaged(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    workload.page.applied_lsn = workload.intake.lsn + 5
    process = Process(store)
    process.close_line()
    code, errors = process.end()
    assert code == 3
    assert "no valid record of LSN 5" in errors
    assert errors.count("\n") == 1


@pytest.mark.expects_warnings
def test_a_full_disk_is_told_once_and_tried_again_more_and_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path)
    workload = Workload(store)
    workload.run(20)
    indexer = Indexer(store)
    reading, writing = os.pipe()
    loop = Loop(indexer, reading)

    def full(fd: int, data: bytes, offset: int) -> None:
        raise StoreFull("no space left for the store")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "pwrite_all", full)
        pauses = [loop._work(everything=True) for _ in range(7)]
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert workload.page.indexer_trouble == errno.ENOSPC
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    loop._work(everything=True)
    assert workload.page.indexer_trouble == 0
    assert workload.page.indexed_lsn == workload.intake.lsn
    indexer.close()
    os.close(reading)
    os.close(writing)
