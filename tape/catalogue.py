"""What the library knows: the events that its catalogue is made of. Pure.

Duty: the events. What they add up to is in `tape/catalogue_state.py`; they are written by
`tape/catalogue_file.py` and can be found again from the cartridges alone (`tape/scan.py`).

An event is recorded when it has become true: an archive when it has been written, synchronously
marked and read back (I-7); a movement when the changer has done it. So after a crash the catalogue
may know less than the cartridges, never more; what is on a cartridge behind the last archive known
is written over.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from tape.layout import ArchiveHead, Barcode, Count, Cursor, Digest, Label, PoolName, Text, Uuid

SCRATCH_POOL: Final = "scratch"
"""Of the label of a cartridge that any pool of any volume may take."""
NO_VOLUME: Final = "0" * 32
"""The volume on the label of such a cartridge."""

Place = Literal["slot", "door", "drive", "outside", "missing"]
"""`outside`: exported, `Cartridge.note` says where to; `missing`: it is not where it should be."""
Finding = Literal["unknown", "blank", "foreign", "newer", "protected", "unreadable", "gone"]
"""What a cartridge without a label of this library is; `unknown`: nobody has looked yet; `gone`: it
is in the library no more."""

LabelRef = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{32})?$")]
"""A label's id, or empty for none."""


class Event(msgspec.Struct, kw_only=True, frozen=True, tag_field="event"):
    """Something that became true at `time_ns`."""

    time_ns: Count


class Labelled(Event, frozen=True, tag="labelled"):
    """A cartridge got a label; what was on it before is gone."""

    label: Label
    replaces: LabelRef = ""
    """The label that it had before; empty when it was not on the books."""


class Moved(Event, frozen=True, tag="moved"):
    """A cartridge was seen at, or brought to, a place. `number`: of the slot or drive."""

    label_id: Uuid
    place: Place
    number: Count = 0
    barcode: Barcode = ""
    """As the robot reads it now; empty: it was not read, the one known stays."""
    note: Text = ""
    """Where it is outside ("box 3")."""


class Stranger(Event, frozen=True, tag="stranger"):
    """A cartridge without a label of this library was seen (or is there no more)."""

    barcode: Barcode
    slot: Count
    finding: Finding
    door: bool = False
    """Its slot is an import/export slot."""
    note: Text = ""
    """What was read on it, for people."""


class Attached(Event, frozen=True, tag="attached"):
    """A volume uses the library from now on, or uses it otherwise than before."""

    volume_uuid: Uuid
    volume_name: Text
    directory: Text
    """The protected tree, for people."""
    keep_ns: Annotated[dict[PoolName, Count], msgspec.Meta(max_length=64)]
    """By pool: so long after it was closed a set of it stays. A pool that is not named here, or a
    volume that is not attached, is kept for ever."""


class Detached(Event, frozen=True, tag="detached"):
    """A volume uses the library no more. What is there of it is kept as before."""

    volume_uuid: Uuid


class SetOpened(Event, frozen=True, tag="set-opened"):
    """A set was begun in the label's pool."""

    set_id: Uuid
    pool: PoolName
    volume_uuid: Uuid
    base_lsn: Count
    base_time_ns: Count


class ArchiveKept(Event, frozen=True, tag="archive"):
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


class ArchiveBad(Event, frozen=True, tag="archive-bad"):
    """An archive that was kept can't be read any more: its set ends before it."""

    label_id: Uuid
    file: Count
    what: Text


class Verified(Event, frozen=True, tag="verified"):
    """An archive that was kept was read again, whole, and was as it was written."""

    label_id: Uuid
    file: Count


class SetClosed(Event, frozen=True, tag="set-closed"):
    """Nothing more comes to the set; retention counts from now. `whole`: its full is finished."""

    set_id: Uuid
    whole: bool = True


class CartridgeClosed(Event, frozen=True, tag="cartridge-closed"):
    """Nothing more is written to it: it is full, was exported, or failed."""

    label_id: Uuid
    reason: Text


class Recycled(Event, frozen=True, tag="recycled"):
    """What is on it is given up; unless it is retired, it is scratch again."""

    label_id: Uuid


class Retired(Event, frozen=True, tag="retired"):
    """It is never written again. What is on it counts until it is recycled from the books."""

    label_id: Uuid
    barcode: Barcode
    reason: Text


class Faulted(Event, frozen=True, tag="faulted"):
    """A cartridge or drive failed. `drive` is -1 when it is the medium alone."""

    label_id: LabelRef
    drive: Annotated[int, msgspec.Meta(ge=-1, le=1 << 16)]
    what: Text


class Cleaned(Event, frozen=True, tag="cleaned"):
    """A cleaning cartridge was used."""

    barcode: Barcode
    drive: Count


AnyEvent: TypeAlias = (
    Labelled
    | Moved
    | Stranger
    | Attached
    | Detached
    | SetOpened
    | ArchiveKept
    | ArchiveBad
    | Verified
    | SetClosed
    | CartridgeClosed
    | Recycled
    | Retired
    | Faulted
    | Cleaned
)
