"""Reading cartridges again: is what was written still there?

Duty: `cdpfs tape verify`. It reads the blocks and compares their digest with the one on the books,
so it needs no key; what was verified longest ago comes first. An archive that can't be read any
more is noted: its set ends before it, and the spooler begins a new one. Blocking; one thread; the
library's lock is held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from tape.catalogue import AnyEvent, ArchiveBad, Faulted, Verified
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import Archive, Cartridge, State
from tape.errors import MediaError, NeedsCartridge, NoSuchCartridge
from tape.robot import Robot, Wanted
from tape.writer import read_back, to_file

log = logging.getLogger(__name__)


class Verification(NamedTuple):
    """What a verification came to."""

    archives: int
    size_bytes: int
    bad: list[tuple[str, int, str]]
    """Cartridge, file, and what is wrong."""
    absent: list[str]
    """Cartridges that are not in the library."""


def to_verify(state: State, names: tuple[str, ...] = ()) -> list[Cartridge]:
    """The cartridges with archives, those first that were verified longest ago.

    `names`: of these cartridges only, by barcode or label. NoSuchCartridge.
    """
    chosen = [
        each
        for each in state.cartridges.values()
        if each.archives and (not names or each.name in names or each.label_id in names)
    ]
    known = {each.name for each in chosen} | {each.label_id for each in chosen}
    for name in names:
        if name not in known:
            raise NoSuchCartridge(f"there is no cartridge {name} with anything on it")
    return sorted(chosen, key=lambda each: min(_read_ns(archive) for archive in each.archives))


def _read_ns(archive: Archive) -> int:
    return archive.verified_ns or archive.kept_ns


def verify(
    robot: Robot,
    catalogue: CatalogueFile,
    cartridges: list[Cartridge],
    now_ns: Callable[[], int],
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Read these cartridges and compare. ChangerJam, DriveDead."""
    count = size_bytes = 0
    bad: list[tuple[str, int, str]] = []
    absent: list[str] = []
    for cartridge in cartridges:
        try:
            drive = robot.fetch(Wanted(cartridge.label_id, cartridge.barcode, cartridge.number))
        except NeedsCartridge:
            absent.append(cartridge.name)
            continue
        for archive in tuple(cartridge.archives):
            say(f"reading file {archive.file} of {cartridge.name}")
            try:
                to_file(drive, archive.file)
                found = read_back(drive, progress)
                wrong = "" if found.digest == archive.digest else "other bytes than were written"
            except MediaError as error:
                wrong = str(error)
            count += 1
            size_bytes += archive.blocks * cartridge.label.block_bytes
            if wrong:
                bad.append((cartridge.name, archive.file, wrong))
            catalogue.append(*_events(cartridge, archive, wrong, now_ns()))
    return Verification(count, size_bytes, bad, absent)


def _events(cartridge: Cartridge, archive: Archive, wrong: str, now_ns: int) -> list[AnyEvent]:
    label_id = cartridge.label_id
    if not wrong:
        return [Verified(time_ns=now_ns, label_id=label_id, file=archive.file)]
    return [
        ArchiveBad(time_ns=now_ns, label_id=label_id, file=archive.file, what=wrong),
        Faulted(time_ns=now_ns, label_id=label_id, drive=-1, what=f"file {archive.file}: {wrong}"),
    ]
