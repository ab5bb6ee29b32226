"""Shipments made anew from a vault's journal, for whoever recovers a volume. Blocking; any thread.

Duty: whole batches from some LSN on as one shipment. It refers to nothing that its reader might
not hold beyond the LSNs before it.
"""

from __future__ import annotations

from typing import Final

from replicator.shipment import NO_DIGEST, ShippedBatch, encode_shipment, shipped
from replicator.vault.shelf import Book
from replicator.wire import MAX_SHIPMENT_BATCHES
from store.journal import Snapshot
from store.types import Lsn
from timetravel.errors import MomentInFuture

SHIPMENT_RAW_BYTES: Final = 8 << 20
"""Metadata and payload that one of these shipments comes to, unless a single batch has more."""


def shipment_from(book: Book, start: Lsn, last: Lsn | None) -> bytes | None:
    """The batches from the one that holds LSN `start` on; None when there is none.

    With `last`, only batches that end there or before. MomentInFuture for a `start` behind what
    comes next.
    """
    with book.journal.snapshot() as snapshot:
        held = snapshot.indexed_lsn
        if start > held + 1:
            raise MomentInFuture(f"@lsn:{start}", f"@lsn:{held}")
        if start > held:
            return None
        batches = _batches(snapshot, start, held if last is None else last)
        if not batches:
            return None
        first = batches[0].ops[0].lsn
        before = snapshot.batch_of(Lsn(first - 1)) if first > 1 else None
        previous = before.digest if before is not None else NO_DIGEST
    return encode_shipment(bytes.fromhex(book.volume.uuid), previous, batches)


def _batches(snapshot: Snapshot, start: Lsn, last: Lsn) -> list[ShippedBatch]:
    found: list[ShippedBatch] = []
    raw_bytes = 0
    for place in snapshot.batches(start):
        header, ops = snapshot.read_batch(place)
        raw_bytes += header.payload_bytes + len(ops) * _OP_BYTES
        full = raw_bytes > SHIPMENT_RAW_BYTES or len(found) == MAX_SHIPMENT_BATCHES
        if place.last_lsn > last or (found and full):
            break
        found.append(shipped(header, ops))
    return found


_OP_BYTES: Final = 64
"""About what the metadata of an op takes."""
