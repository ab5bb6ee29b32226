"""What a tape changer does, whichever it is: the interface and its laws.

Duty: types only. Every implementation passes `tests/contract/changer.py`. All calls block; a
changer is used by one thread at a time. Slots count from 1, import/export slots go on behind the
last storage slot, drives count from 0: the numbers of the well-known mtx-changer contract.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Element(NamedTuple):
    """One place for a cartridge."""

    number: int
    full: bool
    barcode: str = ""
    """Empty when there is none, or it can't be read."""
    origin: int = 0
    """Of a drive: the slot that its cartridge came from; 0 when that is not known."""


class Inventory(NamedTuple):
    """What is where."""

    drives: tuple[Element, ...]
    slots: tuple[Element, ...]
    """Storage slots, by number."""
    doors: tuple[Element, ...]
    """Import/export slots, by number."""


class Changer(Protocol):
    """A robot with slots, import/export slots and drives."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def inventory(self, rescan: bool = False) -> Inventory:
        """What is where; `rescan` has the robot look at its barcodes again. ChangerJam."""
        ...

    def load(self, slot: int, drive: int) -> None:
        """Put the cartridge of a slot (of either kind) into an empty drive.

        ChangerJam when it didn't, also when the slot is empty or the drive is full: afterwards
        `inventory` tells where the cartridge is.
        """
        ...

    def unload(self, drive: int, slot: int) -> None:
        """Put the cartridge of a drive into an empty slot (of either kind). ChangerJam."""
        ...

    def transfer(self, source: int, target: int) -> None:
        """Move a cartridge between two slots of any kind. ChangerJam."""
        ...
