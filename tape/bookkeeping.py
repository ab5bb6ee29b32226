"""What an event changes in the state of the catalogue, and which events can't be. Pure.

Duty: `apply`. An event is refused before anything is changed.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import singledispatch

from tape.catalogue import (
    AnyEvent,
    ArchiveBad,
    ArchiveKept,
    Attached,
    CartridgeClosed,
    Cleaned,
    Detached,
    Faulted,
    Labelled,
    Moved,
    Place,
    Recycled,
    Retired,
    SetClosed,
    SetOpened,
    Stranger,
    Verified,
)
from tape.catalogue_state import (
    Archive,
    Cartridge,
    DriveFacts,
    State,
    StrangerFacts,
    TapeSet,
    VolumeFacts,
    Where,
)
from tape.errors import ImpossibleEvent


def ends_of_sets(
    state: State, volume_uuid: str, now_ns: int, keep: Collection[str] = ()
) -> list[AnyEvent]:
    """The ends of a volume's open sets, but for those of the pools in `keep`."""
    return [
        SetClosed(time_ns=now_ns, set_id=each.set_id, whole=each.whole)
        for each in state.sets.values()
        if each.volume_uuid == volume_uuid and not each.closed_ns and each.pool not in keep
    ]


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
        _give_up(state, before, event.time_ns)
        del state.cartridges[event.replaces]
    state.cartridges[label.label_id] = Cartridge(
        label=label,
        barcode=label.barcode,
        place=place,
        number=number,
        faults=faults,
        moved_ns=event.time_ns,
        came_ns=event.time_ns,
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
    if cartridge.place == "outside" and event.place in ("slot", "door", "drive"):
        cartridge.came_ns = event.time_ns
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
        door=event.door,
        note=event.note,
        seen_ns=event.time_ns,
    )


@_apply.register
def _attached(event: Attached, state: State) -> None:
    facts = state.volumes.setdefault(
        event.volume_uuid, VolumeFacts(name=event.volume_name, directory=event.directory)
    )
    facts.name, facts.directory, facts.attached = event.volume_name, event.directory, True
    # A pool that the volume has no more keeps what it has for as long as was said last.
    facts.keep_ns.update(event.keep_ns)
    facts.pools = list(event.keep_ns)


@_apply.register
def _detached(event: Detached, state: State) -> None:
    if event.volume_uuid not in state.volumes:
        raise ImpossibleEvent(f"the volume {event.volume_uuid} was never attached")
    state.volumes[event.volume_uuid].attached = False


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
        tape_set.last_lsn = head.last_lsn
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
def _verified(event: Verified, state: State) -> None:
    cartridge = state.cartridge(event.label_id)
    if not 1 <= event.file < cartridge.next_file:
        raise ImpossibleEvent(f"{cartridge.name} has no archive as file {event.file}")
    cartridge.archives[event.file - 1].verified_ns = event.time_ns


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
    _give_up(state, cartridge, event.time_ns)
    cartridge.recycled_ns = event.time_ns


def _give_up(state: State, cartridge: Cartridge, now_ns: int) -> None:
    """What is on a cartridge is gone; its sets must be closed."""
    sets = [
        each
        for each in state.sets_on(cartridge)
        if any(where.label_id == cartridge.label_id for where in each.archives)
    ]
    if any(not each.closed_ns for each in sets):
        raise ImpossibleEvent(f"{cartridge.name} was given up with an open set on it")
    for tape_set in sets:
        tape_set.archives = [
            each for each in tape_set.archives if each.label_id != cartridge.label_id
        ]
        tape_set.broken = True
    cartridge.archives = []
    for tape_set in list(state.sets.values()):
        if not tape_set.archives and tape_set.closed_ns and not _missed(state, tape_set, now_ns):
            del state.sets[tape_set.set_id]


def _missed(state: State, tape_set: TapeSet, now_ns: int) -> bool:
    """Nothing is left of a set, while its pool should have it."""
    keep = state.keep_ns(tape_set)
    return tape_set.whole and keep is not None and now_ns < tape_set.closed_ns + keep


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
