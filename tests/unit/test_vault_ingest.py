"""Taking shipments in: the vault's journal becomes the site's, whatever arrives how often."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.errors import BadShipment, Forked, Gap, ReplicationError
from replicator.shipment import ShippedBatch, encode_shipment
from replicator.vault.ingest import LineWriter
from store import durable, segment
from store.errors import DamagedError, StoreBusy, StoreFull
from store.journal import Journal
from store.segment import list_segments
from store.types import NodeId
from store.verify import verify
from store.volume import Store
from tests.unit.journal_workload import answers
from tests.unit.shipping import (
    all_batches,
    make_history,
    make_vault,
    same_history,
    ship,
    shipments,
)

SEGMENT_BYTES = 1 << 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"))


@pytest.fixture
def replica(source: Store, tmp_path: Path) -> Store:
    return make_vault(tmp_path, source)[1]


def ingest(replica: Store, *data: bytes) -> None:
    writer = LineWriter.open(replica, SEGMENT_BYTES)
    try:
        for shipment in data:
            writer.take(shipment)
    finally:
        writer.close()


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of the journal but the index, whose pages LMDB may touch at any time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "index/" not in str(path.relative_to(folder))
    }


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_replica_becomes_the_same_journal(source: Store, replica: Store, size: int) -> None:
    ingest(replica, *shipments(source, size))
    same_history(source, replica)
    with Journal(source) as journal, Journal(replica) as copy:
        assert answers(copy) == answers(journal)
        assert list(copy.groups()) == list(journal.groups())
    assert verify(replica).sound
    assert len(list_segments(replica)) >= 2


def test_position_is_what_is_held(source: Store, replica: Store) -> None:
    batches = all_batches(source)
    writer = LineWriter.open(replica)
    assert writer.position() == (1, bytes(32))
    writer.take(ship(source, batches, 0, 2))
    assert writer.position() == (batches[1].ops[-1].lsn + 1, batches[1].digest)
    writer.close()
    reopened = LineWriter.open(replica)
    assert reopened.position() == (batches[1].ops[-1].lsn + 1, batches[1].digest)
    reopened.close()


def test_what_is_held_already_changes_nothing(source: Store, replica: Store) -> None:
    data = list(shipments(source, 2))
    ingest(replica, *data)
    before = tree(replica.root)
    ingest(replica, *data, *data)
    assert tree(replica.root) == before


def test_of_a_shipment_that_is_held_in_part_the_rest_is_taken(
    source: Store, replica: Store
) -> None:
    batches = all_batches(source)
    ingest(replica, ship(source, batches, 0, 3), ship(source, batches, 1, len(batches)))
    same_history(source, replica)


def test_a_gap_is_told_and_leaves_nothing(source: Store, replica: Store) -> None:
    batches = all_batches(source)
    ingest(replica, ship(source, batches, 0, 1))
    before = tree(replica.root)
    with pytest.raises(Gap, match=f"LSN {batches[0].ops[-1].lsn + 1} comes next"):
        ingest(replica, ship(source, batches, 2, 3))
    assert tree(replica.root) == before


@pytest.mark.parametrize("start", [0, 1, 2])
def test_another_history_is_told_and_leaves_nothing(
    source: Store, replica: Store, tmp_path: Path, start: int
) -> None:
    """It parts from ours at batch 2: a shipment of what follows, and ones that overlap."""
    batches = all_batches(source)
    ingest(replica, ship(source, batches, 0, 3))
    other = make_history(tmp_path / "other", seed=1)
    others = all_batches(other)
    other.uuid = source.uuid
    before = tree(replica.root)
    with pytest.raises(Forked):
        ingest(replica, ship(other, others, start, len(others)))
    assert tree(replica.root) == before


def test_batches_that_were_cut_elsewhere_are_another_history(source: Store, replica: Store) -> None:
    batches = all_batches(source)
    ingest(replica, ship(source, batches, 0, 2))
    middle = [ShippedBatch(batches[1].ops[1:], batches[1].digest)]
    with pytest.raises(Forked, match="in the midst of a batch"):
        ingest(replica, encode_shipment(source.uuid, batches[0].digest, middle))
    longer = [ShippedBatch(batches[1].ops + batches[2].ops, batches[2].digest)]
    with pytest.raises(Forked, match="no batch of the history"):
        ingest(replica, encode_shipment(source.uuid, batches[0].digest, longer))


def _changed(batches: list[ShippedBatch], **fields: int) -> list[ShippedBatch]:
    ops = list(batches[1].ops)
    ops[5] = ops[5]._replace(**fields)  # type: ignore[arg-type]
    return [batches[0], ShippedBatch(ops, batches[1].digest)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda batches: _changed(batches, offset=12345),
        lambda batches: _changed(batches, time_ns=5),
        lambda batches: _changed(batches, node=NodeId(1 << 63)),
        lambda batches: [batches[0], ShippedBatch(batches[1].ops, bytes(32))],
    ],
    ids=["an op", "a time", "a node", "a digest"],
)
def test_what_its_site_did_not_make_is_refused_whole(
    source: Store,
    replica: Store,
    spoil: Callable[[list[ShippedBatch]], list[ShippedBatch]],
) -> None:
    batches = all_batches(source)
    ingest(replica, ship(source, batches, 0, 1))
    before = tree(replica.root)
    bad = encode_shipment(source.uuid, batches[0].digest, spoil(batches[1:3]))
    writer = LineWriter.open(replica)
    with pytest.raises(BadShipment):
        writer.take(bad)
    assert writer.position() == (batches[0].ops[-1].lsn + 1, batches[0].digest)
    writer.take(ship(source, batches, 1, len(batches)))
    writer.close()
    assert tree(replica.root).keys() >= before.keys()
    same_history(source, replica)
    assert verify(replica).sound


def test_a_true_batch_of_impossible_ops_is_refused(source: Store, replica: Store) -> None:
    """A hostile site can make digests; it still can't bring the index into disorder."""
    from store.batch import encode_batch

    batches = all_batches(source)
    ingest(replica, ship(source, batches, 0, 1))
    ops = list(batches[1].ops)
    ops[-1] = ops[-1]._replace(node=NodeId(1 << 62))
    digest = encode_batch(ops, batches[0].digest).header.digest
    bad = encode_shipment(source.uuid, batches[0].digest, [ShippedBatch(ops, digest)])
    with pytest.raises(BadShipment, match="can't be indexed"):
        ingest(replica, bad)
    ingest(replica, *shipments(source, 3))
    same_history(source, replica)


@pytest.mark.parametrize("data", [b"", b"CDPSHIP\0", bytes(200), b"CDPSHIP\0" + bytes(300)])
def test_what_is_no_shipment_is_refused(replica: Store, data: bytes) -> None:
    ingest(replica)
    before = tree(replica.root)
    with pytest.raises(BadShipment):
        ingest(replica, data)
    assert tree(replica.root) == before


def test_another_volumes_shipment_is_refused(source: Store, replica: Store) -> None:
    data = encode_shipment(bytes(16), bytes(32), all_batches(source)[:1])
    with pytest.raises(BadShipment, match="another volume"):
        ingest(replica, data)


def test_a_line_has_one_writer(replica: Store) -> None:
    writer = LineWriter.open(replica)
    with pytest.raises(StoreBusy):
        LineWriter.open(replica)
    writer.close()
    LineWriter.open(replica).close()


class _FullDisk(durable.Disk):
    """No space after so many bytes."""

    def __init__(self, left: int) -> None:
        self.left = left

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        if len(data) > self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= len(data)
        return super().pwrite(fd, data, offset)


@pytest.mark.parametrize("left", [0, 100, 50_000, 500_000])
def test_a_full_disk_leaves_everything_as_it_was_and_it_goes_on_with_room(
    source: Store, replica: Store, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    batches = all_batches(source)
    ingest(replica, ship(source, batches, 0, 1))
    before = all_batches(replica)
    writer = LineWriter.open(replica)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "disk", _FullDisk(left))
        with pytest.raises(StoreFull):
            writer.take(ship(source, batches, 1, len(batches)))
    assert all_batches(replica) == before
    assert verify(replica).sound
    writer.take(ship(source, batches, 1, len(batches)))
    writer.close()
    same_history(source, replica)
    assert verify(replica).sound


# --- after a crash ------------------------------------------------------------------------------


def _open_segment(store: Store) -> Path:
    return next(file.path for file in list_segments(store) if file.last_lsn is None)


@pytest.mark.parametrize("extra", [b"\0", b"CDPBATCH" + bytes(500), bytes(100_000)])
def test_what_a_crash_left_half_written_is_cut_off(
    source: Store, replica: Store, extra: bytes
) -> None:
    ingest(replica, *shipments(source, 2))
    path = _open_segment(replica)
    whole = path.read_bytes()
    path.write_bytes(whole + extra)
    ingest(replica)
    assert path.read_bytes() == whole
    same_history(source, replica)


def test_whole_batches_that_the_index_does_not_know_are_taken_in(
    source: Store, replica: Store, tmp_path: Path
) -> None:
    data = list(shipments(source, 1))
    for shipment in data[:-2]:
        ingest(replica, shipment)
    shutil.copytree(replica.index_dir, tmp_path / "index")
    ingest(replica, *data[-2:])
    shutil.rmtree(replica.index_dir)
    shutil.copytree(tmp_path / "index", replica.index_dir)
    ingest(replica)
    same_history(source, replica)
    assert verify(replica).sound


def test_a_lost_index_is_made_again(source: Store, replica: Store) -> None:
    ingest(replica, *shipments(source, 1))
    shutil.rmtree(replica.index_dir)
    replica.index_dir.mkdir()
    ingest(replica)
    same_history(source, replica)
    assert verify(replica).sound


def test_a_lost_index_beside_damage_costs_nothing_more(source: Store, replica: Store) -> None:
    """A person has to decide: cutting the segment would throw away what follows the damage."""
    ingest(replica, *shipments(source, 1))
    shutil.rmtree(replica.index_dir)
    replica.index_dir.mkdir()
    path = list_segments(replica)[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = tree(replica.root)
    for _ in range(2):
        with pytest.raises(DamagedError):
            ingest(replica)
    assert tree(replica.root) == before


@pytest.mark.parametrize("batches", [1, 2])
def test_a_first_batch_whose_header_never_reached_the_disk_was_promised_to_nobody(
    source: Store, replica: Store, batches: int
) -> None:
    """A power cut may keep a batch and not what was written before it; two mean a lost index."""
    data = list(shipments(source, 1))
    ingest(replica, *data[:batches])
    shutil.rmtree(replica.index_dir)
    replica.index_dir.mkdir()
    with _open_segment(replica).open("r+b") as file:
        file.write(bytes(segment.HEADER_BYTES))
    if batches == 2:
        with pytest.raises(DamagedError):
            ingest(replica)
        return
    ingest(replica, *data)
    same_history(source, replica)
    assert verify(replica).sound


def test_errors_of_taking_in_have_hints(replica: Store) -> None:
    with pytest.raises(ReplicationError) as error:
        ingest(replica, b"")
    assert error.value.hint
