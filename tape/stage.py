"""The stage: one archive, made whole on disk before it goes to a drive.

Duty: the folder `STORE/tape`, which holds at most one archive. It is made there so that it can be
written again, whole, on the next cartridge; nothing in it is needed after a restart, as the
journal has everything. It leaves the rest of the disk to the log. Blocking; one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from store import durable
from store.volume import Store
from tape.errors import StageFull

FOLDER: Final = "tape"
_NAME: Final = "current.archive"

RESERVED_PART: Final = 0.05
MAX_RESERVED_BYTES: Final = 10 << 30
"""So much of the disk is left to the log of the volume."""

_GATHER_BYTES: Final = 1 << 20

_Made = TypeVar("_Made")


class Stage:
    """The stage of one store, for the one process that spools it.

    `check` is called often while an archive is made; it raises when the work is to end.
    """

    def __init__(self, store: Store, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._folder = store.root / FOLDER
        durable.make_dir(self._folder)
        self.path = self._folder / _NAME
        self.drop()

    def drop(self) -> None:
        """Let go of what is staged."""
        durable.drop(self.path)

    def make(self, expected_bytes: int, write: Callable[[StageFile], _Made]) -> _Made:
        """Have an archive written; it is on disk when this returns what `write` did.

        StageFull when the disk has no room for `expected_bytes`, or it turns out to be more.
        """
        self.drop()
        self._check_room(expected_bytes)
        file = StageFile(self.path, self._check)
        try:
            made = write(file)
            file.finish()
        finally:
            file.close()
        durable.fsync_dir(self._folder)
        return made

    def _check_room(self, expected_bytes: int) -> None:
        there = os.statvfs(self._folder)
        free, total = there.f_bavail * there.f_frsize, there.f_blocks * there.f_frsize
        reserved = min(int(total * RESERVED_PART), MAX_RESERVED_BYTES)
        if free < expected_bytes + reserved:
            raise StageFull(
                f"an archive of up to {expected_bytes >> 20} MiB has no room in {self._folder}:"
                f" {max(free - reserved, 0) >> 20} MiB may be used"
            )


class StageFile:
    """Takes an archive's bytes, one after the other."""

    def __init__(self, path: Path, check: Callable[[], None]) -> None:
        self._check = check
        self._fd = durable.create_file(path)
        self._gathered = bytearray()
        self._written = 0

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes. StoreFull, StoreFault."""
        self._gathered += data
        if len(self._gathered) >= _GATHER_BYTES:
            self._check()
            self._flush()

    def _flush(self) -> None:
        durable.pwrite_all(self._fd, self._gathered, self._written)
        self._written += len(self._gathered)
        self._gathered = bytearray()

    def finish(self) -> None:
        """What was added is on disk when it returns."""
        self._flush()
        durable.fsync(self._fd)

    def close(self) -> None:
        """Give the descriptor back."""
        durable.close_file(self._fd)
