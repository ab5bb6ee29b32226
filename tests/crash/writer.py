"""A process that changes the mount until the mount dies or it is told to stop.

    python -m tests.crash.writer MOUNT SHADOW TOP LEDGER SEED

Each deed is written to the ledger before it is done; when it has succeeded it is done to the
shadow as well, and the ledger says so. What the ledger and the shadow say is therefore what an
application knows. Ends with 0 when the mount died or on SIGTERM, with 1 when a deed was refused
though it should have succeeded.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.crash.chooser import Chooser
from tests.crash.deeds import Deed

DEATH = frozenset((errno.ENOTCONN, errno.ECONNABORTED))
"""What an application sees when the daemon is gone."""


class Ledger:
    """An append-only file outside the mount."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, **values: object) -> None:
        """One line."""
        os.write(self._fd, json.dumps(values).encode() + b"\n")


def last_pending(path: Path) -> Deed | None:
    """The deed that was begun and neither succeeded nor was found out about."""
    pending: Deed | None = None
    if not path.exists():
        return None
    for line in path.read_text("utf-8").splitlines():
        values = json.loads(line)
        pending = Deed.from_values(values["deed"]) if "deed" in values else None
    return pending


class Writer:
    """The loop. `stop` may be called at any time."""

    def __init__(self, mount: str, shadow: str, top: str, ledger: Path, seed: int) -> None:
        # Through a descriptor: when the dead mount is taken away, nothing of what this process
        # still does may reach the directory beneath it.
        fd = os.open(mount, os.O_PATH | os.O_DIRECTORY)
        self._mount = f"/proc/self/fd/{fd}"
        self._shadow = shadow
        self._ledger = Ledger(ledger)
        self._chooser = Chooser(shadow, top, seed)
        self._stopping = False

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End after the deed at hand."""
        self._stopping = True

    def run(self) -> int:
        """Work; returns the exit code."""
        while not self._stopping:
            deed = self._chooser.next()
            self._ledger.say(deed=json.loads(deed.to_line()))
            try:
                deed.do(self._mount)
            except OSError as error:
                if error.errno in DEATH:
                    return 0
                print(f"{deed}: {error}", file=sys.stderr)
                return 1
            deed.do(self._shadow)
            self._ledger.say(done=True)
        return 0


def main(arguments: list[str]) -> int:
    """The process."""
    mount, shadow, top, ledger, seed = arguments
    try:
        writer = Writer(mount, shadow, top, Path(ledger), int(seed))
    except OSError as error:
        if error.errno in DEATH:
            return 0
        raise
    signal.signal(signal.SIGTERM, writer.stop)
    print("ready", flush=True)
    return writer.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
