"""Log archives: whole batches of the journal, as the segments hold them.

Duty: which batches fit into an archive, and that archive. Every batch's checksums are tested on the
way, so that nothing damaged gets onto a cartridge. Memory: one batch. Blocking; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from store.index_rows import BatchPlace
from store.journal import Journal, Snapshot
from store.keys import KeyRing
from store.types import Lsn, TimeNs
from tape.archive_writer import TRAILER_BYTES, Output, Written, rounded
from tape.errors import ArchiveTooLarge
from tape.layout import BATCH_FOLDER, ArchiveHead
from tape.pax import BLOCK_BYTES
from tape.sealed_writer import archive_writer
from tape.sealing import overhead_bytes

_HEAD_BYTES: Final = 64 << 10
"""Room for the first member."""

_BATCHES_PER_SNAPSHOT: Final = 64

MAX_BATCHES: Final = 1 << 20
"""Of one archive."""


class LogRange(NamedTuple):
    """Whole batches that one archive holds."""

    first_lsn: Lsn
    last_lsn: Lsn
    time_ns: TimeNs
    """Of the last op."""
    archive_bytes: int
    """What the archive will have at the most."""


def log_range(
    journal: Journal,
    first_lsn: Lsn,
    last_lsn: Lsn,
    archive_bytes: int,
    block_bytes: int,
    *,
    sealed: bool = False,
) -> LogRange | None:
    """The batches from the one that holds `first_lsn` on, as many as fit, and of these none that
    begins behind `last_lsn`. None when the journal has none. ArchiveTooLarge when not one fits."""
    limit = rounded(archive_bytes, block_bytes)
    size = _HEAD_BYTES + TRAILER_BYTES
    if sealed:
        size += _HEAD_BYTES + TRAILER_BYTES + overhead_bytes(limit)
    found: LogRange | None = None
    with journal.snapshot() as snapshot:
        for count, place in enumerate(_places(snapshot, first_lsn, last_lsn)):
            size += _member_bytes(place)
            if size > limit or count == MAX_BATCHES:
                break
            found = LogRange(
                found.first_lsn if found else place.first_lsn,
                place.last_lsn,
                place.last_time_ns,
                min(-(-size // block_bytes) * block_bytes, limit),
            )
        else:
            return found
    if found is None:
        raise ArchiveTooLarge(
            f"a batch of {place.total_bytes} bytes does not fit into an archive, which may have "
            f"{limit}",
            "make the archives larger (archive_bytes), on larger cartridges",
        )
    return found


def write_log_archive(
    journal: Journal,
    head: ArchiveHead,
    out: Output,
    *,
    block_bytes: int,
    barrier_lsn: Lsn,
    ring: KeyRing | None = None,
) -> Written:
    """The batches from `head.first_lsn` to `head.last_lsn`, which `log_range` told.

    `barrier_lsn`: the newest barrier in them, 0 for none. Sealed when there is a ring, by its
    newest key. DamagedError.
    """
    archive = archive_writer(out, head, block_bytes, ring=ring)
    reached, last = Lsn(head.first_lsn - 1), Lsn(head.last_lsn)
    while reached < last:
        # A snapshot that stays open for long would keep the index from reusing its pages.
        with journal.snapshot() as snapshot:
            for place in islice(_places(snapshot, Lsn(reached + 1), last), _BATCHES_PER_SNAPSHOT):
                assert place.first_lsn == reached + 1, "an archive is whole batches without a gap"
                name = batch_name(place.first_lsn, place.last_lsn)
                archive.file(name, snapshot.batch_bytes(place))
                reached = place.last_lsn
    assert reached == last, "an archive ends with a whole batch"
    return archive.finish(barrier_lsn=barrier_lsn)


def batch_name(first_lsn: int, last_lsn: int) -> str:
    """The name of a batch's member."""
    return f"{BATCH_FOLDER}/{first_lsn:020d}-{last_lsn:020d}.batch"


def _places(snapshot: Snapshot, first: Lsn, last: Lsn) -> Iterator[BatchPlace]:
    """The batches that hold an op of `[first, last]`."""
    for place in snapshot.batches(first):
        if place.first_lsn > last:
            break
        yield place


def _member_bytes(place: BatchPlace) -> int:
    return BLOCK_BYTES + -(-place.total_bytes // BLOCK_BYTES) * BLOCK_BYTES
