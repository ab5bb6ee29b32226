"""Leaving out what was overwritten: fewer bytes for a line that has fallen far behind. Pure.

Duty: the ops of a batch without the bytes of writes that later ones of the same batch overwrite, up
to an LSN at which no transaction is open. There, and behind it, the tree is exactly as at the site;
the states in between are not to be had at the replica any more, and its history says so. Every op
keeps its LSN and its kind, but for the writes, which become FOLDED ops: so recovery points are
inferred there as they are here. Any thread.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import xxhash

from store.barrier_journals import is_zero_header
from store.format import Kind
from store.ops import Folded, Op
from store.types import Lsn, TimeNs

_END = 1 << 63
_NO_PAYLOAD = xxhash.xxh3_64_intdigest(b"")

_WRITE, _TRUNCATE = int(Kind.WRITE), int(Kind.TRUNCATE)
_CREATE, _UNLINK = int(Kind.CREATE), int(Kind.UNLINK)
_LINK, _RENAME = int(Kind.LINK), int(Kind.RENAME)
_UNSURE = frozenset(map(int, (Kind.ABORT, Kind.FOLDED, Kind.GAP)))
"""A batch with one of these is left as it is: not all of its ops happened, or were logged."""


class _Covered:
    """Byte ranges that are overwritten later. `add` gives whether a range was covered already."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> bool:
        """Cover `[start, stop)`; whether all of it was covered."""
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            if self._starts[first] <= start and stop <= self._stops[first]:
                return True
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        return False


def overwritten(ops: Sequence[Op], until: Lsn) -> set[int]:
    """LSNs of the writes of a batch whose bytes nobody can see at `until`, nor later."""
    if any(op.kind in _UNSURE for op in ops):
        return set()
    born = {op.node for op in ops if op.kind == _CREATE and op.lsn <= until}
    several = {op.node for op in ops if op.kind in (_LINK, _RENAME)}
    covered: dict[int, _Covered] = {}
    found: set[int] = set()
    for op in reversed(ops):
        if op.lsn > until:
            continue
        node = covered.get(op.node)
        if node is None:
            node = covered[op.node] = _Covered()
        if op.kind == _UNLINK and op.node in born and op.node not in several:
            node.add(0, _END)  # it had this name only, and is gone with all that it held
        elif op.kind == _TRUNCATE:
            node.add(op.offset, _END)
        elif op.kind == _WRITE and op.payload:
            stop = op.offset + len(op.payload)
            # What retires a rollback journal says so by its bytes.
            if node.add(op.offset, stop) and not _retires(op):
                found.add(op.lsn)
    return found


def _retires(op: Op) -> bool:
    return not op.offset and is_zero_header(op.payload)


def fold(ops: Sequence[Op], until: Lsn, points: int) -> list[Op] | None:
    """A batch's ops with what is overwritten by `until` left out; None when that is nothing.

    `points` is how many recovery points the site has in the batch before `until`. What is left out
    has no times of its own: a FOLDED op comes a nanosecond after its predecessor.
    """
    gone = overwritten(ops, until)
    if not gone:
        return None
    first, last = Lsn(min(gone)), max(gone)
    made: list[Op] = []
    for op in ops:
        if op.lsn not in gone:
            made.append(op)
            continue
        payload = b""
        if op.lsn == last:
            payload = Folded(first, until, len(gone), points).encode()
        time_ns = TimeNs(made[-1].time_ns + 1) if made else op.time_ns
        made.append(
            op._replace(
                time_ns=time_ns,
                kind=int(Kind.FOLDED),
                offset=op.offset + len(op.payload),
                payload_xxh3=xxhash.xxh3_64_intdigest(payload) if payload else _NO_PAYLOAD,
                payload=payload,
            )
        )
    return made
