"""Parcels: a file of shipments, for the way to the vault by disk.

Duty: write a volume's history into a file, from some LSN on, and read it back with every shipment
checked by its id. An interrupted export goes on where its file ends; an interrupted import begins
again, and what is held already costs little. Blocking; one thread at a time.

A parcel is its header, the volume's description as JSON, and one entry for each shipment, back to
back; the last entry has no bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import xxhash

from replicator.effort import Effort
from replicator.errors import BadParcel
from replicator.outgoing import MAX_RAW_BYTES, Outgoing, Ready
from replicator.wire import MAX_MESSAGE_BYTES, MAX_SHIPMENT_BYTES, Description, shipment_id
from store import durable
from store.format import Field, Table

PARCEL_VERSION = 1
PARCEL_MAGIC = b"CDPARCEL"

PARCEL_HEADER = Table(
    "parcel header",
    "Start of a parcel. The volume's description, as JSON, follows.",
    (
        Field("magic", "8s", "`CDPARCEL`"),
        Field("version", "H", "format version"),
        Field("features", "H", "mandatory-feature bits; unknown ones are refused"),
        Field("description_bytes", "I", "bytes of the description"),
        Field("volume", "16s", "the volume's UUID"),
        Field("first_lsn", "Q", "LSN of the first op"),
        Field("check", "Q", "xxh3-64 of this header before this field and of the description"),
    ),
)

PARCEL_ENTRY = Table(
    "parcel entry",
    "Before each shipment's bytes. The one that ends a parcel has 0 bytes.",
    (
        Field("first_lsn", "Q", "LSN of its first op; of the end: the one that would come next"),
        Field("last_lsn", "Q", "LSN of its last op; of the end: the last one of the parcel"),
        Field("shipment_bytes", "Q", "bytes of the shipment, which follow"),
        Field("shipment", "16s", "its id; of the end: zeros"),
        Field("check", "Q", "xxh3-64 of this entry before this field"),
    ),
)

_header = PARCEL_HEADER.codec
_entry = PARCEL_ENTRY.codec
_hash = xxhash.xxh3_64_intdigest
_NO_ID = bytes(16)


class ParcelHead(NamedTuple):
    """What a parcel says of itself."""

    volume: bytes
    first_lsn: int
    description: Description
    size_bytes: int
    """Of header and description: the first entry stands there."""


class Parcelled(NamedTuple):
    """One shipment of a parcel; `data` is empty at its end."""

    first_lsn: int
    last_lsn: int
    data: bytes


def read_head(file: BinaryIO) -> ParcelHead:
    """The beginning of a parcel. BadParcel."""
    raw = file.read(_header.size)
    if len(raw) < _header.size or raw[:8] != PARCEL_MAGIC:
        raise BadParcel("this is not a file that `cdpfs replicate export` made")
    _, version, features, length, volume, first, check = _header.unpack(raw)
    if version != PARCEL_VERSION or features:
        raise BadParcel(
            f"export version {version}, features {features:#x} are not known here",
            "use the cdpfs version that made it, or a newer one",
        )
    if length > MAX_MESSAGE_BYTES:
        raise BadParcel("the export's header is damaged")
    text = file.read(length)
    if check != _hash(raw[:-8] + text):
        raise BadParcel("the export's header is damaged")
    try:
        description = msgspec.json.decode(text, type=Description)
    except msgspec.MsgspecError as error:
        raise BadParcel(f"the export's description is not one: {error}") from error
    return ParcelHead(volume, first, description, _header.size + length)


def read_shipments(file: BinaryIO) -> Iterator[Parcelled]:
    """The shipments that follow the head, checked, and the end. BadParcel where it stops short."""
    while True:
        raw = file.read(_entry.size)
        if len(raw) < _entry.size:
            raise BadParcel("the export ends before its end: it was not finished, or was cut")
        first, last, length, name, check = _entry.unpack(raw)
        if check != _hash(raw[:-8]) or length > MAX_SHIPMENT_BYTES:
            raise BadParcel("the export is damaged")
        data = file.read(length)
        if length and (len(data) != length or shipment_id(data) != name.hex()):
            raise BadParcel(f"the export is damaged, or cut, at LSN {first}")
        yield Parcelled(first, last, data)
        if not length:
            return


class Export:
    """Writes a parcel of what is committed from `first_lsn` on.

    It grows under the name PATH.part and gets its own when it is whole and on disk.
    """

    def __init__(
        self, path: Path, outgoing: Outgoing, volume: bytes, description: Description
    ) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._outgoing = outgoing
        self._volume = volume
        self._description = description

    def run(self, first_lsn: int, last_lsn: int, progress: Callable[[int], None]) -> None:
        """Write the batches of `[first_lsn, last_lsn]`; both are ends of batches.

        `progress` is told how many raw bytes went
        into each shipment. OSError when the disk is full.
        """
        with open(self._part, "r+b" if self._part.exists() else "w+b") as file:
            os.fchmod(file.fileno(), 0o600)
            reached = self._go_on(file, first_lsn)
            while reached < last_lsn:
                ready = self._outgoing.build(reached + 1, MAX_RAW_BYTES, last_lsn, Effort.FAST)
                self._write(file, ready)
                reached = ready.kept.last_lsn
                progress(ready.raw_bytes)
            file.write(_pack_entry(reached + 1, reached, 0, _NO_ID))
            file.flush()
            durable.fsync(file.fileno())
        durable.rename(self._part, self._path)

    def _go_on(self, file: BinaryIO, first_lsn: int) -> int:
        """Stand behind what an interrupted export of the same wrote; the last LSN in it."""
        reached = first_lsn - 1
        at = 0
        try:
            head = read_head(file)
            if (head.volume, head.first_lsn) == (self._volume, first_lsn):
                at = head.size_bytes
                for found in read_shipments(file):
                    if not found.data:
                        break
                    reached, at = found.last_lsn, file.tell()
        except BadParcel:
            pass  # what was written up to there is whole, and the rest is written again
        file.seek(at)
        file.truncate()
        if not at:
            file.write(self._pack_head(first_lsn))
        return reached

    def _pack_head(self, first_lsn: int) -> bytes:
        text = msgspec.json.encode(self._description)
        head = _header.pack(PARCEL_MAGIC, PARCEL_VERSION, 0, len(text), self._volume, first_lsn, 0)[
            :-8
        ]
        return head + _hash(head + text).to_bytes(8, "little") + text

    def _write(self, file: BinaryIO, ready: Ready) -> None:
        kept = ready.kept
        name = bytes.fromhex(kept.shipment)
        file.write(_pack_entry(kept.first_lsn, kept.last_lsn, len(ready.data), name))
        file.write(ready.data)


def _pack_entry(first_lsn: int, last_lsn: int, length: int, name: bytes) -> bytes:
    entry = _entry.pack(first_lsn, last_lsn, length, name, 0)[:-8]
    return entry + _hash(entry).to_bytes(8, "little")
