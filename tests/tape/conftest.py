"""Folders in memory: these tests sync so often that a disk would be all that they wait for.

What a disk may lose is tried with `tests/crash/fault_disk.py`, which needs no disk either.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


def memory_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder in memory, where there is one, for a `with`."""
    return tempfile.TemporaryDirectory(prefix="cdpfs-", dir=MEMORY if MEMORY.is_dir() else None)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """As pytest's own, in memory, and gone when the test is over."""
    with memory_folder() as folder:
        yield Path(folder)
