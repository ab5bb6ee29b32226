"""Two hosts and a slow line between them: this one, and a network namespace with a veth pair.

Duty: make the line, set its rate (tbf at both ends, so in both directions), count what goes over
it, and take it away. What is counted is the interface's: IP and TCP headers, acknowledgements and
TLS included. Needs root, `ip` and `tc`. Blocking; one thread. A context manager.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

QUEUE_BYTES = 15_000
BURST_BYTES = 1_600


class Counted(NamedTuple):
    """Bytes on this host's interface."""

    up: int
    down: int

    @property
    def both(self) -> int:
        """The line's whole traffic."""
        return self.up + self.down

    def since(self, before: Counted) -> Counted:
        """What was added."""
        return Counted(self.up - before.up, self.down - before.down)


def can_run() -> bool:
    """May this process make such a line?"""
    return os.geteuid() == 0 and bool(shutil.which("ip")) and bool(shutil.which("tc"))


class SlowLine:
    """`address` is that of the other host, which programs get to by `over_there`."""

    def __init__(self) -> None:
        # The kernel's names of interfaces are 15 characters at most.
        number = os.getpid() % 10_000_000
        self._namespace = f"cdpfs-{number}"
        self._here, self._there = f"cdp{number}a", f"cdp{number}b"
        net = f"10.{number % 251 + 1}.{number // 251 % 251}"
        self._own, self.address = f"{net}.1", f"{net}.2"

    def __enter__(self) -> SlowLine:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _make(self) -> None:
        _run("ip", "netns", "add", self._namespace)
        peer = ("peer", "name", self._there, "netns", self._namespace)
        _run("ip", "link", "add", self._here, "type", "veth", *peer)
        for program, name, address in (
            ((), self._here, self._own),
            (self.over_there(), self._there, self.address),
        ):
            _run(*program, "ip", "address", "add", f"{address}/30", "dev", name)
            # Every packet is to be seen, with its headers, as a wire would have it.
            _run(*program, "ip", "link", "set", name, "gso_max_segs", "1", "up")
        _run(*self.over_there(), "ip", "link", "set", "lo", "up")

    def _remove(self) -> None:
        for words in (("link", "del", self._here), ("netns", "del", self._namespace)):
            subprocess.run(["ip", *words], check=False, stderr=subprocess.DEVNULL)

    def over_there(self) -> tuple[str, ...]:
        """What goes before a command that is to run on the other host."""
        # `ip netns exec` would make a mount namespace too, and so a copy of every mount there is:
        # no FUSE mount that is taken away meanwhile would come to its end before the command does.
        return ("nsenter", f"--net=/run/netns/{self._namespace}")

    def set_rate(self, bits_s: int | None) -> None:
        """As many bits per second in each direction; None: as fast as it goes."""
        for program, name in (((), self._here), (self.over_there(), self._there)):
            subprocess.run(
                [*program, "tc", "qdisc", "del", "dev", name, "root"],
                check=False,
                stderr=subprocess.DEVNULL,
            )
            if bits_s is not None:
                shape = ("rate", f"{bits_s}bit", "burst", str(BURST_BYTES))
                queue = ("limit", str(QUEUE_BYTES))
                _run(*program, "tc", "qdisc", "add", "dev", name, "root", "tbf", *shape, *queue)

    def counted(self) -> Counted:
        """Bytes so far."""
        place = Path("/sys/class/net") / self._here / "statistics"
        return Counted(*(int((place / f"{way}_bytes").read_text()) for way in ("tx", "rx")))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
