"""A line between two hosts: network namespaces with a veth pair, and tbf for its rate.

Everything that is made has a name with our process id in it, and is taken away by `close`. Needs
root and iproute2 (`scripts/setup --dev` installs it); `missing` says what is not there.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

ROOT = Path(__file__).resolve().parents[2]
SITE_IP, VAULT_IP = "10.77.0.1", "10.77.0.2"
SITE_IP6, VAULT_IP6 = "fd77::1", "fd77::2"
SAMPLE_S = 0.05

_numbers = itertools.count()


def missing() -> str:
    """Why no line can be made here; empty when one can."""
    for program in ("ip", "tc", "nsenter"):
        if shutil.which(program) is None:
            return f"{program} is missing: scripts/setup --dev installs iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = f"cdpfs-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.decode().strip()}"
    _run("ip", "netns", "del", probe)
    return ""


def _run(*command: str) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr.decode())
    return done.stdout


class Host:
    """One end: a namespace, the name of its interface, and its addresses."""

    def __init__(self, name: str, device: str, ip: str, ip6: str) -> None:
        self.name, self.device, self.ip, self.ip6 = name, device, ip, ip6

    def command(self, *words: str) -> list[str]:
        """A command that runs there: with this network, and the files and mounts of all."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *words]

    def start(self, *words: str, **how: Any) -> subprocess.Popen[bytes]:
        """Start a program there."""
        return subprocess.Popen(self.command(*words), cwd=ROOT, **how)

    def python(self, module: str, *words: str, **how: Any) -> subprocess.Popen[bytes]:
        """Start one of our modules there."""
        return self.start(sys.executable, "-m", module, *words, **how)


class Line:
    """Two hosts and the wire between them. A context manager."""

    def __init__(self, rate_bps: int) -> None:
        stem = f"{os.getpid():x}x{next(_numbers):x}"
        self.site = Host(f"cdpfs-{stem}-site", f"cs{stem}", SITE_IP, SITE_IP6)
        self.vault = Host(f"cdpfs-{stem}-vault", f"cv{stem}", VAULT_IP, VAULT_IP6)
        self.rate_bps = rate_bps

    def __enter__(self) -> Self:
        try:
            for host in (self.site, self.vault):
                _run("ip", "netns", "add", host.name)
            _run(
                *("ip", "-n", self.site.name, "link", "add", self.site.device, "type", "veth"),
                *("peer", "name", self.vault.device, "netns", self.vault.name),
            )
            for host in (self.site, self.vault):
                self._set_up(host)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take both ends away; the pair goes with them."""
        for host in (self.site, self.vault):
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)

    def _set_up(self, host: Host) -> None:
        _run("ip", "-n", host.name, "link", "set", "lo", "up")
        _run("ip", "-n", host.name, "addr", "add", f"{host.ip}/24", "dev", host.device)
        # Packets as they would be on a wire: the interface counts each with its headers.
        _run("ip", "-n", host.name, "link", "set", host.device, "gso_max_segs", "1")
        _run("ip", "-n", host.name, "link", "set", host.device, "up")
        _run(
            *("ip", "-n", host.name, "addr", "add", f"{host.ip6}/64", "dev", host.device),
            "nodad",
        )
        self._shape(host, "add")

    def _shape(self, host: Host, how: str) -> None:
        burst = max(3200, self.rate_bps // 8 // 100)
        limit = max(32_000, self.rate_bps // 8 // 10) + burst
        _run(
            *("tc", "-n", host.name, "qdisc", how, "dev", host.device, "root", "tbf"),
            *("rate", f"{self.rate_bps}bit", "burst", str(burst), "limit", str(limit)),
        )

    def set_rate(self, rate_bps: int) -> None:
        """The line has another rate from now on."""
        self.rate_bps = rate_bps
        for host in (self.site, self.vault):
            self._shape(host, "replace")

    def cut(self) -> None:
        """Nothing goes through any more."""
        _run("ip", "-n", self.vault.name, "link", "set", self.vault.device, "down")

    def mend(self) -> None:
        """The line is back."""
        _run("ip", "-n", self.vault.name, "link", "set", self.vault.device, "up")


class Counter:
    """Counts what leaves a host's interface, all the time. A context manager.

    `samples` are (monotonic seconds, bytes sent since the interface was made).
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.samples: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        # A mount namespace of its own, so that /sys is that of the host.
        there = ("ip", "netns", "exec", self._host.name)
        self._process = subprocess.Popen(
            [*there, sys.executable, "-m", __name__, self._host.device],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        told, _ = self._process.communicate()
        assert kind is not None or self._process.returncode == 0
        self.samples = [(at, count) for at, count in json.loads(told or b"[]")]

    def most(self, window_s: float, start_s: float = 0.0, stop_s: float = float("inf")) -> float:
        """Bits per second in the fullest window of that length between two times."""
        samples = self._between(start_s, stop_s)
        assert samples[-1][0] - samples[0][0] >= window_s, "not even one window"
        most = 0.0
        first = 0
        for at, count in samples:
            while samples[first + 1][0] <= at - window_s:
                first += 1
            passed_s = at - samples[first][0]
            if passed_s >= window_s:
                most = max(most, (count - samples[first][1]) * 8 / passed_s)
        return most

    def rate(self, start_s: float = 0.0, stop_s: float = float("inf")) -> float:
        """Bits per second between two times, on the average."""
        samples = self._between(start_s, stop_s)
        (first_s, first), (last_s, last) = samples[0], samples[-1]
        return (last - first) * 8 / (last_s - first_s)

    def _between(self, start_s: float, stop_s: float) -> list[tuple[float, int]]:
        return [sample for sample in self.samples if start_s <= sample[0] <= stop_s]


def _count(device: str) -> None:
    """Sample until the standard input ends."""
    samples = []
    with open(f"/sys/class/net/{device}/statistics/tx_bytes") as file:
        while not select.select([sys.stdin], [], [], SAMPLE_S)[0]:
            file.seek(0)
            # The time goes with the count: both are taken while nothing else is done.
            count, now = int(file.read()), time.monotonic()
            samples.append((now, count))
    json.dump(samples, sys.stdout)


def lines_of(stream: IO[bytes]) -> str:
    """The next line, as text without its end."""
    return stream.readline().decode().rstrip("\n")


if __name__ == "__main__":
    _count(sys.argv[1])
