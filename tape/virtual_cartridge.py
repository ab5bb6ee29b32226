"""A cartridge in a folder: one plain file per tape file, and what is marked.

Duty: the medium of the virtual library, durable step by step. Blocking calls; one thread at a time.
It knows nothing of drives, slots and labels.

    000000 000001 …   the tape files, as they were written: `tar tvf 000001` works
    marks.json        the lengths of their blocks; a file counts when it is marked here
    cartridge.json    what the cartridge is: capacity, write protection, cleanings left

Order of writing: what will be cut off leaves `marks.json` first, then the blocks are written, and
at the filemark they are synced before `marks.json` names them. So after a kill or a power cut the
medium ends behind some filemark that was written, and never before one that was reported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from store import durable
from store.errors import StoreFull, TemporaryStoreError
from tape.errors import BadSettings, DriveDead, EndOfData, MediaError

CARTRIDGE_NAME = "cartridge.json"
MARKS_NAME = "marks.json"
MAX_JSON_BYTES = 256 << 20
_FREE_SPACE = "free some space on the file system that holds the library"

_T = TypeVar("_T")
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Run = tuple[_Count, _Count]
"""(bytes of a block, how many of them follow each other)"""


class CartridgeFacts(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a cartridge is. A cleaning cartridge has a capacity of 0."""

    capacity_bytes: _Count
    early_warning_bytes: _Count = 0
    """How much room is left when the early warning comes."""
    write_protected: bool = False
    cleanings_left: _Count = 0


class _Marks(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    files: list[list[Run]] = []
    tail: list[Run] = []
    """Blocks behind the last filemark: what a write into the midst of a file left over."""


def read_facts(folder: Path) -> CartridgeFacts:
    """What the cartridge in a folder is. BadSettings."""
    return _read(folder / CARTRIDGE_NAME, CartridgeFacts)


def write_facts(folder: Path, facts: CartridgeFacts) -> None:
    """Note what the cartridge is, durably; the folder is made if it is missing."""
    durable.make_dir(folder)
    durable.write_file_atomically(folder / CARTRIDGE_NAME, msgspec.json.encode(facts))


class Medium:
    """The tape of one cartridge. Open it when it comes into a drive; close it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.facts = read_facts(folder)
        marks = folder / MARKS_NAME
        self._marks = _read(marks, _Marks) if marks.exists() else _Marks()
        self._fd = -1
        self._open_file = -1
        if not self.facts.write_protected:
            with _mapped("open"):
                self._sweep()

    def close(self) -> None:
        """Let go of the files."""
        self._let_go()

    @property
    def files(self) -> int:
        """How many files are marked."""
        return len(self._marks.files)

    def runs(self, file: int) -> list[Run]:
        """The blocks of a file, or of what lies behind the last filemark."""
        return self._marks.files[file] if file < self.files else self._marks.tail

    def used_bytes(self, file: int) -> int:
        """How much of the medium the files before this one take."""
        return sum(size * count for runs in self._marks.files[:file] for size, count in runs)

    def read(self, file: int, offset: int, size: int) -> bytes:
        """Bytes of a file. MediaError when they are not there."""
        with _mapped("read"):
            data = os.pread(self._descriptor(file, os.O_RDONLY), size, offset)
        if len(data) < size:
            raise MediaError(f"{self._path(file)} is shorter than what was written to it")
        return data

    def cut(self, file: int, runs: list[Run]) -> None:
        """Make these runs of a file the end of the medium; blocks can be written behind them."""
        if self.files > file or self._marks.tail != runs:
            self._save(_Marks(files=self._marks.files[:file], tail=runs))
        with _mapped("cut"):
            self._sweep()
            fd = self._descriptor(file, os.O_RDWR)
            size_bytes = sum(size * count for size, count in runs)
            if os.fstat(fd).st_size != size_bytes:
                durable.truncate(fd, size_bytes)

    def write(self, file: int, offset: int, data: bytes | memoryview) -> None:
        """Put a block down, in the system's buffer. Only behind `cut`."""
        with _mapped("write"):
            durable.pwrite_all(self._descriptor(file, os.O_RDWR), data, offset)

    def mark(self, file: int, runs: list[Run]) -> None:
        """Everything written to the file is on disk, and the file is ended, when it returns."""
        with _mapped("filemark"):
            durable.fdatasync(self._descriptor(file, os.O_RDWR))
            durable.fsync_dir(self._folder)
        self._let_go()
        self._save(_Marks(files=[*self._marks.files, runs]))

    def _save(self, marks: _Marks) -> None:
        with _mapped("mark"):
            durable.write_file_atomically(self._folder / MARKS_NAME, msgspec.json.encode(marks))
        self._marks = marks

    def _sweep(self) -> None:
        """Drop what no mark names: it was being written, or had been cut off."""
        stop = self.files + bool(self._marks.tail)
        for name in os.listdir(self._folder):
            if name.isdigit() and int(name) >= stop:
                durable.drop(self._folder / name)
                self._let_go()

    def _path(self, file: int) -> Path:
        return self._folder / f"{file:06d}"

    def _descriptor(self, file: int, flags: int) -> int:
        if self._open_file != file:
            self._let_go()
            path = self._path(file)
            if flags == os.O_RDWR and not path.exists():
                self._fd = durable.create_file(path)
            else:
                writable = not self.facts.write_protected
                self._fd = durable.open_file(path, os.O_RDWR if writable else os.O_RDONLY)
            self._open_file = file
        return self._fd

    def _let_go(self) -> None:
        if self._fd >= 0:
            durable.close_file(self._fd)
        self._fd = self._open_file = -1


class Head:
    """Where a drive's head stands on a medium: file, block, and the byte within the file."""

    def __init__(self, medium: Medium, file: int) -> None:
        self._medium = medium
        self.to_start(file)

    def to_start(self, file: int) -> None:
        """Before the first block of a file."""
        self.file, self.block, self.offset = file, 0, 0
        self._run = self._in_run = 0

    def to_tail(self) -> None:
        """Behind the blocks of this file."""
        runs = self._medium.runs(self.file)
        self.block = sum(count for _, count in runs)
        self.offset = sum(size * count for size, count in runs)
        self._run, self._in_run = len(runs), 0

    def read(self) -> bytes:
        """The next block; b"" for the filemark behind the file, which is passed. EndOfData."""
        runs = self._medium.runs(self.file)
        if self._run == len(runs):
            if self.file >= self._medium.files:
                raise EndOfData("nothing was written behind here")
            self.to_start(self.file + 1)
            return b""
        size, count = runs[self._run]
        data = self._medium.read(self.file, self.offset, size)
        self.block, self.offset, self._in_run = self.block + 1, self.offset + size, self._in_run + 1
        if self._in_run == count:
            self._run, self._in_run = self._run + 1, 0
        return data

    def runs_before(self) -> list[Run]:
        """The blocks of this file that lie before the head."""
        runs = list(self._medium.runs(self.file))
        before = runs[: self._run]
        if self._in_run:
            before.append((runs[self._run][0], self._in_run))
        return before


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_JSON_BYTES), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise BadSettings(f"{path}: {error}", "take it from a copy of the library") from error


@contextlib.contextmanager
def _mapped(op: str) -> Iterator[None]:
    try:
        yield
    except StoreFull as error:
        raise DriveDead(f"{op}: no space left below the library: {error}", _FREE_SPACE) from error
    except TemporaryStoreError as error:
        raise MediaError(f"{op}: {error}") from error
    except OSError as error:
        if error.errno in durable.NO_SPACE:
            raise DriveDead(f"{op}: no space left below the library", _FREE_SPACE) from error
        raise MediaError(f"{op}: {error}") from error
