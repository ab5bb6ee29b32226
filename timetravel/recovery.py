"""What every recovery of a volume has to do with the place that it is made in.

Duty: what a person wishes, what came of it, and whether the directory and the store may be used:
nothing that is there is written over, and an unfinished recovery is gone on with only as it was
begun. Where the journal comes from is another's: `replicator/recover.py`, `tape/recover.py`.
Blocking; any thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from store.errors import NoSuchVolume, NotEmpty, RecoveryUnfinished, VolumeExists
from store.journal import Journal
from store.relocation import Relocation, read_relocation
from store.volume import Store, list_stores
from timetravel.resolve import ResolvedPoint
from timetravel.steps import Failure, Report

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is (LSNs, or bytes)."""

_MAY_BE_THERE = frozenset({"lost+found"})
"""In an empty directory: what its file system made itself."""


@dataclass(frozen=True)
class Wish:
    """What a person asked for. `at`: a moment, empty for the visible head."""

    directory: str
    store_root: Path
    at: str = ""
    settings: dict[str, object] | None = None
    """Further settings of the new store's `volume.toml`."""
    keep_tree: bool = False
    """Only the store was lost: the directory has the volume's tree, which stays as it is."""
    accept_failures: bool = False
    """Ready also without what could not be written here (no right to make a device, say)."""


class Recovered(NamedTuple):
    """What came of it. `point` is None when the tree had been made by an earlier run."""

    store: Store
    note: Relocation
    point: ResolvedPoint | None
    report: Report
    missing: list[Failure]
    """Paths that the copy never had."""

    @property
    def ready(self) -> bool:
        """Can it be mounted?"""
        return self.note.stage == "ready"


def begun_store(wish: Wish, uuid: str | None, line: str, commands: Collection[str]) -> Store | None:
    """The store of an earlier run of one of `commands`; None when there is nothing yet.

    `uuid` None: of whichever volume. NotEmpty, VolumeExists or RecoveryUnfinished when the
    directory or the store is something else.
    """
    try:
        store = Store.open(wish.store_root)
    except NoSuchVolume:
        if not wish.keep_tree:
            refuse_occupied(wish.directory)
        return None
    root, config = store.root, store.config
    if uuid not in (None, config.uuid):
        raise VolumeExists(
            f"{root} is the store of another volume ({config.name})", "name another --store"
        )
    note = read_relocation(store)
    if not config.foreign_lsn or (note is None and _has_moved_on(store)):
        raise in_use(store)
    if config.directory != wish.directory:
        raise RecoveryUnfinished(
            f"{root} belongs to a recovery into {config.directory}", "name that directory"
        )
    if note is not None:
        _refuse_other_wish(store, note, wish, line, commands)
    return store


def _refuse_other_wish(
    store: Store, note: Relocation, wish: Wish, line: str, commands: Collection[str]
) -> None:
    begun = f"the recovery in {store.root} was begun"
    if note.command not in commands:
        raise RecoveryUnfinished(f"{begun} by `{note.command}`", "go on with that")
    if (note.line, note.at, note.kept) != (line, wish.at, wish.keep_tree):
        asked = f"line {note.line}, " + (f"--at {note.at}" if note.at else "the newest state")
        asked += ", --keep-tree" if note.kept else ""
        raise RecoveryUnfinished(f"{begun} with {asked}", "ask the same")


def in_use(store: Store) -> VolumeExists:
    """What is said of a store that no recovery may touch."""
    return VolumeExists(
        f"{store.root} is a store of this volume already",
        f"mount it: cdpfs mount {store.config.directory}",
    )


def _has_moved_on(store: Store) -> bool:
    """Is the journal of a recovered store complete? Then a missing note means that it is in use."""
    with Journal(store) as journal:
        return journal.indexed_lsn >= store.config.foreign_lsn


def refuse_occupied(directory: str) -> None:
    """NotEmpty unless the directory is empty, or not there."""
    try:
        names = set(os.listdir(directory))
    except FileNotFoundError:
        return
    if names - _MAY_BE_THERE:
        raise NotEmpty(f"{directory} is not empty")


def refuse_twin(uuid: str, root: Path) -> None:
    """VolumeExists: two stores of one volume on one machine would be two histories."""
    for store in list_stores():
        if store.config.uuid == uuid and store.root.resolve() != root:
            where = store.config.directory
            raise VolumeExists(
                f"this machine has a store of that volume already: {store.root}, of {where}",
                f"mount it if it is whole: cdpfs mount {where}; if it is of no use, move it away",
            )
