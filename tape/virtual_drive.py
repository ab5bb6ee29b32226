"""A drive of the virtual library.

Duty: `tape.drive.Drive` over a `Medium`. Blocking calls; one thread. What it writes lies in the
system's buffer until the filemark, and is lost with it before. Early warning and end of the medium
come as on LTO: the block that goes past the early warning is written and reported, a filemark fits
always, a block behind the capacity never.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tape.drive import DriveStatus, Position
from tape.errors import EarlyWarning, EndOfData, EndOfMedium, NotReady, WriteProtected
from tape.layout import MAX_BLOCK_BYTES
from tape.virtual_cartridge import Head, Medium, Run, read_facts


class InDrive(NamedTuple):
    """What the changer has put into a drive."""

    folder: Path | None
    """None when the drive is empty."""
    cleaning: bool = False
    """It is a cleaning cartridge."""
    cleaning_requested: bool = False


class VirtualDrive:
    """A `Drive`. `what` tells what is in it; `taken` is told when it is opened and closed."""

    max_block_bytes = MAX_BLOCK_BYTES

    def __init__(
        self, number: int, name: str, what: Callable[[], InDrive], taken: Callable[[bool], None]
    ) -> None:
        self.number = number
        self.name = name
        self._what = what
        self._taken = taken
        self._medium: Medium | None = None

    def open(self) -> None:
        """See `Drive.open`."""
        self.close()
        inside = self._what()
        if inside.folder is None:
            raise NotReady(f"{self.name} is empty")
        if inside.cleaning:
            raise NotReady(f"{self.name} has a cleaning cartridge in it")
        self._medium = Medium(inside.folder)
        self._taken(True)
        self._warned = False
        self._written: list[Run] | None = None
        self._unmarked = False
        self._goto(0)

    def close(self) -> None:
        """See `Drive.close`."""
        if self._medium is None:
            return
        try:
            self._end_file()
        finally:
            self._medium.close()
            self._medium = None
            self._taken(False)

    def status(self) -> DriveStatus:
        """See `Drive.status`."""
        inside = self._what()
        if inside.folder is None or inside.cleaning:
            busy = "cleaning" if inside.cleaning else ""
            return DriveStatus(False, False, inside.cleaning_requested, busy)
        protected = read_facts(inside.folder).write_protected
        return DriveStatus(True, protected, inside.cleaning_requested)

    def position(self) -> Position:
        """See `Drive.position`."""
        self._loaded()
        return Position(self._head.file, self._head.block)

    def rewind(self) -> None:
        """See `Drive.rewind`."""
        self._loaded()
        self._end_file()
        self._goto(0)

    def space_files(self, count: int) -> None:
        """See `Drive.space_files`."""
        self._loaded()
        self._end_file()
        self.to_file(self._head.file + count)

    def to_file(self, number: int) -> None:
        """See `Drive.to_file`."""
        medium = self._loaded()
        self._end_file()
        if number > medium.files:
            self.to_end()
            raise EndOfData(f"there are {medium.files} files on the cartridge, not {number}")
        self._goto(number)

    def to_end(self) -> None:
        """See `Drive.to_end`."""
        medium = self._loaded()
        self._end_file()
        self._goto(medium.files)
        self._head.to_tail()

    def read_block(self) -> bytes:
        """See `Drive.read_block`."""
        self._loaded()
        if self._written is not None:
            raise EndOfData("nothing was written behind here")
        return self._head.read()

    def write_block(self, data: bytes | memoryview) -> None:
        """See `Drive.write_block`."""
        medium, size = self._loaded(), len(data)
        if not 0 < size <= self.max_block_bytes:
            raise ValueError(f"a block of {size} bytes; at most {self.max_block_bytes}")
        written = self._begin()
        if self._used + size > medium.facts.capacity_bytes:
            raise EndOfMedium(f"{self.name}: the cartridge is full")
        medium.write(self._head.file, self._head.offset, data)
        _add(written, size)
        self._unmarked = True
        self._used += size
        self._head.block += 1
        self._head.offset += size
        warn_at = medium.facts.capacity_bytes - medium.facts.early_warning_bytes
        if self._used > warn_at and not self._warned:
            self._warned = True
            raise EarlyWarning(f"{self.name}: the end of the cartridge is near")

    def write_filemark(self) -> None:
        """See `Drive.write_filemark`."""
        medium = self._loaded()
        medium.mark(self._head.file, self._begin())
        self._goto(self._head.file + 1)

    def _begin(self) -> list[Run]:
        """The blocks of the file being written; what lies behind the head is cut off first."""
        medium = self._loaded()
        if medium.facts.write_protected:
            raise WriteProtected(f"the cartridge in {self.name} is write-protected")
        if self._written is None:
            before = self._head.runs_before()
            medium.cut(self._head.file, before)
            self._used = medium.used_bytes(self._head.file) + self._head.offset
            self._written = before
        return self._written

    def _end_file(self) -> None:
        """As st(4) does: moving away behind written blocks ends the file."""
        if self._unmarked:
            self.write_filemark()
        self._written = None

    def _goto(self, file: int) -> None:
        self._written, self._unmarked = None, False
        self._head = Head(self._loaded(), file)

    def _loaded(self) -> Medium:
        if self._medium is None:
            raise NotReady(f"{self.name} is not open")
        return self._medium


def _add(runs: list[Run], size: int) -> None:
    """Put a block behind runs."""
    if runs and runs[-1][0] == size:
        runs[-1] = (size, runs[-1][1] + 1)
    else:
        runs.append((size, 1))
