"""Writing a line of a volume: shipments become batches of the vault's journal.

Duty: the only writer of a line's store. A shipment is decoded, its batches are made again and
compared with the digests that the site stated, and they become part of the journal in the order of
`store.indexer`: batch bytes, fdatasync of the segment, LMDB commit, sealing. When `take` returns,
all of it is on disk. Blocking; one thread at a time. It knows nothing of HTTP.

Whatever cut it short, `open` stands behind the last whole batch: what the segment holds beyond the
index's end is taken in if it is whole (so the index is disposable here as well), and cut off if it
is not: the site still has it and sends it again. Shipments that are held already change nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Final, NamedTuple

from replicator.errors import BadShipment, Forked, Gap
from replicator.held import JournalHeld
from replicator.shipment import (
    HEADER_BYTES,
    SHIPMENT_HEADER,
    SHIPMENT_MAGIC,
    Shipment,
    ShippedBatch,
    decode_shipment,
)
from store import batch, durable, segment
from store.appender import Appender
from store.batch import NO_DIGEST, EncodedBatch, encode_batch
from store.errors import DamagedError, InconsistentLog
from store.format import Flag, Kind
from store.index_rows import ABORTED
from store.journal import Journal, Snapshot
from store.ops import Op
from store.reindex import batch_place, is_torn_end
from store.scan import ScannedBatch, find_batch, read_batch
from store.segment import SEGMENT_BYTES, SegmentFile, list_segments
from store.types import Lsn
from store.volume import Store, take_lock

_OF_COPIES: Final = frozenset({Kind.BASELINE, Kind.BASELINE_ROWS})
"""Ops with which a copy of a volume begins; no history has them."""

ENCODED_AHEAD: Final = 2
"""Batches that are made while one is indexed."""


class Place(NamedTuple):
    """Where a shipment says that it belongs."""

    volume: bytes
    first_lsn: Lsn
    previous: bytes


class LineWriter:
    """A line's journal, open for writing. After any exception it stands at its last commit."""

    def __init__(self, store: Store, lock_fd: int, segment_bytes: int) -> None:
        self._store = store
        self._lock_fd = lock_fd
        self._appender = Appender(store, segment_bytes)
        self._journal = Journal(store)

    @classmethod
    def open(cls, store: Store, segment_bytes: int = SEGMENT_BYTES) -> LineWriter:
        """Open a line where it ends. StoreBusy, StoreFull; DamagedError when it can't go on."""
        lock_fd = take_lock(store.indexer_lock_path, "something else writes this line: wait for it")
        try:
            writer = cls(store, lock_fd, segment_bytes)
        except BaseException:
            os.close(lock_fd)
            raise
        try:
            writer._adopt_rest()
            writer._appender.stand()
        except BaseException:
            writer.close()
            raise
        return writer

    def close(self) -> None:
        """Drop what is not committed, and let others write. Closing twice is fine."""
        self._journal.close()
        self._appender.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def position(self) -> tuple[Lsn, bytes]:
        """The LSN that comes next, and the digest of the batch before it (zeros for none)."""
        return self._appender.position()

    def take(self, data: bytes) -> None:
        """Make a shipment part of the journal, durable when it returns.

        BadShipment when it is not what its site made, Gap when it starts after what is held,
        Forked when it contradicts that, StoreFull and StoreFault by the disk.
        """
        place = read_place(data)
        if place.volume != self._store.uuid:
            raise BadShipment("the shipment is of another volume")
        with self._journal.snapshot() as snapshot:
            check_place(snapshot, place)
            shipment = decode_shipment(data, JournalHeld(snapshot, place.first_lsn))
            new = list(missing_batches(snapshot, shipment))
        if new:
            self._append(new)

    def add(self, batches: Iterable[ShippedBatch]) -> None:
        """As `take`, of batches that are at hand and follow from the newest one here."""
        self._append(batches)

    # --- appending -------------------------------------------------------------------------------

    def _append(self, batches: Iterable[ShippedBatch]) -> None:
        try:
            with closing(encoded_ahead(batches, self._appender.position()[1])) as coming:
                for shipped, encoded in coming:
                    self._write(shipped, encoded)
                    if self._due(shipped):
                        self._appender.commit()
            self._appender.commit()
        except BaseException:
            self._appender.abort()
            raise

    def _due(self, shipped: ShippedBatch) -> bool:
        """Commit behind this batch, though others follow?

        A line's first batch is committed by itself: then an empty index beside batches means that
        the index was lost, and never that a power cut left them so (see `_adopt_rest`).
        """
        return shipped.ops[0].lsn == 1 or self._appender.due

    def _write(self, shipped: ShippedBatch, encoded: EncodedBatch) -> None:
        """One batch, uncommitted."""
        check_ops(shipped.ops)
        header = encoded.header
        content = header.content_digest if header.folded else NO_DIGEST
        if header.digest != shipped.digest or content != shipped.content:
            raise BadShipment(f"the batch of LSN {header.first_lsn} does not match its digest")
        try:
            self._appender.write(shipped.ops, encoded)
        except InconsistentLog as error:
            raise BadShipment(
                f"the batch of LSN {header.first_lsn} can't be indexed: {error}"
            ) from error

    # --- after a crash ---------------------------------------------------------------------------

    def _adopt_rest(self) -> None:
        """Index the whole batches that stand beyond the index's end, if there are any.

        DamagedError, and nothing done, when that end is no crash's doing.
        """
        if not self._appender.index.indexed_lsn:
            for _ in self._rest():  # the index may have been lost: look at everything first
                pass
        for file, found, ops in self._rest():
            try:
                self._appender.take_in(ops, batch_place(found))
            except InconsistentLog as error:
                raise BadShipment(f"LSN {ops[0].lsn} can't be indexed: {error}") from error
            if self._appender.due:
                self._commit_adopted(file)
        if self._appender.uncommitted:
            self._commit_adopted(file)

    def _commit_adopted(self, file: SegmentFile) -> None:
        """What was read need not have reached the disk yet; files before this one are sealed."""
        fd = durable.open_file(file.path)
        try:
            durable.fdatasync(fd)
        finally:
            durable.close_file(fd)
        durable.fsync_dir(self._store.segments_dir)
        self._appender.commit_index()

    def _rest(self) -> Iterator[tuple[SegmentFile, ScannedBatch, list[Op]]]:
        """What stands beyond the index's end, as far as it is whole."""
        index = self._appender.index
        state, end = index.state, (index.indexed_lsn, index.last_digest)
        for file in list_segments(self._store):
            if file.last_lsn is not None and file.last_lsn <= state.indexed_lsn:
                continue
            here = file.first_lsn == state.segment_first_lsn
            offset = state.segment_end if here else segment.HEADER_BYTES
            try:
                for found, ops in _whole_batches(self._store, file, offset, end):
                    yield file, found, ops
                    end = found.header.last_lsn, found.header.digest
            except DamagedError as error:
                # Nothing beyond the index's end was promised to anybody, unless the index was
                # lost; what is sealed was promised in any case.
                promised = not state.indexed_lsn and not _is_first_batch_cut(file, error)
                if file.last_lsn is not None or promised:
                    raise
                return


def _is_first_batch_cut(file: SegmentFile, error: DamagedError) -> bool:
    """Beside an empty index: is it what a power cut left of a line's first batch?

    That one is synced together with the segment's header, before there is a second one; so of the
    two, the disk may have the batch alone.
    """
    if is_torn_end(file, error):
        return True
    if file.last_lsn is not None or error.offset >= segment.HEADER_BYTES:
        return False
    with file.path.open("rb") as opened:
        found = find_batch(file, opened.fileno(), error.offset + 1)
        if found is None or found.header.first_lsn != 1:
            return False
        return find_batch(file, opened.fileno(), found.offset + 1) is None


def _whole_batches(
    store: Store, file: SegmentFile, offset: int, end: tuple[Lsn, bytes]
) -> Iterator[tuple[ScannedBatch, list[Op]]]:
    """The batches from `offset` on that follow from `end`, an LSN and its batch's digest.

    DamagedError at the first one that does not, or that is not whole.
    """
    fd = durable.open_file(file.path, os.O_RDONLY)
    try:
        if os.fstat(fd).st_size <= offset:
            return
        head = os.pread(fd, segment.HEADER_BYTES, 0)
        segment.check_header(file.path, head, store.uuid, file.first_lsn)
        while found := read_batch(file, fd, offset):
            header = found.header
            try:
                if (header.first_lsn, header.previous) != (end[0] + 1, end[1]):
                    raise ValueError("the batch does not follow from the one before it,")
                ops = batch.decode_batch(found.data)[1]
            except ValueError as error:
                lsns = header.first_lsn, header.last_lsn
                raise DamagedError(file.path, offset, str(error), *lsns) from error
            yield found, ops
            end = header.last_lsn, header.digest
            offset += header.total_bytes
    finally:
        durable.close_file(fd)


def encoded_ahead(
    batches: Iterable[ShippedBatch], previous: bytes
) -> Generator[tuple[ShippedBatch, EncodedBatch], None, None]:
    """The batches with their bytes, the first one behind `previous`. To be closed.

    What comes next is compressed and hashed, which does not hold the GIL, while the one before is
    indexed, which does. The digest that a batch states stands for it there: if it is wrong, that
    batch is refused, and nothing of what follows it is used.
    """
    ahead: deque[tuple[ShippedBatch, Future[EncodedBatch]]] = deque()
    with ThreadPoolExecutor(1, "encode") as pool:
        try:
            for shipped in batches:
                made = pool.submit(encode_batch, shipped.ops, previous, site_digest=shipped.digest)
                ahead.append((shipped, made))
                previous = shipped.digest
                if len(ahead) > ENCODED_AHEAD:
                    shipped, made = ahead.popleft()
                    yield shipped, made.result()
            while ahead:
                shipped, made = ahead.popleft()
                yield shipped, made.result()
        finally:
            pool.shutdown(cancel_futures=True)


# --- what a shipment says, against what is held ---------------------------------------------------


def read_place(data: bytes | memoryview) -> Place:
    """Where a shipment belongs, by its header alone, which the decoder checks. BadShipment."""
    if len(data) < HEADER_BYTES or data[: len(SHIPMENT_MAGIC)] != SHIPMENT_MAGIC:
        raise BadShipment("this is not a shipment")
    fields = SHIPMENT_HEADER.unpack(bytes(data[:HEADER_BYTES]))
    volume, first, previous = fields["volume"], fields["first_lsn"], fields["previous"]
    assert isinstance(volume, bytes) and isinstance(first, int) and isinstance(previous, bytes)
    if not 0 < first < 1 << 63:
        raise BadShipment("the shipment's LSNs are impossible")
    return Place(volume, Lsn(first), previous)


def check_place(snapshot: Snapshot, place: Place) -> None:
    """Gap or Forked unless the shipment follows from something that is held."""
    indexed = snapshot.indexed_lsn
    if place.first_lsn > indexed + 1:
        raise Gap(f"the shipment starts at LSN {place.first_lsn}, LSN {indexed + 1} comes next")
    before = snapshot.batch_of(Lsn(place.first_lsn - 1)) if place.first_lsn > 1 else None
    if before is not None and before.last_lsn != place.first_lsn - 1:
        raise Forked(f"LSN {place.first_lsn} is held in the midst of a batch, and starts one here")
    held = NO_DIGEST if before is None else before.digest
    if held != place.previous:
        raise Forked(f"the shipment follows from another history before LSN {place.first_lsn}")


def missing_batches(snapshot: Snapshot, shipment: Shipment) -> Iterable[ShippedBatch]:
    """The batches of a shipment that are not held; Forked when others are held in their place."""
    for shipped in shipment.batches:
        first, last = shipped.ops[0].lsn, shipped.ops[-1].lsn
        if first > snapshot.indexed_lsn:
            yield shipped
            continue
        held = snapshot.batch_of(first)
        if held is None or (held.first_lsn, held.last_lsn) != (first, last):
            raise Forked(f"LSN {first} to {last} are no batch of the history that is held")
        if held.digest != shipped.digest:
            raise Forked(f"another batch is held in place of LSN {first} to {last}")


def check_ops(ops: list[Op]) -> None:
    """BadShipment for what no log holds: time that stands still, or a flag of the index's own."""
    last_ns = -1
    for op in ops:
        if op.time_ns <= last_ns:
            raise BadShipment(f"LSN {op.lsn} is not later than the op before it")
        if op.flags & (ABORTED | Flag.BASELINE) or op.kind in _OF_COPIES:
            raise BadShipment(f"LSN {op.lsn} is none that a site logs")
        last_ns = op.time_ns
