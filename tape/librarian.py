"""A person's work with the cartridges: which is which, what comes in, what goes out, new labels.

Duty: the steps of `cdpfs tape inventory | import | export | label`, with the robot and the books.
A cartridge is who its label says; its barcode only says where to look. Nothing is written to one
whose label was not read just before. Blocking; one thread; the library's lock is held.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, NamedTuple

from tape.catalogue import (
    NO_VOLUME,
    SCRATCH_POOL,
    AnyEvent,
    CartridgeClosed,
    Finding,
    Moved,
    Recycled,
    SetClosed,
    Stranger,
)
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import Cartridge, State
from tape.changer import Element
from tape.choice import is_cleaning
from tape.drive import Drive
from tape.errors import (
    BadCartridge,
    ChangerJam,
    MediaError,
    NeedsCartridge,
    NewerCartridge,
    NoLabel,
    NoSuchCartridge,
    TapeError,
    WriteProtected,
    WrongCartridge,
)
from tape.inventory import take_inventory
from tape.labelling import label_events, write_label
from tape.layout import Label
from tape.library import Library
from tape.retention import Retention
from tape.robot import Hands, Robot

NO_ROOM: Final = "no storage slot is free"

What = Literal["known", "cleaning"] | Finding


class Found(NamedTuple):
    """A cartridge that was looked at."""

    slot: int
    """Where it is now."""
    barcode: str
    what: What
    cartridge: Cartridge | None = None
    """Of a known one."""
    note: str = ""


class Librarian:
    """Works with one open library."""

    def __init__(
        self,
        library: Library,
        catalogue: CatalogueFile,
        say: Callable[[str], None] = lambda text: None,
        now_ns: Callable[[], int] = time.time_ns,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._library = library
        self._catalogue = catalogue
        self._now_ns = now_ns
        self._changer = library.changer
        self._prefix = library.settings.cleaning_prefix
        self.robot = Robot(
            Hands(
                library.changer,
                library.drives,
                self._record_known,
                now_ns,
                pause,
                say,
                self._prefix,
                lambda barcode: catalogue.state.cleanings.get(barcode, 0),
            )
        )

    @property
    def state(self) -> State:
        """The books."""
        return self._catalogue.state

    def take_inventory(self, rescan: bool = False) -> tuple[Element, ...]:
        """Empty the drives and record what is where; the places that only labels can tell."""
        self.robot.put_all_away()
        return take_inventory(self._library, self._catalogue, self._now_ns(), rescan)

    def _record_known(self, event: AnyEvent) -> None:
        """Movements of cartridges that are not on the books are nobody's."""
        if not isinstance(event, Moved) or event.label_id in self.state.cartridges:
            self._catalogue.append(event)

    # --- who is it ------------------------------------------------------------------------------

    def identify(self, element: Element) -> Found:
        """Read the label of what is in a slot or door, and put it into a storage slot.

        What it is goes into the books. ChangerJam, DriveDead.
        """
        if is_cleaning(element.barcode, self._prefix):
            return Found(element.number, element.barcode, "cleaning")
        drive = self.robot.take(element.number)
        what, note, label = self._read(drive)
        self.robot.put_away(drive)
        slot = self._slot_of(element)
        cartridge = self.state.cartridges.get(label.label_id) if label is not None else None
        if cartridge is not None:
            return Found(slot, element.barcode, "known", cartridge)
        self._note(slot, element.barcode, what, note)
        return Found(slot, element.barcode, what, note=note)

    def _read(self, drive: Drive) -> tuple[Finding, str, Label | None]:
        try:
            label = self.robot.label_of(drive)
        except NoLabel as error:
            return ("blank" if error.blank else "foreign"), str(error), None
        except NewerCartridge as error:
            return "newer", str(error), None
        except (BadCartridge, MediaError) as error:
            return "unreadable", str(error), None
        if label.label_id in self.state.cartridges:
            return "foreign", "", label
        if label.library_id == self._library.settings.uuid:
            note = "it has a label of this library that is not on the books: cdpfs tape scan"
        else:
            note = (
                f"it belongs to another library ({label.volume_name}, pool {label.pool}); to read"
                " it here: cdpfs tape scan"
            )
        return "foreign", note, label

    def _slot_of(self, element: Element) -> int:
        """Where the robot put what it took from there: back, or into the first slot that is full
        of it now. The inventory before and after tell."""
        inventory = self._changer.inventory()
        places = (*inventory.slots, *inventory.doors)
        there = next(each for each in places if each.number == element.number)
        if there.full:
            return there.number
        known = {each.number for each in self.state.cartridges.values() if each.place == "slot"}
        fit = [
            each
            for each in inventory.slots
            if each.full and each.barcode == element.barcode and each.number not in known
        ] or [each for each in inventory.slots if each.full and each.barcode == element.barcode]
        return fit[0].number if fit else element.number

    def _note(
        self, slot: int, barcode: str, finding: Finding, note: str, door: bool = False
    ) -> None:
        known = self.state.strangers.get(slot)
        if known is None or (known.barcode, known.finding) != (barcode, finding):
            self._catalogue.append(
                Stranger(
                    time_ns=self._now_ns(),
                    barcode=barcode,
                    slot=slot,
                    finding=finding,
                    door=door,
                    note=note,
                )
            )

    # --- in and out -----------------------------------------------------------------------------

    def take_in(self) -> tuple[list[Found], list[Found]]:
        """Bring in what lies in the import slots: what was taken in, and what was not.

        What is no good, or finds no room, stays in its door. ChangerJam.
        """
        taken, refused = [], []
        for door in self._changer.inventory().doors:
            if not door.full:
                continue
            if not self._free_slots():
                refused.append(Found(door.number, door.barcode, "unknown", note=NO_ROOM))
                continue
            found, why_not = self._take_in(door)
            if why_not is None:
                taken.append(found)
            else:
                refused.append(found._replace(slot=door.number, note=why_not))
        return taken, refused

    def _take_in(self, door: Element) -> tuple[Found, str | None]:
        """Bring in what lies in a door; why it is back there, if it is no good."""
        if is_cleaning(door.barcode, self._prefix):
            slot = self._free_slots()[0]
            self._changer.transfer(door.number, slot)
            return Found(slot, door.barcode, "cleaning"), None
        found = self.identify(door)
        clash = self._clash(found)
        if found.what in ("known", "blank") and not clash:
            return found, None
        if found.slot != door.number:
            self._changer.transfer(found.slot, door.number)
            self._note(found.slot, found.barcode, "gone", "")
        why_not = clash or found.note
        self._note(door.number, found.barcode, _finding(found), why_not, door=True)
        return found, why_not

    def _clash(self, found: Found) -> str:
        """A blank cartridge with the barcode of another one would be taken for it for ever."""
        if found.what != "blank" or not found.barcode:
            return ""
        claims = self.state.claims(found.barcode)
        if not claims:
            return ""
        return f"another cartridge has the barcode {found.barcode} already"

    def _free_slots(self) -> list[int]:
        return [each.number for each in self._changer.inventory().slots if not each.full]

    def send_out(self, cartridge: Cartridge, note: str) -> int:
        """Bring a cartridge to a free export slot, and close it; the door's number.

        Its open set, if it has one, is closed first: a new one begins at the next run. ChangerJam,
        also when no door is free; NeedsCartridge.
        """
        if cartridge.place == "door":
            return cartridge.number
        if not cartridge.present:
            raise NeedsCartridge(
                f"{cartridge.name} is not in the library", (cartridge.name,), "nothing to do"
            )
        free = [each.number for each in self._changer.inventory().doors if not each.full]
        if not free:
            raise ChangerJam("every export slot is full", "take out what lies there")
        self._close(cartridge)
        if cartridge.place == "drive":
            self.robot.put_all_away()
        self._changer.transfer(self._slot_with(cartridge), free[0])
        self._catalogue.append(
            Moved(
                time_ns=self._now_ns(),
                label_id=cartridge.label_id,
                place="door",
                number=free[0],
                note=note,
            )
        )
        return free[0]

    def _slot_with(self, cartridge: Cartridge) -> int:
        """The slot that it is in, by its barcode if the robot reads it. WrongCartridge."""
        slots = {each.number: each for each in self._changer.inventory().slots if each.full}
        there = slots.get(cartridge.number)
        if there is None or (there.barcode and there.barcode != cartridge.barcode):
            raise WrongCartridge(f"{cartridge.name} is not in slot {cartridge.number}")
        return there.number

    def _close(self, cartridge: Cartridge) -> None:
        now_ns = self._now_ns()
        events: list[AnyEvent] = [
            SetClosed(time_ns=now_ns, set_id=each.set_id, whole=each.whole)
            for each in self.state.sets_on(cartridge)
            if not each.closed_ns
        ]
        # An empty one can still be written when it comes back.
        if cartridge.archives and not cartridge.closed_ns:
            events.append(
                CartridgeClosed(time_ns=now_ns, label_id=cartridge.label_id, reason="exported")
            )
        if events:
            self._catalogue.append(*events)

    # --- labels -----------------------------------------------------------------------------------

    def label_scratch(self, element: Element, force: bool) -> Cartridge:
        """Give the cartridge in a slot a new label, so that any pool may take it.

        What holds sets that are kept is refused whatever is said. `force`: also what is foreign,
        newer or unreadable. BadCartridge, WriteProtected, MediaError.
        """
        drive = self.robot.take(element.number)
        try:
            replaces = self._may_be_labelled(drive, element, force)
            made = self._write_label(drive, element, replaces)
        except BaseException:
            with suppress(TapeError):
                self.robot.put_away(drive)
            raise
        self.robot.put_away(drive)
        return made

    def _may_be_labelled(self, drive: Drive, element: Element, force: bool) -> str:
        """The label that it has now, if that is on the books. BadCartridge."""
        name = element.barcode or f"the cartridge in slot {element.number}"
        finding, note, label = self._read(drive)
        known = self.state.cartridges.get(label.label_id) if label is not None else None
        others = [each for each in self.state.claims(element.barcode) if each is not known]
        if element.barcode and others:
            raise WrongCartridge(
                f"{name} has the barcode of another cartridge, label {others[0].label_id[:8]}",
                "give it another barcode",
            )
        if known is None:
            if finding != "blank" and not force:
                raise NoLabel(
                    f"{name} is not blank: {note}",
                    False,
                    "cdpfs tape label --force writes over it all the same",
                )
            return ""
        if known.retired_ns:
            raise BadCartridge(f"{name} is retired: {known.retired_reason}", "take another one")
        why = Retention(self.state, self._now_ns()).why_cartridge_kept(known)
        if known.archives and why:
            raise BadCartridge(f"{name} holds what is kept: {why}", "take another one")
        if known.archives:
            self._catalogue.append(Recycled(time_ns=self._now_ns(), label_id=known.label_id))
        return known.label_id

    def _write_label(self, drive: Drive, element: Element, replaces: str) -> Cartridge:
        now_ns = self._now_ns()
        label = Label(
            label_id=uuid.uuid4().hex,
            barcode=element.barcode,
            pool=SCRATCH_POOL,
            library_id=self._library.settings.uuid,
            volume_uuid=NO_VOLUME,
            volume_name="",
            block_bytes=self._library.settings.block_bytes,
            created_ns=now_ns,
        )
        self.robot.forget_label(drive)
        try:
            write_label(drive, label)
        except WriteProtected as error:
            if not replaces:
                self._note(element.number, element.barcode, "protected", str(error))
            raise
        self._catalogue.append(*label_events(label, drive, replaces, now_ns))
        self.robot.label_of(drive)
        return self.state.cartridge(label.label_id)


def find_cartridge(state: State, name: str) -> Cartridge:
    """The cartridge that a person names: by barcode, or by the beginning of its label's id.

    NoSuchCartridge, also when several fit.
    """
    found = state.claims(name) or [
        each
        for each in state.cartridges.values()
        if len(name) >= 4 and each.label_id.startswith(name.lower())
    ]
    if not found:
        raise NoSuchCartridge(f"no cartridge {name} is on the books")
    if len(found) > 1:
        ids = ", ".join(each.label_id[:8] for each in found)
        raise NoSuchCartridge(
            f"{len(found)} cartridges claim {name}", f"name one by its label: {ids}"
        )
    return found[0]


def _finding(found: Found) -> Finding:
    return "unknown" if found.what == "known" or found.what == "cleaning" else found.what
