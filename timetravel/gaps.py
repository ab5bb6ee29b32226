"""Spans of time whose changes went unlogged: what a moment in or behind one is worth.

Duty: words for people. Synchronous; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator

from store.format import Flag, Kind
from store.journal import GapSpan, OpMeta, Point, Snapshot
from store.types import Lsn, TimeNs
from timetravel.grade import Grade
from timetravel.moment import format_time

_FOUND_AFTER_GAP = Flag.EXTERNAL | Flag.UNLOGGED


def gap_text(gap: GapSpan) -> str:
    """`changes from A to B went unlogged (why)`."""
    until = "the next mount at " if gap.found else ""
    return (
        f"changes from {format_time(gap.started_ns)} to {until}{format_time(gap.ended_ns)} "
        f"went unlogged ({gap.reason})"
    )


def gap_note(snapshot: Snapshot, lsn: Lsn, time_ns: int | None) -> str:
    """What is to be said of the state at `lsn`, which stands for the time `time_ns` (None: it was
    not asked for by time); "" when no gap touches it."""
    for gap in snapshot.gaps():
        inside = time_ns is not None and gap.started_ns <= time_ns and lsn < gap.lsn
        if inside and lsn >= _last_before(snapshot, gap):
            return f"{gap_text(gap)}; this is the state before them"
        if lsn >= gap.lsn and within_resync(snapshot, lsn):
            return f"{gap_text(gap)}; at this LSN only some of them had been found"
    return ""


def _last_before(snapshot: Snapshot, gap: GapSpan) -> Lsn:
    """The newest op from before the gap: what was logged at its end is from the mount that found
    it."""
    lsn = Lsn(gap.lsn - 1)
    op = snapshot.op(lsn)
    return Lsn(lsn - 1) if op is not None and op.kind == Kind.MOUNT else lsn


def within_resync(snapshot: Snapshot, lsn: Lsn) -> bool:
    """Is the next op one more of those that were found after a gap?"""
    op = snapshot.op(Lsn(lsn + 1))
    return op is not None and found_after_gap(op)


def found_after_gap(op: OpMeta) -> bool:
    """Is it one of those that say what had changed in a gap?"""
    # UNLOGGED alone means something else of a write.
    return op.flags & _FOUND_AFTER_GAP == _FOUND_AFTER_GAP


def gap_points(snapshot: Snapshot, since: Lsn, stop: Lsn) -> Iterator[Point]:
    """The ends of gaps among the recovery points of LSN `[since, stop)`: a crash point each."""
    for gap in snapshot.gaps():
        before = Lsn(gap.lsn - 1)
        if since <= before < stop:
            op = snapshot.op(before)
            time_ns = op.time_ns if op is not None else TimeNs(gap.started_ns)
            reason = f"before a gap: {gap_text(gap)}"
            yield Point(before, time_ns, Grade.CRASH.label, Lsn(0), reason, "", gap.lsn)
