"""Where the head of a real drive stands, and how it gets elsewhere.

Duty: moving. Files and blocks are counted here, because the driver's numbers are not known after
MTSEEK, and are wrong after a search into the end of the data on drives that don't say how far they
got. Where a drive tells block addresses (READ POSITION), a file whose beginning was passed is found
again by its address (LOCATE); otherwise by filemarks, forwards only: backwards not every drive and
emulation counts the same, and beginnings are known wherever speed matters, as when an archive that
was just written is read back.

At the end of the data st may let a read succeed with a whole buffer of nothing, when the drive sets
the end-of-medium bit beside "blank check": only the flags of MTIOCGET give that away.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Final

from tape.errors import EndOfData, MediaError, TapeError
from tape.st_failure import failure
from tape.st_ioctl import (
    GMT_EOD,
    GMT_EOT,
    MTEOM,
    MTFSF,
    MTFSR,
    MTREW,
    MTSEEK,
    MTWEOF,
    Node,
    NodeStatus,
)

_ABSURD_FILE: Final = 0x7F0000
"""MTEOM spaces over 0x7fffff files: a number near that was never counted by the drive."""
_LARGEST_ADDRESS: Final = (1 << 31) - 1


class Head:
    """Of an open drive whose medium is at its beginning."""

    def __init__(self, node: Node, path: str, buffer: memoryview) -> None:
        """`buffer` is larger than any block, or of just the size of every block."""
        self._node = node
        self._path = path
        self._buffer = buffer
        self.file = 0
        self.block = 0
        """-1 when that is not known."""
        self.unmarked = False
        """Blocks were written and no filemark behind them yet."""
        self._lost: TapeError | None = None
        """The error after which nobody knows where the head is, until it is rewound."""
        self._addresses = {0: 0}
        """Block addresses of beginnings of files that were passed, as far as the drive tells."""
        self._can_locate = True
        self._driver_counts = True
        """The driver's file number goes with ours; not after MTSEEK, and not after a failure."""

    # --- standing ---

    def check_place(self) -> None:
        """Before something is written. The last error once more, if that has left the head
        somewhere."""
        if self._lost is not None:
            raise type(self._lost)(f"{self._path}: the head's place is not known: {self._lost}")

    def lose(self, doing: str, error: OSError) -> TapeError:
        """The error to raise for something that failed and left the head somewhere."""
        self._lost = failure(self._path, doing, error, self._node)
        self._driver_counts, self.block = False, -1
        return self._lost

    def passed_block(self) -> None:
        """A block was read or written."""
        if self.block >= 0:
            self.block += 1

    def at_file(self, file: int) -> None:
        """The head stands at the beginning of a file."""
        self.file, self.block = file, 0
        if file in self._addresses or not self._can_locate or self._lost is not None:
            return
        try:
            self._addresses[file] = self._node.tell()
        except OSError:
            self._can_locate = False

    def cut_off(self) -> None:
        """What lies behind is about to be overwritten."""
        for file in [file for file in self._addresses if file > self.file]:
            del self._addresses[file]

    def differs(self, status: NodeStatus) -> bool:
        """Does the driver count other files than we do?"""
        return self._driver_counts and status.file not in (-1, self.file)

    def status(self) -> NodeStatus:
        """Of the driver."""
        try:
            return self._node.status()
        except OSError as error:
            raise failure(self._path, "asking how it is", error) from error

    # --- moving ---

    def rewind(self) -> None:
        """To the beginning."""
        self.end_file()
        try:
            self._node.op(MTREW)
        except OSError as error:
            raise self.lose("rewinding", error) from error
        self._lost, self._driver_counts = None, True
        self.at_file(0)

    def space_files(self, count: int) -> None:
        """Behind the `count`-th next filemark. EndOfData, with the head there; MediaError."""
        self.end_file()
        try:
            self._node.op(MTFSF, count)
        except OSError as error:
            status = self.status()
            if error.errno != errno.EIO or not (status.has(GMT_EOD) or self.is_end_of_data()):
                raise self.lose("searching a file", error) from error
            wanted = self.file + count
            self._count_files(status)
            raise EndOfData(f"{self._path}: there is no file {wanted}") from error
        self.at_file(self.file + count)

    def to_file(self, number: int) -> None:
        """To its first block. EndOfData when there are fewer files."""
        if self._lost is None and (number, 0) == (self.file, self.block):
            return
        self.end_file()
        if self._locate(number):
            return
        if self._lost is not None or number <= self.file:
            self.rewind()
        if number > self.file:
            self.space_files(number - self.file)

    def to_end(self) -> None:
        """Behind the last thing that was written."""
        self.end_file()
        try:
            self._node.op(MTEOM)
        except OSError as error:
            raise self.lose("searching the end of the data", error) from error
        self._count_files(self.status())

    def end_file(self) -> None:
        """What was written without a filemark gets one before the head moves away, as st has it.

        It counts for nothing, so it does not matter if that fails.
        """
        if not self.unmarked:
            return
        self.unmarked = False
        with contextlib.suppress(OSError):
            self._node.op(MTWEOF)
            self.at_file(self.file + 1)

    def _locate(self, number: int) -> bool:
        """By the block's address, if it is known; False when that didn't work."""
        address = self._addresses.get(number, -1)
        if number == 0 or not self._can_locate or not 0 <= address <= _LARGEST_ADDRESS:
            return False
        self._driver_counts = False
        with contextlib.suppress(OSError):
            self._node.op(MTSEEK, address)
            if self._node.tell() == address:
                self._lost = None
                self.at_file(number)
                return True
        self._can_locate = False
        self._lost = MediaError(f"{self._path}: a search by address went astray")
        return False

    def _count_files(self, status: NodeStatus) -> None:
        """The head is at the end of the data: how many files are before it?

        `status` is that of the search: of a drive that says how far it got, the driver knows.
        """
        if self._driver_counts and status.has(GMT_EOD) and 0 <= status.file < _ABSURD_FILE:
            self.file, self.block = status.file, -1
            return
        self.rewind()
        while True:
            try:
                self._node.op(MTFSF)
            except OSError as error:
                if error.errno != errno.EIO or not self.is_end_of_data():
                    raise self.lose("counting the files", error) from error
                return
            self.at_file(self.file + 1)

    def is_end_of_data(self) -> bool:
        """After EIO: because nothing was written here? If not, the head may have moved."""
        with contextlib.suppress(OSError):
            self._node.op(MTFSR)
            return False
        if self.status().has(GMT_EOD):
            self.block = -1
            return True
        if self._reads_nothing():
            self.settle_at_end()
            return True
        return False

    def _reads_nothing(self) -> bool:
        with contextlib.suppress(OSError):
            size = self._node.read(self._buffer)
            return size in (0, len(self._buffer)) and self.status().has(GMT_EOD, GMT_EOT)
        return False

    def settle_at_end(self) -> None:
        """The head is at the end of the data, and the drive didn't say so: the driver is to know.

        Otherwise it would take the end-of-medium bit that came with it for the early warning, and
        refuse the next write or the one after that.
        """
        self._driver_counts, self.block = False, -1
        with contextlib.suppress(OSError):
            self._node.op(MTEOM)
