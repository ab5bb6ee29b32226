"""Opening a sealed line with its key: shipments become batches of a journal at hand.

Duty: `Unsealer` gives what it opens to an `ingest.LineWriter`, which has everything before it, so
that references to earlier content are found as they were at a vault that can read. Whatever was
left out, put elsewhere or exchanged ends in an error: each shipment by its seal, their order by the
chain in them. Blocking; one thread at a time.
"""

from __future__ import annotations

from replicator.errors import BadShipment, Forked, Gap
from replicator.sealing import SealedHeader, open_shipment, read_header
from replicator.vault.ingest import LineWriter
from store.keys import KeyRing

_TAMPERED = "the vault's copy is damaged or was tampered with: cdpfs vault verify, at the vault"


class Unsealer:
    """Takes the sealed shipments of one volume, in order, into a line's journal."""

    def __init__(self, ring: KeyRing, writer: LineWriter, volume: bytes) -> None:
        self._ring = ring
        self._writer = writer
        self._volume = volume

    @property
    def next_lsn(self) -> int:
        """What comes next; the shipment that holds it, or starts with it, is to be taken."""
        return self._writer.position()[0]

    def take(self, data: bytes) -> None:
        """Open a sealed shipment and make it part of the journal, durable when it returns.

        What is held already is passed over. BadShipment, KeyMissing; StoreFull and StoreFault.
        """
        header = read_header(data)
        if header.volume != self._volume:
            raise BadShipment("the sealed shipment is of another volume", _TAMPERED)
        plain = open_shipment(self._ring, data)
        try:
            self._writer.take(plain)
        except (Gap, Forked) as error:
            raise BadShipment(
                f"a sealed shipment is not in its place: {error}", _TAMPERED
            ) from error
        self._check_end(header)

    def _check_end(self, header: SealedHeader) -> None:
        """What was inside ends as the header says; both are the site's, and of one making."""
        next_lsn, digest = self._writer.position()
        keyed = self._ring.chain_digest(self._volume, digest)
        before = next_lsn <= header.last_lsn
        if before or (next_lsn == header.last_lsn + 1 and keyed != header.digest):
            raise BadShipment(
                f"a sealed shipment does not end with LSN {header.last_lsn} as its header says",
                "it was sealed by a faulty program: replicate the volume anew",
            )
