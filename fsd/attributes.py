"""Attributes as the kernel wants them: of a backing file, of the file system. Any thread."""

from __future__ import annotations

import os

import pyfuse3

LIVE_TIMEOUT_S = 3600.0
"""How long the kernel may trust names and attributes: every change comes through the mount."""


def entry_of(status: os.stat_result, node: int, touched_ns: int) -> pyfuse3.EntryAttributes:
    """lstat's result as an entry with `node` as its inode number.

    `touched_ns` is the time of a change that the backing file's mtime does not show yet, or 0.
    """
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = node
    entry.st_mode = status.st_mode
    entry.st_nlink = status.st_nlink
    entry.st_uid = status.st_uid
    entry.st_gid = status.st_gid
    entry.st_rdev = status.st_rdev
    entry.st_size = status.st_size
    entry.st_blocks = status.st_blocks
    entry.st_blksize = status.st_blksize
    entry.st_atime_ns = status.st_atime_ns
    entry.st_mtime_ns = touched_ns or status.st_mtime_ns
    entry.st_ctime_ns = max(status.st_ctime_ns, touched_ns)
    entry.attr_timeout = LIVE_TIMEOUT_S
    entry.entry_timeout = LIVE_TIMEOUT_S
    return entry


def no_entry() -> pyfuse3.EntryAttributes:
    """The answer "there is nothing under this name", which the kernel may remember."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = LIVE_TIMEOUT_S
    return entry


def statfs_of(fd: int) -> pyfuse3.StatvfsData:
    """statvfs of the file system that holds an open file."""
    found = os.fstatvfs(fd)
    data = pyfuse3.StatvfsData()
    data.f_bsize = found.f_bsize
    data.f_frsize = found.f_frsize
    data.f_blocks = found.f_blocks
    data.f_bfree = found.f_bfree
    data.f_bavail = found.f_bavail
    data.f_files = found.f_files
    data.f_ffree = found.f_ffree
    data.f_favail = found.f_favail
    data.f_namemax = min(found.f_namemax, 255)
    return data
