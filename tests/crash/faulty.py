"""Calls of the operating system that fail when told to, in the daemon and in its indexer.

Every call that these make to the store's files or to the backing tree has a site: the program, the
place in our source, and the name of the call. The file named by FAULT_ARM says what is to happen
while it exists, as JSON:

    {"count": FILE}                            write a line for each call, with its site, to FILE
    {"site": S, "at": K, "errno": E, "lasting": B, "hit": FILE}
                                               the K-th call at that site fails with E (counted from
                                               0, from when the file appeared); with `lasting` all
                                               later ones as well; a line goes to FILE

What fails has not been done, except for a close.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

SOURCE = str(Path(__file__).resolve().parents[2]) + "/"
PACKAGES = tuple(SOURCE + name + "/" for name in ("fsd", "store", "timetravel"))

CALLS = (
    "chmod",
    "chown",
    "fchown",
    "fdatasync",
    "fstat",
    "fsync",
    "ftruncate",
    "getxattr",
    "link",
    "listdir",
    "listxattr",
    "lseek",
    "mkdir",
    "mknod",
    "open",
    "pread",
    "pwrite",
    "pwritev",
    "readlink",
    "removexattr",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "setxattr",
    "stat",
    "statvfs",
    "symlink",
    "unlink",
    "utime",
)
CAPTURE_CALLS = ("set_owner", "set_times", "swap_names")
"""By ctypes, in fsd.capture."""

_real_stat, _real_open, _real_read, _real_write, _real_close = (
    os.stat,
    os.open,
    os.read,
    os.write,
    os.close,
)


class Faults:
    """What the arm file says, looked at with every call."""

    def __init__(self, arm: str, program: str) -> None:
        self._arm = arm
        self._program = program
        self._seen: tuple[int, int] | None = None
        self._order: dict[str, Any] = {}
        self._calls = 0

    def look(self) -> dict[str, Any]:
        """The order of now; {} for none."""
        try:
            status = _real_stat(self._arm)
        except FileNotFoundError:
            self._seen = None
            return {}
        seen = (status.st_ino, status.st_mtime_ns)
        if seen != self._seen:
            fd = _real_open(self._arm, os.O_RDONLY)
            try:
                self._order = json.loads(_real_read(fd, 1 << 16))
            finally:
                _real_close(fd)
            self._seen, self._calls = seen, 0
        return self._order

    def meet(self, site: str) -> int:
        """A call at a site: the errno that it is to fail with, 0 for none."""
        order = self.look()
        if not order:
            return 0
        name = f"{self._program} {site}"
        if "count" in order:
            _append(order["count"], name.encode() + b"\n")
            return 0
        if name != order["site"]:
            return 0
        self._calls += 1
        number = self._calls - 1
        hit = number >= order["at"] if order["lasting"] else number == order["at"]
        if not hit:
            return 0
        _append(order["hit"], b"hit\n")
        return int(order["errno"])

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, which can fail."""

        def faulty(*args: Any, **options: Any) -> Any:
            place = _place(sys._getframe(1))
            if place:
                number = self.meet(f"{place} {name}")
                if number:
                    raise OSError(number, f"{os.strerror(number)} (told to)")
            return call(*args, **options)

        return faulty


def _append(path: str, line: bytes) -> None:
    fd = _real_open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _real_write(fd, line)
    _real_close(fd)


def _place(frame: FrameType) -> str:
    """File, line and function if the call comes from our source; else "".

    Of what `store.durable` does it is its caller that counts.
    """
    here: FrameType | None = frame
    while here is not None and here.f_code.co_filename.endswith("/store/durable.py"):
        frame, here = here, here.f_back
    where = here or frame
    path = where.f_code.co_filename
    if not path.startswith(PACKAGES):
        return ""
    inner = f" {frame.f_code.co_name}" if where is not frame else ""
    return f"{path.removeprefix(SOURCE)}:{where.f_lineno} {where.f_code.co_name}{inner}"


def install() -> None:
    """Make the calls of this process able to fail, if it is one of ours."""
    words = " ".join(sys.orig_argv)
    program = "fsd" if " fsd " in words else "indexer" if "store.indexer" in words else ""
    if not program:
        return
    faults = Faults(os.environ["FAULT_ARM"], program)
    for name in CALLS:
        setattr(os, name, faults.wrap(name, getattr(os, name)))
    if program == "indexer":
        _wrap_index(faults)
    else:
        _wrap_libc(faults)


def _wrap_libc(faults: Faults) -> None:
    import fsd.capture
    import fsd.housekeeping

    for name in CAPTURE_CALLS:
        setattr(fsd.capture, name, faults.wrap(name, getattr(fsd.capture, name)))
    fsd.housekeeping.syncfs = faults.wrap("syncfs", fsd.housekeeping.syncfs)


def _wrap_index(faults: Faults) -> None:
    """LMDB writes by itself; its commits fail as a whole."""
    from store.durable import mapped
    from store.index import IndexWriter

    commit = IndexWriter.commit

    def failing(writer: IndexWriter) -> None:
        number = faults.meet("store/index.py commit")
        if number:
            writer.abort()
            raise mapped(OSError(number, f"{os.strerror(number)} (told to)"))
        commit(writer)

    IndexWriter.commit = failing  # type: ignore[method-assign]
