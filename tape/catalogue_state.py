"""What the events of a catalogue add up to. Pure.

Duty: the state, and `apply`, which takes one event more or refuses what can't be. A state is used
by one thread at a time. It is what a snapshot of the catalogue holds, so that every field is plain.

A cartridge is known by the id on its label; its barcode is how the robot finds it, and two
cartridges may claim the same. Sets and cartridges point at each other: a set has its archives by
(label, file), a cartridge has them in the order of its files.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import Final, NamedTuple

import msgspec

from tape.catalogue import (
    SCRATCH_POOL,
    AnyEvent,
    ArchiveBad,
    ArchiveKept,
    CartridgeClosed,
    Cleaned,
    Faulted,
    Finding,
    Labelled,
    Moved,
    Place,
    Recycled,
    Retired,
    SetClosed,
    SetOpened,
    Stranger,
)
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
    broken: bool = False
    """A cartridge with a part of it was given up: it is good for nothing more."""


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
    note: Text = ""
    seen_ns: Count = 0


class State(msgspec.Struct, kw_only=True):
    """All of it. Cartridges by label id, sets by id, in the order of their coming."""

    version: int = STATE_VERSION
    cartridges: dict[Uuid, Cartridge] = {}
    sets: dict[Uuid, TapeSet] = {}
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


def apply(state: State, event: AnyEvent) -> None:
    """Take one event more. ImpossibleEvent, with the state as it was."""
    _apply(event, state)


@singledispatch
def _apply(event: AnyEvent, state: State) -> None:
    raise AssertionError(event)


@_apply.register
def _labelled(event: Labelled, state: State) -> None:
    label = event.label
    if label.label_id in state.cartridges:
        raise ImpossibleEvent(f"the label {label.label_id} was given twice")
    place: Place = "missing"
    number = faults = 0
    if event.replaces:
        before = state.cartridge(event.replaces)
        if before.retired_ns:
            raise ImpossibleEvent(f"{before.name} is retired and was labelled all the same")
        place, number, faults = before.place, before.number, before.faults
        _give_up(state, before)
        del state.cartridges[event.replaces]
    state.cartridges[label.label_id] = Cartridge(
        label=label,
        barcode=label.barcode,
        place=place,
        number=number,
        faults=faults,
        moved_ns=event.time_ns,
    )


@_apply.register
def _moved(event: Moved, state: State) -> None:
    cartridge = state.cartridge(event.label_id)
    if event.place in ("slot", "door", "drive"):
        for other in state.cartridges.values():
            if other is not cartridge and _at(other) == _spot(event.place, event.number):
                # It is not there, whatever the books said.
                other.place, other.number = "missing", 0
    if event.place in ("slot", "door"):
        state.strangers.pop(event.number, None)
    cartridge.place, cartridge.number = event.place, event.number
    cartridge.note = event.note
    cartridge.moved_ns = event.time_ns
    if event.barcode:
        cartridge.barcode = event.barcode


def _at(cartridge: Cartridge) -> tuple[bool, int] | None:
    if not cartridge.present:
        return None
    return _spot(cartridge.place, cartridge.number)


def _spot(place: str, number: int) -> tuple[bool, int]:
    """Slots and doors are counted in one row, drives in another."""
    return place == "drive", number


@_apply.register
def _stranger(event: Stranger, state: State) -> None:
    if event.finding == "gone":
        state.strangers.pop(event.slot, None)
        return
    for other in state.cartridges.values():
        if _at(other) == _spot("slot", event.slot):
            other.place, other.number = "missing", 0
    state.strangers[event.slot] = StrangerFacts(
        barcode=event.barcode,
        slot=event.slot,
        finding=event.finding,
        note=event.note,
        seen_ns=event.time_ns,
    )


@_apply.register
def _set_opened(event: SetOpened, state: State) -> None:
    if event.set_id in state.sets:
        raise ImpossibleEvent(f"the set {event.set_id} was opened twice")
    before = state.open_set(event.volume_uuid, event.pool)
    if before is not None:
        raise ImpossibleEvent(f"a set was opened in {event.pool} before {before.set_id} was closed")
    state.sets[event.set_id] = TapeSet(
        set_id=event.set_id,
        pool=event.pool,
        volume_uuid=event.volume_uuid,
        base_lsn=event.base_lsn,
        base_time_ns=event.base_time_ns,
        opened_ns=event.time_ns,
    )


@_apply.register
def _archive_kept(event: ArchiveKept, state: State) -> None:
    cartridge = state.cartridge(event.label_id)
    tape_set = state.set_of(event.head.set_id)
    _check_place(event, cartridge)
    if event.head.volume_uuid != tape_set.volume_uuid:
        raise ImpossibleEvent(f"an archive of another volume in the set {tape_set.set_id}")
    head = event.head
    if head.kind != "catalogue":
        _check_sequence(event, state, tape_set)
        tape_set.archives.append(Where(event.label_id, event.file))
        tape_set.whole = tape_set.whole or (head.kind == "full" and event.last_part)
    cartridge.archives.append(
        Archive(
            file=event.file,
            set_id=head.set_id,
            sequence=head.sequence,
            kind=head.kind,
            part=head.part,
            first_lsn=head.first_lsn,
            last_lsn=head.last_lsn,
            time_ns=head.time_ns,
            blocks=event.blocks,
            digest=event.digest,
            kept_ns=event.time_ns,
            last_part=event.last_part,
            next=event.next,
            barrier_lsn=event.barrier_lsn,
            barrier_time_ns=event.barrier_time_ns,
            needs_lsn=event.needs_lsn,
            key_id=head.key_id,
        )
    )


def _check_place(event: ArchiveKept, cartridge: Cartridge) -> None:
    """Could it be written there?"""
    if event.file != cartridge.next_file:
        raise ImpossibleEvent(
            f"file {event.file} was written to {cartridge.name}, "
            f"on which file {cartridge.next_file} comes next"
        )
    if not cartridge.appendable:
        raise ImpossibleEvent(f"an archive was written to {cartridge.name}, which takes none")
    if event.head.volume_uuid != cartridge.label.volume_uuid:
        raise ImpossibleEvent(f"an archive of another volume on {cartridge.name}")


def _check_sequence(event: ArchiveKept, state: State, tape_set: TapeSet) -> None:
    """Does it continue its set?"""
    head, name = event.head, f"set {tape_set.set_id}"
    if tape_set.closed_ns or tape_set.broken:
        raise ImpossibleEvent(f"an archive was added to the {name}, which is closed")
    if state.cartridges[event.label_id].label.pool != tape_set.pool:
        raise ImpossibleEvent(f"an archive of the pool {tape_set.pool} on a cartridge of another")
    if head.sequence != len(tape_set.archives):
        raise ImpossibleEvent(
            f"archive {head.sequence} was added to the {name}, "
            f"of which {len(tape_set.archives)} comes next"
        )
    before = state.archive(tape_set.archives[-1]) if tape_set.archives else None
    if head.kind == "full":
        part = 0 if before is None else before.part + 1
        if tape_set.whole or head.part != part:
            raise ImpossibleEvent(f"part {head.part} of a full was added to the {name} out of turn")
        if not head.first_lsn == head.last_lsn == tape_set.base_lsn:
            raise ImpossibleEvent(f"a full of another LSN was added to the {name}")
        return
    if before is None or not tape_set.whole:
        raise ImpossibleEvent(f"log was added to the {name} before its full was finished")
    follows = (
        head.first_lsn <= tape_set.base_lsn <= head.last_lsn
        if before.kind == "full"
        else head.first_lsn == before.last_lsn + 1
    )
    if not follows or head.last_lsn < head.first_lsn:
        raise ImpossibleEvent(
            f"log of LSN {head.first_lsn} to {head.last_lsn} does not continue the {name}"
        )


@_apply.register
def _archive_bad(event: ArchiveBad, state: State) -> None:
    cartridge = state.cartridge(event.label_id)
    if not 1 <= event.file < cartridge.next_file:
        raise ImpossibleEvent(f"{cartridge.name} has no archive as file {event.file}")
    cartridge.archives[event.file - 1].bad = event.what or "it can't be read"


@_apply.register
def _set_closed(event: SetClosed, state: State) -> None:
    tape_set = state.set_of(event.set_id)
    if event.whole and not tape_set.whole:
        raise ImpossibleEvent(f"the set {event.set_id} was closed as whole without its full")
    tape_set.closed_ns = tape_set.closed_ns or event.time_ns
    if not tape_set.archives:
        del state.sets[event.set_id]


@_apply.register
def _cartridge_closed(event: CartridgeClosed, state: State) -> None:
    cartridge = state.cartridge(event.label_id)
    if not cartridge.closed_ns:
        cartridge.closed_ns, cartridge.closed_reason = event.time_ns, event.reason


@_apply.register
def _recycled(event: Recycled, state: State) -> None:
    cartridge = state.cartridge(event.label_id)
    _give_up(state, cartridge)
    cartridge.recycled_ns = event.time_ns


def _give_up(state: State, cartridge: Cartridge) -> None:
    """What is on a cartridge is gone; its sets must be closed. A set with nothing left goes too."""
    sets = state.sets_on(cartridge)
    for tape_set in sets:
        if not tape_set.closed_ns and any(
            where.label_id == cartridge.label_id for where in tape_set.archives
        ):
            raise ImpossibleEvent(f"{cartridge.name} was given up with an open set on it")
    for tape_set in sets:
        left = [each for each in tape_set.archives if each.label_id != cartridge.label_id]
        if len(left) == len(tape_set.archives):
            continue
        tape_set.archives, tape_set.broken = left, True
        if not left:
            del state.sets[tape_set.set_id]
    cartridge.archives = []


@_apply.register
def _retired(event: Retired, state: State) -> None:
    cartridge = state.cartridge(event.label_id)
    if not cartridge.retired_ns:
        cartridge.retired_ns, cartridge.retired_reason = event.time_ns, event.reason


@_apply.register
def _faulted(event: Faulted, state: State) -> None:
    if event.label_id:
        cartridge = state.cartridge(event.label_id)
        cartridge.faults += 1
        cartridge.last_fault = event.what
    if event.drive >= 0:
        drive = state.drives.setdefault(event.drive, DriveFacts())
        drive.faults += 1
        drive.last_fault, drive.fault_ns = event.what, event.time_ns


@_apply.register
def _cleaned(event: Cleaned, state: State) -> None:
    state.cleanings[event.barcode] = state.cleanings.get(event.barcode, 0) + 1
    drive = state.drives.setdefault(event.drive, DriveFacts())
    drive.cleanings += 1
    drive.cleaned_ns = event.time_ns
