"""What both ends hold already: the payloads of a journal's ops, for the codec of shipments.

Duty: answer a codec's many small questions quickly. One thread at a time; it reads one snapshot,
whose user closes it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from store.journal import Snapshot
from store.types import Lsn

MAX_KEPT_BYTES: Final = 16 << 20
"""Payloads that are remembered, the ones used last."""

MAX_WHOLE_BYTES: Final = 64 << 10
"""A payload up to this size is read and remembered as a whole: it is asked for in parts."""


class JournalHeld:
    """A `replicator.shipment.Held`: the ops of a snapshot before LSN `stop`."""

    def __init__(self, snapshot: Snapshot, stop: Lsn) -> None:
        self._snapshot = snapshot
        self._stop = stop
        self._kept: OrderedDict[Lsn, bytes] = OrderedDict()
        self._kept_bytes = 0

    def payload(self, lsn: Lsn, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)` of an op's payload. KeyError when there are no such bytes."""
        kept = self._kept.get(lsn)
        if kept is None:
            kept = self._read(lsn)
            if kept is None:
                return self._snapshot.payload_part(lsn, start, stop)
        else:
            self._kept.move_to_end(lsn)
        if not 0 <= start <= stop <= len(kept):
            raise KeyError(lsn)
        return kept[start:stop]

    def _read(self, lsn: Lsn) -> bytes | None:
        """The whole payload, remembered; None if it is too large for that."""
        op = self._snapshot.op(lsn) if 0 < lsn < self._stop else None
        if op is None:
            raise KeyError(lsn)
        if op.length > MAX_WHOLE_BYTES:
            return None
        data = self._kept[lsn] = self._snapshot.payload_part(lsn, 0, op.length)
        self._kept_bytes += len(data)
        while self._kept_bytes > MAX_KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return data
