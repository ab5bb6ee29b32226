"""Which cartridge next: to write to, to give up, to clean with. Pure.

Duty: choices from what the books and the robot's inventory say. Whoever carries them out reads the
label of a cartridge before it writes to it; a barcode alone proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, Literal, NamedTuple

from tape.catalogue_state import Cartridge, State
from tape.changer import Element, Inventory
from tape.errors import NoScratch
from tape.retention import Retention

MAX_CLEANINGS: Final = 50
"""How often a cleaning cartridge is used, as their makers say."""


class Next(NamedTuple):
    """A cartridge to write to."""

    how: Literal["append", "scratch", "unknown", "recycle"]
    """`append`: behind its last archive. `scratch`: it gets a new label first. `unknown`: it is not
    on the books; if it is blank it gets a label, else it is noted as a stranger. `recycle`: what is
    on it is given up (`Recycled`), then it is scratch."""
    cartridge: Cartridge | None
    """None for an unknown one."""
    slot: int = 0
    """Of an unknown one."""
    barcode: str = ""


def is_cleaning(barcode: str, prefix: str) -> bool:
    """Is it a cleaning cartridge? Those never hold data."""
    return bool(prefix) and barcode.upper().startswith(prefix.upper())


class Chooser:
    """Choices for one state, one inventory and one time (ns since 1970, UTC)."""

    def __init__(
        self, state: State, inventory: Inventory, cleaning_prefix: str, now_ns: int
    ) -> None:
        self._state = state
        self._inventory = inventory
        self._prefix = cleaning_prefix
        self._now_ns = now_ns

    def next_cartridge(
        self, volume_uuid: str, pool: str, without: Collection[str | int] = ()
    ) -> Next:
        """What a pool of a volume writes to next. NoScratch.

        `without`: the label ids, and the slots of unknown ones, that were tried and were no good.
        """
        for found in self._candidates(volume_uuid, pool):
            name = found.slot if found.cartridge is None else found.cartridge.label_id
            if name not in without:
                return found
        raise NoScratch(
            f"no cartridge in the library may be written for the pool {pool}: "
            f"{self._why_none(volume_uuid)}"
        )

    def _candidates(self, volume_uuid: str, pool: str) -> Iterator[Next]:
        reachable = [each for each in self._state.cartridges.values() if self._in_reach(each)]
        appendable = [
            each
            for each in reachable
            if each.appendable and (each.label.volume_uuid, each.label.pool) == (volume_uuid, pool)
        ]
        for each in sorted(appendable, key=lambda c: -len(c.archives)):
            yield Next("append", each, barcode=each.barcode)
        for each in sorted(self.scratch(), key=lambda c: (c.recycled_ns, c.number)):
            yield Next("scratch", each, barcode=each.barcode)
        for element in self.unknown():
            yield Next("unknown", None, element.number, element.barcode)
        for each in Retention(self._state, self._now_ns).recyclable():
            if self._in_reach(each) and not each.scratch:
                yield Next("recycle", each, barcode=each.barcode)

    def _in_reach(self, cartridge: Cartridge) -> bool:
        """In a slot or drive; what lies in a door is on its way out or in."""
        return cartridge.place in ("slot", "drive") and not is_cleaning(
            cartridge.barcode, self._prefix
        )

    def scratch(self) -> list[Cartridge]:
        """The cartridges on the books that any pool may take now."""
        return [
            each
            for each in self._state.cartridges.values()
            if each.scratch and self._in_reach(each)
        ]

    def unknown(self) -> list[Element]:
        """The storage slots with a cartridge that is not on the books and may be blank.

        Not one whose barcode is that of another cartridge: one of the two would be taken for the
        other for ever.
        """
        known = {each.number for each in self._state.cartridges.values() if each.place == "slot"}
        return [
            element
            for element in self._inventory.slots
            if element.full
            and element.number not in known
            and not is_cleaning(element.barcode, self._prefix)
            and not (element.barcode and self._state.claims(element.barcode))
            and self._may_be_blank(element)
        ]

    def _may_be_blank(self, element: Element) -> bool:
        stranger = self._state.strangers.get(element.number)
        return (
            stranger is None
            or stranger.barcode != element.barcode
            or stranger.finding in ("unknown", "blank", "unreadable")
        )

    def scratch_left(self) -> int:
        """How many cartridges are free, those included that were not looked at yet."""
        return len(self.scratch()) + len(self.unknown())

    def to_recycle(self, min_scratch: int) -> Cartridge | None:
        """The cartridge to give up now, so that enough are free; None: there are, or none may go.

        Give it up, and ask again.
        """
        if self.scratch_left() >= min_scratch:
            return None
        found = Retention(self._state, self._now_ns).recyclable()
        return next((each for each in found if self._in_reach(each) and not each.scratch), None)

    def cleaning_cartridge(self, max_cleanings: int = MAX_CLEANINGS) -> Element | None:
        """The slot of a cleaning cartridge that is not used up; the least used one."""
        fit = [
            element
            for element in self._inventory.slots
            if element.full
            and is_cleaning(element.barcode, self._prefix)
            and self._state.cleanings.get(element.barcode, 0) < max_cleanings
        ]
        return min(
            fit, key=lambda e: (self._state.cleanings.get(e.barcode, 0), e.number), default=None
        )

    def _why_none(self, volume_uuid: str) -> str:
        """For people: what is in the library instead."""
        retention = Retention(self._state, self._now_ns)
        reasons: dict[str, int] = {}
        for each in self._state.cartridges.values():
            if not self._in_reach(each):
                continue
            if each.retired_ns:
                why = "retired"
            else:
                why = retention.why_cartridge_kept(each) or "of no use just now"
            reasons[why] = reasons.get(why, 0) + 1
        strangers = sum(
            each.finding not in ("unknown", "blank") for each in self._state.strangers.values()
        )
        if strangers:
            reasons["without a label of this library"] = strangers
        told = "; ".join(f"{count}: {why}" for why, count in reasons.items())
        return told or "there are none"
