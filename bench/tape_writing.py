"""`python -m bench.tape_writing LIBRARY SLOT ARCHIVE BLOCK_BYTES`: one archive onto a cartridge.

Duty: what the spooler does with a staged archive, in a process of its own, so that its memory can
be told: write, mark, and read back. It prints seconds, the longest stop between two blocks, and
the memory as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from bench.processes import anonymous_bytes
from tape.drive import Drive, DriveStatus, Position
from tape.library import open_library
from tape.writer import read_back, write


def forget(path: Path) -> None:
    """Have the kernel drop a file from its cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


class Watched:
    """A drive whose stops between blocks are measured."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._last_s = 0.0
        self.longest_s = 0.0
        self.memory_bytes = 0

    @property
    def number(self) -> int:
        """See `Drive`."""
        return self._drive.number

    @property
    def name(self) -> str:
        """See `Drive`."""
        return self._drive.name

    @property
    def max_block_bytes(self) -> int:
        """See `Drive`."""
        return self._drive.max_block_bytes

    def open(self) -> None:
        """See `Drive`."""
        self._drive.open()

    def close(self) -> None:
        """See `Drive`."""
        self._drive.close()

    def status(self) -> DriveStatus:
        """See `Drive`."""
        return self._drive.status()

    def position(self) -> Position:
        """See `Drive`."""
        return self._drive.position()

    def rewind(self) -> None:
        """See `Drive`."""
        self._drive.rewind()

    def space_files(self, count: int) -> None:
        """See `Drive`."""
        self._drive.space_files(count)

    def to_file(self, number: int) -> None:
        """See `Drive`."""
        self._drive.to_file(number)

    def to_end(self) -> None:
        """See `Drive`."""
        self._drive.to_end()

    def read_block(self) -> bytes:
        """See `Drive`."""
        return self._drive.read_block()

    def write_block(self, data: bytes | memoryview) -> None:
        """See `Drive`; how long it waited for this block is noted."""
        if self._last_s:
            self.longest_s = max(self.longest_s, time.perf_counter() - self._last_s)
        self._drive.write_block(data)
        self._last_s = time.perf_counter()

    def write_filemark(self) -> None:
        """See `Drive`; memory is looked at, as all pieces have been held by then."""
        self._drive.write_filemark()
        self.memory_bytes = anonymous_bytes(os.getpid())


def main(home: Path, slot: int, archive: Path, block_bytes: int) -> dict[str, float]:
    """Write the archive as file 0 of the cartridge in a slot, and read it back."""
    with open_library(home, "a benchmark") as library:
        library.changer.load(slot, 0)
        drive = library.drives[0]
        drive.open()
        watched = Watched(drive)
        before = anonymous_bytes(os.getpid())
        start = time.perf_counter()
        written = write(watched, 0, archive, block_bytes)
        written_s = time.perf_counter() - start
        for path in (home / "cartridges").rglob("000000"):
            forget(path)
        drive.to_file(0)
        start = time.perf_counter()
        if read_back(drive) != written:
            raise RuntimeError("something else was read back")
        read_s = time.perf_counter() - start
        drive.close()
        library.changer.unload(0, slot)
    return {
        "written_s": written_s,
        "read_s": read_s,
        "longest_stop_s": watched.longest_s,
        "memory_bytes": float(max(watched.memory_bytes, anonymous_bytes(os.getpid())) - before),
    }


if __name__ == "__main__":
    _, home, slot, archive, block_bytes = sys.argv
    print(json.dumps(main(Path(home), int(slot), Path(archive), int(block_bytes))))
