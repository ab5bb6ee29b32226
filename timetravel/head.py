"""The visible head of a journal that grows from outside: how far its readers are shown by default.

Duty: the newest LSN at which no consistency group is in the midst of a transaction (I-5), asked
again whenever more has arrived. It only reads; for one thread at a time; what it costs does not
grow with the history. It finds no points of its own (`timetravel/barrier_search.py` searches).

What is told from the log alone: a group counts as quiet when a later op shows that time went by,
not when a clock here does, since the rest of its transaction may be on its way.

The head stays where it is until there is a newer LSN that is worth as much. If there is none for
longer than the limit, it goes to the newest LSN that is worth less; and if nothing within the
limit is worth anything, to the newest LSN there is, with the level ASKED, which is told to
whoever looks. So a volume that is never at rest is shown too, once in each limit, and flagged.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from store.format import Kind
from store.index_points import KnownGroups
from store.journal import Journal, OpMeta, Snapshot
from store.types import Lsn, TimeNs
from timetravel.barrier_search import LEVELS, MAX_STEPS, BarrierSearch, Found, Level
from timetravel.gaps import found_after_gap, within_resync
from timetravel.groups import GroupTable
from timetravel.moment import AtLsn
from timetravel.resolve import ResolvedPoint, resolve
from timetravel.standing import BarrierSettings, floor_of

MAX_LOOKS: Final = 200_000
"""Looks at groups that one search may cost: many busy ones are hardly ever at rest together."""

_MAX_RESYNCS: Final = 16
"""Spans of resynchronisation that one search goes around."""


class Head(NamedTuple):
    """How far readers are shown."""

    lsn: Lsn
    """0: nothing is held."""
    time_ns: TimeNs
    level: Level
    """What the LSN is worth. ASKED: some group is in the midst of a transaction there."""
    held_lsn: Lsn
    """The newest LSN that the journal held."""

    @property
    def is_barrier(self) -> bool:
        """Whether all groups that count stand between transactions."""
        return self.level is not Level.ASKED


NO_HEAD: Final = Head(Lsn(0), TimeNs(0), Level.WHOLE, Lsn(0))


class HeadTracker:
    """The head of one journal, over time. It never moves back."""

    def __init__(self, settings: BarrierSettings) -> None:
        self._settings = settings
        self._groups: KnownGroups = {}
        self.head = NO_HEAD

    def advance(self, snapshot: Snapshot) -> Head:
        """The head as of a snapshot; at once if nothing arrived since the last call."""
        last = snapshot.last()
        if last is not None and last.lsn > self.head.held_lsn:
            found = self._look(snapshot, last)
            if found.lsn > self.head.lsn:
                op = snapshot.op(found.lsn)
                time_ns = op.time_ns if op is not None else TimeNs(0)
                self.head = Head(found.lsn, time_ns, found.level, last.lsn)
            else:
                self.head = self.head._replace(held_lsn=last.lsn)
        return self.head

    def _look(self, snapshot: Snapshot, last: OpMeta) -> Found:
        """A better head, or the one there is."""
        head = self.head
        asked = _whole_end(snapshot, last)
        floor = floor_of(snapshot, asked, self._settings)
        stays = Found(head.lsn, head.level)
        if asked <= head.lsn:
            return stays
        search = _AroundResyncs(snapshot, self._search(snapshot, last.time_ns))
        if head.lsn >= floor:
            levels = LEVELS[: _rank(head.level) + 1]
            found = search.newest(asked, Lsn(head.lsn + 1), levels)
            return found if found.level is not Level.ASKED else stays
        return search.newest(asked, floor, LEVELS)

    def _search(self, snapshot: Snapshot, now_ns: TimeNs) -> BarrierSearch:
        quiet_ns = self._settings.quiet_ns
        table = GroupTable(snapshot, now_ns=now_ns, quiet_ns=quiet_ns, known=self._groups)
        return BarrierSearch(
            table,
            list(table.groups()),
            limit_ns=self._settings.limit_ns,
            quiet_ns=quiet_ns,
            end_ns=now_ns,
        )


class _AroundResyncs:
    """A search that does not stop where only some of what went unlogged had been found."""

    def __init__(self, snapshot: Snapshot, search: BarrierSearch) -> None:
        self._snapshot = snapshot
        self._search = search
        self._steps = max(min(MAX_STEPS, MAX_LOOKS // (len(search.groups) or 1)), 1)

    def newest(self, asked: Lsn, floor: Lsn, levels: tuple[Level, ...]) -> Found:
        """As `BarrierSearch.search`."""
        at = asked
        for _ in range(_MAX_RESYNCS):
            found = self._search.search(at, floor, levels, self._steps)
            if found.level is Level.ASKED or not within_resync(self._snapshot, found.lsn):
                return found._replace(lsn=asked) if found.level is Level.ASKED else found
            at = _before_gap(self._snapshot, found.lsn)
            if at < floor:
                break
        return Found(asked, Level.ASKED)


def _whole_end(snapshot: Snapshot, last: OpMeta) -> Lsn:
    """The newest LSN behind which no more is to come of what is logged after a gap."""
    if last.kind == Kind.GAP or found_after_gap(last):
        return _before_gap(snapshot, last.lsn)
    return last.lsn


def _before_gap(snapshot: Snapshot, lsn: Lsn) -> Lsn:
    """The newest LSN before the gap that `lsn` lies behind."""
    starts = [gap.lsn for gap in snapshot.gaps() if gap.lsn <= lsn]
    return Lsn(max(starts, default=Lsn(1)) - 1)


def _rank(level: Level) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def head_point(journal: Journal, head: Head, settings: BarrierSettings) -> ResolvedPoint:
    """The head as a resolved moment, with what it is worth for the whole volume.

    MomentBeforeProtection when nothing is held.
    """
    newest = journal.last()
    now_ns = newest.time_ns if newest is not None else 0
    return resolve(journal, AtLsn(head.lsn), now_ns=now_ns, settings=settings)
