"""What a restore needs, what has to go out, and what may come back: lists for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from store.week import Weekly
from tape.catalogue_state import Cartridge, State, TapeSet
from tape.errors import NoSuchSet
from tape.reach import Part, Reach, everywhere, parts_for, reach_of
from tape.retention import Retention


class Shopping(NamedTuple):
    """A set that gives back what is asked for, and what has to be read of it, in order."""

    tape_set: TapeSet
    reach: Reach
    lsn: int
    """What is restored."""
    parts: tuple[Part, ...]

    @property
    def missing(self) -> tuple[Cartridge, ...]:
        """The cartridges that have to be brought first."""
        return tuple(each.cartridge for each in self.parts if not each.cartridge.present)


def place_text(cartridge: Cartridge) -> str:
    """Where it is, for people: `slot 4`, `off-site, box 3`."""
    if cartridge.place == "outside":
        return cartridge.note or "outside"
    if cartridge.place == "missing":
        return "not found in the library"
    name = "import/export slot" if cartridge.place == "door" else cartridge.place
    return f"{name} {cartridge.number}"


def shopping_text(cartridges: Iterable[Cartridge]) -> str:
    """As a list: `A00012L8 (off-site, box 3), A00013L8 (slot 4)`."""
    return ", ".join(f"{each.name} ({place_text(each)})" for each in cartridges)


def find_set(
    state: State,
    volume_uuid: str,
    *,
    lsn: int | None = None,
    time_ns: int | None = None,
    pool: str | None = None,
    history: bool = False,
) -> Shopping:
    """The best set for an LSN, for a time (its newest op not after it), or for the newest barrier.

    Of those that can do it, the one that needs the fewest cartridges from outside, then the fewest
    archives; with `history` the one that goes back furthest instead of the latter. `pool` None: of
    any. NoSuchSet.
    """
    found: list[Shopping] = []
    for tape_set in state.sets.values():
        if tape_set.volume_uuid != volume_uuid or pool not in (None, tape_set.pool):
            continue
        reach = reach_of(state, tape_set, everywhere)
        if reach is None:
            continue
        asked = _asked(state, tape_set, reach, lsn, time_ns)
        if asked is not None:
            found.append(Shopping(tape_set, reach, asked, parts_for(state, tape_set, asked)))
    if lsn is None and found:
        best = max(_knowledge(each, time_ns) for each in found)
        found = [each for each in found if _knowledge(each, time_ns) == best]
    if not found:
        where = f"the pool {pool}" if pool else "any pool"
        raise NoSuchSet(f"no set in {where} gives back that moment of the volume")
    return min(found, key=shortest_way_to_history if history else _effort)


def _asked(
    state: State, tape_set: TapeSet, reach: Reach, lsn: int | None, time_ns: int | None
) -> int | None:
    """The LSN that a set is read up to; None: it can't give back what is asked for."""
    if lsn is not None:
        return lsn if reach.holds(lsn) else None
    if time_ns is None:
        return reach.barrier_lsn
    if time_ns < reach.base_time_ns:
        return None
    # Which LSN a time is, the journal tells once it is there; the log is read up to the first
    # archive that ends behind the time.
    until = reach.base_lsn
    for _, archive in state.whole_archives(tape_set):
        if archive.kind != "log":
            continue
        until = min(archive.last_lsn, reach.last_lsn)
        if archive.time_ns > time_ns:
            break
    return until


def _knowledge(shopping: Shopping, time_ns: int | None) -> int:
    """How much a set knows of what is asked for: up to which barrier, or up to which time."""
    if time_ns is None:
        return shopping.lsn
    return min(shopping.reach.last_time_ns, time_ns)


def _effort(shopping: Shopping) -> tuple[int, int]:
    return len(shopping.missing), sum(len(part.archives) for part in shopping.parts)


def shortest_way_to_history(shopping: Shopping) -> tuple[int, int]:
    """A key: the fewest cartridges from outside, then the earliest beginning."""
    return len(shopping.missing), shopping.reach.base_lsn


def rotation_due(tape_set: TapeSet, weekly: Weekly, now_ns: int) -> bool:
    """Is it time to close an open set, so that its cartridges can go out?"""
    return not tape_set.closed_ns and weekly.last(now_ns) > tape_set.opened_ns


def to_send_out(
    state: State, volume_uuid: str, pool: str, weekly: Weekly, now_ns: int
) -> list[Cartridge]:
    """See `going_out`, for what has been due since the last time of rotation."""
    return going_out(state, volume_uuid, pool, weekly.last(now_ns), now_ns)


def going_out(
    state: State, volume_uuid: str, pool: str, due_ns: int, now_ns: int
) -> list[Cartridge]:
    """The cartridges of a pool that go to the export slots now, or are in them already.

    Those that hold closed sets which are still kept. One that was brought back, for a restore say,
    goes out at the next time of rotation: `due_ns` is the last one.
    """
    retention = Retention(state, now_ns)
    return [
        each
        for each in state.cartridges.values()
        if (each.label.volume_uuid, each.label.pool) == (volume_uuid, pool)
        and each.present
        and each.archives
        and (each.came_ns < due_ns or each.archives[-1].kept_ns >= each.came_ns)
        and all(tape_set.closed_ns for tape_set in state.sets_on(each))
        and retention.why_cartridge_kept(each)
    ]


def to_bring_back(state: State, now_ns: int) -> list[Cartridge]:
    """Cartridges outside whose sets need not be kept any more: the library could use them again."""
    found = Retention(state, now_ns).recyclable()
    return [each for each in found if each.place == "outside"]
