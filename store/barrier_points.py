"""When a consistency group is at a recovery point, and from when on it no longer is.

Duty: keep each group's newest point, its end, and the groups that may fall quiet; hand the rows
on. Why a point is one is for the rules to say (`barriers`, `barrier_journals`, `barrier_names`).
Pure but for its rows; one thread.
"""

from __future__ import annotations

from typing import Final

from store.barrier_groups import Groups, LiveGroup, Rows
from store.barrier_state import SYNC, TRANSACTION, NewestPoint, encode_point
from store.ops import Folded, Op

SYNC_BURST_NS: Final = 1_000_000_000
"""Of the sync points of a group that one batch finds within so long only the last is kept: copying
a tree makes many. One of an earlier batch stays: readers may have been shown it as a barrier."""

_FOR_EVER: Final = 1 << 63


class Points:
    """The points of all groups."""

    def __init__(self, groups: Groups, rows: Rows) -> None:
        self._groups = groups
        self._rows = rows
        self._written: dict[tuple[int, int], bytes | None] = {}
        self._of_this_batch: set[tuple[int, int]] = set()
        """(group, LSN) of points that no reader can have seen yet."""
        self._open: dict[int, None] = dict.fromkeys(groups.machine.open)
        self.check_ns = 0
        """Time from which on an open group may have fallen quiet."""
        groups.on_unite = self._united

    def flush(self) -> None:
        """Write what has changed: the end of a batch."""
        for (group, lsn), row in self._written.items():
            self._rows.put_point(group, lsn, row)
        self._written.clear()
        self._of_this_batch.clear()
        self._groups.machine.open = list(self._open)

    # --- changes and points ----------------------------------------------------------------------

    def change(self, group: LiveGroup, lsn: int, time_ns: int) -> None:
        """Content or names of the group change with this op: its newest point ends before it."""
        state = group.state
        if not state.open_since:
            state.open_since = lsn
            if state.point is not None:
                self._written[state.id, state.point.lsn] = encode_point(state.point, lsn)
        state.last_lsn, state.last_ns = lsn, time_ns
        self._groups.touch(group)
        if state.id not in self._open:
            self._open[state.id] = None
            self.check_ns = min(self.check_ns, time_ns + self.quiet_ns)

    def put(self, group: LiveGroup, lsn: int, time_ns: int, grade: int, reason: bytes) -> None:
        """At this LSN, and until its next change, the group is at a recovery point."""
        state, old = group.state, group.state.point
        if grade == SYNC and state.deferred:
            grade, reason = TRANSACTION, state.deferred
        burst_ns = time_ns
        if old is not None and not state.open_since:
            if old.grade >= grade:
                return  # nothing has changed since: the group is still at the old one
            self._written[state.id, old.lsn] = encode_point(old, lsn)
        close = old is not None and time_ns - old.burst_ns < SYNC_BURST_NS
        if old is not None and old.grade == grade == SYNC and close and self._is_unseen(group):
            burst_ns = old.burst_ns
            self._written[state.id, old.lsn] = None
        state.deferred, state.step = b"", 0
        state.point = NewestPoint(lsn, time_ns, grade, reason, burst_ns)
        state.open_since = 0
        self._written[state.id, lsn] = encode_point(state.point, 0)
        self._of_this_batch.add((state.id, lsn))
        self._open.pop(state.id, None)
        self._groups.touch(group)

    def _is_unseen(self, group: LiveGroup) -> bool:
        """Whether the newest point was found in this batch: only then may it be taken back."""
        point = group.state.point
        return point is not None and (group.state.id, point.lsn) in self._of_this_batch

    def withdraw(self, group: LiveGroup, lsn: int) -> bytes:
        """The newest point was none: what comes now, at `lsn`, is of the same step. Its reason.

        Where readers may have been shown it, it goes on to be a barrier, but no transaction.
        """
        state, point = group.state, group.state.point
        assert point is not None
        unseen = self._is_unseen(group)
        reason, state.point, state.step = point.reason, None, 0
        point.grade = SYNC
        self._written[state.id, point.lsn] = None if unseen else encode_point(point, lsn)
        return reason

    def complete(self, group: LiveGroup, op: Op, reason: bytes, step: bool = False) -> None:
        """A transaction is complete, unless somebody is still at a file of the group.

        `step`: unless the program goes on with names that exist (see `barrier_names`).
        """
        state = group.state
        if state.hot:
            return
        if not group.clean:
            state.deferred = reason
            return
        self.put(group, op.lsn, op.time_ns, TRANSACTION, reason)
        state.steps = state.steps or step
        if step and state.point is not None and state.point.lsn == op.lsn:
            state.step = op.actor

    def maybe_sync(self, group: LiveGroup, op: Op, reason: bytes) -> None:
        """A step that may leave the group with nothing open. Within a cycle it proves nothing."""
        state = group.state
        if any(file.made for file in group.unfinished.values()):
            return
        in_cycle = len(state.rhythm.cycle) > 1 and state.open_since and not state.deferred
        if not state.hot and not in_cycle and group.clean:
            self.put(group, op.lsn, op.time_ns, SYNC, reason)

    # --- what was left out on the way to a replica -----------------------------------------------

    def end_fold(self, fold: Folded, time_ns: int) -> None:
        """States inside of a fold are not to be had: points there go to its end, or for good.

        `time_ns` is that of the op at its end. A fold lies in one batch, whose points are not
        written yet.
        """
        for number, lsn in list(self._written):
            if not fold.first <= lsn < fold.until or self._written[number, lsn] is None:
                continue
            self._written[number, lsn] = None
            group = self._groups.get(number)
            point = group.state.point
            if point is not None and point.lsn == lsn and not group.state.open_since:
                point.lsn, point.time_ns = fold.until, time_ns
                self._written[number, fold.until] = encode_point(point, 0)
                self._groups.touch(group)
        for number in self._open:
            group = self._groups.get(number)
            if fold.first <= group.state.last_lsn < fold.until:
                # Should it fall quiet, it is as at the end of the fold.
                group.state.last_lsn, group.state.last_ns = fold.until, time_ns
                self._groups.touch(group)

    # --- quiet -----------------------------------------------------------------------------------

    @property
    def quiet_ns(self) -> int:
        """How long is long enough."""
        return self._groups.machine.settings.quiet_ns

    def look_for_quiet(self, now_ns: int) -> None:
        """Groups in which nothing has happened for long are at a sync point since then."""
        oldest_ns = now_ns
        for number in tuple(self._open):
            group = self._groups.get(number)
            if group.state.last_ns + self.quiet_ns > now_ns:
                oldest_ns = min(oldest_ns, group.state.last_ns)
            elif group.state.hot:
                del self._open[number]  # its program waits with a transaction open
            else:
                self._settle(group, b"quiet for %g s" % (self.quiet_ns / 1e9))
        self.check_ns = oldest_ns + self.quiet_ns if self._open else _FOR_EVER

    def _settle(self, group: LiveGroup, reason: bytes) -> None:
        state = group.state
        group.settle()
        self._groups.touch(group)
        self.put(group, state.last_lsn, state.last_ns, SYNC, reason)
        self._open.pop(state.id, None)

    def lose_writers(self) -> None:
        """Whoever had files open has lost them."""
        self.check_ns = 0
        for number in self._open:
            group = self._groups.get(number)
            group.settle()
            self._groups.touch(group)

    def close_all(self) -> None:
        """An unmount in order: everything is closed."""
        for number in tuple(self._open):
            group = self._groups.get(number)
            if group.state.id == number and not group.state.hot and group.state.open_since:
                self._settle(group, b"unmount")

    # --- uniting ---------------------------------------------------------------------------------

    def _united(self, one: LiveGroup, other: LiveGroup, lsn: int) -> None:
        """One has taken the other in. It is clean only if both are."""
        old, young = one.state, other.state
        if young.open_since and not old.open_since:
            old.open_since = lsn
            if old.point is not None:
                self._written[old.id, old.point.lsn] = encode_point(old.point, lsn)
        if young.id in self._open:
            self._open.pop(young.id)
            self._open[old.id] = None
            self.check_ns = 0
