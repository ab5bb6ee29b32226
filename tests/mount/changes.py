"""Changes that an application makes, done in the same way to any tree: the vocabulary of the
state machine. Each function takes the tree's root, so that one call can be made on the mount and
on a plain directory; what it returns, or the OSError it raises, must be the same on both.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
CAPABILITY = "security.capability"

_libc = ctypes.CDLL(None, use_errno=True)

Change = Callable[[bytes], object]
"""Given the root of a tree, changes it; the result must not depend on which tree it was."""


def outcome(change: Change, root: bytes) -> tuple[str, object]:
    """What a caller gets of a change: its result, or the error's number."""
    try:
        return "done", change(root)
    except OSError as error:
        return "refused", os.strerror(error.errno or 0)


def full(root: bytes, path: bytes) -> bytes:
    """An absolute path."""
    return os.path.join(root, path) if path else root


def rename2(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    at = ctypes.c_int(-100)  # AT_FDCWD
    if _libc.renameat2(at, old, at, new, ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """The process's umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def opened(path: bytes, flags: int, mode: int = 0o666) -> Iterator[int]:
    """A descriptor for a while; symlinks are not followed (their targets lie anywhere)."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def make_file(path: bytes, mode: int, mask: int, data: bytes, flags: int = os.O_EXCL) -> Change:
    """Create, perhaps exclusively, and write."""

    def change(root: bytes) -> object:
        how = os.O_CREAT | os.O_RDWR | flags
        with umask(mask), opened(full(root, path), how, mode) as fd:
            return os.write(fd, data)

    return change


def write_at(path: bytes, offset: int, data: bytes, flags: int = 0) -> Change:
    """Write into a file that is there; `flags` may hold O_APPEND, O_TRUNC, O_SYNC."""

    def change(root: bytes) -> object:
        with opened(full(root, path), os.O_WRONLY | flags) as fd:
            if flags & os.O_APPEND:
                return os.write(fd, data)
            return os.pwrite(fd, data, offset)

    return change


def write_mapped(path: bytes, offset: int, data: bytes) -> Change:
    """Write through a shared mapping, as far as the file is long."""

    def change(root: bytes) -> object:
        with opened(full(root, path), os.O_RDWR) as fd:
            size = os.fstat(fd).st_size
            if not size:
                return 0
            start = offset % size
            part = data[: size - start]
            with mmap.mmap(fd, size) as mapped:
                mapped[start : start + len(part)] = part
                mapped.flush()
            return len(part)

    return change


def set_acl(path: bytes, kind: str, entries: list[tuple[int, int, int]]) -> Change:
    """Set an ACL as the kernel wants it: (tag, permissions, id) by tag; version 2."""
    value = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, number) for tag, rights, number in entries
    )
    return lambda root: os.setxattr(full(root, path), kind, value, follow_symlinks=False)


def acl_entries(
    owner: int, group: int, other: int, mask: int, named: list[tuple[int, int]]
) -> list[tuple[int, int, int]]:
    """A valid ACL: base entries, named users, a mask."""
    nobody = 0xFFFFFFFF
    users = [(0x02, rights, uid) for uid, rights in sorted(dict(named).items())]
    return [
        (0x01, owner, nobody),
        *users,
        (0x04, group, nobody),
        (0x10, mask, nobody),
        (0x20, other, nobody),
    ]


CAPABILITY_VALUE = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""cap_net_bind_service, effective and permitted, in the form of VFS_CAP_REVISION_2."""
