"""Rebuilding the index from the segments alone.

Duty: read every segment, check it, and put a new index in the old one's place in one step. Takes
the indexer's lock, so it can't meet a running one. What the intake log holds beyond the segments
is indexed by the indexer when the volume is mounted next. Blocking; one thread.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from store import batch, durable
from store.batch import BatchHeader
from store.errors import DamagedError, IntakeGap
from store.index import BatchPlace, IndexWriter
from store.ops import Op
from store.scan import ScannedBatch, find_batch, scan_segment
from store.segment import SegmentFile, list_segments
from store.tail import IntakeTail
from store.types import Lsn
from store.volume import Store, take_lock

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

COMMIT_BYTES = 64 << 20
NEW_NAME = "index.new"


class ReindexReport(NamedTuple):
    """What the new index holds."""

    batches: int
    last_lsn: Lsn
    torn_bytes: int
    """Bytes of an unfinished batch at the end of the open segment, which count for nothing."""


def reindex(store: Store, progress: Progress | None = None) -> ReindexReport:
    """Build a new index and swap it in; until then the old one stays as it is.

    StoreBusy while the indexer runs (the volume is mounted). DamagedError when a segment is not
    what was written: nothing is changed then.
    """
    lock = take_lock(store.indexer_lock_path, "unmount the volume first: cdpfs umount DIR")
    try:
        return _Rebuild(store, progress).run()
    finally:
        os.close(lock)


def batch_place(scanned: ScannedBatch) -> BatchPlace:
    """The row of the index for a batch."""
    return BatchPlace.of(scanned.header, scanned.file.first_lsn, scanned.offset)


class _Rebuild:
    """One run."""

    def __init__(self, store: Store, progress: Progress | None) -> None:
        self._store = store
        self._progress = progress or _silent
        self._folder = store.root / NEW_NAME
        self._done_bytes = 0
        self._uncommitted_bytes = 0
        self._batches = 0

    def run(self) -> ReindexReport:
        durable.drop_tree(self._folder)
        durable.make_dir(self._folder)
        # The same store, but for its index: everything else of it is only read.
        target = copy.copy(self._store)
        target.index_dir = self._folder
        try:
            with IndexWriter(target) as index:
                torn_bytes = self._fill(index)
                last_lsn = index.indexed_lsn
            self._swap()
        finally:
            durable.drop_tree(self._folder)
        return ReindexReport(self._batches, last_lsn, torn_bytes)

    def _fill(self, index: IndexWriter) -> int:
        """Index every segment; returns the bytes of a torn batch at the very end."""
        files = list_segments(self._store)
        sizes = [file.path.stat().st_size for file in files]
        torn_bytes = 0
        for file, size in zip(files, sizes, strict=True):
            done = self._done_bytes
            try:
                for scanned in scan_segment(self._store, file):
                    self._take(index, scanned)
                    self._done_bytes = done + scanned.offset + scanned.header.total_bytes
                    self._progress(self._done_bytes, sum(sizes))
            except DamagedError as error:
                if file is not files[-1] or not is_torn_end(file, error):
                    raise
                self._require_log(error, Lsn(index.indexed_lsn + 1))
                torn_bytes = size - error.offset
            self._done_bytes = done + size
        index.commit()
        self._progress(self._done_bytes, sum(sizes))
        return torn_bytes

    def _require_log(self, error: DamagedError, lsn: Lsn) -> None:
        """Raise the error unless the intake log still holds the ops of a torn batch."""
        tail = IntakeTail(self._store)
        try:
            tail.seek(lsn)
        except IntakeGap:
            error.hint = (
                f"copy the file back from a backup of the store; to give up everything from LSN "
                f"{lsn} on, cut it: truncate -s {error.offset} {error.path}"
            )
            raise error from None
        finally:
            tail.close()

    def _take(self, index: IndexWriter, scanned: ScannedBatch) -> None:
        ops = self._checked_ops(scanned, index.indexed_lsn, index.last_digest)
        index.begin()
        index.apply(ops, batch_place(scanned))
        self._batches += 1
        self._uncommitted_bytes += scanned.header.total_bytes
        if self._uncommitted_bytes >= COMMIT_BYTES:
            index.commit()
            self._uncommitted_bytes = 0

    def _checked_ops(self, scanned: ScannedBatch, last_lsn: Lsn, digest: bytes) -> list[Op]:
        """The batch's ops, if all of it is what was written behind the batch before it."""
        header = scanned.header
        if not header.follows(last_lsn):
            raise _damage(scanned, header, f"LSN {last_lsn + 1} should come before this batch,")
        if header.previous != digest:
            raise _damage(scanned, header, "the batch does not follow from the one before it,")
        try:
            return batch.decode_batch(scanned.data)[1]
        except ValueError as error:
            raise _damage(scanned, header, str(error)) from error

    def _swap(self) -> None:
        folder: Path = self._store.index_dir
        if folder.exists():
            durable.exchange(self._folder, folder)
        else:
            durable.rename(self._folder, folder)


def is_torn_end(file: SegmentFile, error: DamagedError) -> bool:
    """Is the damage in an open segment the unfinished batch of a crash, with nothing behind it?"""
    if file.last_lsn is not None:
        return False
    with file.path.open("rb") as opened:
        return find_batch(file, opened.fileno(), error.offset + 1) is None


def _damage(scanned: ScannedBatch, header: BatchHeader, what: str) -> DamagedError:
    return DamagedError(scanned.file.path, scanned.offset, what, header.first_lsn, header.last_lsn)


def _silent(done_bytes: int, total_bytes: int) -> None:
    """No progress is shown."""
