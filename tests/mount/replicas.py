"""A vault on a disk for tests of real volumes: journals are carried there, and back from it."""

from __future__ import annotations

import shutil
from pathlib import Path

from replicator.recover import recover
from replicator.recover_disk import VaultFolder
from replicator.shipment import ShippedBatch
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.wire import MAIN_LINE, Description
from store.journal import Journal
from store.volume import Store
from tests.volume import Volume
from timetravel.recovery import Progress, Recovered, Wish

RING = {"ring_files": 4, "ring_file_bytes": 8 << 20}


class VaultDisk:
    """A vault below `base`."""

    def __init__(self, base: Path) -> None:
        self.root = VaultRoot.create(base / "vault")

    def carry(self, store: Store) -> int:
        """Bring a line up to what a store's journal holds; returns the newest LSN."""
        config = store.config
        self.root.create_volume(
            "branch",
            config.uuid,
            Description(name=config.name, directory=config.directory, created_ns=config.created_ns),
        )
        writer = LineWriter.open(self.root.store(config.uuid))
        try:
            with Journal(store) as journal, journal.snapshot() as snapshot:
                writer.add(
                    ShippedBatch(snapshot.read_batch(place)[1], place.digest)
                    for place in list(snapshot.batches(writer.position()[0]))
                )
            return writer.position()[0] - 1
        finally:
            writer.close()

    def recover(
        self,
        volume: str,
        directory: Path,
        store: Path,
        *,
        at: str = "",
        line: str = MAIN_LINE,
        keep_tree: bool = False,
        progress: Progress | None = None,
    ) -> Recovered:
        """Make the volume anew in a directory."""
        source = VaultFolder(self.root, volume, line)
        return recover(source, Wish(str(directory), store, at, dict(RING), keep_tree), progress)


def lose(volume: Volume) -> None:
    """The machine is gone: its daemon, its tree and its store."""
    volume.kill()
    shutil.rmtree(volume.backing)
    shutil.rmtree(volume.store.root)
