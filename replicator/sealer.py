"""What seals a volume's shipments on their way out. Blocking reads of the key file; any thread.

Duty: bring together a volume, its key file and `sealing`. The key file is read anew when it
changes, so that a new key seals from the next shipment on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from replicator.errors import BadShipment
from replicator.sealing import Ends, seal_shipment
from replicator.settings import ReplicaSettings
from replicator.shipment import Held, ShippedBatch, decode_shipment
from store.errors import BadKeyFile
from store.key_file import new_entropy, read_key_file
from store.keys import KeyRing


class Sealer:
    """Seals the shipments of one volume."""

    def __init__(self, key_file: Path, volume: bytes) -> None:
        self._path = key_file
        self._volume = volume
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, int, int], KeyRing] | None = None

    @property
    def ring(self) -> KeyRing:
        """The keys as the file has them now; BadKeyFile."""
        try:
            status = self._path.stat()
        except OSError as error:
            raise BadKeyFile(
                f"the key file {self._path} can't be read: {error.strerror}"
            ) from error
        stamp = status.st_mtime_ns, status.st_ino, status.st_size
        with self._lock:
            if self._known is None or self._known[0] != stamp:
                self._known = stamp, read_key_file(self._path)
            return self._known[1]

    def seal(self, ends: Ends, shipment: bytes) -> bytes:
        """The sealed form of an encoded shipment with these ends. BadKeyFile."""
        return seal_shipment(self.ring, ends, shipment, new_entropy())

    def digest(self, digest: bytes) -> bytes:
        """What the vault is told of a batch's digest. BadKeyFile."""
        return self.ring.chain_digest(self._volume, digest)


def comes_back(shipment: bytes, batches: Sequence[ShippedBatch], held: Held) -> bool:
    """Is an encoded shipment what it was made of, for one who has what it refers to?

    The vault tells at once when it can't make anything of an open shipment. Of a sealed one nobody
    would know before the day on which it is needed, so its sender tries before it seals.
    """
    try:
        return decode_shipment(shipment, held).batches == list(batches)
    except BadShipment:
        return False


def sealer_of(settings: ReplicaSettings | None, volume: bytes) -> Sealer | None:
    """What seals a volume by its settings; None when it is not sealed."""
    if settings is None or not settings.seal.key_file:
        return None
    return Sealer(Path(settings.seal.key_file), volume)
