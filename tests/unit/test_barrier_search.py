"""Where `@time` goes, held against a search that tries every LSN, over random logs of groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.barrier_state import Group
from store.index_rows import Point
from store.types import Lsn, NodeId, TimeNs
from timetravel import barrier_search
from timetravel.barrier_search import BarrierSearch, Found, Level

S = 10**9
QUIET_NS = 2 * S


class Event(NamedTuple):
    """An op of a group (0: of none). `changes`: it changes content; `grade`: it makes a point."""

    group: int
    changes: bool
    grade: str
    gap_ns: int
    """Since the op before."""


events = st.builds(
    Event,
    group=st.integers(0, 3),
    changes=st.booleans(),
    grade=st.sampled_from(["", "", "", "sync", "transaction"]),
    gap_ns=st.sampled_from([1, S // 10, S, 3 * S, 8 * S, 30 * S]),
)


class Log:
    """What the index would hold of some events, and the truth that it was made from."""

    def __init__(self, happened: Sequence[Event], rest_ns: int) -> None:
        self.times = [0]
        self.changes: dict[int, list[int]] = {}
        self.points: dict[int, dict[int, str]] = {}
        for lsn, event in enumerate(happened, 1):
            self.times.append(self.times[-1] + event.gap_ns)
            if not event.group or (not event.changes and event.group not in self.changes):
                continue
            if event.changes:
                self.changes.setdefault(event.group, []).append(lsn)
            if event.grade:
                self.points.setdefault(event.group, {})[lsn] = event.grade
        self.end_ns = self.times[-1] + rest_ns
        for group, changes in self.changes.items():
            for change, following in zip(changes, [*changes[1:], None], strict=True):
                until_ns = self.end_ns if following is None else self.times[following]
                if until_ns - self.times[change] > QUIET_NS:
                    self.points.setdefault(group, {}).setdefault(change, "sync")

    @property
    def last(self) -> int:
        return len(self.times) - 1

    def time_of(self, lsn: Lsn) -> TimeNs:
        return TimeNs(self.times[lsn])

    def point_before(self, group: Lsn, lsn: Lsn, least: str) -> Point | None:
        grades = {"sync": ("sync", "transaction"), "transaction": ("transaction",)}[least]
        found = [at for at, grade in self.points.get(group, {}).items() if grade in grades]
        at = max((at for at in found if at <= lsn), default=None)
        if at is None:
            return None
        until = min((change for change in self.changes[group] if change > at), default=0)
        grade = self.points[group][at]
        return Point(Lsn(at), self.time_of(Lsn(at)), grade, group, "", "", Lsn(until))

    def groups(self) -> list[Group]:
        return [self._group(group) for group in sorted(self.changes)]

    def _group(self, group: int) -> Group:
        changes = self.changes[group]
        newest = max(self.points.get(group, {}), default=0)
        since = min((change for change in changes if change > newest), default=0)
        return Group(
            id=Lsn(group),
            directories=(NodeId(group),),
            members=(),
            first_lsn=Lsn(changes[0]),
            last_lsn=Lsn(changes[-1]),
            last_time_ns=self.time_of(Lsn(changes[-1])),
            open_since=Lsn(since),
            merged_into=Lsn(0),
            merged_at=Lsn(0),
            name="",
        )

    def floor(self, asked: int, limit_ns: int) -> int:
        return min(
            lsn for lsn in range(1, asked + 1) if self.times[lsn] >= self.times[asked] - limit_ns
        )

    def search(self, asked: int, limit_ns: int) -> Found:
        search = BarrierSearch(
            self, self.groups(), limit_ns=limit_ns, quiet_ns=QUIET_NS, end_ns=self.end_ns
        )
        return search.search(Lsn(asked), Lsn(self.floor(asked, limit_ns)))


class Oracle:
    """The rules as they stand in the module's docstring, one LSN at a time."""

    def __init__(self, log: Log, limit_ns: int) -> None:
        self._log = log
        self._limit_ns = limit_ns

    def search(self, asked: int) -> tuple[int, Level]:
        log = self._log
        candidates = range(asked, log.floor(asked, self._limit_ns) - 1, -1)
        for level, passes in (
            (Level.WHOLE, self.whole),
            (Level.SYNC, self.clean),
            (Level.REST, self.resting),
        ):
            for at in candidates:
                if all(passes(group, at) for group, c in log.changes.items() if c[0] <= at):
                    return at, level
        return asked, Level.ASKED

    def _changed(self, group: int, after: int, until: int) -> bool:
        return any(after < change <= until for change in self._log.changes[group])

    def _newest(self, group: int, at: int) -> int | None:
        return max((p for p in self._log.points.get(group, {}) if p <= at), default=None)

    def clean(self, group: int, at: int) -> bool:
        point = self._newest(group, at)
        return point is not None and not self._changed(group, point, at)

    def whole(self, group: int, at: int) -> bool:
        point = self._newest(group, at)
        if point is None or self._changed(group, point, at):
            return False
        times, points = self._log.times, self._log.points[group]
        # Points with no change between them are worth the same: the first one tells.
        point = min(p for p in points if p <= point and not self._changed(group, p, point))
        before = [p for p, grade in points.items() if grade == "transaction" and p <= point]
        if not before or not self._changed(group, max(before), point):
            return True
        left = min(c for c in self._log.changes[group] if c > max(before))
        if times[left] < times[point] - self._limit_ns:
            return True
        following = [c for c in self._log.changes[group] if c > point]
        if following:
            return times[following[0]] - times[point] > self._limit_ns
        return self._log.end_ns - times[self._log.changes[group][-1]] > self._limit_ns

    def resting(self, group: int, at: int) -> bool:
        if self.whole(group, at):
            return True
        if self.clean(group, at):
            return False
        point = self._newest(group, at) or 0
        since = min(c for c in self._log.changes[group] if c > point)
        times = self._log.times
        return times[since] < times[at] - self._limit_ns


logs = st.builds(
    Log, st.lists(events, min_size=1, max_size=40), st.sampled_from([0, S, 3 * S, 90 * S])
)
limits = st.sampled_from([3 * S, 10 * S, 60 * S])


@given(logs, limits)
def test_the_search_finds_what_trying_every_lsn_finds(log: Log, limit_ns: int) -> None:
    oracle = Oracle(log, limit_ns)
    for asked in range(1, log.last + 1):
        found = log.search(asked, limit_ns)
        assert (found.lsn, found.level) == oracle.search(asked)
        assert not found.exhausted


@given(logs, limits)
def test_a_later_moment_is_never_an_earlier_lsn(log: Log, limit_ns: int) -> None:
    answers = [log.search(asked, limit_ns).lsn for asked in range(1, log.last + 1)]
    assert answers == sorted(answers)


@given(logs, limits)
def test_no_group_is_in_the_midst_of_something_where_a_search_ends(log: Log, limit_ns: int) -> None:
    for asked in range(1, log.last + 1):
        found = log.search(asked, limit_ns)
        assert log.times[found.lsn] >= log.times[asked] - limit_ns
        search = BarrierSearch(
            log, log.groups(), limit_ns=limit_ns, quiet_ns=QUIET_NS, end_ns=log.end_ns
        )
        standings = [
            search.standing(group, found.lsn)
            for group in search.groups
            if search.counts(group, found.lsn)
        ]
        if found.level in (Level.WHOLE, Level.SYNC):
            assert all(standing.clean for standing in standings)


def commits(count: int, group: int = 1) -> list[Event]:
    """Transactions of two changes: a sync half way through, then the commit."""
    one = [
        Event(group, True, "", S // 100),
        Event(group, False, "sync", S // 100),
        Event(group, True, "", S // 100),
        Event(group, True, "transaction", S // 100),
    ]
    return one * count


@pytest.mark.parametrize(("asked", "lsn"), [(4, 4), (5, 4), (6, 4), (7, 4), (8, 8), (9, 8)])
def test_a_sync_half_way_through_a_transaction_is_not_where_it_goes(asked: int, lsn: int) -> None:
    found = Log(commits(3), 0).search(asked, 60 * S)
    assert (found.lsn, found.level) == (lsn, Level.WHOLE)


def test_a_later_sync_of_what_has_long_rested_takes_nothing_from_it() -> None:
    rest = [Event(0, False, "", 30 * S)] * 2
    sync = Event(1, False, "sync", S)
    log = Log([*commits(1)[-1:], Event(1, True, "", 1), *rest, sync, Event(1, True, "", S)], 0)
    assert log.search(5, 60 * S) == Found(Lsn(5), Level.WHOLE)
    assert log.search(6, 60 * S) == Found(Lsn(5), Level.WHOLE)


def test_two_groups_that_are_never_at_rest_together_fall_back_to_what_was_asked() -> None:
    log = Log([Event(1, True, "", S // 10), Event(2, True, "", S // 10)] * 10, 0)
    assert log.search(20, 60 * S) == Found(Lsn(20), Level.ASKED)


def test_an_unsynced_log_does_not_keep_a_database_from_its_transaction() -> None:
    noise = [Event(2, True, "", S)] * 8
    log = Log([*noise, *commits(1), *noise[:1], *commits(1)[:2]], 0)
    found = log.search(log.last, 3 * S)
    assert (found.lsn, found.level) == (13, Level.REST)


def test_a_group_that_joined_another_is_not_asked_any_more() -> None:
    log = Log([*commits(1), Event(2, True, "", 1), Event(0, False, "", 1)], 0)
    one, two = log.groups()
    merged = two._replace(merged_into=one.id, merged_at=Lsn(6))
    search = BarrierSearch(log, [one, merged], limit_ns=S, quiet_ns=QUIET_NS, end_ns=log.end_ns)
    assert search.search(Lsn(6), Lsn(1)).lsn == 6
    assert search.search(Lsn(5), Lsn(1)).lsn == 4


def test_a_search_that_takes_too_many_steps_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier_search, "MAX_STEPS", 3)
    never_both = [
        Event(1, True, "", 1),
        Event(2, True, "transaction", 1),
        Event(2, True, "", 1),
        Event(1, True, "transaction", 1),
    ]
    log = Log(never_both * 10, 0)
    assert log.search(40, 60 * S) == Found(Lsn(40), Level.ASKED, exhausted=True)
