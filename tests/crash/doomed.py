"""The daemon, with its death appointed: it kills itself just before the n-th change it makes.

    python -m tests.crash.doomed STORE --ready-fd N

Between an op's record in the intake log and each of the calls that make the change in the backing
tree lie a few microseconds, which kills at random moments hardly ever hit. Here every such place
is hit in turn. The environment says where:

    DOOM_ARM   changes count while this file exists
    DOOM_AT    die before this change, counted from 0
    DOOM_TORN  when that change is an append to the intake log, make the first half of it

What counts are the calls that change a file or a name anywhere.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import fsd.capture

CALLS = (
    "chmod",
    "chown",
    "fchown",
    "ftruncate",
    "link",
    "mkdir",
    "mknod",
    "open",
    "pwrite",
    "pwritev",
    "removexattr",
    "rename",
    "rmdir",
    "setxattr",
    "symlink",
    "unlink",
    "utime",
)
OWN_CALLS = ("set_owner", "set_times", "swap_names")
"""Calls by ctypes, in fsd.capture."""


class Doom:
    """Counts changes; kills this process when the time has come."""

    def __init__(self, arm: str, at: int, torn: bool) -> None:
        self._arm = arm
        self._left = at
        self._torn = torn
        self._real_pwrite = os.pwrite

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, counted."""

        def counted(*args: Any, **options: Any) -> Any:
            if self._counts(name, args):
                if not self._left:
                    self._die(name, args)
                self._left -= 1
            return call(*args, **options)

        return counted

    def _counts(self, name: str, args: tuple[Any, ...]) -> bool:
        if name == "open" and not (len(args) > 1 and args[1] & (os.O_CREAT | os.O_TRUNC)):
            return False
        return os.path.exists(self._arm)

    def _die(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "pwritev" and self._torn:
            fd, buffers, offset = args
            whole = b"".join(map(bytes, buffers))
            self._real_pwrite(fd, whole[: len(whole) // 2], offset)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Appoint the death, then be the daemon."""
    at = os.environ["DOOM_AT"], os.environ.get("DOOM_TORN", "")
    doom = Doom(os.environ["DOOM_ARM"], int(at[0]), bool(at[1]))
    for name in CALLS:
        setattr(os, name, doom.wrap(name, getattr(os, name)))
    for name in OWN_CALLS:
        setattr(fsd.capture, name, doom.wrap(name, getattr(fsd.capture, name)))
    # Only now: what takes these functions by name must get the counted ones.
    from fsd.daemon import main as run

    run()


if __name__ == "__main__":
    main()
