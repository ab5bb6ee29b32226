"""Study: what a transaction costs on the line to a vault, beside rsync, restic and borg.

The TPC-B-like run of `tpcb_workload` on a mount that replicates to a vault on another host, over a
real line of 56 kbit/s: TLS, and everything counted on the interface, in both directions. Before
the run the database is at the vault already, and so it is with the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import trustme

from bench import tpcb_peers
from bench.plan import Figure, Scale, Study
from bench.slow_line import Counted, SlowLine, can_run
from bench.targets import Volume
from bench.tpcb_workload import SHAPES, TRANSACTIONS, Shape, create, transactions

LINE_BITS_S = 56_000
PACE_S = 30.0
"""Transactions per second that the line has to keep up with."""

MOST_BYTES = {False: 250.0, True: 1500.0}
"""By whether rows grow."""

ISSUE = "issue 4"
INTERVALS = (100, 1000)
"""The others back up after so many transactions: a minute's worth of a slow site or a busier one.
At the pace above a minute has 1,800."""

PORT = 8443
WARM_UP_BYTES = 96 << 10


class Vault:
    """A vault on the other host of a line. A context manager."""

    def __init__(self, work: Path, line: SlowLine) -> None:
        self._work = work
        self._line = line
        self.url = f"https://{line.address}:{PORT}"
        self.ca = work / "ca.pem"
        self.token_file = work / "token"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Vault:
        root, pem = str(self._work / "vault"), str(self._work / "cert.pem")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        issued = authority.issue_cert(self._line.address)
        issued.private_key_and_cert_chain_pem.write_to_path(pem)
        command = [sys.executable, "-P", "-m", "console", "vault"]
        subprocess.run([*command, "init", "--root", root], check=True, stdout=subprocess.DEVNULL)
        token = subprocess.run(
            [*command, "add-site", "branch", "--root", root], check=True, capture_output=True
        )
        self.token_file.touch(0o600)
        self.token_file.write_bytes(token.stdout)
        where = ["--root", root, "--listen", f"{self._line.address}:{PORT}"]
        how = ["--tls-cert", pem, "--tls-key", pem]
        with (self._work / "vault.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._line.over_there(), *command, "serve", *where, *how],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


@dataclass(frozen=True)
class Measured:
    """One run of `count` transactions."""

    line: Counted
    took_s: float
    """From the first transaction until the vault had everything."""
    after_s: float
    """Of that, after the last transaction."""
    count: int
    raw_bytes: int
    """That the application wrote."""

    @property
    def bytes_each(self) -> float:
        """On the line, both directions."""
        return self.line.both / self.count

    @property
    def rate(self) -> float:
        """Transactions per second that came over."""
        return self.count / self.took_s


def _replicated(work: Path, shape: Shape, count: int, pace: float, line: SlowLine) -> Measured:
    """One run, as fast as it goes or at `pace` transactions per second."""
    directory = work / "volume"
    directory.mkdir(parents=True)
    database = directory / "bank.db"
    with (
        Vault(work, line) as vault,
        Volume(directory, work / "store", work / "home", 16 << 20) as volume,
    ):
        volume.mount()
        line.set_rate(None)
        place = str(directory)
        words = ("--to", vault.url, "--token-file", str(vault.token_file), "--ca", str(vault.ca))
        volume.run("replicate", "start", place, *words)
        create(database, shape)
        volume.run("replicate", "wait", place)
        line.set_rate(LINE_BITS_S)
        # The sender has come to know a fast line, which no line of a site ever was.
        (directory / "passing").write_bytes(os.urandom(WARM_UP_BYTES))
        volume.run("replicate", "wait", place)
        before, payload = line.counted(), volume.status()["payload_bytes"]
        began = time.monotonic()
        for number in transactions(database, shape, count):
            if pace:
                time.sleep(max(began + (number + 1) / pace - time.monotonic(), 0))
        worked_s = time.monotonic() - began
        volume.run("replicate", "wait", place)
        took_s = time.monotonic() - began
        found = line.counted().since(before)
        raw = volume.status()["payload_bytes"] - payload
        line.set_rate(None)
        return Measured(found, took_s, took_s - worked_s, count, raw)


def _measure(work: Path, scale: Scale) -> list[Figure]:
    count = 100 if scale.short else TRANSACTIONS
    found: list[Figure] = []
    for number, shape in enumerate(SHAPES):
        place = work / str(number)
        if can_run():
            with SlowLine() as line:
                found += _ours(place, shape, count, line)
        else:
            found.append(Figure(f"{shape.name}: cdpfs", "needs root, ip and tc"))
        found += _theirs(place, shape, count)
    return found


def _ours(place: Path, shape: Shape, count: int, line: SlowLine) -> list[Figure]:
    most = MOST_BYTES[shape.growing]
    fast = _replicated(place / "fast", shape, count, 0.0, line)
    found = [
        Figure(f"{shape.name}: raw", _bytes(fast.raw_bytes / count)),
        Figure(
            f"{shape.name}: cdpfs, every write kept",
            f"{_bytes(fast.bytes_each)} ({fast.line.down / count:.0f} of them down)",
            f"≤ {_bytes(most)} ({ISSUE})",
            fast.bytes_each <= most,
        ),
        Figure(
            f"{shape.name}: cdpfs, sustained over 56 kbit/s",
            f"{fast.rate:.1f}/s",
            "" if shape.growing else f"≥ {PACE_S:.0f}/s ({ISSUE})",
            None if shape.growing else fast.rate >= PACE_S,
        ),
    ]
    if not shape.growing:
        paced = _replicated(place / "paced", shape, count, PACE_S, line)
        found.append(
            Figure(
                f"{shape.name}: cdpfs, while {PACE_S:.0f}/s are made",
                f"{_bytes(paced.bytes_each)}, done {paced.after_s:.1f} s after the last",
                f"≤ {_bytes(most)} ({ISSUE})",
                paced.bytes_each <= most,
            )
        )
    return found


def _theirs(place: Path, shape: Shape, count: int) -> list[Figure]:
    missing = tpcb_peers.missing()
    if missing:
        words = f"not installed: {', '.join(missing)} (scripts/setup --peers)"
        return [Figure(f"{shape.name}: others", words)]
    found: list[Figure] = []
    for interval in INTERVALS:
        if interval <= count:
            each = tpcb_peers.measure(place / f"every{interval}", shape, count, interval)
            found += [
                Figure(f"{shape.name}: {name}, every {interval:,}", _bytes(value))
                for name, value in each.items()
            ]
    return found


def _bytes(value: float) -> str:
    return f"{value:,.0f} B"


STUDIES = (Study("tpcb", "Bytes on the line for each transaction", _measure, peers=True),)
