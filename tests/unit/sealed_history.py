"""A site's history as sealed shipments, and a store at a vault to keep them in."""

from __future__ import annotations

import random
from pathlib import Path

from replicator.sealing import Ends, seal_shipment
from store.batch import NO_DIGEST
from store.keys import KeyRing, SealingKey
from store.types import Lsn
from store.volume import Store, new_config

UUID = "5ea1" * 8
VOLUME = bytes.fromhex(UUID)
RING = KeyRing(b"c" * 32, (SealingKey(b"k" * 32, 1),))


def line_store(root: Path) -> Store:
    """A line's store, as the vault makes it."""
    return Store.create(root, new_config("/branch/files", 1, uuid=UUID))


class History:
    """Shipments of random length and size, chained from LSN 1 on."""

    def __init__(self, seed: int, ring: KeyRing = RING) -> None:
        self.rng = random.Random(seed)
        self.ring = ring
        self.next = 1
        self.digest = NO_DIGEST

    def shipment(self, size_bytes: int | None = None) -> bytes:
        """The next one."""
        last = self.next + self.rng.randrange(1, 20)
        digest = self.rng.randbytes(32)
        ends = Ends(VOLUME, Lsn(self.next), Lsn(last), self.digest, digest)
        plain = self.rng.randbytes(size_bytes or self.rng.randrange(1, 3000))
        self.next, self.digest = last + 1, digest
        return self.sealed(ends, plain)

    def sealed(self, ends: Ends, plain: bytes = b"anything") -> bytes:
        """Anything, with these ends."""
        return seal_shipment(self.ring, ends, plain, self.rng.randbytes(32))

    def position(self) -> tuple[int, bytes]:
        """Where a vault stands that has everything so far."""
        return self.next, self.ring.chain_digest(VOLUME, self.digest)
