"""How recovery brings one file or directory to the journal's state.

Duty: make a node anew from the journal, or compare its content and attributes with it and write
what differs. Doing it twice changes nothing more. Blocking, one thread. It does not decide what is
to be mended.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterator

from fsd.adopt import read_xattrs
from fsd.capture import set_owner, set_times
from store.errors import NotSeeded
from store.journal import NodeState
from store.statepage import StatePage
from store.types import ROOT, NodeId
from timetravel.view import View

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_BYTES = 1 << 20


class Mender:
    """Mends towards `view`. `repairs` lists what was done, for the log."""

    def __init__(self, view: View, page: StatePage, root_fd: int) -> None:
        self._view = view
        self._page = page
        self._root_fd = root_fd
        self.repairs: list[str] = []

    def open_dir(self, node: NodeId) -> int:
        """The directory at its path in the journal; the caller closes it."""
        return self.open_path(self._view.path_of(node) if node != ROOT else b"")

    def open_path(self, path: bytes) -> int:
        """The directory at a path in the backing tree, however long; the caller closes it."""
        fd = os.dup(self._root_fd)
        for name in path.split(b"/") if path else ():
            try:
                below = os.open(name, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def make_again(self, state: NodeState, fd: int, name: bytes) -> None:
        """The node's create op was not made, or its file is lost: make it from the journal.

        NotSeeded, and nothing made, when the journal does not hold the content of a file.
        """
        kind = stat.S_IFMT(state.mode)
        self._page.mended_node = state.node
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=fd)
        elif kind == stat.S_IFLNK:
            os.symlink(state.target, name, dir_fd=fd)
        elif kind == stat.S_IFREG:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o600, dir_fd=fd))
            try:
                self.mend_content(state, fd, name, [(0, state.size_bytes)])
            except NotSeeded:
                os.unlink(name, dir_fd=fd)
                raise
        else:
            os.mknod(name, state.mode, state.rdev, dir_fd=fd)
        self.repairs.append(f"made {name!r} again")
        self.mend_attributes(state, fd, name)

    # --- content ------------------------------------------------------------------------------

    def mend_content(
        self, state: NodeState, fd: int, name: bytes, ranges: list[tuple[int, int]]
    ) -> None:
        """Size and written ranges of a regular file; NotSeeded."""
        file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            size = os.fstat(file).st_size
            if size < state.size_bytes:
                ranges = [*ranges, (size, state.size_bytes)]
            self._mend_size(state, file, name)
            for start, stop in _merged(ranges, state.size_bytes):
                for at in range(start, stop, _COPY_BYTES):
                    self._mend_range(state.node, file, at, min(_COPY_BYTES, stop - at), name)
        finally:
            os.close(file)

    def mend_whole(self, state: NodeState, fd: int, name: bytes) -> None:
        """As `mend_content`, all of it but what the journal does not hold: that is as it is there.

        NotSeeded, with nothing changed, when it is not there either.
        """
        file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            size = os.fstat(file).st_size
            for at in range(size, state.size_bytes, _COPY_BYTES):
                self._view.read(state.node, at, _COPY_BYTES)
            self._mend_size(state, file, name)
            for at in range(0, state.size_bytes, _COPY_BYTES):
                try:
                    self._mend_range(
                        state.node, file, at, min(_COPY_BYTES, state.size_bytes - at), name
                    )
                except NotSeeded:
                    continue
        finally:
            os.close(file)

    def _mend_size(self, state: NodeState, file: int, name: bytes) -> None:
        size = os.fstat(file).st_size
        if size != state.size_bytes:
            os.ftruncate(file, state.size_bytes)
            self.repairs.append(f"size of {name!r}: {size} to {state.size_bytes}")

    def _mend_range(self, node: NodeId, file: int, at: int, length: int, name: bytes) -> None:
        right = self._view.read(node, at, length)
        if os.pread(file, length, at) != right:
            os.pwrite(file, right, at)
            self.repairs.append(f"content of {name!r} at {at}")

    # --- attributes ---------------------------------------------------------------------------

    def mend_attributes(self, state: NodeState, fd: int, name: bytes) -> None:
        """Owner, mode, xattrs, mtime; in this order, since each undoes some of the next."""
        there = os.stat(name, dir_fd=fd, follow_symlinks=False)
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            if (there.st_uid, there.st_gid) != (state.uid, state.gid) and os.geteuid() == 0:
                set_owner(held, state.uid, state.gid)
                there = os.stat(name, dir_fd=fd, follow_symlinks=False)
            is_link = stat.S_ISLNK(state.mode)
            self._mend_xattrs(state, fd, name)
            if not is_link and stat.S_IMODE(there.st_mode) != stat.S_IMODE(state.mode):
                os.chmod(b"/proc/self/fd/%d" % held, stat.S_IMODE(state.mode))
            if there.st_mtime_ns != state.mtime_ns:
                set_times(held, there.st_atime_ns, state.mtime_ns)
        finally:
            os.close(held)

    @staticmethod
    def set_mtime(fd: int, name: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Of a file in the directory `fd`."""
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            set_times(held, atime_ns, mtime_ns)
        finally:
            os.close(held)

    def _mend_xattrs(self, state: NodeState, fd: int, name: bytes) -> None:
        path = b"/proc/self/fd/%d/%b" % (fd, name)
        have = dict(read_xattrs(path, follow=False))
        want = self._view.xattrs(state.node)
        for key in have.keys() - want.keys():
            _ignoring(errno.EPERM, os.removexattr, path, key, follow_symlinks=False)
        for key, value in want.items():
            if have.get(key) != value:
                _ignoring(errno.EPERM, os.setxattr, path, key, value, follow_symlinks=False)


def _ignoring(number: int, call: object, *args: object, **options: object) -> None:
    """Security modules set attributes of their own that nobody may change."""
    try:
        call(*args, **options)  # type: ignore[operator]
    except OSError as error:
        if error.errno != number:
            raise


_libc = ctypes.CDLL(None, use_errno=True)
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800


def birth_ns(fd: int, name: bytes) -> int:
    """When the inode under a name was made; 0 where the file system does not know. statx(2)."""
    found = (ctypes.c_uint8 * 256)()
    if _libc.statx(fd, name, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, found):
        return 0
    raw = bytes(found)
    if not int.from_bytes(raw[:4], sys.byteorder) & _STATX_BTIME:
        return 0
    seconds = int.from_bytes(raw[80:88], sys.byteorder, signed=True)
    return seconds * 10**9 + int.from_bytes(raw[88:92], sys.byteorder)


def lstat(fd: int, name: bytes) -> os.stat_result | None:
    """What stands under a name; None if nothing does."""
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _merged(ranges: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """The ranges sorted, joined and cut at `size`."""
    start = stop = 0
    for begin, end in sorted(ranges):
        end = min(end, size)
        if begin > stop:
            if stop > start:
                yield start, stop
            start, stop = begin, end
        else:
            stop = max(stop, end)
    if stop > start:
        yield start, stop
