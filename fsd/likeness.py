"""Does what stands under a name look like a node of the journal?

Duty: tell two things apart that may have changed places, by inode where the journal knows it, else
by what they are and hold. Attributes and times do not count: they may not have been set yet.
Blocking; used by recovery. It changes nothing.
"""

from __future__ import annotations

import os
import stat

from store.errors import NotSeeded
from store.journal import NodeState
from timetravel.view import View

_READ_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Likeness:
    """Compares with the nodes as of `view`."""

    def __init__(self, view: View) -> None:
        self._view = view

    def of(self, state: NodeState, fd: int, name: bytes) -> bool:
        """Is what stands under `name` in the directory `fd` like that node?"""
        try:
            there = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_IFMT(there.st_mode) != stat.S_IFMT(state.mode):
            return False
        if state.inode and state.inode == there.st_ino:
            return True
        try:
            if stat.S_ISREG(state.mode):
                return there.st_size == state.size_bytes and self._same_bytes(state, fd, name)
            if stat.S_ISDIR(state.mode):
                return self._same_entries(state, fd, name)
        except NotSeeded:
            return False  # it was adopted, so its inode would have told
        if stat.S_ISLNK(state.mode):
            return os.readlink(name, dir_fd=fd) == state.target
        return there.st_rdev == state.rdev

    def _same_bytes(self, state: NodeState, fd: int, name: bytes) -> bool:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            return all(
                os.pread(file, _READ_BYTES, at) == self._view.read(state.node, at, _READ_BYTES)
                for at in range(0, state.size_bytes, _READ_BYTES)
            )
        finally:
            os.close(file)

    def _same_entries(self, state: NodeState, fd: int, name: bytes) -> bool:
        folder = os.open(name, _DIRECTORY, dir_fd=fd)
        try:
            entries = self._view.entries(state.node)
            if {os.fsencode(entry) for entry in os.listdir(folder)} != {key for key, _ in entries}:
                return False
            return all(self.of(self._view.state(node), folder, key) for key, node in entries)
        finally:
            os.close(folder)
