"""Files that do not belong where they stand in the backing tree after a power cut.

Duty: put them out of the way (into the hidden directory, as `lost-N`), find a file again by its
inode or by its likeness, hand it to the place where it belongs, and remove what belongs nowhere.
Blocking, one thread.
"""

from __future__ import annotations

import contextlib
import os
import stat

from fsd.adopt import HIDDEN
from fsd.mending import Mender, birth_ns, lstat
from store.journal import NodeState
from store.types import NodeId

_PREFIX = b"lost-"
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Likeness = tuple[int, int, int]
"""Kind, size (0 but of regular files) and mtime."""


class Strays:
    """Those of one recovery."""

    def __init__(self, root_fd: int, mender: Mender) -> None:
        self._root_fd = root_fd
        self._mender = mender
        self._count = 0
        self._alike: dict[Likeness, list[bytes]] = {}
        self._places: dict[int, list[bytes]] | None = None
        """Inode → paths, of the whole tree; None until somebody asks, or when it is out of date."""

    def find_parked(self) -> None:
        """What an earlier recovery that was cut short had put out of the way."""
        for name in self._hidden():
            if name.startswith(_PREFIX):
                self._count = max(self._count, int(name[len(_PREFIX) :]) + 1)
                path = os.path.join(HIDDEN, name)
                self._remember(path, os.stat(path, dir_fd=self._root_fd, follow_symlinks=False))

    def _hidden(self) -> list[bytes]:
        try:
            fd = os.open(HIDDEN, _LIST, dir_fd=self._root_fd)
        except FileNotFoundError:
            return []
        try:
            return sorted(map(os.fsencode, os.listdir(fd)))
        finally:
            os.close(fd)

    def park(self, fd: int, name: bytes, there: os.stat_result) -> None:
        """Out of the directory `fd`."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(HIDDEN, 0o700, dir_fd=self._root_fd)
        path = b"%b/%b%d" % (HIDDEN, _PREFIX, self._count)
        self._count += 1
        os.rename(name, path, src_dir_fd=fd, dst_dir_fd=self._root_fd)
        self._mender.repairs.append(f"took {name!r} away")
        self._remember(path, there)

    def _remember(self, path: bytes, there: os.stat_result) -> None:
        self._places = None
        self._alike.setdefault(_likeness(there), []).append(path)

    def locate(self, inode: int, mode: int, ctime_ns: int) -> bytes | None:
        """A path where the file of that inode stands, if it is of the same kind.

        And if it was made no later than `ctime_ns`: else the number has been used again.
        """
        if self._places is None:
            self._places = self._all_places()
        for path in self._places.get(inode, []):
            there, born_ns = self._look_at(path)
            if there is None or there.st_ino != inode or born_ns > ctime_ns:
                continue
            if stat.S_IFMT(there.st_mode) == stat.S_IFMT(mode):
                return path
        return None

    def _look_at(self, path: bytes) -> tuple[os.stat_result | None, int]:
        """Attributes and birth of what stands at a path."""
        try:
            fd = self._mender.open_path(os.path.dirname(path))
        except OSError:
            return None, 0
        try:
            name = os.path.basename(path)
            return lstat(fd, name), birth_ns(fd, name)
        finally:
            os.close(fd)

    def _all_places(self) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        waiting = [b""]
        while waiting:
            folder = waiting.pop()
            held = self._mender.open_path(folder)
            try:
                listing = os.open(b"/proc/self/fd/%d" % held, os.O_RDONLY | os.O_DIRECTORY)
            finally:
                os.close(held)
            try:
                with os.scandir(listing) as entries:
                    for entry in entries:
                        path = os.path.join(folder, os.fsencode(entry.name))
                        found.setdefault(entry.inode(), []).append(path)
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(path)
            finally:
                os.close(listing)
        return found

    def like(self, state: NodeState) -> bytes | None:
        """Of what is out of the way, something of this kind, size and mtime, else nothing.

        Its content is compared afterwards, so a wrong guess costs time only.
        """
        size = state.size_bytes if stat.S_ISREG(state.mode) else 0
        paths = self._alike.get((stat.S_IFMT(state.mode), size, state.mtime_ns), [])
        while paths:
            path = paths.pop()
            if self._look_at(path)[0] is not None:
                return path
        return None

    def move(self, path: bytes, fd: int, name: bytes) -> None:
        """To the name in the directory `fd`, which is free."""
        source = self._mender.open_path(os.path.dirname(path))
        try:
            os.rename(os.path.basename(path), name, src_dir_fd=source, dst_dir_fd=fd)
        finally:
            os.close(source)
        self._places = None
        self._mender.repairs.append(f"put {name!r} back")

    def remove(self, unseeded: dict[int, NodeId]) -> None:
        """Take away what is left, but for files by these inodes: those wait for seeding."""
        for name in self._hidden():
            if name.startswith(_PREFIX):
                self._remove(HIDDEN, name, unseeded)
        with contextlib.suppress(OSError):  # it is not there, or files wait in it
            os.rmdir(HIDDEN, dir_fd=self._root_fd)

    def _remove(self, folder: bytes, name: bytes, unseeded: dict[int, NodeId]) -> None:
        path = os.path.join(folder, name)
        fd = self._mender.open_path(folder)
        try:
            there = lstat(fd, name)
            if there is None:
                return
            if stat.S_ISDIR(there.st_mode):
                below = os.open(name, _LIST, dir_fd=fd)
                try:
                    inside = [os.fsencode(entry) for entry in os.listdir(below)]
                finally:
                    os.close(below)
                for entry in inside:
                    self._remove(path, entry, unseeded)
                os.rmdir(name, dir_fd=fd)
            elif there.st_ino in unseeded and stat.S_ISREG(there.st_mode) and there.st_nlink == 1:
                kept = b"%b/%d" % (HIDDEN, unseeded[there.st_ino])
                os.rename(name, kept, src_dir_fd=fd, dst_dir_fd=self._root_fd)
                self._mender.repairs.append(f"kept {name!r} for seeding")
            else:
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)


def _likeness(there: os.stat_result) -> Likeness:
    size = there.st_size if stat.S_ISREG(there.st_mode) else 0
    return stat.S_IFMT(there.st_mode), size, there.st_mtime_ns
