"""What the writers do: single changes that can be made to any tree, and written down.

A deed is one system call that changes something (with the opening and closing around it), so that
after a crash it has happened or it has not (or, of a write, a part of it). It is made to the mount
and, once that succeeded, to a plain directory beside it, the shadow, which thereby holds what the
writer was told is safe.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Deed:
    """One change. Paths are relative to the tree's root; text with surrogateescape."""

    kind: str
    path: str
    other: str = ""
    """New path, link target or attribute name."""
    offset: int = 0
    """Offset, size, mode, owner or time."""
    length: int = 0
    seed: int = 0
    """From which the content comes."""

    def to_line(self) -> str:
        """For the ledger."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_values(values: dict[str, Any]) -> Deed:
        """From the ledger."""
        return Deed(**values)

    def data(self) -> bytes:
        """The bytes to write: a pattern that names its deed, half of it incompressible."""
        stamp = b"%d:%d;" % (self.seed, self.offset)
        half = self.length // 2
        noise = random.Random(self.seed).randbytes(half)
        return noise + (stamp * (self.length // len(stamp) + 1))[: self.length - half]

    def steps(self, root: str) -> Iterator[Callable[[], None]]:
        """The deed in parts between which a crash may come: one after the other they are the whole.

        The kernel may make several requests of one write, cut where pages end.
        """
        if self.kind not in ("write", "append", "write_sync"):
            yield lambda: self.do(root)
            return
        path = os.path.join(root, self.path)
        start = os.lstat(path).st_size if self.kind == "append" else self.offset
        data, done = self.data(), 0
        while done < len(data):
            stop = min(PAGE_BYTES - (start + done) % PAGE_BYTES + done, len(data))
            yield partial(self._put, path, data[done:stop], start + done)
            done = stop

    def _put(self, path: str, data: bytes, offset: int) -> None:
        self._with_file(path, os.O_WRONLY, lambda fd: _put_all(fd, data, offset))

    def do(self, root: str) -> None:
        """Make the change below `root`. OSError as the system call gives it."""
        getattr(self, f"_{self.kind}")(os.path.join(root, self.path), root)

    # --- content --------------------------------------------------------------------------

    def _write(self, path: str, root: str) -> None:
        self._with_file(path, os.O_WRONLY, lambda fd: _put_all(fd, self.data(), self.offset))

    def _append(self, path: str, root: str) -> None:
        self._with_file(path, os.O_WRONLY | os.O_APPEND, lambda fd: _put_all(fd, self.data()))

    def _write_sync(self, path: str, root: str) -> None:
        flags = os.O_WRONLY | os.O_DSYNC
        self._with_file(path, flags, lambda fd: _put_all(fd, self.data(), self.offset))

    def _sync(self, path: str, root: str) -> None:
        self._with_file(path, os.O_RDONLY, os.fsync)

    def _truncate(self, path: str, root: str) -> None:
        os.truncate(path, self.offset)

    def _empty(self, path: str, root: str) -> None:
        self._with_file(path, os.O_WRONLY | os.O_TRUNC, lambda fd: None)

    def _with_file(self, path: str, flags: int, work: Any) -> None:
        # O_NONBLOCK: should the file be a FIFO by mistake, this fails instead of waiting.
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            work(fd)
        finally:
            os.close(fd)

    # --- names ----------------------------------------------------------------------------

    def _create(self, path: str, root: str) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))

    def _mkdir(self, path: str, root: str) -> None:
        os.mkdir(path, 0o750)

    def _symlink(self, path: str, root: str) -> None:
        os.symlink(self.other, path)

    def _mkfifo(self, path: str, root: str) -> None:
        os.mkfifo(path, 0o600)

    def _link(self, path: str, root: str) -> None:
        os.link(path, os.path.join(root, self.other), follow_symlinks=False)

    def _unlink(self, path: str, root: str) -> None:
        os.unlink(path)

    def _rmdir(self, path: str, root: str) -> None:
        os.rmdir(path)

    def _rename(self, path: str, root: str) -> None:
        os.rename(path, os.path.join(root, self.other))

    def _exchange(self, path: str, root: str) -> None:
        _rename2(path, os.path.join(root, self.other), EXCHANGE)

    def _noreplace(self, path: str, root: str) -> None:
        _rename2(path, os.path.join(root, self.other), NOREPLACE)

    # --- attributes -----------------------------------------------------------------------

    def _chmod(self, path: str, root: str) -> None:
        os.chmod(path, self.offset)

    def _chown(self, path: str, root: str) -> None:
        os.chown(path, self.offset, self.length, follow_symlinks=False)

    def _utime(self, path: str, root: str) -> None:
        os.utime(path, ns=(self.offset, self.offset), follow_symlinks=False)

    def _setxattr(self, path: str, root: str) -> None:
        os.setxattr(path, self.other, self.data())

    def _removexattr(self, path: str, root: str) -> None:
        os.removexattr(path, self.other)


def _put_all(fd: int, data: bytes, offset: int | None = None) -> None:
    """Write everything, at the end if there is no offset: a dying daemon makes writes short."""
    done = 0
    while done < len(data):
        if offset is None:
            done += os.write(fd, data[done:])
        else:
            done += os.pwrite(fd, data[done:], offset + done)


def _rename2(old: str, new: str, flags: int) -> None:
    """renameat2(2), which os does not have."""
    at = ctypes.c_int(-100)  # AT_FDCWD
    if _libc.renameat2(at, os.fsencode(old), at, os.fsencode(new), ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old, None, new)
