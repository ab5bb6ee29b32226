"""Verification: a sound store has no findings, and no flipped bit goes unnoticed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import lmdb
import pytest

from store.format import Kind
from store.index_rows import OP_ROW
from store.indexer import Indexer
from store.scan import scan_segments
from store.segment import list_segments
from store.statepage import StatePage
from store.tail import IntakeTail
from store.types import Lsn
from store.verify import Finding, VerifyReport, verify
from store.volume import Store
from tests.unit.journal_workload import Workload, make_store

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with some segments, the last one open, and some ops in the log only."""
    store = make_store(tmp_path_factory.mktemp("template"))
    workload = Workload(store)
    indexer = Indexer(store, segment_bytes=500_000)
    for now in range(8):
        workload.run(25)
        indexer.step(now * SECOND, everything=True)
    workload.create()
    workload.publish()
    indexer.step(8 * SECOND, everything=True)
    indexer.close()
    workload.run(10)
    workload.intake.sync()
    workload.log(Kind.FSYNC, 2)  # says that what stands before it was on disk
    workload.publish()
    workload.intake.close()
    return store.root


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Store:
    """A copy of it."""
    shutil.copytree(template, tmp_path / "store")
    return Store.open(tmp_path / "store")


def applied(store: Store) -> int:
    return StatePage(store.state_path).applied_lsn


def indexed(store: Store) -> int:
    return StatePage(store.state_path).indexed_lsn


def flip(path: Path, at: int, bit: int = 4) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def only(report: VerifyReport) -> Finding:
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def test_a_sound_store_has_no_findings(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(store, lambda done, total: seen.append((done, total)))
    assert report.findings == []
    assert report.sound
    assert report.segments == len(list_segments(store)) > 2
    assert report.batches == len(list(scan_segments(store)))
    assert report.ops == indexed(store)
    assert report.intake_ops == applied(store) - indexed(store) > 0
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_an_empty_store_is_sound(tmp_path: Path) -> None:
    assert verify(make_store(tmp_path)).sound


def test_it_works_while_the_volume_is_mounted_and_indexed(store: Store) -> None:
    lock = store.lock()
    indexer = Indexer(store)
    indexer.step(0)  # uncommitted bytes at the segment's end are no damage
    indexer._write_all(indexer._batcher.take(0, settled=True, everything=True))
    report = verify(store)
    assert report.sound
    assert report.intake_ops == applied(store) - indexed(store) > 0
    indexer.close()
    os.close(lock)


@pytest.mark.parametrize("seed", range(25))
def test_any_flipped_bit_of_a_segment_is_found(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    file = rng.choice(list_segments(store))
    at = rng.randrange(file.path.stat().st_size)
    flip(file.path, at, rng.randrange(8))
    report = verify(store)
    assert not report.sound
    assert {found.path for found in report.findings} == {str(file.path)}
    last = file.last_lsn or indexed(store)
    assert all(file.first_lsn <= found.first_lsn <= last for found in report.findings)


def test_every_damage_is_reported_not_only_the_first(store: Store) -> None:
    batches = list(scan_segments(store))
    for scanned in (batches[1], batches[3]):
        flip(scanned.file.path, scanned.offset + scanned.header.total_bytes - 1)
    report = verify(store)
    found = {(item.path, item.what) for item in report.findings}
    assert found == {
        (str(scanned.file.path), "a payload frame does not match its checksum")
        for scanned in (batches[1], batches[3])
    }
    for item, scanned in zip(report.findings, (batches[1], batches[3]), strict=True):
        assert scanned.header.first_lsn <= item.first_lsn <= item.last_lsn
        assert item.last_lsn <= scanned.header.last_lsn
        assert scanned.offset < item.offset < scanned.offset + scanned.header.total_bytes
        assert item.hint


def test_reading_goes_on_behind_an_unreadable_batch_header(store: Store) -> None:
    batches = list(scan_segments(store))
    assert batches[2].file == batches[1].file
    flip(batches[2].file.path, batches[2].offset + 30)
    report = verify(store)
    assert report.batches == len(batches) - 1
    assert [item.what for item in report.findings] == [
        "the batch header does not match its checksum",
        "these ops are in no readable batch",
    ]
    lost = report.findings[1]
    assert (lost.first_lsn, lost.last_lsn) == batches[2].header[1:3]


def test_a_missing_segment_is_found(store: Store) -> None:
    lost = list_segments(store)[1]
    lost.path.unlink()
    found = only(verify(store))
    assert (found.first_lsn, found.last_lsn) == (lost.first_lsn, lost.last_lsn)
    assert "no readable batch" in found.what


def test_a_segment_cut_short_is_found(store: Store) -> None:
    for file in (list_segments(store)[0], list_segments(store)[-1]):
        os.truncate(file.path, file.path.stat().st_size - 9)
    report = verify(store)
    assert {found.path for found in report.findings} >= {
        str(list_segments(store)[0].path),
        str(list_segments(store)[-1].path),
    }


def change_row(store: Store, table: bytes, change: int) -> None:
    """Flip a bit of one row's value behind LMDB's back."""
    with lmdb.open(str(store.index_dir), max_dbs=20) as env, env.begin(write=True) as txn:
        db = env.open_db(table, txn)
        with txn.cursor(db) as cursor:
            assert cursor.first()
            key, value = bytes(cursor.key()), bytearray(cursor.value())
        value[change] ^= 1
        txn.put(key, bytes(value), db=db)


@pytest.mark.parametrize("at", [0, 2, 6, 14, OP_ROW.size + 20])
def test_an_op_that_differs_in_the_index_is_found(store: Store, at: int) -> None:
    change_row(store, b"ops", at)
    report = verify(store)
    assert {found.path for found in report.findings} == {str(store.index_dir)}
    assert "reindex" in report.findings[0].hint


def test_a_batch_that_differs_in_the_index_is_found(store: Store) -> None:
    change_row(store, b"batches", 40)
    found = verify(store).findings[0]
    assert (found.path, found.first_lsn) == (str(store.index_dir), 1)


def test_content_rows_that_name_the_wrong_bytes_are_found(store: Store) -> None:
    change_row(store, b"extents", 8)
    found = verify(store).findings[0]
    assert found.path == str(store.index_dir)
    assert "content of node" in found.what


def test_a_missing_index_is_a_finding_and_the_rest_is_read(store: Store) -> None:
    for path in store.index_dir.iterdir():
        path.unlink()
    store.index_dir.rmdir()
    report = verify(store)
    assert "missing" in only(report).what
    assert report.ops == indexed(store)


def test_a_garbled_index_file_is_a_finding(store: Store) -> None:
    (store.index_dir / "data.mdb").write_bytes(b"?" * 8192)
    assert only(verify(store)).path == str(store.index_dir)


def test_damage_in_the_log_is_found(store: Store) -> None:
    end = IntakeTail(store).end_of_log()
    assert end.ring is not None
    data = end.ring.path.read_bytes()
    third = Lsn(indexed(store) + 3)
    flip(end.ring.path, data.index(third.to_bytes(8, "little")) + 9)
    found = only(verify(store))
    assert (found.path, found.first_lsn) == (str(end.ring.path), third)
    lock = store.lock()
    live = only(verify(store))
    assert live.first_lsn == third
    os.close(lock)
