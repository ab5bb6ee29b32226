"""What both ends hold already: the payloads of a journal's ops, for the codec of shipments.

Duty: answer a codec's many small questions quickly. One thread at a time; it reads one snapshot,
whose user closes it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from replicator.columns import Meta
from replicator.sketch import Ref
from store.errors import DamagedError
from store.journal import NeverCaptured, NotSeeded, OpMeta, Snapshot
from store.types import Lsn, NodeId

MAX_KEPT_BYTES: Final = 16 << 20
"""Payloads that are remembered, the ones used last."""

MAX_WHOLE_BYTES: Final = 64 << 10
"""A payload up to this size is read and remembered as a whole: it is asked for in parts."""


class JournalHeld:
    """A `replicator.shipment.Held`: the ops of a snapshot before LSN `stop`."""

    def __init__(self, snapshot: Snapshot, stop: Lsn) -> None:
        self.snapshot = snapshot
        self._stop = stop
        self._floor = snapshot.baseline.lsn if snapshot.baseline is not None else 0
        """Ops up to this LSN are not here as the site has them."""
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_bytes = 0

    def payload(self, lsn: int, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)` of an op's payload. KeyError when there are no such bytes."""
        kept = self._kept.get(lsn)
        if kept is None:
            kept = self._read(lsn)
            if kept is None:
                return self._part(Lsn(lsn), start, stop)
        else:
            self._kept.move_to_end(lsn)
        if not 0 <= start <= stop <= len(kept):
            raise KeyError(lsn)
        return kept[start:stop]

    def size(self, lsn: int) -> int:
        """Bytes of an op's payload. KeyError when the op is not there."""
        kept = self._kept.get(lsn)
        return len(kept) if kept is not None else self._op(lsn).length

    def metas(self, start: int, stop: int) -> list[Meta]:
        """The ops of LSN `[start, stop)`; fewer when not all of them are there."""
        if start <= self._floor:
            return []
        return [
            Meta(op.kind, op.flags, op.length, op.time_ns, op.node, op.offset, op.actor)
            for op in self.snapshot.ops(Lsn(start), min(Lsn(stop), self._stop))
        ]

    def older(self, node: int, offset: int, lsn: int) -> Ref | None:
        """Where the payload stands that holds what was at a place of a node before an LSN."""
        try:
            found = self.snapshot.pieces(NodeId(node), Lsn(lsn - 1), offset, offset + 1)
        except (NotSeeded, NeverCaptured):
            return None
        if not found or not self._floor < found[0].source < self._stop:
            return None
        return Ref(found[0].source, found[0].source_offset)

    def _op(self, lsn: int) -> OpMeta:
        op = self.snapshot.op(Lsn(lsn)) if self._floor < lsn < self._stop else None
        if op is None:
            raise KeyError(lsn)
        return op

    def _part(self, lsn: Lsn, start: int, stop: int) -> bytes:
        """From the segments. What is damaged there counts as not held: it can be sent again."""
        try:
            return self.snapshot.payload_part(lsn, start, stop)
        except DamagedError as error:
            raise KeyError(lsn) from error

    def _read(self, lsn: int) -> bytes | None:
        """The whole payload, remembered; None if it is too large for that."""
        op = self._op(lsn)
        if op.length > MAX_WHOLE_BYTES:
            return None
        data = self._kept[lsn] = self._part(op.lsn, 0, op.length)
        self._kept_bytes += len(data)
        while self._kept_bytes > MAX_KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return data
