"""A person's own tape library, named by environment variables, for the suites to run against.

    CDPFS_TAPE_CHANGER   the changer: /dev/sg3
    CDPFS_TAPE_DRIVES    its drives, in the order of their numbers: /dev/nst0,/dev/nst1
    CDPFS_TAPE_SCRATCH   the barcode of the one cartridge that may be overwritten
    CDPFS_TAPE_SCRIPT    the mtx-changer program; by default the shipped one
    CDPFS_TAPE_CAPACITY  bytes of that cartridge, if it is small enough to be filled
    CDPFS_TAPE_ENDLESS   set for an emulation that warns of the end of a cartridge and has none

docs/operations.md says what the suites do to a library.
"""

from __future__ import annotations

import contextlib
import os
import re

import pytest

from tape.calibrate import check_blank
from tape.changer import Element
from tape.errors import BadCartridge, NotReady
from tape.mtx_changer import MtxChanger
from tape.st_drive import StDrive
from tests.contract.drive import DriveBench
from tests.volume import SOURCE

SHIPPED_SCRIPT = SOURCE / "packaging" / "tape" / "mtx-changer"

_OF_A_SUITE = re.compile(rb"(block +\d+ )\1")
"""How blocks begin that `tests.contract.drive` writes."""


class OwnLibrary:
    """See the module. Skips the test when none is named."""

    def __init__(self) -> None:
        changer = os.environ.get("CDPFS_TAPE_CHANGER", "")
        drives = list(filter(None, os.environ.get("CDPFS_TAPE_DRIVES", "").split(",")))
        self.scratch = os.environ.get("CDPFS_TAPE_SCRATCH", "")
        self.capacity_bytes = int(os.environ.get("CDPFS_TAPE_CAPACITY", "0"))
        if not changer or not drives:
            pytest.skip("no tape library is named (CDPFS_TAPE_CHANGER, CDPFS_TAPE_DRIVES)")
        program = os.environ.get("CDPFS_TAPE_SCRIPT", str(SHIPPED_SCRIPT))
        self.changer = MtxChanger(program, changer, drives)
        self.drives = tuple(StDrive(path, number) for number, path in enumerate(drives))
        for drive in self.changer.inventory().drives:
            if drive.full:
                pytest.fail(f"drive {drive.number} holds {drive.barcode}: unload it first")

    def scratch_slot(self) -> int:
        """Where the cartridge is that may be overwritten."""
        if not self.scratch:
            pytest.skip("no cartridge may be overwritten (CDPFS_TAPE_SCRATCH)")
        slots: tuple[Element, ...] = self.changer.inventory().slots
        found = [slot.number for slot in slots if slot.barcode == self.scratch]
        if len(found) != 1:
            pytest.fail(f"{self.scratch} is in {len(found)} slots of the library")
        return found[0]

    def bench(self, drive: StDrive) -> DriveBench:
        """The drive with the scratch cartridge in it, once that has been looked at. Not open."""
        slot = self.scratch_slot()

        def empty() -> None:
            drive.close()
            self.changer.unload(drive.number, slot)

        def refill() -> None:
            self.changer.load(slot, drive.number)
            wait_ready(drive)

        refill()
        try:
            drive.open()
            refuse_data(drive, self.scratch)
        except BaseException:
            empty()
            raise
        drive.close()
        return DriveBench(
            drive,
            empty,
            refill,
            capacity_bytes=self.capacity_bytes,
            endless=bool(os.environ.get("CDPFS_TAPE_ENDLESS")),
            tells_block=False,
        )


def wait_ready(drive: StDrive) -> None:
    """Until it has taken the cartridge in, however long that is."""
    while True:
        try:
            drive.open()
        except NotReady:
            if not drive.status().busy:
                raise
        else:
            drive.close()
            return


def refuse_data(drive: StDrive, barcode: str) -> None:
    """Fail the test unless the cartridge is blank or holds what a suite has left on it."""
    with contextlib.suppress(BadCartridge):
        check_blank(drive)
        return
    first = drive.read_block()
    drive.rewind()
    if not _OF_A_SUITE.match(first):
        pytest.fail(f"{barcode} holds data, which would be overwritten: {first[:40]!r}")
