"""Which moments a set can give back, and what of it has to be read for one. Pure.

A set is of use when its full is finished, and its log reaches as far as the full asks for. Then it
gives back every moment from its barrier to the end of its log, as far as its archives are good and
their cartridges can be had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from tape.catalogue_state import Archive, Cartridge, State, TapeSet

Usable: TypeAlias = Callable[[Cartridge], bool]


def anywhere(cartridge: Cartridge) -> bool:
    """It can be had: it is in the library, or known to be outside."""
    return cartridge.place != "missing"


def everywhere(cartridge: Cartridge) -> bool:
    """Whatever its place: what the books say."""
    return True


class Reach(NamedTuple):
    """Moments from one LSN to another, both of them included."""

    base_lsn: int
    base_time_ns: int
    last_lsn: int
    last_time_ns: int
    barrier_lsn: int
    """The newest barrier in it: what is restored when no moment is named (I-5)."""
    barrier_time_ns: int

    def holds(self, lsn: int) -> bool:
        """Can that LSN be given back?"""
        return self.base_lsn <= lsn <= self.last_lsn


def reach_of(state: State, tape_set: TapeSet, usable: Usable = anywhere) -> Reach | None:
    """What a set can give back from the cartridges that are `usable`; None: nothing."""
    if tape_set.broken or not tape_set.whole:
        return None
    needs, full_done = 0, False
    last = None
    barrier_lsn, barrier_time_ns = tape_set.base_lsn, tape_set.base_time_ns
    for cartridge, archive in state.whole_archives(tape_set):
        if not usable(cartridge):
            break
        if archive.kind == "full":
            full_done = full_done or archive.last_part
            needs = max(needs, archive.needs_lsn)
            continue
        last = archive
        if archive.barrier_lsn:
            barrier_lsn, barrier_time_ns = archive.barrier_lsn, archive.barrier_time_ns
    if last is None or not full_done or last.last_lsn < needs:
        return None
    return Reach(
        tape_set.base_lsn,
        tape_set.base_time_ns,
        max(last.last_lsn, tape_set.base_lsn),
        max(last.time_ns, tape_set.base_time_ns),
        barrier_lsn,
        barrier_time_ns,
    )


class Part(NamedTuple):
    """What is read of one cartridge."""

    cartridge: Cartridge
    archives: tuple[Archive, ...]


def parts_for(state: State, tape_set: TapeSet, lsn: int) -> tuple[Part, ...]:
    """The archives that are read, in order, to give back `lsn`, by cartridge."""
    needs = max((a.needs_lsn for _, a in state.whole_archives(tape_set)), default=0)
    until = max(lsn, needs)
    parts: list[Part] = []
    for cartridge, archive in state.whole_archives(tape_set):
        if archive.kind == "log" and archive.first_lsn > until:
            break
        if parts and parts[-1].cartridge is cartridge:
            parts[-1] = Part(cartridge, (*parts[-1].archives, archive))
        else:
            parts.append(Part(cartridge, (archive,)))
    return tuple(parts)


def newest_barrier(state: State, sets: Iterable[TapeSet]) -> tuple[int, int] | None:
    """LSN and time of the newest barrier that any of the sets gives back; None: there is none."""
    found = [reach_of(state, each) for each in sets]
    return max(((r.barrier_lsn, r.barrier_time_ns) for r in found if r is not None), default=None)
