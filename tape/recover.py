"""A volume whose machine is gone is made anew from cartridges: store, journal, tree.

Duty: three stages, as `replicator/recover.py`, each of which can be cut anywhere and gone on with
by calling `recover` again:

    fetching    the set that reaches furthest, into a store whose history begins where the set does
    restoring   the tree as of the newest barrier (or of a moment) into an empty directory
                or, if only the store was lost, the tree stays as it is
    ready       the next mount takes the tree over and continues the history

It is the furthest set because what is gone on with must not lie behind what the cartridges know:
LSNs would come to mean two things. The volume's open sets end with it; what follows begins new
ones. Cartridges are needed for the first stage only. Blocking; one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

import msgspec

from store.errors import VolumeExists
from store.keys import KeyRing
from store.relocation import Relocation, read_relocation, write_relocation
from store.volume import Store
from tape.bookkeeping import ends_of_sets
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import State
from tape.errors import NoSuchSet
from tape.reach import Reach, everywhere, parts_for, reach_of
from tape.rebuild import COMMAND as SCAN_COMMAND
from tape.rebuild import NOTE, UNKNOWN_END
from tape.restore import drop_store, rebuild_best, require, volume_of
from tape.robot import Robot
from tape.shopping import Shopping, shortest_way_to_history
from timetravel.moment import AtLsn, AtTime, Moment, parse_moment
from timetravel.recovery import Progress, Recovered, Wish, begun_store, in_use, refuse_twin
from timetravel.revival import revive

COMMAND: Final = "cdpfs tape recover"
"""What the store says of who makes it."""

OpenLibrary = Callable[[], AbstractContextManager[tuple[CatalogueFile, Robot]]]


class Copy(NamedTuple):
    """Which copy is meant; empty words leave the choice to cdpfs."""

    volume: str = ""
    pool: str = ""


def recover(
    open_library: OpenLibrary,
    copy: Copy,
    wish: Wish,
    *,
    ring: KeyRing | None = None,
    say: Callable[[str], None],
    progress: Progress,
) -> Recovered:
    """Make the volume anew, or go on with it.

    NotEmpty, VolumeExists or RecoveryUnfinished when the directory or the store is something else;
    NeedsCartridge before anything moves; NoSuchSet; BadArchive when no set can be read; KeyMissing;
    StoreFull; MomentError for `wish.at`. What could not be written is in the report: then it is not
    `ready`, and worth another try.
    """
    store = _begun(copy, wish)
    note = read_relocation(store) if store is not None else None
    if store is None or note is None or note.stage == "fetching":
        with open_library() as (catalogue, robot):
            store = _Fetch(catalogue, robot, copy, wish, store).run(ring, say)
    elif note.command != COMMAND:
        write_relocation(store, msgspec.structs.replace(note, command=COMMAND))
    lock = store.lock()
    try:
        made = revive(
            store,
            accept_failures=wish.accept_failures,
            progress=lambda done, total: progress("restoring", done, total),
        )
    finally:
        os.close(lock)
    return Recovered(store, *made)


def _begun(copy: Copy, wish: Wish) -> Store | None:
    """The store of an earlier run; that of a scan is as good."""
    store = begun_store(wish, None, NOTE.line, (COMMAND, SCAN_COMMAND))
    if store is None:
        return None
    config = store.config
    if copy.volume not in ("", config.uuid, config.name):
        raise VolumeExists(
            f"{store.root} is the store of another volume ({config.name})", "name another --store"
        )
    if read_relocation(store) is None and config.foreign_lsn != UNKNOWN_END:
        raise in_use(store)  # its journal is not all there, which is not for us to mend
    refuse_twin(config.uuid, store.root)
    return store


class _Fetch:
    """From cartridges to a store with the journal."""

    def __init__(
        self, catalogue: CatalogueFile, robot: Robot, copy: Copy, wish: Wish, begun: Store | None
    ) -> None:
        self._catalogue = catalogue
        self._robot = robot
        self._copy = copy
        self._wish = wish
        self._begun = begun
        name = begun.config.uuid if begun is not None else copy.volume
        self._uuid = volume_of(catalogue.state, name)
        self._moment = parse_moment(wish.at, now_ns=time.time_ns(), zone=None) if wish.at else None

    def run(self, ring: KeyRing | None, say: Callable[[str], None]) -> Store:
        wish, root = self._wish, self._wish.store_root
        refuse_twin(self._uuid, root)
        first = self._choose(self._catalogue.state)
        require(first)
        self._drop_other(first)
        self._close_sets()
        made, used = rebuild_best(
            self._robot,
            self._catalogue,
            self._choose,
            root,
            directory=wish.directory,
            note=self._note,
            ring=ring,
            say=say,
            disposable=True,
        )
        self._robot.put_all_away()
        for text in left_behind(self._catalogue.state, used):
            say(text)
        return made.store

    def _choose(self, state: State) -> Shopping:
        return to_go_on_with(state, self._uuid, self._moment, self._copy.pool)

    def _note(self, used: Shopping) -> Relocation:
        """With no moment asked for, the tree is as of the newest barrier that the site had found:
        the log alone can't tell that it was quiet behind its end."""
        wish = self._wish
        return Relocation(
            stage="fetching",
            source=NOTE.source,
            line=NOTE.line,
            command=COMMAND,
            set_id=used.tape_set.set_id,
            at=wish.at,
            lsn=0 if wish.at or wish.keep_tree else used.reach.barrier_lsn,
            kept=wish.keep_tree,
        )

    def _drop_other(self, chosen: Shopping) -> None:
        """What an earlier run had read of another set is of no use for this one."""
        if self._begun is None:
            return
        note = read_relocation(self._begun)
        if note is None or note.set_id != chosen.tape_set.set_id:
            drop_store(self._begun.root)

    def _close_sets(self) -> None:
        ends = ends_of_sets(self._catalogue.state, self._uuid, self._robot.now_ns())
        if ends:
            self._catalogue.append(*ends)


def to_go_on_with(
    state: State, volume_uuid: str, moment: Moment | None, pool: str = ""
) -> Shopping:
    """All of the set that reaches furthest, and can show the volume at `moment`.

    Of several, the one that needs the fewest cartridges from outside, then the one that begins
    first. `pool` empty: of any. NoSuchSet.
    """
    found: list[Shopping] = []
    for tape_set in state.sets.values():
        reach = reach_of(state, tape_set, everywhere)
        if reach is None or tape_set.volume_uuid != volume_uuid or pool not in ("", tape_set.pool):
            continue
        end = reach.last_lsn
        found.append(Shopping(tape_set, reach, end, parts_for(state, tape_set, end)))
    if not found:
        where = f"the pool {pool}" if pool else "any pool"
        raise NoSuchSet(f"no set in {where} gives the volume back")
    end = max(each.reach.last_lsn for each in found)
    fit = [each for each in found if each.reach.last_lsn == end and _shows(each.reach, moment)]
    if not fit:
        raise NoSuchSet(
            "the set that reaches furthest does not hold that moment",
            "leave --at away; cdpfs tape restore brings files back from other sets",
        )
    return min(fit, key=shortest_way_to_history)


def _shows(reach: Reach, moment: Moment | None) -> bool:
    if isinstance(moment, AtLsn):
        return reach.holds(int(moment.lsn))
    if isinstance(moment, AtTime):
        return reach.base_time_ns <= int(moment.time_ns)
    return True  # the head, or what only the journal tells


def left_behind(state: State, used: Shopping) -> list[str]:
    """What to say of sets that know of later changes than the one that is gone on with."""
    found = []
    for tape_set in state.sets.values():
        reach = reach_of(state, tape_set, everywhere)
        if reach is None or tape_set.volume_uuid != used.tape_set.volume_uuid:
            continue
        if reach.last_lsn > used.reach.last_lsn:
            found.append(
                f"WARNING: the set {tape_set.set_id[:8]} of the pool {tape_set.pool} goes on to LSN"
                f" {reach.last_lsn}, the history here to {used.reach.last_lsn}; the LSNs behind it"
                " will mean something else here: cdpfs tape retire --lost its cartridges"
            )
    return found
