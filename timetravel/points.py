"""Recovery points: all of them, those of a path, and a readable selection.

Duty: pick from what the journal keeps. Synchronous; any thread; memory does not grow with history.
"""

from __future__ import annotations

import heapq
import stat
from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

from store.journal import Journal, NodeState, Point, Snapshot
from store.types import Lsn, TimeNs
from timetravel.errors import MomentError
from timetravel.folds import fold_points
from timetravel.gaps import gap_points
from timetravel.grade import Grade
from timetravel.groups import EVERYTHING, Concern, GroupTable
from timetravel.moment import label_for_point
from timetravel.resolve import DEFAULT_SETTINGS, PathSubject
from timetravel.standing import BarrierSettings, Judge, Worth, floor_of
from timetravel.view import View

_FIRST_LSN: Final = Lsn(1)

_MINUTE_NS: Final = 60 * 10**9
_HOUR_NS: Final = 60 * _MINUTE_NS
_DAY_NS: Final = 24 * _HOUR_NS

_SELECTION: Final = ((_HOUR_NS, _MINUTE_NS), (_DAY_NS, _HOUR_NS))
"""(age up to, one point per); older ones are listed by day."""

MAX_LISTED_DAYS: Final = 1000
"""Days listed at the most, the newest ones; every other moment can still be asked for by name."""

_MAX_REPEATS: Final = 8
"""Asking for a point that was gone back to can lead further back, but not for ever."""


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
    groups: Collection[Lsn] | None = None,
) -> Iterator[Point]:
    """Recovery points from LSN `since` to `until` (both included), oldest first.

    `grade` is the least that counts; of `groups` only theirs are given, besides those of the whole
    volume (marks and crash points). With the `path` of a file (relative to the volume's root) only
    the first crash point after each of its changes is given. Content that is not seeded is not
    needed, but names on the way are: NotSeeded.
    """
    with journal.snapshot() as snapshot:
        stop = Lsn((snapshot.indexed_lsn if until is None else until) + 1)
        every: Iterator[Point] = snapshot.points(since, stop)
        if grade is Grade.CRASH:
            crash = snapshot.points(since, stop, Grade.CRASH.label)
            if path is not None:
                crash = _where_changed(journal, path, crash)
            begin = list(_beginning(snapshot, since, stop))
            crash = (point for point in crash if not begin or point.lsn > begin[0].lsn)
            gaps = gap_points(snapshot, since, stop)
            folds = fold_points(snapshot, since, stop)
            every = heapq.merge(begin, every, crash, gaps, folds, key=lambda point: point.lsn)
        for point in every:
            concerned = groups is None or not point.group or point.group in groups
            if concerned and Grade.of(point.grade) >= grade:
                yield point


def _beginning(snapshot: Snapshot, since: Lsn, stop: Lsn) -> Iterator[Point]:
    """Where the history of a copy begins, if that is in LSN `[since, stop)`: a crash point."""
    begin = snapshot.baseline
    if begin is not None and since <= begin.lsn < stop:
        reason = "the history of this copy begins here"
        yield Point(begin.lsn, begin.time_ns, Grade.CRASH.label, Lsn(0), reason, "", Lsn(0))


def points_of_path(
    journal: Journal,
    table: GroupTable,
    view_of: Callable[[Lsn], View],
    path: bytes,
    first: Lsn,
    last: Lsn,
    least: Grade,
) -> Iterator[Point]:
    """The points of the path's groups from LSN `first` to `last`, oldest first.

    Those of groups that fell quiet at the log's end are among them. Of a file, ends of batches
    count only where it had changed.
    """
    concern = concern_of_path(view_of, path, last)
    groups = {group.id for group in table.concerned(concern, last)}
    of_file = path if concern.name is not None else None
    found = points(journal, of_file, since=first, until=last, grade=least, groups=groups)
    quiet: list[Point] = []
    if least <= Grade.SYNC:
        every = (table.quiet_point(group) for group in groups)
        quiet = [point for point in every if point is not None and first <= point.lsn <= last]
    return heapq.merge(found, sorted(quiet), key=lambda point: point.lsn)


def concern_of_path(view_of: Callable[[Lsn], View], path: bytes, last: Lsn) -> Concern:
    """What a path is about: a directory, or a file in its directory, which may be gone."""
    found = PathSubject(view_of, path).concern(last)
    if found is not None:
        return found
    above, _slash, name = path.rpartition(b"/")
    state = view_of(last).find(above)
    if state is not None and stat.S_ISDIR(state.mode):
        return Concern(state.node, name)
    return EVERYTHING


def _where_changed(journal: Journal, path: bytes, found: Iterator[Point]) -> Iterator[Point]:
    before: tuple[int, int] | None = None
    for point in found:
        view = View(journal, point.lsn)
        state = view.find(path)
        changed = (state.node, state.changed) if state is not None else (0, 0)
        if changed != before or _is_directory(state):
            yield point
        before = changed


def _is_directory(state: NodeState | None) -> bool:
    return state is not None and stat.S_ISDIR(state.mode)


def selection_for_listing(
    journal: Journal, now_ns: int, settings: BarrierSettings = DEFAULT_SETTINGS
) -> list[ListedPoint]:
    """What `.snapshots` at the mount's root shows, oldest first.

    All marks; and what the end of each minute of the last hour, of each hour of the last day, of
    each day (all UTC) before comes to, as far as there were ops in it: the newest point at which
    the whole volume was between transactions, within the limit.
    """
    with journal.snapshot() as snapshot:
        found = {point.entry_name: point for point in _listed_marks(snapshot)}
        for point in _listed_points(snapshot, now_ns, settings):
            found.setdefault(point.entry_name, point)
    return sorted(found.values(), key=lambda point: (point.lsn, point.entry_name))


def _listed_marks(snapshot: Snapshot) -> Iterator[ListedPoint]:
    # A name that was set twice is the newer mark.
    newest = {name: (lsn, time_ns) for name, lsn, time_ns in snapshot.marks()}
    for name, (lsn, time_ns) in newest.items():
        yield ListedPoint(f"@mark:{name}", lsn, time_ns, Grade.MARK)


def _listed_points(
    snapshot: Snapshot, now_ns: int, settings: BarrierSettings
) -> Iterator[ListedPoint]:
    """From the newest back, jumping over spans of time without ops."""
    clock_ns = settings.log_clock_ns(snapshot, now_ns)
    table = GroupTable(snapshot, now_ns=clock_ns, quiet_ns=settings.quiet_ns)
    lsn = snapshot.lsn_at_clock(now_ns)
    days = 0
    while lsn and days < MAX_LISTED_DAYS:
        op = snapshot.op(lsn)
        if op is None:
            return
        worth = _barrier(snapshot, table, lsn, settings)
        time_ns = table.time_of(worth.lsn)
        try:
            name = label_for_point(time_ns)
        except MomentError:
            return  # a clock that was wrong by centuries: no name means such a time
        if time_ns > now_ns or snapshot.lsn_at_clock(time_ns) != worth.lsn:
            name = f"@lsn:{worth.lsn}"  # the clock was set back: the time means a later op as well
        yield ListedPoint(name, worth.lsn, time_ns, worth.grade)
        if op.time_ns > now_ns:
            lsn = snapshot.lsn_at(TimeNs(now_ns))
            continue
        bucket_ns = _bucket_ns(now_ns - op.time_ns)
        days += bucket_ns == _DAY_NS
        lsn = snapshot.lsn_at(TimeNs(op.time_ns // bucket_ns * bucket_ns - 1))


def _barrier(snapshot: Snapshot, table: GroupTable, lsn: Lsn, settings: BarrierSettings) -> Worth:
    """Where the time of an op leads to, and the time of that again, until it leads to itself."""
    for _ in range(_MAX_REPEATS):
        judge = Judge(table, EVERYTHING, lsn, settings)
        worth = judge.barrier(lsn, floor_of(snapshot, lsn, settings))
        if worth.lsn == lsn:
            break
        lsn = worth.lsn
    return worth


def _bucket_ns(age_ns: int) -> int:
    for up_to, bucket_ns in _SELECTION:
        if age_ns < up_to:
            return bucket_ns
    return _DAY_NS
