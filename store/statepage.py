"""The shared page: live hints between fsd, the indexer and the command line. Never the truth.

Duty: eight-byte counters in one mapped page. Each has one writer, named below; an aligned
eight-byte copy is not torn on the machines that we support. After a crash the page is
reset at the next mount: everything that counts in it is derived from the log and the index.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Any

from store import durable

PAGE_BYTES = 4096
_U64 = struct.Struct("<Q")


class _Counter:
    """One counter of the page as an attribute."""

    def __init__(self, slot: int) -> None:
        self._offset = slot * 8

    def __get__(self, page: Any, owner: type) -> int:
        value: int = _U64.unpack_from(page.map, self._offset)[0]
        return value

    def __set__(self, page: Any, value: int) -> None:
        _U64.pack_into(page.map, self._offset, value)


class StatePage:
    """The mapped page of a store. `map` is the raw mapping."""

    appended_lsn = _Counter(0)
    """Newest op in the intake log (fsd)."""
    applied_lsn = _Counter(1)
    """Every op up to it is in the backing tree, or followed by its abort op (fsd)."""
    indexed_lsn = _Counter(2)
    """Newest op in the journal, committed (indexer)."""
    indexer_pid = _Counter(3)
    indexer_beat_ns = _Counter(4)
    """Wall time at which the indexer last looked for work (indexer)."""
    segment_bytes = _Counter(5)
    payload_bytes = _Counter(6)
    fsd_pid = _Counter(7)
    indexer_trouble = _Counter(8)
    """errno of what keeps the indexer from committing, 0 when all is well (indexer)."""
    alive_ns = _Counter(9)
    """Wall time at which fsd last looked after the mount: about when it died (fsd)."""
    mended_node = _Counter(10)
    """The file whose content recovery is at work on, 0 for none (fsd)."""
    recovering_ns = _Counter(12)
    """Wall time at which the recovery from a power cut first began that has not ended; 0: none."""

    gap_ns = _Counter(11)
    """Wall time since when changes go unlogged, 0 when they do not (fsd)."""
    awaited_ns = _Counter(13)
    """Wall time at which a consumer last said that it has everything and waits for more
    (replicator)."""

    def __init__(self, path: Path, writable: bool = True) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            if writable and os.fstat(fd).st_size < PAGE_BYTES:
                # Written, not only extended: a hole in a full file system would mean SIGBUS later.
                durable.pwrite_all(fd, bytes(PAGE_BYTES), 0)
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            self.map = mmap.mmap(fd, PAGE_BYTES, mmap.MAP_SHARED, protection)
        finally:
            os.close(fd)

    def reset(self) -> None:
        """A new session begins: all counters to 0 but what recovery must know of the crash."""
        crashed = self.alive_ns, self.mended_node, self.gap_ns, self.recovering_ns
        self.map[:] = bytes(PAGE_BYTES)
        self.alive_ns, self.mended_node, self.gap_ns, self.recovering_ns = crashed

    def flush(self) -> None:
        """The page is on disk when it returns. OSError."""
        durable.flush_map(self.map)

    def close(self) -> None:
        """Give the mapping back."""
        self.map.close()
