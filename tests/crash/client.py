"""An application whose invariants tell a prefix of its work from anything else, and their check.

    python -m tests.crash.client FOLDER LEDGER SEED

It counts. Each number goes through a number of steps, and the ledger, outside of what loses its
power, is told of those that fsync made safe:

    a, b, c    eight-byte counters in three files, set in this order without any sync: a prefix of
               the work has a >= b >= c >= a - 1
    log        the number is appended, then fsynced and acknowledged
    current    a new file with the number, twice, is fsynced, renamed over `current`, and the
               folder fsynced and acknowledged
    fresh-N    files made and removed, one for each number: the newest two at the most are there
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
from pathlib import Path
from types import FrameType

DEATH = frozenset((errno.ENOTCONN, errno.ECONNABORTED, errno.EIO))
COUNTERS = ("a", "b", "c")


def make(folder: Path) -> None:
    """The state before the first number."""
    folder.mkdir()
    for name in COUNTERS:
        (folder / name).write_bytes(bytes(8192))
    (folder / "log").write_bytes(b"")
    (folder / "current").write_text("0\n0\n")


def acknowledged(ledger: bytes) -> dict[str, int]:
    """The newest number that each kind of work was told is safe."""
    found = {"log": 0, "current": 0}
    for line in ledger.decode().splitlines():
        words = line.split()
        if len(words) == 2 and line and words[0] in found and words[1].endswith("."):
            found[words[0]] = int(words[1][:-1])
    return found


def check(folder: Path, ledger: bytes) -> list[str]:
    """What is wrong with what is left; [] when it is a prefix with all that was acknowledged."""
    safe = acknowledged(ledger)
    numbers = [
        int.from_bytes((folder / name).read_bytes()[4096:4104], "little") for name in COUNTERS
    ]
    a, b, c = numbers
    logged = [int(line) for line in (folder / "log").read_text().split()]
    current = (folder / "current").read_text().split()
    wrong = []
    if not a >= b >= c >= a - 1:
        wrong.append(f"the counters are {numbers}: no prefix of the work")
    if logged != list(range(1, len(logged) + 1)):
        wrong.append(f"the log has {logged[-5:]} at its end, {len(logged)} lines")
    if len(logged) < safe["log"]:
        wrong.append(f"the log ends at {len(logged)}, {safe['log']} was acknowledged")
    if len(logged) not in (c, c - 1):
        wrong.append(f"the log ends at {len(logged)}, the last counter at {c}")
    if len(set(current)) != 1 or len(current) != 2 or int(current[0]) < safe["current"]:
        wrong.append(f"current holds {current}, {safe['current']} was acknowledged")
    fresh = sorted(int(name.name[6:]) for name in folder.glob("fresh-*"))
    if len(fresh) > 2 or any(number < len(logged) - 2 for number in fresh):
        wrong.append(f"fresh files {fresh} beside a log of {len(logged)}")
    return [f"client: {line}" for line in wrong]


class Client:
    """The loop. `stop` may be called at any time."""

    def __init__(self, folder: str, ledger: str, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._stopping = False

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End after the number at hand."""
        self._stopping = True

    def run(self) -> None:
        """Work until stopped; OSError when the mount is gone."""
        counters = [os.open(f"{self._folder}/{name}", os.O_RDWR) for name in COUNTERS]
        log = os.open(f"{self._folder}/log", os.O_RDWR | os.O_APPEND)
        number = len(os.pread(log, 1 << 26, 0).split())
        while not self._stopping:
            number += 1
            for fd in counters:
                os.pwrite(fd, number.to_bytes(8, "little"), 4096)
            os.write(log, b"%d\n" % number)
            if self._random.random() < 0.7:
                os.fsync(log)
                self._say("log", number)
            self._replace(number)
            self._freshen(number)

    def _say(self, what: str, number: int) -> None:
        os.write(self._ledger, f"{what} {number}.\n".encode())

    def _replace(self, number: int) -> None:
        if self._random.random() < 0.4:
            return
        new = f"{self._folder}/new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(fd, b"%d\n%d\n" % (number, number))
        os.fsync(fd)
        os.close(fd)
        os.rename(new, f"{self._folder}/current")
        if self._random.random() < 0.5:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
            self._say("current", number)

    def _freshen(self, number: int) -> None:
        fd = os.open(f"{self._folder}/fresh-{number}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, b"%d" % number * self._random.randrange(1, 3000))
        os.close(fd)
        old = f"{self._folder}/fresh-{number - 1}"
        if os.path.exists(old):
            os.unlink(old)


def main(arguments: list[str]) -> int:
    """The process: 0 when stopped, or when the mount went away under it."""
    folder, ledger, seed = arguments
    client = Client(folder, ledger, int(seed))
    signal.signal(signal.SIGTERM, client.stop)
    print("ready", flush=True)
    try:
        client.run()
    except OSError as error:
        if error.errno not in DEATH:
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
