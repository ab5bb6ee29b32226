"""Bringing a certain cartridge into a drive, and back: the hands of the library.

Duty: carry cartridges with the changer, wait until they are loaded, and make sure by its label
that a cartridge is the one that is meant. It copes with what goes wrong on the way: a load that
jams, a drive that is dead, a cartridge in another slot than the books say, a barcode that can't be
read, a drive that asks to be cleaned. Blocking; one thread; the library's lock is held. What
becomes true is told to `record`, as events of the catalogue. It decides nothing about sets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tape.catalogue import AnyEvent, Cleaned, Faulted, Moved, Place
from tape.changer import Changer, Element, Inventory
from tape.drive import Drive
from tape.errors import (
    BadCartridge,
    ChangerJam,
    DriveDead,
    EndOfData,
    MediaError,
    NeedsCartridge,
    NoLabel,
    NotReady,
    TapeError,
)
from tape.label_archive import read_label
from tape.layout import Label
from tape.writer import blocks_of

log = logging.getLogger(__name__)

LOADS: Final = 3
"""A load that jams is tried so often before another drive is taken."""
LOOK_S: Final = 5.0
"""A cartridge that is being loaded is looked at this often."""
CLEANING_LIMIT_S: Final = 600.0
LOAD_LIMIT_S: Final = 4 * 3600.0
"""The first load of a new cartridge may take two hours; a drive that takes longer is dead."""


class Wanted(NamedTuple):
    """A cartridge to fetch."""

    label_id: str
    barcode: str
    """Empty when it has none that can be read."""
    slot: int = 0
    """Where it was seen last; 0 when that is not known."""


@dataclass
class Hands:
    """What the robot works with, and whom it tells."""

    changer: Changer
    drives: Sequence[Drive]
    record: Callable[[AnyEvent], None]
    now_ns: Callable[[], int]
    pause: Callable[[float], None]
    """Waits so many seconds; raises when the work is to end."""
    say: Callable[[str], None] = lambda text: None
    """What is being waited for, for people; empty for nothing."""
    cleaning_prefix: str = "CLN"
    cleanings: Callable[[str], int] = lambda barcode: 0
    """How often the cleaning cartridge of a barcode was used."""
    cleaning_uses: int = 50
    """How often one can be used."""
    dead: set[int] = field(default_factory=set)
    """Drives that are not used any more in this run."""


class Robot:
    """Fetches cartridges. Use it for one run: what it knows of the drives may be outdated later."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._changer = hands.changer
        self._labels: dict[int, Label] = {}
        """Of the cartridges in the drives, by the drive's number."""
        self._why_dead: TapeError | None = None

    def now_ns(self) -> int:
        """The time that goes into the books."""
        return self._hands.now_ns()

    # --- fetching -------------------------------------------------------------------------------

    def fetch(self, wanted: Wanted, free: Callable[[Drive], bool] = lambda drive: True) -> Drive:
        """The drive with the wanted cartridge in it, open, its label read and compared.

        NeedsCartridge when it isn't in the library; ChangerJam or DriveDead when no drive can
        take it. `free`: may a drive's cartridge be put away for it?
        """
        refused: list[str] = []
        for drive in self._loaded_drives():
            label = self._labels.get(drive.number)
            if label is not None and label.label_id == wanted.label_id:
                return drive
        failure: TapeError | None = None
        for element, is_drive in self._candidates(wanted):
            try:
                drive, label = self._look_at(element, is_drive, free)
            except (BadCartridge, MediaError) as error:
                refused.append(f"{_named(element)}: {error}")
                continue
            except ChangerJam as error:
                if element.barcode == wanted.barcode:
                    failure = failure or error
                refused.append(f"{_named(element)}: {error}")
                continue
            if label.label_id == wanted.label_id:
                return drive
            refused.append(f"{_named(element)} is {label.barcode or label.label_id}")
        if failure is not None:
            raise failure
        text = "; ".join(refused)
        name = wanted.barcode or wanted.label_id
        raise NeedsCartridge(
            f"the cartridge {name} is not in the library" + (f" ({text})" if text else ""), (name,)
        )

    def _candidates(self, wanted: Wanted) -> Iterator[tuple[Element, bool]]:
        """Where it may be, the likeliest first: by barcode, then where no barcode can be read,
        then what has any other one. Each is looked at once, wherever it is by then."""
        tried: set[tuple[bool, int]] = set()
        for suits in (
            lambda element: bool(wanted.barcode) and element.barcode == wanted.barcode,
            lambda element: not element.barcode and element.number == wanted.slot,
            lambda element: not element.barcode,
            lambda element: True,
        ):
            for element, is_drive in _full(self._changer.inventory()):
                origin = (False, element.origin) if is_drive and element.origin else None
                place = (is_drive, element.number)
                if not suits(element) or self._is_cleaning(element):
                    continue
                if place in tried or (origin is not None and origin in tried):
                    continue
                if is_drive and element.number in self._hands.dead:
                    continue
                tried.add(place)
                if origin is not None:
                    tried.add(origin)
                yield element, is_drive

    def _look_at(
        self, element: Element, is_drive: bool, free: Callable[[Drive], bool]
    ) -> tuple[Drive, Label]:
        """The cartridge of an element in a drive, and its label; in the next drive if one dies."""
        while True:
            drive = self._in_drive(element, is_drive, free)
            try:
                return drive, self.label_of(drive)
            except DriveDead as error:
                self._give_up(drive, error)
                element = element._replace(number=self._rescue(drive))
                is_drive = False

    def take(self, slot: int, free: Callable[[Drive], bool] = lambda drive: True) -> Drive:
        """The drive with the cartridge of a slot in it, open, whatever is on it."""
        for element, is_drive in _full(self._changer.inventory()):
            if not is_drive and element.number == slot:
                return self._in_drive(element, is_drive, free)
            if is_drive and element.origin == slot and element.number not in self._hands.dead:
                return self._in_drive(element, is_drive, free)
        raise NeedsCartridge(f"slot {slot} is empty", ())

    def label_of(self, drive: Drive) -> Label:
        """The label of the cartridge in an open drive. BadCartridge, MediaError, DriveDead.

        What is found out by it is told to `record`.
        """
        known = self._labels.get(drive.number)
        if known is not None:
            return known
        drive.rewind()
        label = _read_label(drive)
        self._labels[drive.number] = label
        element = self._changer.inventory().drives[drive.number]
        self._moved(label, "drive", drive.number, element.barcode)
        return label

    def forget_label(self, drive: Drive) -> None:
        """A new label is being written."""
        self._labels.pop(drive.number, None)

    # --- drives ---------------------------------------------------------------------------------

    def _loaded_drives(self) -> Iterator[Drive]:
        for drive in self._usable():
            if drive.number in self._labels:
                yield drive

    def _usable(self) -> list[Drive]:
        return [drive for drive in self._hands.drives if drive.number not in self._hands.dead]

    def _in_drive(self, element: Element, is_drive: bool, free: Callable[[Drive], bool]) -> Drive:
        """The cartridge of an element, in a drive that is open."""
        if is_drive:
            drive = self._drive(element.number)
            try:
                return self._opened(drive)
            except DriveDead as error:
                self._give_up(drive, error)
                element = Element(self._rescue(drive), True, element.barcode)
        failure: TapeError = self._no_drive()
        for drive in self._by_readiness(free):
            try:
                self.put_away(drive)
                self._load(element.number, drive)
                return self._opened(drive)
            except ChangerJam as error:
                failure = error
                log.info("%s: %s", drive.name, error)
            except DriveDead as error:
                failure = error
                self._give_up(drive, error)
                element = element._replace(number=self._rescue(drive))
        raise failure

    def _no_drive(self) -> DriveDead:
        """With what made the last one of them unusable, which is what a person can mend."""
        text, why = "no drive is left that works", self._why_dead
        return DriveDead(text) if why is None else DriveDead(f"{text}: {why}", why.hint)

    def _by_readiness(self, free: Callable[[Drive], bool]) -> list[Drive]:
        """The drives that may take a cartridge; empty ones first."""
        full = {element.number: element.full for element in self._changer.inventory().drives}
        suited = [d for d in self._usable() if not full.get(d.number, False) or free(d)]
        return sorted(suited, key=lambda drive: full.get(drive.number, False))

    def _load(self, slot: int, drive: Drive) -> None:
        if self._wants_cleaning(drive):
            self.clean(drive)
        for turn in range(LOADS):
            try:
                self._changer.load(slot, drive.number)
                return
            except ChangerJam as error:
                where = self._changer.inventory()
                if where.drives[drive.number].full:
                    return  # it got there after all
                if turn == LOADS - 1:
                    self._hands.record(
                        Faulted(
                            time_ns=self._hands.now_ns(),
                            label_id="",
                            drive=drive.number,
                            what=f"load from slot {slot}: {error}",
                        )
                    )
                    raise
                self._hands.pause(LOOK_S)

    def _opened(self, drive: Drive) -> Drive:
        """Wait until what is in the drive is ready."""
        waited_s = 0.0
        try:
            while True:
                try:
                    drive.open()
                    return drive
                except NotReady as error:
                    if waited_s >= LOAD_LIMIT_S:
                        raise DriveDead(f"{drive.name} is not ready after hours: {error}") from None
                    self._hands.say(f"{drive.name}: {error}")
                self._hands.pause(LOOK_S)
                waited_s += LOOK_S
        finally:
            self._hands.say("")

    def _give_up(self, drive: Drive, error: TapeError) -> None:
        log.warning("%s is not used any more: %s", drive.name, error)
        self._hands.dead.add(drive.number)
        self._why_dead = error
        self._hands.record(
            Faulted(time_ns=self._hands.now_ns(), label_id="", drive=drive.number, what=str(error))
        )

    def dead(self, drive: Drive, error: TapeError) -> None:
        """A drive failed at its work: bring out what is in it, and use it no more."""
        self._give_up(drive, error)
        try:
            self._rescue(drive)
        except ChangerJam as jam:
            log.warning("the cartridge in %s is stuck: %s", drive.name, jam)

    def _rescue(self, drive: Drive) -> int:
        """Bring the cartridge out of a dead drive; the slot that it is in. ChangerJam."""
        self._labels.pop(drive.number, None)
        drive.close()
        return self._unload(drive)

    def _drive(self, number: int) -> Drive:
        return next(drive for drive in self._hands.drives if drive.number == number)

    # --- putting away ---------------------------------------------------------------------------

    def put_away(self, drive: Drive) -> int:
        """Bring the cartridge of a drive back into a slot; its number, 0 when the drive is empty.

        ChangerJam.
        """
        if not self._changer.inventory().drives[drive.number].full:
            return 0
        drive.close()
        label = self._labels.pop(drive.number, None)
        slot = self._unload(drive)
        if label is not None:
            self._moved(label, "slot", slot, label.barcode)
        return slot

    def put_all_away(self) -> None:
        """Bring every cartridge back; drives that are dead keep theirs if they must."""
        for drive in self._hands.drives:
            try:
                self.put_away(drive)
            except ChangerJam as error:
                log.warning("%s: %s", drive.name, error)

    def _unload(self, drive: Drive) -> int:
        slot = self._home(drive.number)
        for turn in range(LOADS):
            try:
                self._changer.unload(drive.number, slot)
                break
            except ChangerJam:
                if not self._changer.inventory().drives[drive.number].full:
                    break
                if turn == LOADS - 1:
                    raise
                self._hands.pause(LOOK_S)
        return slot

    def _home(self, number: int) -> int:
        """An empty slot for the cartridge of a drive: the one that it came from if that is free."""
        there = self._changer.inventory()
        origin = there.drives[number].origin
        empty = [slot.number for slot in there.slots if not slot.full]
        if origin in empty:
            return origin
        if not empty:
            raise ChangerJam(
                f"no slot is free for the cartridge in drive {number}",
                "take a cartridge out of the library: cdpfs tape export",
            )
        return empty[0]

    def move(self, label: Label, source: int, target: int) -> None:
        """Bring a cartridge from one slot to another, doors included. ChangerJam."""
        self._changer.transfer(source, target)
        is_door = any(door.number == target for door in self._changer.inventory().doors)
        self._moved(label, "door" if is_door else "slot", target, label.barcode)

    # --- cleaning -------------------------------------------------------------------------------

    def _wants_cleaning(self, drive: Drive) -> bool:
        try:
            return drive.status().cleaning_requested
        except TapeError:
            return False

    def _is_cleaning(self, element: Element) -> bool:
        return element.barcode.startswith(self._hands.cleaning_prefix)

    def clean(self, drive: Drive) -> bool:
        """Clean an empty drive, if there is a cleaning cartridge that is not used up; was there?

        ChangerJam when it can't be brought back.
        """
        hands = self._hands
        for slot in self._changer.inventory().slots:
            if not (slot.full and self._is_cleaning(slot)):
                continue
            if hands.cleanings(slot.barcode) >= hands.cleaning_uses:
                log.info("the cleaning cartridge %s is used up", slot.barcode)
                continue
            hands.say(f"{drive.name}: cleaning")
            try:
                self._changer.load(slot.number, drive.number)
                hands.record(
                    Cleaned(time_ns=hands.now_ns(), barcode=slot.barcode, drive=drive.number)
                )
                self._take_cleaned(drive, slot.number)
            finally:
                hands.say("")
            return True
        log.info("%s asks to be cleaned, and there is no cleaning cartridge for it", drive.name)
        return False

    def _take_cleaned(self, drive: Drive, slot: int) -> None:
        """Bring the cleaning cartridge back: a drive holds on to it for as long as it cleans."""
        waited_s = 0.0
        while True:
            try:
                self._changer.unload(drive.number, slot)
                return
            except ChangerJam:
                if waited_s >= CLEANING_LIMIT_S:
                    raise
            self._hands.pause(LOOK_S)
            waited_s += LOOK_S

    def _moved(self, label: Label, place: Place, number: int, barcode: str) -> None:
        self._hands.record(
            Moved(
                time_ns=self._hands.now_ns(),
                label_id=label.label_id,
                place=place,
                number=number,
                barcode=barcode,
            )
        )


def _full(there: Inventory) -> Iterator[tuple[Element, bool]]:
    """Everything with a cartridge in it: drives first, since nothing has to be carried there."""
    for kind in (there.drives, there.slots, there.doors):
        for element in kind:
            if element.full:
                yield element, kind is there.drives


def _read_label(drive: Drive) -> Label:
    """NoLabel also when the cartridge begins with an empty file: blank only if that is all."""
    try:
        return read_label(blocks_of(drive))
    except NoLabel as error:
        if not error.blank:
            raise
        try:
            drive.read_block()
        except EndOfData:
            raise error from None
        raise NoLabel(
            "what is on the cartridge begins with an empty file, and is none of cdpfs's",
            blank=False,
            hint="if nobody needs it: cdpfs tape label --force",
        ) from error


def _named(element: Element) -> str:
    return f"{element.barcode or 'the cartridge'} in slot {element.number}"
