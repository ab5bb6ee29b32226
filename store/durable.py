"""All durable file operations of the store: one place, so that a fault disk can stand in.

Duty: make bytes and names reach the disk in a known order. Blocking calls; any thread. It knows
nothing of what the files mean.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from store.errors import StoreFault, StoreFull, TemporaryStoreError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def create_file(path: Path, flags: int = os.O_RDWR) -> int:
    """Create a file for the owner only; returns its descriptor. FileExistsError if it is there."""
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def open_file(path: Path, flags: int = os.O_RDWR) -> int:
    """Open a file that exists; returns its descriptor."""
    return os.open(path, flags | os.O_CLOEXEC)


def pwrite_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write everything at `offset`; StoreFull when the disk is full."""
    view = memoryview(data)
    try:
        while view:
            written = os.pwrite(fd, view, offset)
            view = view[written:]
            offset += written
    except OSError as error:
        raise mapped(error) from error


def fdatasync(fd: int) -> None:
    """The file's bytes (and what is needed to find them) are on disk when it returns."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise mapped(error) from error


def fsync_dir(path: Path) -> None:
    """The directory's names are on disk when it returns."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(old: Path, new: Path) -> None:
    """Rename within one directory or between two, durable when it returns."""
    os.rename(old, new)
    fsync_dir(new.parent)
    if old.parent != new.parent:
        fsync_dir(old.parent)


def exchange(one: Path, other: Path) -> None:
    """Swap two entries of one directory in one step, durable when it returns.

    At no moment is either name missing (renameat2 with RENAME_EXCHANGE, see rename(2)).
    """
    assert one.parent == other.parent
    if _libc.renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    fsync_dir(one.parent)


def unlink(path: Path) -> None:
    """Remove a file, durable when it returns; a missing one is fine."""
    path.unlink(missing_ok=True)
    fsync_dir(path.parent)


def truncate(fd: int, size_bytes: int) -> None:
    """Cut or extend a file, durable when it returns."""
    os.ftruncate(fd, size_bytes)
    os.fdatasync(fd)


def make_dir(path: Path) -> None:
    """Create a directory for the owner only, with its parents; durable when it returns."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_dir(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    fsync_dir(path.parent)


def write_file_atomically(path: Path, data: bytes) -> None:
    """Put `data` under `path`: afterwards, and after any crash, it is the old or the new file."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    fd = create_file(temporary)
    try:
        pwrite_all(fd, data, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    rename(temporary, path)


def mapped(error: OSError) -> TemporaryStoreError:
    """StoreFull for a full disk or quota, else StoreFault."""
    if error.errno in NO_SPACE:
        return StoreFull(f"no space left for the store: {error}")
    return StoreFault(f"the store's disk fails: {error}", error.errno or errno.EIO)
