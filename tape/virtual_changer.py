"""The changer of the virtual library.

Duty: `tape.changer.Changer` over the note of who is where. Blocking calls; one thread. Each
movement is one atomic, durable step: after a kill or a power cut the cartridge is here or there.
"""

from __future__ import annotations

from tape.changer import Element, Inventory
from tape.errors import ChangerJam
from tape.virtual_places import InDriveNote, Places, PlacesFile


class VirtualChanger:
    """A `Changer`."""

    def __init__(self, places: PlacesFile, opened: set[int]) -> None:
        self._places = places
        self._opened = opened
        self.name = f"virtual changer {places.path.parent}"

    def inventory(self, rescan: bool = False) -> Inventory:
        """See `Changer.inventory`."""
        places = self._places.read()
        slots = [
            Element(number, bool(barcode), barcode)
            for number, barcode in enumerate([*places.slots, *places.doors], 1)
        ]
        drives = tuple(
            Element(number, bool(drive.barcode), drive.barcode, drive.origin)
            for number, drive in enumerate(places.drives)
        )
        stop = len(places.slots)
        return Inventory(drives, tuple(slots[:stop]), tuple(slots[stop:]))

    def load(self, slot: int, drive: int) -> None:
        """See `Changer.load`."""
        places = self._places.read()
        note = self._drive(places, drive)
        if note.barcode:
            raise ChangerJam(f"drive {drive} is full: {note.barcode} is in it")
        barcode = self._take(places, slot)
        places.drives[drive] = InDriveNote(
            barcode=barcode, origin=slot, cleaning_requested=note.cleaning_requested
        )
        self._places.cleaned(places, drive)
        self._places.write(places)

    def unload(self, drive: int, slot: int) -> None:
        """See `Changer.unload`."""
        places = self._places.read()
        note = self._drive(places, drive)
        if not note.barcode:
            raise ChangerJam(f"drive {drive} is empty")
        if drive in self._opened:
            raise ChangerJam(f"drive {drive} does not let go of {note.barcode}")
        self._put(places, slot, note.barcode)
        places.drives[drive] = InDriveNote(cleaning_requested=note.cleaning_requested)
        self._places.write(places)

    def transfer(self, source: int, target: int) -> None:
        """See `Changer.transfer`."""
        places = self._places.read()
        self._put(places, target, self._take(places, source))
        self._places.write(places)

    def _drive(self, places: Places, drive: int) -> InDriveNote:
        if not 0 <= drive < len(places.drives):
            raise ChangerJam(f"there is no drive {drive}")
        return places.drives[drive]

    def _take(self, places: Places, slot: int) -> str:
        row, at = _row(places, slot)
        barcode = row[at]
        if not barcode:
            raise ChangerJam(f"slot {slot} is empty")
        row[at] = ""
        return barcode

    def _put(self, places: Places, slot: int, barcode: str) -> None:
        row, at = _row(places, slot)
        if row[at]:
            raise ChangerJam(f"slot {slot} is full: {row[at]} is in it")
        row[at] = barcode


def _row(places: Places, slot: int) -> tuple[list[str], int]:
    """The list that a slot of either kind is in, and where."""
    if 0 < slot <= len(places.slots):
        return places.slots, slot - 1
    if 0 < slot <= len(places.slots) + len(places.doors):
        return places.doors, slot - len(places.slots) - 1
    raise ChangerJam(f"there is no slot {slot}")
