"""Ops to a journal without a mount, an intake log or an indexer: batches, segments, index."""

from __future__ import annotations

from collections.abc import Sequence

from store.batch import encode_batch
from store.index import BatchPlace, IndexWriter
from store.ops import Op
from store.segment import SegmentWriter
from store.types import Lsn
from store.volume import Store


class JournalWriter:
    """Appends batches to a store's journal; nothing is durable or visible before `commit`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.index = IndexWriter(store)
        self.segments = SegmentWriter(store)
        self._resume()

    def _resume(self) -> None:
        state = self.index.state
        self.segments.resume(state.indexed_lsn, state.segment_first_lsn, state.segment_end)

    @property
    def next_lsn(self) -> int:
        """LSN of the op that comes next."""
        return self.index.indexed_lsn + 1

    def add(self, ops: Sequence[Op]) -> None:
        """One batch."""
        encoded = encode_batch(ops, self.index.last_digest)
        segment, offset = self.segments.append(encoded)
        header = encoded.header
        place = BatchPlace(
            Lsn(header.first_lsn),
            Lsn(header.last_lsn),
            header.first_time_ns,
            header.last_time_ns,
            segment,
            offset,
            header.total_bytes,
            header.payload_bytes,
            header.digest,
        )
        self.index.begin()
        self.index.apply(ops, place)

    def commit(self) -> None:
        """Durable and visible from now on."""
        self.segments.sync()
        self.index.commit()

    def roll_back(self) -> None:
        """After the index refused a batch: the segments go back to its last commit as well."""
        self.segments.close()
        self.segments = SegmentWriter(self.store)
        self._resume()

    def reopen(self) -> None:
        """As after a crash: what is not committed is gone."""
        self.close()
        self.__init__(self.store)  # type: ignore[misc]

    def close(self) -> None:
        """Let go of the files."""
        self.segments.close()
        self.index.close()
