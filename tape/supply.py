"""Which cartridge is written next, labelled and in a drive.

Duty: find a cartridge for a pool of a volume: the one that its set stands on, another one of the
pool with room, a scratch one, a blank one that nobody has looked at yet, and at last the one that
may be recycled. Before anything is written its label is read and compared: what is foreign, of
another library or newer is noted and left alone. Blocking; one thread; the library's lock is held.

The order when a cartridge becomes another one: what was on it is given up on the books, then its
label is written over, then the new label is on the books. Whoever was killed in between finds a
blank cartridge, or one with a label of this library that is not on the books and nothing behind
it: such a one may be labelled again.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tape.catalogue import CartridgeClosed, Faulted, Finding, Moved, Recycled, Stranger
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import Cartridge, State
from tape.changer import Element
from tape.choice import Chooser, Next
from tape.drive import Drive
from tape.errors import (
    BadCartridge,
    ChangerJam,
    EndOfData,
    MediaError,
    NeedsCartridge,
    NewerCartridge,
    NoLabel,
    TapeError,
    WriteProtected,
)
from tape.labelling import label_events, write_label
from tape.layout import Label
from tape.library import Library
from tape.robot import Robot, Wanted

log = logging.getLogger(__name__)

MAX_JAMS: Final = 3
"""So many cartridges may not be loadable in a run: then it is the changer."""


@dataclass(frozen=True)
class Owner:
    """For whom cartridges are wanted."""

    volume_uuid: str
    volume_name: str
    pool: str


class Supply:
    """Cartridges to write to, for one run."""

    def __init__(
        self,
        library: Library,
        catalogue: CatalogueFile,
        robot: Robot,
        now_ns: Callable[[], int],
        cut: Callable[[str], None],
    ) -> None:
        self._library = library
        self._catalogue = catalogue
        self._robot = robot
        self._now_ns = now_ns
        self._cut = cut
        self._jams = 0

    @property
    def _state(self) -> State:
        return self._catalogue.state

    def next_cartridge(self, owner: Owner) -> tuple[Drive, Cartridge]:
        """A cartridge of the owner's pool that takes archives, in an open drive. NoScratch."""
        tried: set[str | int] = set()
        while True:
            chooser = Chooser(
                self._state,
                self._library.changer.inventory(),
                self._library.settings.cleaning_prefix,
                self._now_ns(),
            )
            choice = chooser.next_cartridge(owner.volume_uuid, owner.pool, tried)
            tried.add(choice.slot if choice.cartridge is None else choice.cartridge.label_id)
            found = self._follow(choice, owner)
            if found is not None:
                return found

    def _follow(self, choice: Next, owner: Owner) -> tuple[Drive, Cartridge] | None:
        """Carry out a choice; None, with the books put right, when it was no good."""
        cartridge = choice.cartridge
        if cartridge is None:
            drive = self._robot.take(choice.slot)
            good = self._look(drive, choice.slot, choice.barcode)
            made = self._label(drive, owner, "") if good else None
            return None if made is None else (drive, made)
        scratch = choice.how == "scratch"
        fetched = self._of_scratch(cartridge) if scratch else self._fetched(cartridge)
        if fetched is None or choice.how == "append":
            return None if fetched is None else (fetched, cartridge)
        if choice.how == "recycle":
            log.info("%s is recycled", cartridge.name)
            self._catalogue.append(Recycled(time_ns=self._now_ns(), label_id=cartridge.label_id))
            self._cut("recycled")
        made = self._label(fetched, owner, cartridge.label_id)
        return None if made is None else (fetched, made)

    def _fetched(self, cartridge: Cartridge) -> Drive | None:
        """The drive with it; None, with the books put right, when it isn't where they say."""
        wanted = Wanted(cartridge.label_id, cartridge.barcode, cartridge.number)
        try:
            return self._robot.fetch(wanted)
        except NeedsCartridge as error:
            log.warning("%s", error)
            self._catalogue.append(
                Moved(time_ns=self._now_ns(), label_id=cartridge.label_id, place="missing")
            )
        except ChangerJam as error:
            self._jams += 1
            if self._jams >= MAX_JAMS:
                raise
            log.warning("%s stays where it is: %s", cartridge.name, error)
            what = f"it could not be loaded: {error}"
            self._catalogue.append(
                Faulted(time_ns=self._now_ns(), label_id=cartridge.label_id, drive=-1, what=what)
            )
        return None

    def _of_scratch(self, cartridge: Cartridge) -> Drive | None:
        """The drive with a cartridge that was given up; also when its label was being written."""
        for element in self._library.changer.inventory().slots:
            same = element.full and element.barcode and element.barcode == cartridge.barcode
            if same and element.number == cartridge.number:
                drive = self._robot.take(element.number)
                if self._is_given_up(drive, cartridge):
                    return drive
        return self._fetched(cartridge)

    def _is_given_up(self, drive: Drive, cartridge: Cartridge) -> bool:
        try:
            label = self._robot.label_of(drive)
        except NoLabel as error:
            return error.blank
        except (BadCartridge, MediaError):
            return False
        if label.label_id == cartridge.label_id:
            return True
        ours = label.library_id == self._library.settings.uuid
        return ours and label.label_id not in self._state.cartridges and _is_empty(drive)

    def _look(self, drive: Drive, slot: int, barcode: str) -> bool:
        """May the cartridge in a drive be labelled? What else it is goes into the books."""
        try:
            label = self._robot.label_of(drive)
        except NoLabel as error:
            if error.blank:
                return True
            self._stranger(slot, barcode, "foreign", str(error))
        except NewerCartridge as error:
            self._stranger(slot, barcode, "newer", str(error))
        except (BadCartridge, MediaError) as error:
            self._stranger(slot, barcode, "unreadable", str(error))
        else:
            ours = label.library_id == self._library.settings.uuid
            if ours and label.label_id not in self._state.cartridges and _is_empty(drive):
                return True
            if label.label_id not in self._state.cartridges:
                self._stranger(slot, barcode, "foreign", f"it has the label {label.label_id}")
        self._robot.put_away(drive)
        return False

    def _stranger(self, slot: int, barcode: str, finding: Finding, note: str) -> None:
        log.info("the cartridge %s of slot %d is %s: %s", barcode, slot, finding, note)
        self._catalogue.append(
            Stranger(time_ns=self._now_ns(), barcode=barcode, slot=slot, finding=finding, note=note)
        )

    def _label(self, drive: Drive, owner: Owner, replaces: str) -> Cartridge | None:
        """Give the cartridge in a drive to a pool; None, with the reason on the books, if that
        does not work."""
        element = self._library.changer.inventory().drives[drive.number]
        label = Label(
            label_id=uuid.uuid4().hex,
            barcode=element.barcode,
            pool=owner.pool,
            library_id=self._library.settings.uuid,
            volume_uuid=owner.volume_uuid,
            volume_name=owner.volume_name,
            block_bytes=self._library.settings.block_bytes,
            created_ns=self._now_ns(),
        )
        self._robot.forget_label(drive)
        try:
            write_label(drive, label)
        except (WriteProtected, MediaError, BadCartridge) as error:
            self._not_labelled(drive, element, replaces, error)
            return None
        self._cut("label written")
        self._catalogue.append(*label_events(label, drive, replaces, self._now_ns()))
        self._cut("labelled")
        log.info("%s is a cartridge of the pool %s now", element.barcode, owner.pool)
        return self._state.cartridge(label.label_id)

    def _not_labelled(
        self, drive: Drive, element: Element, replaces: str, error: TapeError
    ) -> None:
        now_ns = self._now_ns()
        if replaces:
            self._catalogue.append(
                Faulted(time_ns=now_ns, label_id=replaces, drive=drive.number, what=str(error)),
                CartridgeClosed(time_ns=now_ns, label_id=replaces, reason=str(error)),
            )
        else:
            protected = isinstance(error, WriteProtected)
            finding: Finding = "protected" if protected else "unreadable"
            self._stranger(element.origin, element.barcode, finding, str(error))
        self._robot.put_away(drive)


def _is_empty(drive: Drive) -> bool:
    """Is there nothing behind the label?"""
    try:
        drive.to_file(1)
        drive.read_block()
    except EndOfData:
        return True
    return False
