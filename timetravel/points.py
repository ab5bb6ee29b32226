"""Recovery points: all of them, those at which a path changed, and a readable selection.

Duty: pick from what the journal keeps. Synchronous; any thread; memory does not grow with history.
"""

from __future__ import annotations

import heapq
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from store.journal import Journal, NodeState, Point, Snapshot
from store.types import Lsn, TimeNs
from timetravel.errors import MomentError
from timetravel.grade import Grade
from timetravel.moment import label_for_point
from timetravel.view import View

_FIRST_LSN: Final = Lsn(1)

_MINUTE_NS: Final = 60 * 10**9
_HOUR_NS: Final = 60 * _MINUTE_NS
_DAY_NS: Final = 24 * _HOUR_NS

_SELECTION: Final = ((_HOUR_NS, _MINUTE_NS), (_DAY_NS, _HOUR_NS))
"""(age up to, one point per); older ones are listed by day."""

MAX_LISTED_DAYS: Final = 1000
"""Days listed at the most, the newest ones; every other moment can still be asked for by name."""


class ListedPoint(NamedTuple):
    """An entry of the root's `.snapshots`: a name that reads back as exactly this point."""

    entry_name: str
    lsn: Lsn
    time_ns: TimeNs
    grade: Grade


def points(
    journal: Journal,
    path: bytes | None = None,
    *,
    since: Lsn = _FIRST_LSN,
    until: Lsn | None = None,
    grade: Grade = Grade.CRASH,
) -> Iterator[Point]:
    """Recovery points from LSN `since` to `until` (both included), oldest first.

    `grade` is the least that counts. With the `path` of a file (relative to the volume's root)
    only the first point after each of its changes is given, besides marks; a directory's points
    are all points. Content that is not seeded is not needed, but names on the way are: NotSeeded.
    """
    with journal.snapshot() as snapshot:
        stop = Lsn((snapshot.indexed_lsn if until is None else until) + 1)
        every: Iterator[Point] = snapshot.points(since, stop)
        if grade is Grade.CRASH:
            every = heapq.merge(
                every, snapshot.points(since, stop, Grade.CRASH.label), key=lambda p: p.lsn
            )
        found = (point for point in every if Grade.of(point.grade) >= grade)
        if path is None:
            yield from found
        else:
            yield from _where_changed(journal, path, found)


def _where_changed(journal: Journal, path: bytes, found: Iterator[Point]) -> Iterator[Point]:
    before: tuple[int, int] | None = None
    for point in found:
        view = View(journal, point.lsn)
        state = view.find(path)
        changed = (state.node, state.changed) if state is not None else (0, 0)
        if changed != before or point.grade == Grade.MARK.label or _is_directory(state):
            yield point
        before = changed


def _is_directory(state: NodeState | None) -> bool:
    return state is not None and stat.S_ISDIR(state.mode)


def selection_for_listing(journal: Journal, now_ns: int) -> list[ListedPoint]:
    """What `.snapshots` at the mount's root shows, oldest first.

    All marks; and the newest point of each minute of the last hour, of each hour of the last day,
    of each day (all UTC) before, as far as there were ops in it.
    """
    with journal.snapshot() as snapshot:
        found = {point.entry_name: point for point in _listed_marks(snapshot)}
        for point in _listed_points(snapshot, now_ns):
            found.setdefault(point.entry_name, point)
    return sorted(found.values(), key=lambda point: (point.lsn, point.entry_name))


def _listed_marks(snapshot: Snapshot) -> Iterator[ListedPoint]:
    # A name that was set twice is the newer mark.
    newest = {name: (lsn, time_ns) for name, lsn, time_ns in snapshot.marks()}
    for name, (lsn, time_ns) in newest.items():
        yield ListedPoint(f"@mark:{name}", lsn, time_ns, Grade.MARK)


def _listed_points(snapshot: Snapshot, now_ns: int) -> Iterator[ListedPoint]:
    """From the newest back, jumping over spans of time without ops."""
    lsn = snapshot.lsn_at(TimeNs(now_ns))
    days = 0
    while lsn and days < MAX_LISTED_DAYS:
        op = snapshot.op(lsn)
        if op is None:
            return
        try:
            name = label_for_point(op.time_ns)
        except MomentError:
            return  # a clock that was wrong by centuries: no name means such a time
        yield ListedPoint(name, lsn, op.time_ns, Grade.CRASH)
        bucket_ns = _bucket_ns(now_ns - op.time_ns)
        days += bucket_ns == _DAY_NS
        lsn = snapshot.lsn_at(TimeNs(op.time_ns // bucket_ns * bucket_ns - 1))


def _bucket_ns(age_ns: int) -> int:
    for up_to, bucket_ns in _SELECTION:
        if age_ns < up_to:
            return bucket_ns
    return _DAY_NS
