"""A volume whose machine is gone is made anew from its replica: store, journal, tree.

Duty: three stages, each of which can be cut anywhere and gone on with by calling `recover` again:

    fetching    the journal, batch by batch, into a store with the volume's own UUID; every batch is
                made again and compared with its digest, from the first one on
    restoring   the tree as of the visible head (or of a moment) into an empty directory
                or, if only the store was lost, the tree stays as it is
    ready       the next mount takes the tree over (`fsd/arrival.py`) and continues the history

What the log says of itself is kept as it is: the same LSNs, the same NodeIds. Blocking; one thread.
It knows nothing of where the journal comes from: that is a `JournalSource`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from replicator.errors import BadShipment, NotEmpty
from replicator.vault.ingest import LineWriter
from replicator.wire import Description
from store.errors import NoSuchVolume, RecoveryUnfinished, VolumeExists
from store.journal import Journal
from store.relocation import Relocation, read_relocation, write_relocation
from store.types import Lsn
from store.volume import Store, VolumeConfig, new_config
from timetravel.resolve import ResolvedPoint
from timetravel.revival import revive
from timetravel.steps import Failure, Report

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is (LSNs, or bytes)."""

_MAY_BE_THERE = frozenset({"lost+found"})
"""In an empty directory: what its file system made itself."""


class Held(NamedTuple):
    """What a replica holds of a line of a volume."""

    uuid: str
    description: Description
    line: str
    next_lsn: Lsn
    digest: bytes | None
    """Of the batch that ends before `next_lsn`; None when `feed` compares what it brings itself."""


class JournalSource(Protocol):
    """Where a volume's journal is to be had."""

    @property
    def name(self) -> str:
        """For people."""

    def held(self) -> Held:
        """What there is."""

    def feed(self, writer: LineWriter) -> Iterator[Lsn]:
        """Give the writer what follows from its position; yields the LSN that comes next after
        each piece that is on disk."""


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
    """Paths that the replica never had."""

    @property
    def ready(self) -> bool:
        """Can it be mounted?"""
        return self.note.stage == "ready"


def recover(source: JournalSource, wish: Wish, progress: Progress | None = None) -> Recovered:
    """Make the volume anew, or go on with it.

    NotEmpty, VolumeExists or RecoveryUnfinished when the directory or the store is something else;
    BadShipment when the replica is damaged; StoreFull; MomentError for `wish.at`. What could not be
    written is in the report: then it is not `ready`, and worth another try.
    """
    held = source.held()
    if held.next_lsn <= 1:
        raise NoSuchVolume(f"{source.name} holds nothing of the volume yet", "there is no way back")
    store = _store_for(source, held, wish)
    lock = store.lock()
    try:
        return _Recovery(source, held, store, wish, progress or _silent).run()
    finally:
        os.close(lock)


def _store_for(source: JournalSource, held: Held, wish: Wish) -> Store:
    """The store of an earlier run, or a new one."""
    try:
        store = Store.open(wish.store_root)
    except NoSuchVolume:
        if not wish.keep_tree:
            refuse_occupied(wish.directory)
        return Store.create(wish.store_root, _new_config(held, wish))
    root, config = store.root, store.config
    if config.uuid != held.uuid:
        raise VolumeExists(
            f"{root} is the store of another volume ({config.name})", "name another --store"
        )
    note = read_relocation(store)
    if not config.foreign_lsn or (note is None and store_has_moved_on(store)):
        raise VolumeExists(
            f"{root} is a store of this volume already", f"mount it: cdpfs mount {config.directory}"
        )
    if config.directory != wish.directory:
        raise RecoveryUnfinished(
            f"{root} belongs to a recovery into {config.directory}", "name that directory"
        )
    if note is not None and (note.line, note.at, note.kept) != (
        held.line,
        wish.at,
        wish.keep_tree,
    ):
        asked = f"line {note.line}, " + (f"--at {note.at}" if note.at else "the newest state")
        asked += ", --keep-tree" if note.kept else ""
        raise RecoveryUnfinished(f"the recovery in {root} was begun with {asked}", "ask the same")
    return store


def store_has_moved_on(store: Store) -> bool:
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


def _new_config(held: Held, wish: Wish) -> VolumeConfig:
    """The volume's own settings, as far as its replica knows them."""
    known = held.description
    return new_config(
        wish.directory,
        known.created_ns,
        uuid=held.uuid,
        name=known.name,
        quiet_s=known.quiet_s,
        point_limit_s=known.point_limit_s,
        foreign_lsn=held.next_lsn - 1,
        **(wish.settings or {}),
    )


class _Recovery:
    """One run."""

    def __init__(
        self, source: JournalSource, held: Held, store: Store, wish: Wish, progress: Progress
    ) -> None:
        self._source = source
        self._held = held
        self._store = store
        self._wish = wish
        self._progress = progress
        first = Relocation(
            stage="fetching",
            source=source.name,
            line=held.line,
            at=wish.at,
            kept=wish.keep_tree,
        )
        self._note = read_relocation(store) or first

    def run(self) -> Recovered:
        if self._note.stage == "fetching":
            self._write(self._note)
            self._fetch()
        made = revive(
            self._store,
            accept_failures=self._wish.accept_failures,
            progress=lambda done, total: self._progress("restoring", done, total),
        )
        return Recovered(self._store, *made)

    def _write(self, note: Relocation) -> None:
        self._note = note
        write_relocation(self._store, note)

    # --- the journal ----------------------------------------------------------------------------

    def _fetch(self) -> None:
        writer = LineWriter.open(self._store)
        try:
            start = writer.position()[0]
            for lsn in self._source.feed(writer):
                self._progress("fetching", lsn - start, self._held.next_lsn - start)
            end = Lsn(writer.position()[0] - 1)
        finally:
            writer.close()
        self._check_fetched(end)
        if end != self._store.config.foreign_lsn:
            # Somebody wrote on meanwhile; or an earlier run got less.
            self._store.config.foreign_lsn = end
            self._store.save_config()

    def _check_fetched(self, end: Lsn) -> None:
        """BadShipment unless all is there that the source told of."""
        told = Lsn(self._held.next_lsn - 1)
        with Journal(self._store) as journal, journal.snapshot() as snapshot:
            place = snapshot.batch_of(told) if told <= end else None
        digest = self._held.digest
        if place is None or place.last_lsn != told or digest not in (None, place.digest):
            raise BadShipment(
                f"the journal that came ends at LSN {end} and does not have the batch that "
                f"{self._source.name} told of (up to LSN {told})",
                "check the replica at the vault: cdpfs vault verify; then run it again",
            )


def _silent(_stage: str, _done: int, _total: int) -> None:
    """No progress is shown."""
