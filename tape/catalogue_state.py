"""What the events of a catalogue add up to. Pure.

Duty: the state; `tape/bookkeeping.py` is what changes it. A state is used by one thread at a time.
It is what a snapshot of the catalogue holds, so that every field is plain.

A cartridge is known by the id on its label; its barcode is how the robot finds it, and two
cartridges may claim the same. Sets and cartridges point at each other: a set has its archives by
(label, file), a cartridge has them in the order of its files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from tape.catalogue import SCRATCH_POOL, Finding, Place
from tape.errors import ImpossibleEvent
from tape.layout import Barcode, Count, Cursor, Digest, Kind, Label, PoolName, Text, Uuid

STATE_VERSION: Final = 1


class Archive(msgspec.Struct, kw_only=True):
    """One file of a cartridge behind its label."""

    file: Count
    set_id: Uuid
    sequence: Count
    kind: Kind
    part: Count
    first_lsn: Count
    last_lsn: Count
    time_ns: Count
    blocks: Count
    digest: Digest
    kept_ns: Count
    verified_ns: Count = 0
    """When it was read again last; 0: only when it was written."""
    last_part: bool = False
    next: Cursor | None = None
    barrier_lsn: Count = 0
    barrier_time_ns: Count = 0
    needs_lsn: Count = 0
    key_id: str = ""
    bad: Text = ""
    """Why it can't be read any more; empty while it can."""


class Cartridge(msgspec.Struct, kw_only=True):
    """One cartridge with a label of this library."""

    label: Label
    barcode: Barcode
    """As last read by the robot; the label has the one of when it was written."""
    place: Place = "missing"
    number: Count = 0
    note: Text = ""
    moved_ns: Count = 0
    came_ns: Count = 0
    """When it came into the library last: labelled there, or back from outside."""
    archives: list[Archive] = []
    """In the order of its files, from file 1 on without gaps."""
    closed_ns: Count = 0
    """0 while it may be written."""
    closed_reason: Text = ""
    retired_ns: Count = 0
    retired_reason: Text = ""
    recycled_ns: Count = 0
    """When what was on it was given up; 0: never since it was labelled."""
    faults: Count = 0
    last_fault: Text = ""

    @property
    def label_id(self) -> str:
        """Who it is."""
        return self.label.label_id

    @property
    def name(self) -> str:
        """For people: its barcode, else the beginning of its label's id."""
        return self.barcode or self.label.barcode or f"label {self.label_id[:8]}"

    @property
    def next_file(self) -> int:
        """The file that is written next; what stands there and behind is written over."""
        return len(self.archives) + 1

    @property
    def used_bytes(self) -> int:
        """Of its archives, without filemarks and label."""
        return sum(archive.blocks for archive in self.archives) * self.label.block_bytes

    @property
    def scratch(self) -> bool:
        """May any pool take it? It would get a new label first."""
        empty = bool(self.recycled_ns) or self.label.pool == SCRATCH_POOL
        return empty and not self.retired_ns

    @property
    def appendable(self) -> bool:
        """May archives of its pool and volume be written to it?"""
        return not (self.closed_ns or self.retired_ns or self.recycled_ns) and (
            self.label.pool != SCRATCH_POOL
        )

    @property
    def present(self) -> bool:
        """Can the robot reach it?"""
        return self.place in ("slot", "door", "drive")


class Where(NamedTuple):
    """A file of a cartridge."""

    label_id: str
    file: int


class TapeSet(msgspec.Struct, kw_only=True):
    """A full at a barrier and the log behind it."""

    set_id: Uuid
    pool: PoolName
    volume_uuid: Uuid
    base_lsn: Count
    base_time_ns: Count
    opened_ns: Count
    closed_ns: Count = 0
    """0 while more may come."""
    whole: bool = False
    """Its full is finished. Whether enough of its log is there is what `reach` says."""
    archives: list[Where] = []
    """By sequence, without those of kind `catalogue`."""
    last_lsn: Count = 0
    """Up to where it went when all of it was there: what it is missed for when it is lost."""
    broken: bool = False
    """A cartridge with a part of it was given up: it is good for nothing more. One of which nothing
    is left stays on the books until the time is up that its pool keeps it."""


class VolumeFacts(msgspec.Struct, kw_only=True):
    """A volume that uses the library, or did."""

    name: Text
    directory: Text
    keep_ns: dict[PoolName, Count] = {}
    """Also of pools that it has no more."""
    attached: bool = True
    pools: list[PoolName] = []
    """Those that it has now; empty in books of before this was noted: all of `keep_ns`."""

    def writes_to(self, pool: str) -> bool:
        """Does more of it come into a pool?"""
        return self.attached and pool in (self.pools or self.keep_ns)


class DriveFacts(msgspec.Struct, kw_only=True):
    """What was noted of a drive."""

    faults: Count = 0
    last_fault: Text = ""
    fault_ns: Count = 0
    cleanings: Count = 0
    cleaned_ns: Count = 0


class StrangerFacts(msgspec.Struct, kw_only=True):
    """A cartridge in the library that has no label of this library."""

    barcode: Barcode
    slot: Count
    finding: Finding
    door: bool = False
    note: Text = ""
    seen_ns: Count = 0


class State(msgspec.Struct, kw_only=True):
    """All of it. Cartridges by label id, sets by id, in the order of their coming."""

    version: int = STATE_VERSION
    cartridges: dict[Uuid, Cartridge] = {}
    sets: dict[Uuid, TapeSet] = {}
    volumes: dict[Uuid, VolumeFacts] = {}
    drives: dict[int, DriveFacts] = {}
    cleanings: dict[Barcode, Count] = {}
    """How often each cleaning cartridge was used."""
    strangers: dict[Count, StrangerFacts] = {}
    """By slot: the barcode of a stranger may be empty, or another's."""

    def cartridge(self, label_id: str) -> Cartridge:
        """The cartridge of that label; ImpossibleEvent when it is not on the books."""
        try:
            return self.cartridges[label_id]
        except KeyError:
            raise ImpossibleEvent(f"no cartridge has the label {label_id}") from None

    def set_of(self, set_id: str) -> TapeSet:
        """The set of that id; ImpossibleEvent when there is none."""
        try:
            return self.sets[set_id]
        except KeyError:
            raise ImpossibleEvent(f"there is no set {set_id}") from None

    def archive(self, where: Where) -> Archive:
        """An archive of a set."""
        return self.cartridges[where.label_id].archives[where.file - 1]

    def claims(self, barcode: str) -> list[Cartridge]:
        """Every cartridge with that barcode: more than one is possible, and a person's mistake."""
        return [each for each in self.cartridges.values() if each.barcode == barcode]

    def sets_of(self, volume_uuid: str, pool: str) -> list[TapeSet]:
        """The sets of a volume's pool, oldest first."""
        return [
            each
            for each in self.sets.values()
            if each.volume_uuid == volume_uuid and each.pool == pool
        ]

    def open_set(self, volume_uuid: str, pool: str) -> TapeSet | None:
        """The set of a volume's pool to which more may come."""
        return next((each for each in self.sets_of(volume_uuid, pool) if not each.closed_ns), None)

    def keep_ns(self, tape_set: TapeSet) -> int | None:
        """How long after its closing a set stays; None: for ever, as nobody said how long."""
        volume = self.volumes.get(tape_set.volume_uuid)
        return None if volume is None else volume.keep_ns.get(tape_set.pool)

    def cartridges_of(self, tape_set: TapeSet) -> list[Cartridge]:
        """The cartridges that a set lies on, in the order in which they are read."""
        names = dict.fromkeys(where.label_id for where in tape_set.archives)
        return [self.cartridges[label_id] for label_id in names]

    def sets_on(self, cartridge: Cartridge) -> list[TapeSet]:
        """The sets that a cartridge has something of, those of its catalogue archives too."""
        names = dict.fromkeys(archive.set_id for archive in cartridge.archives)
        return [self.sets[set_id] for set_id in names if set_id in self.sets]

    def whole_archives(self, tape_set: TapeSet) -> Iterator[tuple[Cartridge, Archive]]:
        """The archives of a set by sequence, up to the first that is bad."""
        for where in tape_set.archives:
            archive = self.archive(where)
            if archive.bad:
                return
            yield self.cartridges[where.label_id], archive
