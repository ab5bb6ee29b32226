"""The writer's side of content history: writes, cuts and base chunks, per region of a file.

One thread at a time.
"""

from __future__ import annotations

import struct

from store.errors import InconsistentLog
from store.extents import HOLE, Delta, RegionCodec, RegionPiece
from store.format import CHUNK_BYTES
from store.index_env import Tables, Transaction
from store.index_history import HistoryWriter
from store.index_lookup import Lookup

_REGION_SHIFT = CHUNK_BYTES.bit_length() - 1
_REGION_MASK = CHUNK_BYTES - 1
_owner = struct.Struct(">QQI").pack
"""A region as the extents' keys begin (`format.key_extent`)."""


class ContentWriter:
    """Content of files, by node and content generation."""

    def __init__(self, tables: Tables) -> None:
        self._history: HistoryWriter[list[RegionPiece], Delta] = HistoryWriter(
            tables.extents, RegionCodec()
        )
        self.flush = self._history.flush
        self.forget = self._history.forget

    def begin(self, txn: Transaction, lookup: Lookup) -> None:
        """Work in this write transaction from now on."""
        self._history.begin(txn)
        self._lookup = lookup

    def write(self, node: int, generation: int, lsn: int, offset: int, length: int) -> None:
        """The op's payload now stands at `[offset, offset + length)`."""
        start = offset & _REGION_MASK
        region = offset >> _REGION_SHIFT
        if 0 < length < CHUNK_BYTES - start:
            self._history.append(_owner(node, generation, region), (lsn, start, start + length, 0))
            return
        taken = 0
        while taken < length:
            step = min(CHUNK_BYTES - start, length - taken)
            self._history.append(
                _owner(node, generation, region),
                (lsn, start, start + step, taken),
                whole=step == CHUNK_BYTES,
            )
            taken += step
            region += 1
            start = 0

    def cut(self, node: int, generation: int, lsn: int, size: int, old_size: int) -> None:
        """Nothing is left from `size` on of a file of `old_size` bytes.

        Costs a step per region that has content there, which the ops that put it there pay for.
        """
        region, inside = size >> _REGION_SHIFT, size & _REGION_MASK
        self._history.flush()
        if inside:
            owner = _owner(node, generation, region)
            if self._history.holds(owner):
                self._history.append(owner, (lsn, inside, CHUNK_BYTES, HOLE))
            region += 1
        stop = (old_size + _REGION_MASK) >> _REGION_SHIFT
        for later in list(self._lookup.regions(node, generation, region, stop)):
            owner = _owner(node, generation, later)
            if self._history.holds(owner):
                self._history.append(owner, (lsn, 0, CHUNK_BYTES, HOLE), whole=True)

    def base(self, node: int, since: int, lsn: int, offset: int, length: int) -> None:
        """The op holds a chunk as it was at `since`; a chunk that is there already stays."""
        if offset & _REGION_MASK or length > CHUNK_BYTES:
            raise InconsistentLog(f"base content of node {node} at {offset} is not one chunk")
        pieces: list[RegionPiece] = [(0, length, lsn, 0)] if length else []
        self._history.put_first(_owner(node, since, offset >> _REGION_SHIFT), since, pieces)
