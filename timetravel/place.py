"""A tree that a restore writes into, reached step by step and never through a symbolic link.

Duty: descriptors of directories below a root, by relative paths of any length and any bytes, each
component opened by itself (O_NOFOLLOW): a link planted in the destination leads nowhere, and
PATH_MAX does not matter. For one thread at a time. It knows nothing of views.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from types import TracebackType
from typing import Final, Self

_MAX_OPEN: Final = 64
"""Descriptors of directories kept open; a walk down a tree finds its parents among them."""

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place:
    """The tree below `root`, a path that the caller trusts. A context manager.

    Paths are relative to it, bytes, with `/` between names; b"" is the root itself.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor."""
        self.forget()
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def forget(self) -> None:
        """Look everything up again: a directory was moved or removed."""
        while self._open:
            os.close(self._open.popitem()[1])

    def directory(self, path: bytes) -> int:
        """The descriptor of a directory; it stays open for the next few calls. OSError."""
        if not path:
            return self._root_fd
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        fd = self._walk_to(path)
        self._open[path] = fd
        if len(self._open) > _MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _walk_to(self, path: bytes) -> int:
        """Open `path` from its nearest ancestor that is open already."""
        below = path.split(b"/")
        names: list[bytes] = []
        start = self._root_fd
        while below:
            names.append(below.pop())
            known = self._open.get(b"/".join(below))
            if known is not None:
                start = known
                break
        fd = start
        for name in reversed(names):
            try:
                deeper = os.open(name, _OPEN_DIRECTORY, dir_fd=fd)
            finally:
                if fd != start:
                    os.close(fd)
            fd = deeper
        return fd

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """The descriptor of the directory that holds `path`, and the name in it.

        The root has no parent that we may touch: its name is `.` in itself.
        """
        if not path:
            return self._root_fd, b"."
        above, _slash, name = path.rpartition(b"/")
        return self.directory(above), name

    def stat(self, path: bytes) -> os.stat_result | None:
        """lstat of `path`; None if nothing is there. A parent that is no directory raises."""
        try:
            fd, name = self.parent(path)
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, sorted."""
        # A duplicate shares its position with the descriptor it was made from, so open afresh.
        fd = os.open(b".", _OPEN_DIRECTORY, dir_fd=self.directory(path))
        try:
            return sorted(os.fsencode(name) for name in os.listdir(fd))
        finally:
            os.close(fd)


def joined(directory: bytes, name: bytes) -> bytes:
    """The relative path of `name` in `directory`."""
    return directory + b"/" + name if directory else name
