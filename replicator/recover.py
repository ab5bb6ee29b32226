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
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from replicator.errors import BadShipment
from replicator.vault.ingest import LineWriter
from replicator.wire import Description
from store.errors import NoSuchVolume
from store.journal import Journal
from store.relocation import (
    REPLICATE_COMMAND,
    Relocation,
    read_relocation,
    write_relocation,
)
from store.types import Lsn
from store.volume import Store, VolumeConfig, new_config
from timetravel.recovery import Progress, Recovered, Wish, begun_store
from timetravel.revival import revive


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
    store = begun_store(wish, held.uuid, held.line, (REPLICATE_COMMAND,))
    return store or Store.create(wish.store_root, _new_config(held, wish))


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
