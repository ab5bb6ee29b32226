"""A volume's journal out of a vault's folder on a disk at hand: the source of a recovery.

Duty: a `replicator.recover.JournalSource`. It only reads; the vault may be in service meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from replicator.errors import Sealed, UnknownVolume
from replicator.recover import Held
from replicator.shipment import shipped
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from store.journal import Journal
from store.types import Lsn

BATCHES_AT_ONCE: Final = 64
"""Committed together; a batch has 8 MiB at the most."""


class VaultFolder:
    """One line of one volume in a vault's folder."""

    def __init__(self, root: VaultRoot, volume: str, line: str) -> None:
        self._root = root
        self._uuid = find_volume(root, volume)
        self._line = line

    @property
    def name(self) -> str:
        """For people."""
        return str(self._root.path)

    def held(self) -> Held:
        """What the line's journal has on disk."""
        store = self._root.store(self._uuid, self._line)
        description = self._root.volume(self._uuid).description
        if description.sealed:
            raise Sealed(f"{description.name} is sealed: it is recovered with --key-file")
        with Journal(store) as journal, journal.snapshot() as snapshot:
            lsn = snapshot.indexed_lsn
            last = snapshot.batch_of(lsn)
        digest = bytes(32) if last is None else last.digest
        return Held(self._uuid, description, self._line, Lsn(lsn + 1), digest)

    def feed(self, writer: LineWriter) -> Iterator[Lsn]:
        """Batch by batch, each one's digest tested as it is read and again as it is written."""
        with Journal(self._root.store(self._uuid, self._line)) as journal:
            while True:
                with journal.snapshot() as snapshot:
                    places = list(
                        itertools.islice(snapshot.batches(writer.position()[0]), BATCHES_AT_ONCE)
                    )
                    if not places:
                        return
                    writer.add(shipped(*snapshot.read_batch(place)) for place in places)
                yield writer.position()[0]


def find_volume(root: VaultRoot, wanted: str) -> str:
    """The UUID of the volume that a person named, by name or UUID. UnknownVolume."""
    volumes = [root.volume(uuid) for uuid in root.volumes()]
    found = [volume for volume in volumes if wanted in (volume.uuid, volume.description.name)]
    if len(found) == 1:
        return found[0].uuid
    names = ", ".join(f"{v.description.name} ({v.uuid}, site {v.site})" for v in found or volumes)
    what = "is the name of several volumes" if found else "is no volume of this vault"
    raise UnknownVolume(f"{wanted} {what}", f"name one of: {names or 'there are none'}")
