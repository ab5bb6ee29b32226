"""Which sets have to stay, and which cartridges may be given up. Pure.

The rules, for each pool of each volume. A moment is *kept* by a pool from when it came into one of
its sets until `keep` has gone by since that set was closed.

1. A set that is open stays. So does a closed one, if its full was finished, until `keep` is over.
2. It stays until a newer set of its pool can be restored that began before the time that is kept
   begins, and that reaches at least as far. So each kept moment is restorable from its pool alone,
   and the newest whole set never goes.
3. It stays while it holds a moment that another set should give back, is still kept for and has
   lost, and that no other set gives back: the only copy of a kept moment never goes.

By 2 and 3, a set that gives nothing back (a part of it is bad or gone) holds nothing up any more.

A cartridge may be given up when nothing on it has to stay. What is on it is judged together, and
cartridges one at a time: when one has been given up, ask again. Volumes and pools of which nobody
said how long they are kept stay for ever. An empty cartridge that has the label of a pool may be
given up unless its volume is attached and has the pool: then that writes to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tape.catalogue_state import Cartridge, State, TapeSet
from tape.reach import Reach, everywhere, reach_of


class Retention:
    """The rules, for one state at one time (ns since 1970, UTC)."""

    def __init__(self, state: State, now_ns: int) -> None:
        self._state = state
        self._now_ns = now_ns
        self._reaches = {each.set_id: reach_of(state, each) for each in state.sets.values()}

    def why_kept(self, tape_set: TapeSet, going: Collection[str] = ()) -> str:
        """Why a set stays when it would go with others (by id); empty: it may go."""
        keep = self._state.keep_ns(tape_set)
        if not tape_set.closed_ns:
            return "more is written to it"
        if keep is None:
            return "nobody said how long its pool is kept"
        if tape_set.whole and self._now_ns < tape_set.closed_ns + keep:
            return "it is kept for a while after it was closed"
        # What can't be had at the moment may come back.
        reach = reach_of(self._state, tape_set, everywhere)
        if reach is None:
            return ""
        others = [
            each
            for each in self._state.sets.values()
            if each.volume_uuid == tape_set.volume_uuid
            and each is not tape_set
            and each.set_id not in going
        ]
        if not self._succeeded(tape_set, reach, others, self._now_ns - keep):
            return "no newer set of its pool gives back what is kept"
        if self._only_copy(reach, others):
            return "it is the only copy of what another pool has lost"
        return ""

    def _succeeded(
        self, tape_set: TapeSet, reach: Reach, others: Iterable[TapeSet], horizon_ns: int
    ) -> bool:
        """Rule 2."""
        for other in others:
            theirs = self._reaches[other.set_id]
            if (
                other.pool == tape_set.pool
                and theirs is not None
                and theirs.base_time_ns <= horizon_ns
                and theirs.base_lsn >= reach.base_lsn
                and theirs.last_lsn >= reach.last_lsn
            ):
                return True
        return False

    def _only_copy(self, reach: Reach, others: list[TapeSet]) -> bool:
        """Rule 3."""
        left = [found for each in others if (found := self._reaches[each.set_id]) is not None]
        for other in others:
            keep = self._state.keep_ns(other)
            if keep is not None and other.closed_ns and other.closed_ns + keep <= self._now_ns:
                continue
            first, last = self._lost(other)
            first, last = max(first, reach.base_lsn), min(last, reach.last_lsn)
            if first <= last and not _covered(first, last, left):
                return True
        return False

    def _lost(self, tape_set: TapeSet) -> tuple[int, int]:
        """The LSNs, from one to another, that a set should give back and does not."""
        reach = self._reaches[tape_set.set_id]
        if not tape_set.whole:
            return (1, 0)
        return (tape_set.base_lsn if reach is None else reach.last_lsn + 1, tape_set.last_lsn)

    def why_cartridge_kept(self, cartridge: Cartridge) -> str:
        """Why a cartridge is not given up; empty: it may be."""
        if not cartridge.archives:
            return self._why_empty_kept(cartridge)
        sets = [
            each
            for each in self._state.sets_on(cartridge)
            if any(where.label_id == cartridge.label_id for where in each.archives)
        ]
        going = {each.set_id for each in sets}
        for tape_set in sets:
            if why := self.why_kept(tape_set, going):
                return why
        if not sets and cartridge.appendable:
            return "its pool writes to it"
        return ""

    def _why_empty_kept(self, cartridge: Cartridge) -> str:
        """Of one without archives: only one that waits in vain for its pool is given up.

        One that was closed before there was anything on it failed, or may hold what can't be read.
        """
        if cartridge.scratch:
            return "it is free"
        if not cartridge.appendable:
            return f"nothing is on it, and it was closed: {cartridge.closed_reason}"
        volume = self._state.volumes.get(cartridge.label.volume_uuid)
        if volume is not None and volume.writes_to(cartridge.label.pool):
            return "its pool writes to it"
        return ""

    def recyclable(self) -> list[Cartridge]:
        """The cartridges that may be given up, those first whose newest set was closed first.

        Wherever they are; retired ones are left out. Give up one, and ask again.
        """
        found = [
            each
            for each in self._state.cartridges.values()
            if not each.retired_ns and not self.why_cartridge_kept(each)
        ]
        return sorted(found, key=self._age)

    def _age(self, cartridge: Cartridge) -> tuple[int, int]:
        closed = (each.closed_ns for each in self._state.sets_on(cartridge))
        return max(closed, default=0), cartridge.label.created_ns

    def kept_until_ns(self, cartridge: Cartridge) -> int | None:
        """When the time is up that its sets are kept; None: one is open, or is kept for ever.

        It may stay longer than that, by rules 2 and 3.
        """
        until = 0
        for tape_set in self._state.sets_on(cartridge):
            keep = self._state.keep_ns(tape_set)
            if keep is None or not tape_set.closed_ns:
                return None
            until = max(until, tape_set.closed_ns + keep)
        return until


def _covered(first: int, last: int, reaches: Iterable[Reach]) -> bool:
    """Do they give back all of [first, last], together?"""
    for reach in sorted(reaches):
        if reach.base_lsn > first:
            return False
        first = max(first, reach.last_lsn + 1)
        if first > last:
            return True
    return False
