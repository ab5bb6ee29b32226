"""Who is where in a virtual library: one note, replaced as a whole.

Duty: types, reading and durable writing of `slots.json`, and what a cleaning cartridge does when it
comes into a drive. Blocking calls; one thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from store import durable
from tape.errors import BadSettings
from tape.layout import Barcode
from tape.virtual_cartridge import read_facts, write_facts

PLACES_NAME = "slots.json"
CARTRIDGES_NAME = "cartridges"
MAX_ELEMENTS = 10_000
_MAX_JSON_BYTES = 4 << 20
_Row = Annotated[list[Barcode], msgspec.Meta(max_length=MAX_ELEMENTS)]


class InDriveNote(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is in a drive, and from which slot it came."""

    barcode: Barcode = ""
    origin: int = 0
    cleaning_requested: bool = False


class Places(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The barcode at each place; empty for none."""

    slots: _Row
    doors: _Row
    drives: Annotated[list[InDriveNote], msgspec.Meta(max_length=MAX_ELEMENTS)]

    def barcodes(self) -> list[str]:
        """Of everything that is in the library."""
        every = [*self.slots, *self.doors, *(drive.barcode for drive in self.drives)]
        return [barcode for barcode in every if barcode]


class PlacesFile:
    """`slots.json` of the library in `home`."""

    def __init__(self, home: Path, cleaning_prefix: str) -> None:
        self.path = home / PLACES_NAME
        self._cartridges = home / CARTRIDGES_NAME
        self._cleaning_prefix = cleaning_prefix

    def read(self) -> Places:
        """Who is where. BadSettings."""
        try:
            with self.path.open("rb") as file:
                return msgspec.json.decode(file.read(_MAX_JSON_BYTES), type=Places)
        except (OSError, msgspec.DecodeError) as error:
            hint = "take it from a copy of the library"
            raise BadSettings(f"{self.path}: {error}", hint) from error

    def write(self, places: Places) -> None:
        """Durable when it returns; after a crash it is the old or the new one."""
        durable.write_file_atomically(self.path, msgspec.json.encode(places))

    def folder(self, barcode: str) -> Path:
        """Where the cartridge itself is kept."""
        return self._cartridges / barcode

    def is_cleaning(self, barcode: str) -> bool:
        """Whether it cleans drives instead of holding data."""
        return bool(self._cleaning_prefix) and barcode.startswith(self._cleaning_prefix)

    def cleaned(self, places: Places, drive: int) -> None:
        """What a drive does with the cartridge that has just come in: it cleans itself, maybe."""
        note = places.drives[drive]
        if not self.is_cleaning(note.barcode):
            return
        facts = read_facts(self.folder(note.barcode))
        if facts.cleanings_left:
            note.cleaning_requested = False
            left = facts.cleanings_left - 1
            write_facts(
                self.folder(note.barcode), msgspec.structs.replace(facts, cleanings_left=left)
            )
