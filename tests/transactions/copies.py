"""Copies of the past, made where copying costs least."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")
"""A file system in memory, where there is one: thousands of copies wear out no disk."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that every user may enter, gone afterwards."""
    parent = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="cdpfs-", dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def copy_of(past: Path, names: tuple[str, ...], parent: Path) -> Iterator[Path]:
    """A copy of a folder of the past, or of those files in it that are named, below `parent`."""
    copy = Path(tempfile.mkdtemp(dir=parent))
    copy.chmod(0o755)
    sources = [f"{past}/{name}" for name in names or (".",)]
    try:
        present = [source for source in sources if os.path.exists(source)]
        if present:
            subprocess.run(["cp", "-a", *present, copy], check=True)
        yield copy
    finally:
        shutil.rmtree(copy)
