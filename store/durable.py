"""All durable file operations of the store: one place, so that a fault disk can stand in.

Duty: make bytes and names reach the disk in a known order. Blocking calls; any thread. It knows
nothing of what the files mean. Every call that changes a store file goes through `disk`, the calls
that make it durable included; a tidy test sees to it that no other module of the store makes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from store.errors import StoreError, StoreFault, StoreFull, TemporaryStoreError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP)
_COPY_BYTES = 1 << 20
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)

Buffer: TypeAlias = bytes | bytearray | memoryview


class Disk:
    """The system calls beneath. A fault disk overrides them (see `tests/crash/fault_disk.py`)."""

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        """open(2)."""
        return os.open(path, flags, mode)

    def close(self, fd: int) -> None:
        """close(2)."""
        os.close(fd)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        """pwrite(2)."""
        return os.pwrite(fd, data, offset)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """pwritev(2)."""
        return os.pwritev(fd, buffers, offset)

    def ftruncate(self, fd: int, size_bytes: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(fd, size_bytes)

    def fdatasync(self, fd: int) -> None:
        """fdatasync(2)."""
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """fsync(2)."""
        os.fsync(fd)

    def mkdir(self, path: Path, mode: int) -> None:
        """mkdir(2)."""
        os.mkdir(path, mode)

    def rename(self, old: Path, new: Path) -> None:
        """rename(2)."""
        os.rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        """link(2)."""
        os.link(old, new)

    def unlink(self, path: Path) -> None:
        """unlink(2)."""
        os.unlink(path)

    def commit(self, index: Path, commit: Callable[[], object]) -> None:
        """Have LMDB commit a transaction, with full sync, in the folder `index`."""
        commit()


disk = Disk()
"""What the store stands on. The intake log appends through it directly."""


def create_file(path: Path, flags: int = os.O_RDWR) -> int:
    """Create a file for the owner only; returns its descriptor. FileExistsError if it is there."""
    return disk.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def open_file(path: Path, flags: int = os.O_RDWR) -> int:
    """Open a file that exists; returns its descriptor."""
    return disk.open(path, flags | os.O_CLOEXEC)


def close_file(fd: int) -> None:
    """Close a file that `create_file` or `open_file` opened."""
    disk.close(fd)


def pwrite_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write everything at `offset`; StoreFull when the disk is full."""
    view = memoryview(data)
    try:
        while view:
            written = disk.pwrite(fd, view, offset)
            view = view[written:]
            offset += written
    except OSError as error:
        raise mapped(error) from error


def fdatasync(fd: int) -> None:
    """The file's bytes (and what is needed to find them) are on disk when it returns."""
    try:
        disk.fdatasync(fd)
    except OSError as error:
        raise mapped(error) from error


def fsync(fd: int) -> None:
    """The file's bytes and attributes are on disk when it returns."""
    try:
        disk.fsync(fd)
    except OSError as error:
        raise mapped(error) from error


def fsync_backing(fd: int) -> None:
    """As `fsync`, of something in the backing tree: its OSErrors are not the store's."""
    disk.fsync(fd)


def fsync_dir(path: Path) -> None:
    """The directory's names are on disk when it returns."""
    fd = disk.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def rename(old: Path, new: Path) -> None:
    """Rename within one directory or between two, durable when it returns."""
    disk.rename(old, new)
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


def share_file(old: Path, new: Path) -> None:
    """Have a file that never changes under a further name, which is not yet durable.

    As a hard link, where the file system has them; else as a copy, whose bytes are on disk.
    """
    try:
        disk.link(old, new)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        copy_start(old, new, old.stat().st_size)


def copy_start(old: Path, new: Path, size_bytes: int) -> None:
    """Make a file of the first `size_bytes` of another, on disk but for its name. StoreFull."""
    source = disk.open(old, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = create_file(new)
        try:
            for at in range(0, size_bytes, _COPY_BYTES):
                piece = os.pread(source, min(_COPY_BYTES, size_bytes - at), at)
                pwrite_all(target, piece, at)
            fsync(target)
        finally:
            disk.close(target)
    finally:
        disk.close(source)


def unlink(path: Path) -> None:
    """Remove a file, durable when it returns; a missing one is fine."""
    drop(path)
    fsync_dir(path.parent)


def drop(path: Path) -> None:
    """Remove a file that may as well come back after a power cut; a missing one is fine."""
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(path)


def drop_tree(folder: Path) -> None:
    """Remove a folder that nobody needs (an index that was replaced), as far as it goes."""
    shutil.rmtree(folder, ignore_errors=True)


def truncate(fd: int, size_bytes: int) -> None:
    """Cut or extend a file, durable when it returns."""
    disk.ftruncate(fd, size_bytes)
    disk.fdatasync(fd)


def make_dir(path: Path) -> None:
    """Create a directory for the owner only, with its parents; durable when it returns."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_dir(path.parent)
    with contextlib.suppress(FileExistsError):
        disk.mkdir(path, 0o700)
    fsync_dir(path.parent)


def write_file_atomically(path: Path, data: bytes) -> None:
    """Put `data` under `path`: afterwards, and after any crash, it is the old or the new file."""
    temporary = path.with_name(path.name + ".new")
    drop(temporary)
    fd = create_file(temporary)
    try:
        pwrite_all(fd, data, 0)
        fsync(fd)
    finally:
        disk.close(fd)
    rename(temporary, path)


def replace_unsynced(path: Path, data: bytes) -> None:
    """Put `data` under `path` at once, for what says nothing any more after a power cut.

    Readers see the old or the new file. A disk that is full or fails keeps the older one.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        drop(temporary)
        fd = create_file(temporary)
        try:
            pwrite_all(fd, data, 0)
        finally:
            disk.close(fd)
        disk.rename(temporary, path)
    except (StoreError, OSError):
        drop(temporary)


def commit(index: Path, transaction: Callable[[], object]) -> None:
    """Commit a transaction of LMDB, durable when it returns. `index` is the index's folder."""
    disk.commit(index, transaction)


def flush_map(mapped_file: mmap.mmap) -> None:
    """What was written to a shared mapping is on disk when it returns."""
    mapped_file.flush()


def mapped(error: OSError) -> TemporaryStoreError:
    """StoreFull for a full disk or quota, else StoreFault."""
    if error.errno in NO_SPACE:
        return StoreFull(f"no space left for the store: {error}")
    return StoreFault(f"the store's disk fails: {error}", error.errno or errno.EIO)
