"""Study: getting a large file back from a vault over a line, beside plain downloads of the same.

The vault is served with TLS, as it is meant to be; the peers send the same bytes of a plain file
with no more than their protocol: an HTTP server with curl, and rsync's daemon. `cdpfs restore`
resolves the moment, tests every answer's digest, writes, and reads back. On loopback, and between
two network namespaces at 100 Mbit/s where these can be made (root, iproute2).
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import trustme

from bench.content import Content
from bench.plan import Figure, Scale, Study
from bench.processes import cpu_seconds
from bench.targets import ROOT, Volume
from tests.network.line import Line, missing

MAX_ROUNDS = 3
SLOW_BPS = 100_000_000
SLOW_BYTES = 128 << 20
_FILE = "large"
_HTTP_PORT, _RSYNC_PORT = 18_801, 18_873
Command = Callable[..., list[str]]


@dataclass(frozen=True)
class _Wire:
    """Where both ends are: how a command is run at each, and the serving end's address."""

    name: str
    here: Command
    there: Command
    address: str


@contextmanager
def _wires(wanted_bps: int | None) -> Iterator[_Wire]:
    if wanted_bps is None:
        yield _Wire("loopback", lambda *words: [*words], lambda *words: [*words], "127.0.0.1")
        return
    with Line(wanted_bps) as line:
        name = f"{wanted_bps // 1_000_000} Mbit/s"
        yield _Wire(name, line.site.command, line.vault.command, line.vault.ip)


def _environment(work: Path) -> dict[str, str]:
    return dict(os.environ, CDPFS_HOME=str(work / "home"), PYTHONPATH=str(ROOT))


class _Vault:
    """A vault that holds the file, made with the commands that people use."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._root = work / "vault"
        self.token = work / "site.token"
        self.ca = work / "ca.pem"
        self.pid = 0

    def cdpfs(self, *words: str) -> str:
        """Run a command; its output."""
        command = [sys.executable, "-P", "-m", "console", *words]
        done = subprocess.run(
            command, env=_environment(self._work), capture_output=True, text=True, cwd="/"
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def fill(self, volume: Volume) -> None:
        """Everything of the volume is at the vault afterwards."""
        self.cdpfs("vault", "init", "--root", str(self._root))
        said = self.cdpfs("vault", "add-site", "bench", "--root", str(self._root))
        self.token.write_text(next(word for word in said.split() if word.startswith("cdpfs_")))
        self.token.chmod(0o600)
        with self.serving(lambda *words: [*words], "127.0.0.1", "--insecure-http") as url:
            place = str(volume.directory)
            token = ("--token-file", str(self.token))
            self.cdpfs("replicate", "start", place, "--to", url, *token)
            self.cdpfs("replicate", "wait", place)
            self.cdpfs("replicate", "stop", place)

    def make_certificate(self, address: str) -> tuple[str, ...]:
        """The options to serve with TLS at an address."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        pem = self._work / "vault.pem"
        authority.issue_cert(address).private_key_and_cert_chain_pem.write_to_path(pem)
        return ("--tls-cert", str(pem), "--tls-key", str(pem))

    @contextmanager
    def serving(self, run: Command, address: str, *options: str) -> Iterator[str]:
        """A vault that serves while the block lasts; its URL. `pid` is its process meanwhile."""
        words = ("vault", "serve", "--root", str(self._root), "--listen", f"{address}:0", *options)
        with open(self._work / "vault.log", "ab") as log:
            process = subprocess.Popen(
                run(sys.executable, "-P", "-m", "console", *words),
                env=_environment(self._work),
                cwd="/",
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            assert process.stdout is not None
            self.pid = process.pid
            line = process.stdout.readline().decode()
            yield next(word for word in line.split() if word.startswith("http"))
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def _plain_server(work: Path, source: Path, wire: _Wire) -> Iterator[None]:
    """The file by HTTP and by rsync, as plain as it gets."""
    config = work / "rsyncd.conf"
    config.write_text(
        f"use chroot = no\nport = {_RSYNC_PORT}\naddress = {wire.address}\n"
        f"[files]\npath = {source.parent}\nread only = yes\nuid = {os.getuid()}\n"
    )
    web = wire.there(
        sys.executable, "-m", "http.server", "-b", wire.address, "-d", str(source.parent),
        str(_HTTP_PORT),
    )  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    with ExitStack() as stack:
        commands = [web]
        if shutil.which("rsync"):
            commands.append(wire.there("rsync", "--daemon", "--no-detach", f"--config={config}"))
        for command in commands:
            process = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
            stack.callback(process.wait)
            stack.callback(process.terminate)
        _wait_for(wire)
        yield


def _wait_for(wire: _Wire) -> None:
    url = f"http://{wire.address}:{_HTTP_PORT}/"
    probe = wire.here("curl", "-s", "-o", "/dev/null", "--retry-connrefused", "--retry", "50",
                      "--retry-delay", "1", url)  # fmt: skip
    subprocess.run(probe, check=True)


def _ways(vault: _Vault, wire: _Wire, url: str, work: Path) -> dict[str, Callable[[Path], None]]:
    """By name, how to get the file into a directory."""

    def run(*command: str) -> None:
        done = subprocess.run(
            wire.here(*command), env=_environment(work), capture_output=True, text=True, cwd="/"
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")

    def restore(to: Path) -> None:
        trust = ("--token-file", str(vault.token), "--ca", str(vault.ca))
        run(
            sys.executable, "-P", "-m", "console", "restore", _FILE, "--at", "@now!exact",
            "--to", str(to / _FILE), "--from", url, *trust,
        )  # fmt: skip

    def download(to: Path) -> None:
        run("curl", "-s", "-o", str(to / _FILE), f"http://{wire.address}:{_HTTP_PORT}/{_FILE}")

    def copy(to: Path) -> None:
        run("rsync", "--whole-file", f"rsync://{wire.address}:{_RSYNC_PORT}/files/{_FILE}", str(to))

    ways: dict[str, Callable[[Path], None]] = {"cdpfs restore": restore, "curl": download}
    if shutil.which("rsync"):
        ways["rsync"] = copy
    return ways


def _rounds(
    work: Path, scale: Scale, source: Path, ways: dict[str, Callable[[Path], None]]
) -> dict[str, float]:
    rates: dict[str, list[float]] = {}
    for number in range(min(scale.rounds, MAX_ROUNDS)):
        for name, way in ways.items():
            to = work / "restored"
            to.mkdir()
            os.sync()
            start = time.perf_counter()
            way(to)
            took_s = time.perf_counter() - start
            if number == 0 and not filecmp.cmp(source, to / _FILE, shallow=False):
                raise RuntimeError(f"{name} brought back something else")
            rates.setdefault(name, []).append(source.stat().st_size / 1e6 / took_s)
            shutil.rmtree(to)
    return {name: median(values) for name, values in rates.items()}


class _Spent:
    """Processor time of the restores, at both ends: unlike rates it tells on a busy machine too."""

    def __init__(self, vault_pid: int) -> None:
        self._pid = vault_pid
        self._vault_before_s = cpu_seconds(vault_pid)
        self._vault_s = 0.0
        self._here_s = 0.0
        self._times = 0

    def counting(self, way: Callable[[Path], None]) -> Callable[[Path], None]:
        """The same, counted."""

        def run(to: Path) -> None:
            before = os.times()
            way(to)
            after = os.times()
            self._here_s += after.children_user - before.children_user
            self._here_s += after.children_system - before.children_system
            self._times += 1

        return run

    def stop(self) -> None:
        """The last one is over; the vault is still there."""
        self._vault_s = cpu_seconds(self._pid) - self._vault_before_s

    def figure(self, name: str, size: int) -> Figure:
        """Seconds for each GB."""
        per_gb = 1e9 / size / max(self._times, 1)
        here, there = self._here_s * per_gb, self._vault_s * per_gb
        value = f"{here:.1f} s here, {there:.1f} s at the vault"
        return Figure(f"{name}: processor time of cdpfs restore for each GB", value)


def _over(wanted_bps: int | None, work: Path, scale: Scale, size: int) -> list[Figure]:
    """The figures of one line, with a vault that holds a file of `size` bytes."""
    work.mkdir()
    source = work / "source" / _FILE
    source.parent.mkdir()
    Content().write_file(source, "mixed", size)
    directory = work / "volume"
    directory.mkdir()
    vault = _Vault(work)
    with Volume(directory, work / "store", work / "home", scale.ring_file_bytes) as volume:
        volume.mount()
        shutil.copyfile(source, directory / _FILE)
        volume.sync()
        vault.fill(volume)
    with (
        _wires(wanted_bps) as wire,
        vault.serving(wire.there, wire.address, *vault.make_certificate(wire.address)) as url,
        _plain_server(work, source, wire),
    ):
        ways = _ways(vault, wire, url, work)
        spent = _Spent(vault.pid)
        ways["cdpfs restore"] = spent.counting(ways["cdpfs restore"])
        rates = _rounds(work, scale, source, ways)
        spent.stop()
    figures = [spent.figure(wire.name, size)]
    for name, rate in rates.items():
        figures.append(Figure(f"{wire.name}: {name}", f"{rate:.1f} MB/s"))
        if name != "cdpfs restore":
            ratio = rates["cdpfs restore"] / rate
            figures.append(Figure(f"{wire.name}: cdpfs restore ÷ {name}", f"{ratio:.2f}"))
    return figures


def _measure(work: Path, scale: Scale) -> list[Figure]:
    found = _over(None, work / "near", scale, scale.restore_bytes)
    reason = missing()
    if reason:
        return [*found, Figure("100 Mbit/s", reason)]
    size = min(SLOW_BYTES, scale.restore_bytes)
    return [*found, *_over(SLOW_BPS, work / "far", scale, size)]


STUDIES = (Study("vault-restore", "Restoring a file from a vault over a line", _measure, True),)
