"""The books from the cartridges alone: every label, and every archive, read through.

Duty: `cdpfs tape scan`. It needs nothing but the cartridges; what a catalogue archive on one of
them says is used for what reading can't tell: which cartridges are outside, retired, or at fault.
An archive counts when it is whole to its end and digest; one that was not finished, at the end of
a cartridge, is left out and written over later. All sets are closed then: a spooler that goes on
begins new ones. Blocking; one thread; the library's lock is held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, NamedTuple

import msgspec

from tape.archive_reader import ArchiveReader
from tape.archive_writer import Written
from tape.catalogue import Finding
from tape.catalogue_state import Archive, Cartridge, State, StrangerFacts, TapeSet, Where
from tape.changer import Element
from tape.choice import is_cleaning
from tape.drive import Drive
from tape.errors import (
    BadCartridge,
    EndOfData,
    MediaError,
    NeedsCartridge,
    NewerCartridge,
    NoLabel,
    TapeError,
)
from tape.layout import ArchiveHead, Label
from tape.library import Library
from tape.robot import Robot
from tape.writer import blocks_of

log = logging.getLogger(__name__)

MAX_NOTE_CHARS: Final = 200
MAX_CATALOGUE_BYTES: Final = 1 << 30
_state = msgspec.json.Decoder(State)


class Read(NamedTuple):
    """What was read of a cartridge."""

    label: Label
    slot: int
    barcode: str
    files: list[tuple[ArchiveHead, Archive]]
    catalogues: list[tuple[int, State]]
    """The catalogues on it, and when each was written."""
    note: str = ""
    """What could not be read, for people."""
    unreadable: bool = False
    """Something on it that is not among the files may be worth having: it is not written over."""


class Scan(NamedTuple):
    """What a scan found."""

    state: State
    read: list[Read]
    strangers: list[tuple[Element, str]]
    """Cartridges that are none of ours, and why."""


def scan_library(robot: Robot, library: Library, now_ns: int, say: Callable[[str], None]) -> Scan:
    """Read every cartridge in the library. ChangerJam, DriveDead."""
    robot.put_all_away()
    there = library.changer.inventory(rescan=True)
    found: list[Read] = []
    others: list[StrangerFacts] = []
    strangers: list[tuple[Element, str]] = []
    doors = {each.number for each in there.doors}
    for element in (*there.slots, *there.doors):
        if not element.full or is_cleaning(element.barcode, library.settings.cleaning_prefix):
            continue
        say(f"reading {element.barcode or 'the cartridge'} of slot {element.number}")
        try:
            drive = robot.take(element.number)
        except NeedsCartridge:
            continue  # it was carried away meanwhile
        try:
            label = robot.label_of(drive)
        except (BadCartridge, MediaError) as error:
            strangers.append((element, str(error)))
            slot = robot.put_away(drive)
            others.append(
                StrangerFacts(
                    barcode=element.barcode,
                    slot=slot,
                    finding=_finding(error),
                    door=slot in doors,
                    note=str(error)[:MAX_NOTE_CHARS],
                    seen_ns=now_ns,
                )
            )
            continue
        read = _read_cartridge(drive, label, element)
        found.append(read._replace(slot=robot.put_away(drive)))
    state = state_of(found, now_ns)
    state.strangers = {each.slot: each for each in others}
    return Scan(state, found, strangers)


def _finding(error: TapeError) -> Finding:
    """What a cartridge is whose label can't be read."""
    if isinstance(error, NoLabel):
        return "blank" if error.blank else "foreign"
    return "newer" if isinstance(error, NewerCartridge) else "unreadable"


def _read_cartridge(drive: Drive, label: Label, element: Element) -> Read:
    read = Read(label, 0, element.barcode, [], [])
    file = 1
    while True:
        try:
            drive.to_file(file)
        except EndOfData:
            return read
        blocks = _Counted(blocks_of(drive))
        if blocks.is_empty():
            return read
        head: ArchiveHead | None = None
        try:
            reader = ArchiveReader(blocks)
            head = reader.head
            written = _through(reader, read)
        except (BadCartridge, MediaError) as error:
            if not _goes_on(drive, file + 1):
                broken = isinstance(error, MediaError)
                return read._replace(note=f"file {file} was not finished", unreadable=broken)
            if head is None:
                note = f"file {file}: {error}; what is behind it is left out"
                return read._replace(note=note, unreadable=True)
            read.files.append((head, _bad_archive(head, file, str(error))))
        else:
            read.files.append((head, _archive(head, file, written, label.block_bytes)))
        file += 1


def _through(reader: ArchiveReader, read: Read) -> Written:
    """Read an archive to its end; a catalogue that is not sealed is kept."""
    if reader.head.kind == "catalogue" and not reader.head.key_id:
        for member in reader.members():
            if member.kind == "catalogue":
                data = member.data(MAX_CATALOGUE_BYTES)
                try:
                    read.catalogues.append((reader.head.created_ns, _state.decode(data)))
                except msgspec.MsgspecError as error:
                    # One of another version; the cartridges have everything that matters.
                    log.info("the catalogue on a cartridge is not used: %s", error)
        return reader.written
    return reader.check()


def _goes_on(drive: Drive, file: int) -> bool:
    """Is there anything behind what could not be read?"""
    try:
        drive.to_file(file)
        drive.read_block()
    except (EndOfData, MediaError):
        return False
    return True


def _archive(head: ArchiveHead, file: int, written: Written, block_bytes: int) -> Archive:
    end = written.end
    return Archive(
        file=file,
        set_id=head.set_id,
        sequence=head.sequence,
        kind=head.kind,
        part=head.part,
        first_lsn=head.first_lsn,
        last_lsn=head.last_lsn,
        time_ns=head.time_ns,
        blocks=written.size_bytes // block_bytes,
        digest=written.digest,
        kept_ns=head.created_ns,
        last_part=end.last_part,
        next=end.next,
        needs_lsn=end.needs_lsn,
        barrier_lsn=end.barrier_lsn,
        barrier_time_ns=head.time_ns if end.barrier_lsn else 0,
        key_id=head.key_id,
    )


def _bad_archive(head: ArchiveHead, file: int, why: str) -> Archive:
    return Archive(
        file=file,
        set_id=head.set_id,
        sequence=head.sequence,
        kind=head.kind,
        part=head.part,
        first_lsn=head.first_lsn,
        last_lsn=head.last_lsn,
        time_ns=head.time_ns,
        blocks=0,
        digest="0" * 64,
        kept_ns=head.created_ns,
        key_id=head.key_id,
        bad=why[:4096],
    )


class _Counted:
    """Blocks, of which the first is looked at before anybody takes it."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks

    def is_empty(self) -> bool:
        """Is there none at all?"""
        try:
            first = next(self._blocks, None)
        except MediaError:
            return False  # there is something, which can't be read
        if first is None:
            return True
        self._blocks = chain([first], self._blocks)
        return False

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks


# --- what it adds up to --------------------------------------------------------------------------


def state_of(found: Iterable[Read], now_ns: int) -> State:
    """The books as they follow from what was read."""
    found = list(found)
    catalogues = [each for read in found for each in read.catalogues]
    told = max(catalogues, key=lambda each: each[0])[1] if catalogues else State()
    state = State(volumes=told.volumes, drives=told.drives, cleanings=told.cleanings)
    volumes: dict[str, ArchiveHead] = {}
    for read in found:
        cartridge = _cartridge(read, told.cartridges.get(read.label.label_id), now_ns)
        state.cartridges[cartridge.label_id] = cartridge
        for head, _ in read.files:
            volumes.setdefault(head.set_id, head)
    for label_id, known in told.cartridges.items():
        if label_id not in state.cartridges:
            if known.present:
                known.place, known.number = "missing", 0
            state.cartridges[label_id] = known
    for set_id, pieces in _sets(state).items():
        known_set = told.sets.get(set_id)
        volume = volumes[set_id].volume_uuid if set_id in volumes else None
        if volume is None and known_set is not None:
            volume = known_set.volume_uuid
        if volume is not None:
            state.sets[set_id] = _tape_set(state, set_id, volume, pieces, now_ns)
    state.sets = dict(sorted(state.sets.items(), key=lambda each: each[1].opened_ns))
    _close(state)
    return state


def _close(state: State) -> None:
    """A set was closed when the next one of its pool was begun at the latest, else it is now.

    It is kept from then on: if all were closed now, nothing could be recycled for a long time.
    """
    begun: dict[tuple[str, str], int] = {}
    for tape_set in reversed(state.sets.values()):
        pool = tape_set.volume_uuid, tape_set.pool
        tape_set.closed_ns = max(1, min(tape_set.closed_ns, begun.get(pool, tape_set.closed_ns)))
        begun[pool] = tape_set.opened_ns


def _cartridge(read: Read, known: Cartridge | None, now_ns: int) -> Cartridge:
    cartridge = Cartridge(
        label=read.label,
        barcode=read.barcode or read.label.barcode,
        place="slot",
        number=read.slot,
        moved_ns=now_ns,
        came_ns=now_ns,
        archives=[archive for _, archive in read.files],
    )
    if known is not None:
        cartridge.retired_ns, cartridge.retired_reason = known.retired_ns, known.retired_reason
        cartridge.closed_ns, cartridge.closed_reason = known.closed_ns, known.closed_reason
        cartridge.faults, cartridge.last_fault = known.faults, known.last_fault
    if read.unreadable:
        cartridge.closed_ns = cartridge.closed_ns or now_ns
        cartridge.closed_reason = read.note[:MAX_NOTE_CHARS]
    return cartridge


def _sets(state: State) -> dict[str, list[Where]]:
    """The archives of each set, in no order, without those of catalogues."""
    found: dict[str, list[Where]] = {}
    for cartridge in state.cartridges.values():
        for archive in cartridge.archives:
            if archive.kind != "catalogue":
                where = Where(cartridge.label_id, archive.file)
                found.setdefault(archive.set_id, []).append(where)
    return found


def _tape_set(
    state: State, set_id: str, volume_uuid: str, pieces: list[Where], now_ns: int
) -> TapeSet:
    """A set from its archives: by sequence, up to the first that is not there.

    Of two with one number the newer one counts: it was written when the other was not counted.
    """
    best: dict[int, Where] = {}
    for where in sorted(pieces, key=lambda each: state.archive(each).kept_ns):
        archive = state.archive(where)
        if not archive.bad or archive.sequence not in best:
            best[archive.sequence] = where
    row: list[Where] = []
    while len(row) in best:
        row.append(best[len(row)])
    fulls = [a for a in map(state.archive, best.values()) if a.kind == "full"]
    first = min((state.archive(each) for each in pieces), key=lambda a: a.sequence)
    return TapeSet(
        set_id=set_id,
        pool=state.cartridge(pieces[0].label_id).label.pool,
        volume_uuid=volume_uuid,
        base_lsn=fulls[0].last_lsn if fulls else first.first_lsn,
        base_time_ns=fulls[0].time_ns if fulls else first.time_ns,
        opened_ns=first.kept_ns,
        closed_ns=now_ns,
        whole=any(a.last_part for a in map(state.archive, row)),
        archives=row,
        last_lsn=max(state.archive(each).last_lsn for each in pieces),
        broken=not row,
    )
