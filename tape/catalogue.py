"""What the library knows: cartridges, sets, and where each archive is. Pure.

Duty: the events that make up the catalogue, and the state that they add up to. It is written by
`tape/catalogue_file.py` and can be rebuilt from the cartridges alone (`tape/scan.py`).

An event is recorded when it has become true: an archive when it has been written, synchronously
marked and read back (I-7); a movement when the changer has done it. So after a crash the catalogue
may know less than the cartridges, never more; what is on a cartridge behind the last archive known
is written over.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from tape.layout import ArchiveHead, Barcode, Count, Cursor, Digest, Label, Text, Uuid

Place = Literal["slot", "door", "drive", "outside", "missing"]
"""`outside`: exported, `Cartridge.note` says where to; `missing`: it is not where it should be."""


class Event(msgspec.Struct, kw_only=True, tag_field="event"):
    """Something that became true at `time_ns`."""

    time_ns: Count


class Labelled(Event, tag="labelled"):
    """A cartridge got a label; what was on it before is gone."""

    label: Label


class Moved(Event, tag="moved"):
    """A cartridge was seen at, or brought to, a place. `number`: of the slot or drive."""

    label_id: Uuid
    place: Place
    number: Count = 0
    barcode: Barcode = ""
    note: Text = ""
    """Where it is outside ("box 3")."""


class SetOpened(Event, tag="set-opened"):
    """A set was begun in the label's pool."""

    set_id: Uuid
    pool: str
    volume_uuid: Uuid
    base_lsn: Count
    base_time_ns: Count


class ArchiveKept(Event, tag="archive"):
    """An archive is on a cartridge as file `file`: marked synchronously and read back."""

    label_id: Uuid
    file: Count
    blocks: Count
    head: ArchiveHead
    digest: Digest
    """BLAKE3 of all its blocks as they are on the cartridge."""
    last_part: bool = False
    next: Cursor | None = None
    needs_lsn: Count = 0
    """These two as in `layout.ArchiveEnd`."""
    barrier_lsn: Count = 0
    barrier_time_ns: Count = 0


class SetClosed(Event, tag="set-closed"):
    """Nothing more comes to the set; retention counts from now. `whole`: its full is finished."""

    set_id: Uuid
    whole: bool = True


class CartridgeClosed(Event, tag="cartridge-closed"):
    """Nothing more is written to it: it is full, was exported, or failed."""

    label_id: Uuid
    reason: Text


class Recycled(Event, tag="recycled"):
    """Its sets are given up; it is scratch again."""

    label_id: Uuid


class Retired(Event, tag="retired"):
    """It is never written again. What is on it counts until it is recycled from the books."""

    label_id: Uuid
    barcode: Barcode
    reason: Text


class Faulted(Event, tag="faulted"):
    """A cartridge or drive failed. `drive` is -1 when it is the medium alone."""

    label_id: str
    drive: int
    what: Text


class Cleaned(Event, tag="cleaned"):
    """A cleaning cartridge was used."""

    barcode: Barcode
    drive: Count


AnyEvent: TypeAlias = (
    Labelled
    | Moved
    | SetOpened
    | ArchiveKept
    | SetClosed
    | CartridgeClosed
    | Recycled
    | Retired
    | Faulted
    | Cleaned
)
