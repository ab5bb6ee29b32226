"""A note in the backing tree that changes go unlogged: it outlives us even if the store does not.

Duty: one small hidden file at the top of the covered tree. Blocking; any thread.
"""

from __future__ import annotations

import contextlib
import os

from fsd.adopt import GAP_NOTE
from store import durable


class BackingNote:
    """The note of one covered tree. What it says is when the gap began."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd

    def write(self, since_ns: int) -> None:
        """Make it; it is on disk when this returns. OSError."""
        before = os.fstat(self._root_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(GAP_NOTE, flags, 0o600, dir_fd=self._root_fd)
        try:
            os.write(fd, b"%d\n" % since_ns)
            durable.fsync_backing(fd)
        finally:
            os.close(fd)
        self._keep_times(before)
        durable.fsync_backing(self._root_fd)

    def read(self) -> int:
        """When the gap began (ns); 0 when there is no note.

        One that says nothing was not finished, and nothing had been changed yet; or it is not ours.
        """
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(GAP_NOTE, flags, dir_fd=self._root_fd)
        except FileNotFoundError:
            return 0
        try:
            said = os.read(fd, 32).strip()
        finally:
            os.close(fd)
        return int(said) if said.isdigit() else 0

    def remove(self) -> None:
        """Take it away."""
        before = os.fstat(self._root_fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(GAP_NOTE, dir_fd=self._root_fd)
            self._keep_times(before)

    def _keep_times(self, before: os.stat_result) -> None:
        """The user's directory has not changed as far as the user is concerned."""
        times = before.st_atime_ns, before.st_mtime_ns
        os.utime(f"/proc/self/fd/{self._root_fd}", ns=times)
