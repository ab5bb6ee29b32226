"""A drive and a changer that fail when a test says so, and a process that ends at any step.

`FaultyDrive` and `FaultyChanger` stand before real or virtual ones and pass everything on, but for
what their `DriveFaults` and `ChangerFaults` ask for. What a person does wrong (a cartridge in
another slot, stickers that were swapped) is at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tape.changer import Changer, Element, Inventory
from tape.drive import Drive, DriveStatus, Position
from tape.errors import (
    ChangerJam,
    DriveDead,
    EarlyWarning,
    EndOfMedium,
    MediaError,
    NotReady,
)
from tape.virtual_drive import VirtualDrive
from tape.virtual_places import PlacesFile


class Killed(BaseException):
    """The process was ended here: nothing that it would still have done happens."""


class Steps:
    """Counts what a process does to the outside world, and ends it before step `kill_at`."""

    def __init__(self, kill_at: int = -1) -> None:
        self.count = 0
        self.kill_at = kill_at

    def step(self, what: str = "") -> None:
        """One step more. Killed, from the chosen one on."""
        self.count += 1
        if 0 <= self.kill_at < self.count:
            raise Killed(f"before step {self.kill_at}: {what}")


@dataclass
class DriveFaults:
    """What is to go wrong in a drive. Blocks and marks are counted from now on, from 0.

    A fault at a number happens once; -1 is never.
    """

    write_error: int = -1
    """This block raises MediaError and isn't written."""
    deferred_error: int = -1
    """From this block on everything is acknowledged and nothing written; the filemark fails."""
    silent_loss: int = -1
    """This block is written as other bytes, and nobody says anything."""
    warning: int = -1
    """The early warning comes at this block, `warned_block_lost` or not, and the end behind it."""
    warned_block_lost: bool = False
    end: int = -1
    """This block doesn't fit, and none behind it."""
    filemark_error: int = -1
    """This filemark fails with MediaError; what was written is cut off again."""
    filemark_end: int = -1
    """This filemark meets the end of the medium."""
    read_error: int = -1
    """This block can't be read."""
    dead: bool = False
    """Nothing is answered but DriveDead."""
    dead_at_block: int = -1
    """It dies with this block."""
    busy_until_ns: int = 0
    """Not ready before, and busy with what `busy` says."""
    busy: str = ""
    blocks: int = 0
    marks: int = 0
    reads: int = 0

    def _hits(self, name: str, count: int) -> bool:
        if getattr(self, name) != count:
            return False
        setattr(self, name, -1)
        return True


@dataclass
class FaultyDrive:
    """A `Drive` before another one."""

    inner: Drive
    faults: DriveFaults = field(default_factory=DriveFaults)
    steps: Steps = field(default_factory=Steps)
    now_ns: Callable[[], int] = lambda: 0
    _deferred: bool = False
    _full: bool = False

    @property
    def number(self) -> int:
        return self.inner.number

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def max_block_bytes(self) -> int:
        return self.inner.max_block_bytes

    def open(self) -> None:
        self._begin("open")
        if self.now_ns() < self.faults.busy_until_ns:
            raise NotReady(f"{self.name} is not ready: {self.faults.busy}")
        self._deferred = self._full = False
        self.inner.open()

    def close(self) -> None:
        self.steps.step("close")
        self.inner.close()

    def status(self) -> DriveStatus:
        self._begin("status")
        if self.now_ns() < self.faults.busy_until_ns:
            return DriveStatus(False, False, False, self.faults.busy)
        return self.inner.status()

    def position(self) -> Position:
        self._begin("position")
        return self.inner.position()

    def rewind(self) -> None:
        self._move("rewind")
        self.inner.rewind()

    def space_files(self, count: int) -> None:
        self._move("space")
        self.inner.space_files(count)

    def to_file(self, number: int) -> None:
        self._move("to file")
        self.inner.to_file(number)

    def to_end(self) -> None:
        self._move("to end")
        self.inner.to_end()

    def read_block(self) -> bytes:
        self._begin("read")
        self.faults.reads += 1
        if self.faults._hits("read_error", self.faults.reads - 1):
            raise MediaError(f"{self.name}: a block can't be read")
        return self.inner.read_block()

    def write_block(self, data: bytes | memoryview) -> None:
        self._begin("write")
        faults = self.faults
        count, faults.blocks = faults.blocks, faults.blocks + 1
        if faults._hits("dead_at_block", count):
            faults.dead = True
            raise DriveDead(f"{self.name} does not answer any more")
        if faults._hits("write_error", count):
            raise MediaError(f"{self.name}: a block can't be written")
        if faults._hits("end", count) or self._full:
            self._full = True
            raise EndOfMedium(f"{self.name}: nothing fits any more")
        if faults._hits("deferred_error", count):
            self._deferred = True
        if self._deferred:
            return
        if faults._hits("silent_loss", count):
            data = bytes(byte ^ 1 for byte in data)
        if faults._hits("warning", count):
            self._full = True
            if not faults.warned_block_lost:
                self.inner.write_block(data)
            raise EarlyWarning(f"{self.name}: the end is near")
        self.inner.write_block(data)

    def write_filemark(self) -> None:
        self._begin("filemark")
        count, self.faults.marks = self.faults.marks, self.faults.marks + 1
        if self._deferred or self.faults._hits("filemark_error", count):
            self._deferred = False
            raise MediaError(f"{self.name}: an earlier block could not be written")
        if self.faults._hits("filemark_end", count):
            raise EndOfMedium(f"{self.name}: the filemark does not fit")
        self.inner.write_filemark()

    def _begin(self, what: str) -> None:
        self.steps.step(what)
        if self.faults.dead:
            raise DriveDead(f"{self.name} does not answer")

    def _move(self, what: str) -> None:
        self._begin(what)
        self._deferred = self._full = False


@dataclass
class ChangerFaults:
    """What is to go wrong in a changer. Movements are counted from now on, from 0."""

    jam_at: int = -1
    """This movement fails, and the cartridge stays where it is."""
    jams: int = 1
    """So many movements in a row jam, from `jam_at` on."""
    late_at: int = -1
    """This movement is made, and reported as failed."""
    unreadable: set[str] = field(default_factory=set)
    """Barcodes that can't be read."""
    moves: int = 0


@dataclass
class FaultyChanger:
    """A `Changer` before another one."""

    inner: Changer
    faults: ChangerFaults = field(default_factory=ChangerFaults)
    steps: Steps = field(default_factory=Steps)

    @property
    def name(self) -> str:
        return self.inner.name

    def inventory(self, rescan: bool = False) -> Inventory:
        self.steps.step("inventory")
        drives, slots, doors = self.inner.inventory(rescan)
        return Inventory(self._seen(drives), self._seen(slots), self._seen(doors))

    def load(self, slot: int, drive: int) -> None:
        self._move(f"load {slot} {drive}", lambda: self.inner.load(slot, drive))

    def unload(self, drive: int, slot: int) -> None:
        self._move(f"unload {drive} {slot}", lambda: self.inner.unload(drive, slot))

    def transfer(self, source: int, target: int) -> None:
        self._move(f"transfer {source} {target}", lambda: self.inner.transfer(source, target))

    def _seen(self, places: tuple[Element, ...]) -> tuple[Element, ...]:
        return tuple(
            place._replace(barcode="") if place.barcode in self.faults.unreadable else place
            for place in places
        )

    def _move(self, what: str, move: Callable[[], None]) -> None:
        self.steps.step(what)
        faults = self.faults
        count, faults.moves = faults.moves, faults.moves + 1
        if 0 <= faults.jam_at <= count < faults.jam_at + faults.jams:
            raise ChangerJam(f"{what}: the cartridge did not move")
        move()
        if count == faults.late_at:
            raise ChangerJam(f"{what}: the changer did not answer in time")


# --- what people do -----------------------------------------------------------------------------


def swap_slots(home: Path, one: int, other: int) -> None:
    """A person takes two cartridges out and puts each into the other's slot."""
    file = PlacesFile(home, "CLN")
    places = file.read()
    slots = places.slots
    slots[one - 1], slots[other - 1] = slots[other - 1], slots[one - 1]
    file.write(places)


def swap_stickers(home: Path, one: str, other: str) -> None:
    """A person puts each one's barcode on the other: the robot finds the wrong cartridges."""
    folder = home / "cartridges"
    (folder / one).rename(folder / "swapping")
    (folder / other).rename(folder / one)
    (folder / "swapping").rename(folder / other)


def lose_buffer(drive: VirtualDrive) -> None:
    """As the end of the process does: blocks without a filemark are gone."""
    drive._unmarked = False
    drive.close()
