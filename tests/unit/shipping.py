"""A site without a mount: a journal with some history, and the shipments that are made of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from replicator.shipment import NO_DIGEST, ShippedBatch, encode_shipment
from replicator.vault.root import VaultRoot
from replicator.wire import Description
from store.indexer import Indexer
from store.journal import Journal
from store.types import Lsn
from store.volume import Store
from tests.unit.journal_workload import Workload, make_store

SECOND = 1_000_000_000
BRANCH = Description(name="branch", directory="/nowhere", created_ns=1)


def make_history(folder: Path, rounds: int = 6, changes: int = 40, seed: int = 0) -> Store:
    """A store whose journal has a few batches for each round."""
    folder.mkdir(exist_ok=True)
    store = make_store(folder)
    workload = Workload(store, seed)
    indexer = Indexer(store, segment_bytes=1 << 20)
    go_on(workload, indexer, rounds, changes)
    indexer.close()
    return store


def go_on(workload: Workload, indexer: Indexer, rounds: int, changes: int) -> None:
    """More history, each round of it indexed."""
    for now in range(rounds):
        workload.run(changes)
        indexer.step(now * SECOND, everything=True)


def all_batches(store: Store) -> list[ShippedBatch]:
    """Every batch of a journal."""
    with Journal(store) as journal, journal.snapshot() as snapshot:
        found = []
        for place in snapshot.batches(Lsn(1)):
            header, ops = snapshot.read_batch(place)
            found.append(ShippedBatch(ops, header.digest))
        return found


def shipments(store: Store, size: int = 1, start: int = 0) -> Iterator[bytes]:
    """The journal from batch number `start` on, `size` batches in each shipment."""
    batches = all_batches(store)
    for first in range(start, len(batches), size):
        yield ship(store, batches, first, first + size)


def ship(store: Store, batches: list[ShippedBatch], first: int, stop: int) -> bytes:
    """One shipment of the batches with these numbers."""
    previous = batches[first - 1].digest if first else NO_DIGEST
    return encode_shipment(store.uuid, previous, batches[first:stop])


def make_vault(folder: Path, store: Store, site: str = "branch") -> tuple[VaultRoot, Store]:
    """A vault that keeps the store's volume, and the store of its main line there."""
    root = VaultRoot.create(folder / "vault")
    root.create_volume(site, store.config.uuid, BRANCH)
    return root, root.store(store.config.uuid)


def same_history(source: Store, replica: Store) -> None:
    """Both journals have the same batches, digest by digest and op by op."""
    assert all_batches(replica) == all_batches(source)
