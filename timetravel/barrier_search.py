"""Where `@time` goes: the newest LSN at which every group concerned stands between transactions.

Duty: search that LSN among the points of some consistency groups. Pure, for one thread at a time;
it knows neither the index nor paths, so that it can be held against a brute-force oracle.

A group is *clean* at an LSN when its newest point of at least `sync` grade at or before it has not
been left yet (`Point.until`). A mere `sync` point of a group that also makes transactions is worth
less than the transaction before it: the group may have been synced half way through one. So a
point is *whole* if it is a transaction (or better), if the group made no transaction within the
limit before it, if nothing changed since the transaction before it, or if the group then rested
for longer than the limit.

Three things are tried in this order, each from the asked LSN back to the limit:

1. WHOLE: every group is clean, at a whole point.
2. SYNC: every group is clean.
3. REST: as WHOLE, but a group that has been in the midst of something for longer than the limit
   (such as an unsynced log that is written all day) does not keep the others from it.

If nothing is found the asked LSN itself is the answer. Whether an LSN passes depends on that LSN
alone, never on the one that was asked for, and the limit moves with the asked time. So the answer
is monotone: who asks for a later moment never gets an earlier LSN (unless MAX_STEPS cuts one of
the two searches short).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol

from store.barrier_state import Group
from store.index_rows import Point
from store.types import Lsn, TimeNs

MAX_STEPS: Final = 5_000
"""Steps back that one search makes: many busy groups are hardly ever at rest together."""

TRANSACTION: Final = "transaction"
SYNC: Final = "sync"


class Level(Enum):
    """What was found, the best first."""

    WHOLE = "whole"
    SYNC = "sync"
    REST = "rest"
    ASKED = "asked"  # nothing: the asked LSN itself


LEVELS: Final = (Level.WHOLE, Level.SYNC, Level.REST)
"""The order in which they are tried."""


class Barriers(Protocol):
    """The points of the groups, as `store.snapshot.Snapshot` has them."""

    def point_before(self, group: Lsn, lsn: Lsn, least: str) -> Point | None:
        """The group's newest point at or before `lsn` of at least that grade."""
        ...

    def time_of(self, lsn: Lsn) -> TimeNs:
        """When that op was."""
        ...


class Standing(NamedTuple):
    """How a group stands at an LSN."""

    group: Group
    point: Point | None
    """Its newest point of at least `sync` grade at or before the LSN, the best one if it is still
    as at several; None: it never had one."""
    clean: bool
    """The group is still as at the point; else it is in the midst of a transaction."""


class Found(NamedTuple):
    """The answer of a search."""

    lsn: Lsn
    level: Level
    exhausted: bool = False
    """MAX_STEPS were not enough."""


class BarrierSearch:
    """Questions about some groups. `end_ns` is the time now; groups count from their first op."""

    def __init__(
        self,
        barriers: Barriers,
        groups: Sequence[Group],
        *,
        limit_ns: int,
        quiet_ns: int,
        end_ns: int,
    ) -> None:
        self.groups = groups
        self._barriers = barriers
        self._limit_ns = limit_ns
        self._quiet_ns = quiet_ns
        self._end_ns = end_ns
        self._newest: dict[Lsn, tuple[Lsn, Point | None]] = {}
        self._whole: dict[tuple[Lsn, Lsn], Lsn | None] = {}
        self._times: dict[Lsn, TimeNs] = {}

    def search(
        self,
        asked: Lsn,
        floor: Lsn,
        levels: Sequence[Level] = LEVELS,
        steps: int | None = None,
    ) -> Found:
        """The newest LSN in `[floor, asked]` that is worth most; `asked` if none is worth it.

        Only `levels` are tried, each with `steps` (MAX_STEPS) steps back at the most.
        """
        edge_ns = self._time(asked) - self._limit_ns
        moving = self.groups
        if self._quiet_ns < self._limit_ns:
            moving = [group for group in self.groups if not rests(group, asked, edge_ns)]
        for level in levels:
            at = asked
            for _ in range(MAX_STEPS if steps is None else steps):
                lower = min((self._below(level, group, at) for group in moving), default=at)
                if lower == at:
                    return Found(at, level)
                if lower < floor:
                    break
                at = lower
            else:
                return Found(asked, Level.ASKED, exhausted=True)
        return Found(asked, Level.ASKED)

    def standing(self, group: Group, lsn: Lsn) -> Standing:
        """How a group stands at `lsn`."""
        point = self._point(group, lsn)
        if point is None or _left(point, lsn):
            return Standing(group, point, clean=False)
        if point.grade == SYNC:
            # Synced once more, say: it is still as at the transaction.
            before = self._barriers.point_before(group.id, lsn, TRANSACTION)
            if before is not None and not _left(before, lsn):
                point = before
        return Standing(group, point, clean=True)

    def counts(self, group: Group, lsn: Lsn) -> bool:
        """Whether the group was one of its own at `lsn`."""
        merged = bool(group.merged_into) and lsn >= group.merged_at
        return group.first_lsn <= lsn and not merged

    def idle(self, standing: Standing, lsn: Lsn) -> bool:
        """Whether the group was clean, and had been for longer than the limit."""
        point = standing.point
        if not standing.clean or point is None:
            return False
        return point.time_ns < self._time(lsn) - self._limit_ns

    def _below(self, level: Level, group: Group, at: Lsn) -> Lsn:
        """`at` if the group passes there; else a lower LSN, with none between that it passes at."""
        if not self.counts(group, at):
            return at
        point = self._point(group, at)
        if point is None or _left(point, at):
            since = group.first_lsn if point is None else point.until
            if level is Level.REST and self._time(since) < self._time(at) - self._limit_ns:
                return at
            return Lsn(since - 1)
        if level is Level.SYNC:
            return at
        better = self._transaction_to_prefer(group, point)
        return at if better is None else better

    def _transaction_to_prefer(self, group: Group, point: Point) -> Lsn | None:
        """The last LSN at which the group stood at a transaction; None if the point is whole."""
        key = (group.id, point.lsn)
        if key not in self._whole:
            self._whole[key] = self._last_transaction(group, point)
        return self._whole[key]

    def _last_transaction(self, group: Group, point: Point) -> Lsn | None:
        point = self._first_of_state(group, point)
        if point.grade != SYNC or self._rested(group, point):
            return None
        before = self._barriers.point_before(group.id, point.lsn, TRANSACTION)
        if before is None or not _left(before, point.lsn):
            return None
        if self._time(before.until) < point.time_ns - self._limit_ns:
            return None
        return Lsn(before.until - 1)

    def _first_of_state(self, group: Group, point: Point) -> Point:
        """The oldest point with nothing changed between it and `point`: both are worth the same."""
        for _ in range(MAX_STEPS):
            before = self._barriers.point_before(group.id, Lsn(point.lsn - 1), SYNC)
            if before is None or _left(before, point.lsn):
                break
            point = before
        return point

    def _rested(self, group: Group, point: Point) -> bool:
        """Whether the group stayed at the point for longer than the limit."""
        if point.lsn >= group.last_lsn:
            return self._end_ns - group.last_time_ns > self._limit_ns
        return point.until > 0 and self._time(point.until) - point.time_ns > self._limit_ns

    def _point(self, group: Group, at: Lsn) -> Point | None:
        """`point_before` of sync grade. A search goes down, so the last answer often serves."""
        known = self._newest.get(group.id)
        if known is not None:
            asked, point = known
            if at <= asked and (point is None or point.lsn <= at):
                return point
        point = self._barriers.point_before(group.id, at, SYNC)
        self._newest[group.id] = (at, point)
        return point

    def _time(self, lsn: Lsn) -> TimeNs:
        known = self._times.get(lsn)
        if known is None:
            known = self._times[lsn] = self._barriers.time_of(lsn)
        return known


def _left(point: Point, lsn: Lsn) -> bool:
    """Whether the group is no longer as at the point."""
    return 0 < point.until <= lsn


def rests(group: Group, asked: Lsn, edge_ns: int) -> bool:
    """Whether a group passes wherever the search for `asked` can look: told by its row alone.

    Its last change lies before `edge_ns`, which is the limit before `asked`. After that it became
    quiet, so it has a point there, where it then rested for longer than the limit. (The quiet time
    must be shorter than the limit.)
    """
    return group.open_since == 0 and group.last_lsn <= asked and group.last_time_ns < edge_ns
