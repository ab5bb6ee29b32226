"""What an inventory of the robot says about the books. Pure.

Duty: from the barcodes that the robot reads, the movements that need no proof, and the places whose
cartridge has to show its label. A cartridge that was in the library and is in another slot now is
known by its barcode; one that comes from outside, or whose barcode can't be read or is there twice,
is not.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from tape.catalogue import AnyEvent, Moved, Place, Stranger
from tape.catalogue_state import Cartridge, State
from tape.changer import Element, Inventory
from tape.choice import is_cleaning


class Stock(NamedTuple):
    """What was found."""

    events: tuple[AnyEvent, ...]
    """To be recorded, in this order; none when everything is where the books have it."""
    unread: tuple[Element, ...]
    """Slots and doors whose cartridge can only be known by its label."""


def take_stock(state: State, inventory: Inventory, cleaning_prefix: str, now_ns: int) -> Stock:
    """Compare the books with an inventory taken at `now_ns`."""
    return _Stocktaking(state, inventory, cleaning_prefix, now_ns).result()


class _Stocktaking:
    def __init__(self, state: State, inventory: Inventory, prefix: str, now_ns: int) -> None:
        self._state = state
        self._inventory = inventory
        self._prefix = prefix
        self._now_ns = now_ns
        self._events: list[AnyEvent] = []
        self._unread: list[Element] = []
        self._found: set[str] = set()
        places = (*inventory.drives, *inventory.slots, *inventory.doors)
        self._seen = Counter(each.barcode for each in places if each.full and each.barcode)

    def result(self) -> Stock:
        for element in self._inventory.drives:
            self._look(element, "drive")
        for element in self._inventory.slots:
            self._look(element, "slot")
        for element in self._inventory.doors:
            self._look(element, "door")
        lost = [
            self._moved(each, *self._gone(each))
            for each in self._state.cartridges.values()
            if each.present and each.label_id not in self._found
        ]
        # Those first that are there no more: then nobody is driven out of a place.
        return Stock((*self._strangers(), *lost, *self._events), tuple(self._unread))

    def _look(self, element: Element, place: Place) -> None:
        if not element.full or is_cleaning(element.barcode, self._prefix):
            return
        cartridge = self._known(element, place)
        if cartridge is not None:
            self._found.add(cartridge.label_id)
            if (cartridge.place, cartridge.number) != (place, element.number):
                self._events.append(self._moved(cartridge, place, element.number))
        elif place != "drive" and not self._looked_at(element):
            self._unread.append(element)
            self._seen_anew(element, place == "door")

    def _seen_anew(self, element: Element, door: bool) -> None:
        stranger = self._state.strangers.get(element.number)
        if stranger is None or stranger.barcode != element.barcode:
            self._events.append(
                Stranger(
                    time_ns=self._now_ns,
                    barcode=element.barcode,
                    slot=element.number,
                    finding="unknown",
                    door=door,
                )
            )

    def _known(self, element: Element, place: Place) -> Cartridge | None:
        """The cartridge that it must be; None: only its label can tell."""
        there = next(
            (
                each
                for each in self._state.cartridges.values()
                if (each.place, each.number) == (place, element.number)
            ),
            None,
        )
        if not element.barcode:
            return there
        claims = self._state.claims(element.barcode)
        if there is not None and there in claims:
            return there
        if len(claims) == 1 and claims[0].present and self._seen[element.barcode] == 1:
            return claims[0]
        return None

    def _looked_at(self, element: Element) -> bool:
        stranger = self._state.strangers.get(element.number)
        return (
            stranger is not None
            and stranger.barcode == element.barcode
            and stranger.finding not in ("unknown", "unreadable")
        )

    def _gone(self, cartridge: Cartridge) -> tuple[Place, int, str]:
        """From a door it went where its note says; from elsewhere nobody knows."""
        if cartridge.place == "door":
            return "outside", 0, cartridge.note
        return "missing", 0, ""

    def _moved(self, cartridge: Cartridge, place: Place, number: int, note: str = "") -> Moved:
        return Moved(
            time_ns=self._now_ns,
            label_id=cartridge.label_id,
            place=place,
            number=number,
            note=note or (cartridge.note if place == "door" else ""),
        )

    def _strangers(self) -> list[AnyEvent]:
        """Strangers that are in their slots no more."""
        elements = {each.number: each for each in (*self._inventory.slots, *self._inventory.doors)}
        found: list[AnyEvent] = []
        for slot, stranger in self._state.strangers.items():
            element = elements.get(slot)
            if element is None or not element.full or element.barcode != stranger.barcode:
                found.append(
                    Stranger(
                        time_ns=self._now_ns, barcode=stranger.barcode, slot=slot, finding="gone"
                    )
                )
        return found
