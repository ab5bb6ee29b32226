"""rsync, restic and borg on the TPC-B-like run: what each sends when it is called now and then.

All three work as they would over ssh, with `counted_pipe` in its place: what is counted is their
own protocol in both directions, without the headers of TCP and ssh. The first copy, of the database
before the run, does not count. They copy between two transactions, which no real one could do
without stopping the application. Blocking; one thread.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench.tpcb_workload import Shape, create, transactions

PIPE = Path(__file__).with_name("counted_pipe.py")
SFTP_SERVER = "/usr/lib/openssh/sftp-server"
HOST = "vault"


def _run(command: list[str], cwd: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=dict(os.environ, **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


@dataclass
class Peer:
    """One program with a copy of its own, in `work`. `prepare` once, `back_up` again and again."""

    work: Path
    source: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def shell(self) -> str:
        """What it calls instead of ssh."""
        return shlex.join([sys.executable, str(PIPE), str(self.counts)])

    @property
    def counts(self) -> Path:
        """Where the pipe writes down what went through."""
        return self.work / "counts"

    def bytes_so_far(self) -> int:
        """Both directions."""
        if not self.counts.exists():
            return 0
        return sum(int(word) for word in self.counts.read_text("ascii").split())

    def call(self, *command: str) -> None:
        """Run it, beside the source."""
        _run(list(command), self.source, self.environment)

    def prepare(self) -> None:
        """Make the place for the copies."""
        raise NotImplementedError

    def back_up(self, number: int) -> None:
        """Copy the source as it is now."""
        raise NotImplementedError


class Rsync(Peer):
    """`rsync -z`, which sends differences to the copy that is there."""

    def prepare(self) -> None:
        (self.work / "copy").mkdir()

    def back_up(self, number: int) -> None:
        words = ("-a", "-z", "--delete", "-e", self.shell, "./", f"{HOST}:{self.work}/copy/")
        self.call("rsync", *words)


class Restic(Peer):
    """restic over sftp."""

    def _restic(self, *words: str) -> None:
        command = f"sftp.command={self.shell} {HOST} {SFTP_SERVER}"
        place = f"sftp:{HOST}:{self.work}/repository"
        cache = ("--cache-dir", str(self.work / "cache"))
        self.call("restic", "-q", *cache, "-o", command, "-r", place, *words)

    def prepare(self) -> None:
        self.environment["RESTIC_PASSWORD"] = "bench"
        self._restic("init")

    def back_up(self, number: int) -> None:
        self._restic("backup", ".")


class Borg(Peer):
    """borg over what stands in for ssh."""

    def prepare(self) -> None:
        self.environment |= {
            "BORG_BASE_DIR": str(self.work / "home"),
            "BORG_RSH": self.shell,
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_REPO": f"ssh://{HOST}{self.work}/repository",
        }
        self.call("borg", "init", "--encryption=none")

    def back_up(self, number: int) -> None:
        self.call("borg", "create", f"::{number}", ".")


PEERS: dict[str, type[Peer]] = {"rsync -z": Rsync, "restic": Restic, "borg": Borg}


def missing() -> list[str]:
    """Programs that are not installed."""
    programs = ("rsync", "restic", "borg", SFTP_SERVER)
    return [program for program in programs if not shutil.which(program)]


def measure(work: Path, shape: Shape, count: int, interval: int) -> dict[str, float]:
    """Bytes per transaction by peer, backing up after every `interval` of `count` transactions."""
    source = work / "source"
    source.mkdir(parents=True)
    database = source / "bank.db"
    create(database, shape)
    peers = {}
    for name, kind in PEERS.items():
        place = work / kind.__name__
        place.mkdir()
        peers[name] = kind(place, source)
    before: dict[str, int] = {}
    for number in transactions(database, shape, count):
        if number == 0:
            for name, peer in peers.items():
                peer.prepare()
                peer.back_up(number)
                before[name] = peer.bytes_so_far()
        if (number + 1) % interval == 0:
            for peer in peers.values():
                peer.back_up(number + 1)
    return {name: (peer.bytes_so_far() - before[name]) / count for name, peer in peers.items()}
