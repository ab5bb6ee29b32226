"""A tape library in a folder, and what a person does at one.

Duty: make a virtual library; its drives and changer; cartridges that come and go through the
import slots. Blocking calls; one thread. `tape.library` opens it, and holds the lock.

    slots.json            who is where
    cartridges/BARCODE/   each cartridge, also of those that were taken out
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from store import durable
from tape.errors import BadSettings, NoSuchCartridge, TapeError, TemporaryTapeError
from tape.layout import Barcode
from tape.virtual_cartridge import CartridgeFacts, read_facts, write_facts
from tape.virtual_changer import VirtualChanger
from tape.virtual_drive import InDrive, VirtualDrive
from tape.virtual_places import CARTRIDGES_NAME, MAX_ELEMENTS, InDriveNote, Places, PlacesFile

CLEANINGS_PER_CARTRIDGE = 50
MAX_BARCODE_NUMBER = 99_999
_Elements = Annotated[int, msgspec.Meta(ge=1, le=MAX_ELEMENTS)]


class VirtualShape(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How large a virtual library is."""

    slots: _Elements
    doors: _Elements
    """Import/export slots."""
    drives: Annotated[int, msgspec.Meta(ge=1, le=64)]
    capacity_bytes: Annotated[int, msgspec.Meta(ge=64 << 10, le=1 << 60)]
    early_warning_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
    """How much room is left on a cartridge when the early warning comes."""
    barcode_prefix: Annotated[str, msgspec.Meta(pattern="^[A-Z]{1,3}$")] = "A"


class VirtualLibrary:
    """The library in `home`. It has to be made by `make` first."""

    def __init__(self, home: Path, shape: VirtualShape, cleaning_prefix: str) -> None:
        self._home = home
        self._shape = shape
        self._places = PlacesFile(home, cleaning_prefix)
        self._opened: set[int] = set()
        self.changer = VirtualChanger(self._places, self._opened)
        self.drives = tuple(self._drive(number) for number in range(shape.drives))

    def make(self, cartridges: int, cleaning_cartridges: int) -> None:
        """Fill the slots with blank cartridges, cleaning ones in the last. BadSettings."""
        shape = self._shape
        if cartridges + cleaning_cartridges > shape.slots:
            raise BadSettings(
                f"{cartridges} cartridges and {cleaning_cartridges} for cleaning are more than "
                f"{shape.slots} slots"
            )
        barcodes = [self._barcode(number) for number in range(1, cartridges + 1)]
        cleaning = [f"CLN{number:03d}L1" for number in range(1, cleaning_cartridges + 1)]
        for barcode in barcodes:
            self._make_blank(barcode)
        for barcode in cleaning:
            facts = CartridgeFacts(capacity_bytes=0, cleanings_left=CLEANINGS_PER_CARTRIDGE)
            write_facts(self._places.folder(barcode), facts)
        empty = shape.slots - cartridges - cleaning_cartridges
        self._places.write(
            Places(
                slots=[*barcodes, *[""] * empty, *cleaning],
                doors=[""] * shape.doors,
                drives=[InDriveNote() for _ in range(shape.drives)],
            )
        )

    def insert_blank(self, barcode: str = "", count: int = 1) -> list[tuple[int, str]]:
        """A person puts new cartridges into import slots: their numbers and barcodes."""
        inserted = []
        for _ in range(count):
            name = barcode or self._next_barcode()
            _check_barcode(name)
            if self._places.folder(name).exists():
                raise TapeError(f"there is a cartridge {name} already", "choose another barcode")
            self._free_door(self._places.read())
            self._make_blank(name)
            inserted.append((self.insert(name), name))
        return inserted

    def insert(self, barcode: str) -> int:
        """A person puts a cartridge that was outside into an import slot: its number."""
        _check_barcode(barcode)
        places = self._places.read()
        if not self._places.folder(barcode).is_dir():
            raise NoSuchCartridge(f"there is no cartridge {barcode} in {self._home}")
        if barcode in places.barcodes():
            raise TapeError(f"{barcode} is in the library already", "see cdpfs tape inventory")
        at = self._free_door(places)
        places.doors[at] = barcode
        self._places.write(places)
        return len(places.slots) + at + 1

    def take_out(self, door: int) -> str:
        """A person takes the cartridge out of an import/export slot: its barcode."""
        places = self._places.read()
        at = door - len(places.slots) - 1
        if not 0 <= at < len(places.doors) or not places.doors[at]:
            raise NoSuchCartridge(f"there is no cartridge in import/export slot {door}")
        barcode, places.doors[at] = places.doors[at], ""
        self._places.write(places)
        return barcode

    def outside(self) -> list[str]:
        """The cartridges that are known here and not in the library."""
        inside = self._places.read().barcodes()
        folders = (self._home / CARTRIDGES_NAME).iterdir()
        return sorted(folder.name for folder in folders if folder.name not in inside)

    def set_write_protected(self, barcode: str, protected: bool) -> None:
        """A person moves the tab on a cartridge."""
        _check_barcode(barcode)
        folder = self._places.folder(barcode)
        facts = msgspec.structs.replace(read_facts(folder), write_protected=protected)
        write_facts(folder, facts)

    def request_cleaning(self, drive: int) -> None:
        """Have a drive ask for cleaning until a cleaning cartridge has been in it."""
        places = self._places.read()
        places.drives[drive].cleaning_requested = True
        self._places.write(places)

    def cartridge_folder(self, barcode: str) -> Path:
        """Where a cartridge's files are."""
        return self._places.folder(barcode)

    def _drive(self, number: int) -> VirtualDrive:
        def taken(opened: bool) -> None:
            if opened:
                self._opened.add(number)
            else:
                self._opened.discard(number)

        def what() -> InDrive:
            note = self._places.read().drives[number]
            folder = self._places.folder(note.barcode) if note.barcode else None
            cleaning = self._places.is_cleaning(note.barcode)
            return InDrive(folder, cleaning, note.cleaning_requested)

        return VirtualDrive(number, f"virtual drive {number}", what, taken)

    def _make_blank(self, barcode: str) -> None:
        facts = CartridgeFacts(
            capacity_bytes=self._shape.capacity_bytes,
            early_warning_bytes=self._shape.early_warning_bytes,
        )
        write_facts(self._places.folder(barcode), facts)

    def _barcode(self, number: int) -> str:
        if number > MAX_BARCODE_NUMBER:
            raise BadSettings("there are no barcodes left", "name the cartridge's barcode")
        return f"{self._shape.barcode_prefix}{number:05d}L8"

    def _next_barcode(self) -> str:
        prefix = self._shape.barcode_prefix
        numbers = [
            int(folder.name[len(prefix) : -2])
            for folder in (self._home / CARTRIDGES_NAME).iterdir()
            if folder.name.startswith(prefix) and folder.name[len(prefix) : -2].isdigit()
        ]
        return self._barcode(max(numbers, default=0) + 1)

    def _free_door(self, places: Places) -> int:
        if "" not in places.doors:
            raise TemporaryTapeError(
                "no import/export slot is free", "have cdpfs tape import take in what is there"
            )
        return places.doors.index("")


def make_folders(home: Path) -> None:
    """The folders of a virtual library, durably."""
    durable.make_dir(home / CARTRIDGES_NAME)


def _check_barcode(barcode: str) -> None:
    """NoSuchCartridge for what can't be one: it becomes the name of a folder."""
    try:
        msgspec.convert(barcode, Barcode)
    except msgspec.ValidationError:
        raise NoSuchCartridge(f"{barcode!r} is no barcode") from None
    if barcode in ("", ".", ".."):
        raise NoSuchCartridge(f"{barcode!r} is no barcode")
