"""What an LSN is worth for a path, and the LSN near an asked one that is worth more.

Duty: from the groups that a path concerns to a grade, a reason and a few words about each group.
Synchronous; for one thread at a time; it reads one snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from store.journal import Snapshot
from store.types import Lsn, TimeNs
from timetravel.barrier_search import BarrierSearch, Standing, rests
from timetravel.grade import Grade
from timetravel.groups import Concern, GroupTable

MAX_SHOWN_GROUPS: Final = 16
MAX_SHOWN_NAMES: Final = 3
_MAX_IDLE_LOOKUPS: Final = 64
_NS_PER_S: Final = 10**9


@dataclass(frozen=True, slots=True)
class BarrierSettings:
    """What of a volume's configuration decides where `@time` goes."""

    limit_s: float = 60.0
    """How far before the asked time a point may lie."""
    quiet_s: float = 2.0
    """A group without a change for so long is at rest."""
    live: bool = True
    """The journal is as far as the clock here. A replica's is only as far as its newest op."""

    def log_clock_ns(self, snapshot: Snapshot, now_ns: int) -> int:
        """Up to when it is known that nothing else happened; `now_ns` is the clock here.

        What a replica lacks may be on its way: nobody has been quiet there since its newest op.
        """
        if self.live:
            return now_ns
        last = snapshot.last()
        return last.time_ns if last is not None else now_ns

    @property
    def limit_ns(self) -> int:
        """The limit in nanoseconds."""
        return int(self.limit_s * _NS_PER_S)

    @property
    def quiet_ns(self) -> int:
        """The quiet time in nanoseconds."""
        return int(self.quiet_s * _NS_PER_S)


def floor_of(snapshot: Snapshot, asked: Lsn, settings: BarrierSettings) -> Lsn:
    """The oldest LSN within the limit before `asked`."""
    op, first = snapshot.op(asked), snapshot.first()
    if op is None or first is None:
        return asked
    return Lsn(max(snapshot.lsn_at(TimeNs(op.time_ns - settings.limit_ns - 1)) + 1, first.lsn))


class GroupStanding(NamedTuple):
    """How one group stands at an LSN, for people and scripts."""

    title: bytes
    names: tuple[bytes, ...]
    """A few of its files."""
    clean: bool
    """At its point; else in the midst of a transaction."""
    grade: Grade
    """Of its point; `crash` if it is in the midst of something."""
    point_lsn: Lsn
    """Its newest point at or before the LSN; 0: it has none."""
    reason: str

    @property
    def text(self) -> str:
        """`db (app.db, app.db-wal)`."""
        title = self.title.decode("utf-8", "backslashreplace")
        names = ", ".join(name.decode("utf-8", "backslashreplace") for name in self.names)
        return f"{title} ({names})" if names else title


class Worth(NamedTuple):
    """An LSN and what it is worth."""

    lsn: Lsn
    grade: Grade
    reason: str
    """Why it is worth that."""
    groups: tuple[GroupStanding, ...] = ()
    """The groups that count, those in the midst of something first, MAX_SHOWN_GROUPS at most."""
    group_count: int = 0
    open_count: int = 0
    """Groups in the midst of a transaction."""


class Judge:
    """Questions about what one path concerns, in one snapshot."""

    def __init__(
        self, table: GroupTable, concern: Concern, asked: Lsn, settings: BarrierSettings
    ) -> None:
        self._table = table
        self._settings = settings
        edge_ns = table.time_of(asked) - settings.limit_ns
        groups = table.concerned(concern, asked, lambda group: rests(group, asked, edge_ns))
        self._search = BarrierSearch(
            table,
            groups,
            limit_ns=settings.limit_ns,
            quiet_ns=settings.quiet_ns,
            end_ns=table.now_ns,
        )

    def barrier(self, asked: Lsn, floor: Lsn) -> Worth:
        """The LSN in `[floor, asked]` that is worth most, as `BarrierSearch` finds it."""
        found = self._search.search(asked, floor)
        worth = self.at(found.lsn)
        limit = f"{self._settings.limit_s:g} s"
        if found.exhausted:
            reason = f"too many points within {limit} to find one of all groups together"
            return worth._replace(reason=_joined(reason, worth.reason))
        if worth.open_count:
            reason = f"no point of all groups together within {limit}"
            return worth._replace(reason=_joined(reason, worth.reason))
        return worth

    def at(self, lsn: Lsn) -> Worth:
        """What `lsn` itself is worth."""
        counting = self._counting(lsn)
        if not counting:
            return Worth(lsn, Grade.CRASH, "nothing had been written there by then")
        still_open = [standing for standing in counting if not standing.clean]
        newest = max(
            (s for s in counting if s.clean and s.point is not None),
            key=lambda standing: standing.point.lsn if standing.point else 0,
            default=None,
        )
        shown = sorted(counting, key=lambda standing: standing.clean)[:MAX_SHOWN_GROUPS]
        groups = tuple(self._describe(standing) for standing in shown)
        reasons = []
        if newest is not None and newest.point is not None:
            reasons.append(self._newest_reason(newest, len(counting) - len(still_open) - 1))
        if still_open:
            texts = ", ".join(group.text for group in groups if not group.clean)
            more = len(still_open) - sum(not group.clean for group in groups)
            reasons.append(f"mid-transaction: {texts}" + (f" and {more} more" if more else ""))
        return Worth(
            lsn,
            _grade(counting),
            "; ".join(reasons),
            groups,
            len(counting),
            len(still_open),
        )

    def _counting(self, lsn: Lsn) -> list[Standing]:
        """The groups that were active within the limit; if there are none, those that rested."""
        there = [group for group in self._search.groups if self._search.counts(group, lsn)]
        resting: list[Standing] = []
        active: list[Standing] = []
        edge_ns = self._table.time_of(lsn) - self._settings.limit_ns
        for group in there:
            at_rest = rests(group, lsn, edge_ns)
            if at_rest and (active or len(resting) >= _MAX_IDLE_LOOKUPS):
                continue
            standing = self._search.standing(group, lsn)
            idle = at_rest or self._search.idle(standing, lsn)
            (resting if idle and standing.clean else active).append(standing)
        return active or resting

    def _newest_reason(self, standing: Standing, others: int) -> str:
        assert standing.point is not None
        if not others:
            return standing.point.reason
        title = self._table.title(standing.group).decode("utf-8", "backslashreplace")
        noun = "group is" if others == 1 else "groups are"
        return f"{standing.point.reason} in {title}; {others} more {noun} at rest"

    def _describe(self, standing: Standing) -> GroupStanding:
        group, point, clean = standing
        return GroupStanding(
            self._table.title(group),
            tuple(self._table.names(group, MAX_SHOWN_NAMES)),
            clean,
            Grade.of(point.grade) if clean and point is not None else Grade.CRASH,
            point.lsn if point is not None else Lsn(0),
            point.reason if clean and point is not None else "",
        )


def _grade(counting: list[Standing]) -> Grade:
    """The least that the groups are worth.

    One that never synced or put in place anything has no transactions that could be incomplete:
    as long as it is clean, it takes nothing from those that have.
    """
    of_all = [Grade.of(s.point.grade) if s.clean and s.point else Grade.CRASH for s in counting]
    of_makers = [
        grade
        for grade, standing in zip(of_all, counting, strict=True)
        if standing.group.members or not standing.clean
    ]
    return min(of_makers or of_all, default=Grade.CRASH)


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)
