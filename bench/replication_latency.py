"""Study: does an application notice that its volume is replicated?

The same work by turns without replication, with it, throttled to 56 kbit/s, and with the vault
dead, on one mount: 4 KiB overwrites at random places, each eighth followed by fdatasync. Once at a
pace that leaves the machine idle most of the time, once as fast as it goes. The vault runs on this
machine too, with the least priority; at the fast pace it still takes processor time.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.content import Content
from bench.plan import Figure, Scale, Study
from bench.targets import Volume

BLOCK_BYTES = 4096
SYNC_EVERY = 8
PACE_HZ = 400.0
CONDITIONS = ("off", "on", "56 kbit/s", "vault dead")
AIMS = {"p50": 1.10, "p99": 1.25}
"""What replication may cost at most, as a ratio to `off`: more than the noise of two turns."""


@dataclass
class _Times:
    """Seconds that calls took, by kind."""

    by_kind: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def quantile(self, kind: str, share: float) -> float:
        """In milliseconds."""
        found = sorted(self.by_kind[kind])
        return found[min(int(len(found) * share), len(found) - 1)] * 1000


class _Vault:
    """A vault on loopback that can be killed and started again. A context manager."""

    def __init__(self, volume: Volume, work: Path) -> None:
        self._volume = volume
        self._root = work / "vault"
        self._log = work / "vault.log"
        self.token_file = work / "token"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        volume.run("vault", "init", "--root", str(self._root))
        said = volume.run("vault", "add-site", "bench", "--root", str(self._root))
        found = re.search(r"cdpfs_bench_[\w-]+", said)
        assert found is not None
        self.token_file.touch(0o600)
        self.token_file.write_text(found[0])

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> _Vault:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Serve, unless it does; returns when it answers."""
        if self._process is not None:
            return
        listen = ("--listen", f"127.0.0.1:{self._port}", "--insecure-http")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("nice", "-n", "19"),  # it should be on a machine of its own
                    *self._volume.command("vault", "serve", "--root", str(self._root), *listen),
                ],
                env=self._volume.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"the vault does not start:\n{self._log.read_text()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return

    def kill(self) -> None:
        """End it without a chance to say so."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _work(place: Path, seconds: float, pace_hz: float | None, times: _Times) -> None:
    """Overwrite blocks of a file; note what each call took."""
    draw = random.Random(os.urandom(8))
    block = Content(draw.randrange(1 << 30)).text(BLOCK_BYTES)
    fd = os.open(place / "file", os.O_RDWR)
    blocks = os.fstat(fd).st_size // BLOCK_BYTES
    begin = time.perf_counter()
    try:
        for number in range(1 << 30):
            start = time.perf_counter()
            if start - begin >= seconds:
                return
            os.pwrite(fd, block, draw.randrange(blocks) * BLOCK_BYTES)
            times.by_kind["write"].append(time.perf_counter() - start)
            if number % SYNC_EVERY == 0:
                start = time.perf_counter()
                os.fdatasync(fd)
                times.by_kind["fsync"].append(time.perf_counter() - start)
            if pace_hz is not None:
                due = begin + (number + 1) / pace_hz
                time.sleep(max(due - time.perf_counter(), 0))
    finally:
        os.close(fd)


class _Turns:
    """The conditions, one after the other."""

    def __init__(self, volume: Volume, vault: _Vault) -> None:
        self._volume = volume
        self._vault = vault
        self._directory = str(volume.directory)

    def set(self, condition: str) -> None:
        """Make it so; returns when what that began has calmed down."""
        run, directory = self._volume.run, self._directory
        self._vault.start()
        if condition == "off":
            with contextlib.suppress(subprocess.CalledProcessError):
                run("replicate", "stop", directory)
        else:
            start = ("--to", self._vault.url, "--token-file", str(self._vault.token_file))
            run("replicate", "start", directory, *start)
            run("throttle", "off", directory)
            run("replicate", "wait", directory)
        if condition == "56 kbit/s":
            run("throttle", "56k", directory)
        if condition == "vault dead":
            self._vault.kill()
        self._volume.settle()


def _measure(work: Path, scale: Scale) -> list[Figure]:
    with _mounted(work, scale) as volume, _Vault(volume, work) as vault:
        (volume.directory / "file").write_bytes(Content().text(scale.file_bytes // 4))
        turns = _Turns(volume, vault)
        turns.set("on")
        turns.set("off")
        figures = []
        for pace_hz in (PACE_HZ, None):
            times = {condition: _Times() for condition in CONDITIONS}
            for turn in range(scale.rounds):
                # Another one is first each time, and so each follows each.
                for condition in CONDITIONS[turn % 4 :] + CONDITIONS[: turn % 4]:
                    turns.set(condition)
                    _work(volume.directory, scale.seconds, pace_hz, times[condition])
            figures += _figures("as fast as it goes" if pace_hz is None else "paced", times)
    return figures


@contextlib.contextmanager
def _mounted(work: Path, scale: Scale) -> Iterator[Volume]:
    directory = work / "tree"
    directory.mkdir()
    with Volume(directory, work / "store", work / "home", scale.ring_file_bytes) as volume:
        volume.mount()
        volume.fill_ring()
        yield volume


def _figures(pace: str, times: dict[str, _Times]) -> list[Figure]:
    figures = []
    for kind, (name, share) in [
        (kind, quantile)
        for kind in ("write", "fsync")
        for quantile in (("p50", 0.5), ("p99", 0.99))
    ]:
        found = {condition: times[condition].quantile(kind, share) for condition in CONDITIONS}
        worst = max(found.values()) / found["off"]
        figures.append(
            Figure(
                f"{kind}, {pace}, {name}: {' / '.join(CONDITIONS)}",
                f"{' / '.join(f'{value:.3f}' for value in found.values())} ms ({worst:.2f}×)",
                f"≤ {AIMS[name]:.2f}× of off",
                worst <= AIMS[name],
            )
        )
    return figures


STUDIES = (Study("replication-latency", "What an application notices of replication", _measure),)
