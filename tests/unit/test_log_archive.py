"""Log archives: whole batches, as many as fit, read back byte for byte."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from store.errors import DamagedError
from store.journal import Journal
from store.segment import list_segments
from store.types import Lsn
from tape.archive_reader import ArchiveReader
from tape.archive_writer import new_head
from tape.errors import ArchiveTooLarge
from tape.log_archive import LogRange, log_range, write_log_archive
from tests.unit.archives import BLOCK_BYTES, SET_ID, blocks_of
from tests.unit.recorded_tree import START_NS, RecordedTree

ARCHIVE_BYTES = 1 << 20


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    """Ten batches of some 50 kB."""
    recorded = RecordedTree(tmp_path)
    for number in range(10):
        recorded.write(b"f%d" % number, Random(number).randbytes(50_000))
        recorded.commit()
    yield recorded
    recorded.close()


def archive_of(tree: RecordedTree, found: LogRange) -> bytes:
    out = io.BytesIO()
    head = new_head(
        tree.store,
        set_id=SET_ID,
        sequence=1,
        kind="log",
        first_lsn=found.first_lsn,
        last_lsn=found.last_lsn,
        time_ns=found.time_ns,
        created_ns=START_NS,
    )
    written = write_log_archive(
        tree.journal, head, out, block_bytes=BLOCK_BYTES, barrier_lsn=found.last_lsn
    )
    reader = ArchiveReader(blocks_of(out.getvalue()))
    assert reader.head == head
    assert reader.check() == written
    assert written.size_bytes == len(out.getvalue()) <= found.archive_bytes
    return out.getvalue()


def batches(data: bytes) -> list[bytes]:
    return [m.data(48 << 20) for m in ArchiveReader(blocks_of(data)).members()]


def stored_batches(journal: Journal) -> list[bytes]:
    with journal.snapshot() as snapshot:
        return [snapshot.batch_bytes(place) for place in snapshot.batches(Lsn(1))]


def test_archives_one_behind_the_other_hold_the_whole_log(tree: RecordedTree) -> None:
    with tree.journal.snapshot() as snapshot:
        end = snapshot.indexed_lsn
    found: list[bytes] = []
    archive_bytes = 4 * BLOCK_BYTES
    first = Lsn(1)
    while first <= end:
        part = log_range(tree.journal, first, end, archive_bytes, BLOCK_BYTES)
        assert part is not None and part.first_lsn == first
        found += batches(archive_of(tree, part))
        first = Lsn(part.last_lsn + 1)
    assert found == stored_batches(tree.journal)


def test_a_log_begins_with_the_batch_that_holds_its_first_op(tree: RecordedTree) -> None:
    with tree.journal.snapshot() as snapshot:
        places = list(snapshot.batches(Lsn(1)))
    inside = Lsn(places[3].first_lsn + 1)
    found = log_range(tree.journal, inside, places[5].first_lsn, ARCHIVE_BYTES, BLOCK_BYTES)
    assert found is not None
    assert (found.first_lsn, found.last_lsn) == (places[3].first_lsn, places[5].last_lsn)
    assert found.time_ns == places[5].last_time_ns


def test_there_is_no_log_behind_the_end(tree: RecordedTree) -> None:
    with tree.journal.snapshot() as snapshot:
        end = snapshot.indexed_lsn
    assert log_range(tree.journal, Lsn(end + 1), Lsn(end + 9), ARCHIVE_BYTES, BLOCK_BYTES) is None


def test_a_batch_that_does_not_fit_is_refused(tree: RecordedTree) -> None:
    tree.write(b"big", Random(11).randbytes(200_000))
    end = tree.commit()
    with pytest.raises(ArchiveTooLarge, match="does not fit"):
        log_range(tree.journal, end, end, 2 * BLOCK_BYTES, BLOCK_BYTES)


def test_damage_in_a_segment_never_gets_onto_a_cartridge(tree: RecordedTree) -> None:
    with tree.journal.snapshot() as snapshot:
        place = list(snapshot.batches(Lsn(1)))[4]
        end = snapshot.indexed_lsn
    found = log_range(tree.journal, Lsn(1), end, ARCHIVE_BYTES, BLOCK_BYTES)
    assert found is not None
    [segment] = list_segments(tree.store)
    with segment.path.open("r+b") as file:
        file.seek(place.offset + place.total_bytes - 5)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DamagedError, match="checksum"):
        archive_of(tree, found)
