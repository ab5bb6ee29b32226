"""Whole batches that come from elsewhere become part of a journal.

Duty: index and segments of a store, open for writing, and the order of writes of `store.indexer`:
batch bytes, fdatasync of the segment, LMDB commit, sealing. What a batch is worth is for others to
know. Blocking; one thread. After any exception it stands at its last commit.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from store.batch import EncodedBatch
from store.errors import InconsistentLog
from store.index import BatchPlace, IndexWriter
from store.ops import Op
from store.segment import SEGMENT_BYTES, SegmentWriter
from store.types import Lsn
from store.volume import Store

MAX_UNCOMMITTED_BYTES: Final = 64 << 20
"""Batches are committed when they have come to this."""


class Appender:
    """The end of a journal. Its user holds the indexer's lock."""

    def __init__(self, store: Store, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._store = store
        self._segment_bytes = segment_bytes
        self.index = IndexWriter(store)
        self._segments = SegmentWriter(store, segment_bytes)
        self._uncommitted_bytes = 0
        self._standing = False
        """The segment stands where the index ends."""

    def close(self) -> None:
        """Drop what is not committed. Closing twice is fine."""
        self._segments.close()
        self.index.close()

    @property
    def uncommitted(self) -> bool:
        """Something was written since the last commit."""
        return self._uncommitted_bytes > 0

    @property
    def due(self) -> bool:
        """So much was written that it should be committed."""
        return self._segments.full or self._uncommitted_bytes >= MAX_UNCOMMITTED_BYTES

    def position(self) -> tuple[Lsn, bytes]:
        """The LSN that comes next, and the digest of the batch before it (zeros for none)."""
        return Lsn(self.index.indexed_lsn + 1), self.index.last_digest

    def stand(self) -> None:
        """Bring the segment to where the index ends; what stands behind is cut off."""
        self._segments.close()
        self._segments = SegmentWriter(self._store, self._segment_bytes)
        self._uncommitted_bytes = 0
        state = self.index.state
        self._segments.resume(state.indexed_lsn, state.segment_first_lsn, state.segment_end)
        self._standing = True

    def write(self, ops: Sequence[Op], encoded: EncodedBatch) -> None:
        """One batch, uncommitted. InconsistentLog when it can't be indexed; StoreFull.

        The index comes first: what it refuses must not stand in the segment for a moment, where it
        would be whole and so be taken in after a crash.
        """
        if not self._standing:
            self.stand()
        self._standing = False
        place = self._segments.place_of(encoded.header.first_lsn)
        self.take_in(ops, BatchPlace.of(encoded.header, *place))
        self._segments.append(encoded)
        self._standing = True

    def take_in(self, ops: Sequence[Op], place: BatchPlace) -> None:
        """To the index alone, what stands in a segment (or will) at `place`. InconsistentLog."""
        self.index.begin()
        try:
            self.index.apply(ops, place)
        except (struct.error, OverflowError) as error:
            raise InconsistentLog(f"the batch of LSN {place.first_lsn}: {error}") from error
        self._uncommitted_bytes += place.total_bytes

    def commit(self) -> None:
        """Make everything written durable."""
        self._segments.sync()
        self.commit_index()
        if self._segments.full:
            self._segments.seal()

    def commit_index(self) -> None:
        """As `commit`, when the segments are on disk already."""
        self.index.commit()
        self._uncommitted_bytes = 0

    def abort(self) -> None:
        """Back to the last commit."""
        self.index.abort()
        self._segments.close()
        self._standing = False
