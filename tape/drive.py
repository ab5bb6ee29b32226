"""What a tape drive does, whichever it is: the interface and its laws.

Duty: types only. Every implementation passes `tests/contract/drive.py`. All calls block; a drive is
used by one thread at a time.

The medium is a row of *files*, each a row of blocks, with a filemark behind each file. Writing
anywhere cuts off everything behind it. A block is at most `max_block_bytes`; each is read back as
it was written. Foreign errors are mapped to `tape.errors` by the implementation, with what the
system said in the message.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class DriveStatus(NamedTuple):
    """How a drive is at the moment."""

    loaded: bool
    """A cartridge is in it and ready."""
    write_protected: bool
    cleaning_requested: bool
    """It asks for a cleaning cartridge."""
    busy: str = ""
    """What it is at when it isn't ready ("first load: calibrating"); empty for nothing."""


class Position(NamedTuple):
    """Where the head stands: behind so many filemarks, and so many blocks behind the last one.

    `block` is -1 when the drive can't tell.
    """

    file: int
    block: int


class Drive(Protocol):
    """A drive with at most one cartridge in it."""

    @property
    def number(self) -> int:
        """Its number at the changer, from 0."""
        ...

    @property
    def name(self) -> str:
        """For people: a device node, say."""
        ...

    @property
    def max_block_bytes(self) -> int:
        """The largest block that it reads and writes."""
        ...

    def open(self) -> None:
        """Get hold of what the changer has put in, at its beginning.

        NotReady (with what it is at) while it is loading or empty; DriveDead.
        """
        ...

    def close(self) -> None:
        """Let go, so that the changer can take the cartridge out. Closing twice is fine."""
        ...

    def status(self) -> DriveStatus:
        """How it is; also when it is not open. DriveDead."""
        ...

    def position(self) -> Position:
        """Where the head stands. DriveDead."""
        ...

    def rewind(self) -> None:
        """To the beginning of the medium."""
        ...

    def space_files(self, count: int) -> None:
        """Behind the `count`-th next filemark. `count` is at least 1. EndOfData; MediaError."""
        ...

    def to_file(self, number: int) -> None:
        """To the first block of file `number`, from anywhere, by the quickest way it has.

        EndOfData when there are fewer files.
        """
        ...

    def to_end(self) -> None:
        """Behind the last thing that was written."""
        ...

    def read_block(self) -> bytes:
        """The next block; b"" when a filemark came instead, which is passed then.

        EndOfData behind the last thing written; MediaError.
        """
        ...

    def write_block(self, data: bytes | memoryview) -> None:
        """Write one block. It may be in the drive's buffer only when this returns.

        EarlyWarning, EndOfMedium, WriteProtected, DriveDead, MediaError (maybe of an earlier
        block).
        """
        ...

    def write_filemark(self) -> None:
        """Write a filemark, synchronously: when it returns, everything before it is on the medium.

        Raises what `write_block` does, for whatever block failed since the last filemark (I-7).
        After EarlyWarning there is room for filemarks and for a few blocks.
        """
        ...
