"""Stretches of history that a replica was sent without what was overwritten within them.

Duty: words for people. Synchronous; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator

from store.journal import FoldSpan, Point, Snapshot
from store.types import Lsn, TimeNs
from timetravel.grade import Grade


def fold_text(fold: FoldSpan) -> str:
    """`LSN A to B were folded on the way here: N writes and M recovery points left out`."""
    points = "1 recovery point" if fold.points == 1 else f"{fold.points} recovery points"
    writes = "1 overwritten write" if fold.writes == 1 else f"{fold.writes} overwritten writes"
    where = f"LSN {fold.first} to {fold.until} were folded on the way here"
    return f"{where}: {writes} and {points} left out"


def fold_points(snapshot: Snapshot, since: Lsn, stop: Lsn) -> Iterator[Point]:
    """The beginnings of folds among the recovery points of LSN `[since, stop)`: a crash point each,
    which says what was left out behind it."""
    for fold in snapshot.folds(since):
        before = Lsn(fold.first - 1)
        if before >= stop:
            return
        op = snapshot.op(before)
        if before < since or op is None:
            continue
        reason = f"before a fold: {fold_text(fold)}"
        yield Point(before, TimeNs(op.time_ns), Grade.CRASH.label, Lsn(0), reason, "", fold.first)
