"""The places that are measured side by side: bare disk, other people's mirrors, ours.

Duty: bring a mounted place up on the same disk, and take it away whatever happens: each target is
a context manager that unmounts (lazily if it must) and ends only processes that it started.
Blocking; one thread. It must not know what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.content import Content
from console.control import Control, connect_if_mounted
from store.volume import Store

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
_POLL_S = 0.01


@dataclass
class Target:
    """A running place: work in `path`; `settle` returns when nothing of it works behind."""

    name: str
    path: Path
    settle: Callable[[], None]


def nothing_behind() -> None:
    """How a target settles that does all its work in the foreground."""


@contextmanager
def bare(name: str, work: Path) -> Iterator[Target]:
    """A directory of the disk itself."""
    path = _fresh(work / name)
    yield Target(name, path, nothing_behind)


@contextmanager
def bindfs(name: str, work: Path) -> Iterator[Target]:
    """bindfs, in C: a mirror that logs nothing."""
    source, mount_point = _fresh(work / f"{name}-source"), _fresh(work / name)
    command = ["bindfs", "-f", *_for_all("--no-allow-other"), str(source), str(mount_point)]
    with _served(command, mount_point):
        yield Target(name, mount_point, nothing_behind)


@contextmanager
def mergerfs(name: str, work: Path) -> Iterator[Target]:
    """mergerfs, in C++, over one branch; its caches set as its manual advises for speed."""
    source, mount_point = _fresh(work / f"{name}-source"), _fresh(work / name)
    options = ["cache.files=auto-full", "category.create=mfs", "dropcacheonclose=false"]
    if os.geteuid() == 0:
        options += ["allow_other", "use_ino"]
    command = ["mergerfs", "-f", "-o", ",".join(options), str(source), str(mount_point)]
    with _served(command, mount_point):
        yield Target(name, mount_point, nothing_behind)


@contextmanager
def plain(name: str, work: Path) -> Iterator[Target]:
    """Our minimal pyfuse3 passthrough, which logs nothing."""
    source, mount_point = _fresh(work / f"{name}-source"), _fresh(work / name)
    command = [sys.executable, "-P", "-m", "bench.plain_passthrough", str(source), str(mount_point)]
    with _served(command, mount_point):
        yield Target(name, mount_point, nothing_behind)


@contextmanager
def cdpfs(name: str, work: Path, ring_file_bytes: int = 128 << 20) -> Iterator[Target]:
    """A fresh cdpfs volume in exact capture, its store on the same disk."""
    directory = _fresh(work / name)
    with Volume(directory, work / f"{name}-store", work / "home", ring_file_bytes) as volume:
        volume.mount()
        volume.fill_ring()
        yield Target(name, directory, volume.settle)


TARGETS: dict[str, Callable[[str, Path], AbstractContextManager[Target]]] = {
    "ext4": bare,
    "bindfs": bindfs,
    "mergerfs": mergerfs,
    "plain": plain,
    "cdpfs": cdpfs,
}
"""By the name that the tables use, in the order of their columns."""

NEEDED_PROGRAMS = {"bindfs": "bindfs", "mergerfs": "mergerfs"}


class Volume:
    """A cdpfs volume of our own, driven as a person would: through the command line.

    A context manager: at its end the mount is gone, and so is the daemon that it had.
    """

    def __init__(
        self, directory: Path, store: Path, home: Path, ring_file_bytes: int = 128 << 20
    ) -> None:
        self.directory = directory
        self.store_root = store
        self._home = home
        self._ring_file_bytes = ring_file_bytes
        self._pids: set[int] = set()

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        if os.path.ismount(self.directory) or self._pids:
            with contextlib.suppress(subprocess.SubprocessError):
                self.run("umount", str(self.directory), timeout_s=STOP_LIMIT_S)
        unmount_lazily(self.directory)
        for pid in self._pids:
            _end_if_ours(pid, self.store_root)

    def run(self, *arguments: str, timeout_s: float | None = None) -> str:
        """`cdpfs ARGUMENTS`; its output. CalledProcessError, after showing what it said."""
        done = subprocess.run(
            self.command(*arguments),
            cwd="/",
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode != 0:
            print(f"$ cdpfs {' '.join(arguments)}\n{done.stdout}{done.stderr}", file=sys.stderr)
            done.check_returncode()
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        """The command line of a `cdpfs` call."""
        return [sys.executable, "-P", "-m", "console", *arguments]

    def environment(self) -> dict[str, str]:
        """What it runs with: the registry of volumes is ours alone."""
        return dict(os.environ, CDPFS_HOME=str(self._home), PYTHONPATH=str(ROOT))

    def mount(self) -> float:
        """Protect the directory; seconds until the command came back, the mount answering."""
        options = ["--store", str(self.store_root)]
        if not self.store_root.exists():
            options += ["--ring-file-bytes", str(self._ring_file_bytes)]
        start = time.monotonic()
        self.run("protect", str(self.directory), *options)
        took_s = time.monotonic() - start
        self._pids = set(self.pids().values())
        return took_s

    def unmount(self) -> None:
        """Take the mount away in order."""
        self.run("umount", str(self.directory))
        self._pids = set()

    @property
    def store(self) -> Store:
        """The store, for reading it directly."""
        return Store.open(self.store_root)

    def status(self) -> dict[str, Any]:
        """What `cdpfs status --json` says."""
        with Control(self.store) as control:
            return dict(control.call("status"))

    def pids(self) -> dict[str, int]:
        """The volume's processes by name."""
        pids: dict[str, int] = self.status()["pids"]
        return pids

    def sync(self) -> int:
        """Wait until all that was done is in the journal; the LSN that this reaches."""
        with Control(self.store) as control:
            lsn = control.call("sync")["lsn"]
        assert isinstance(lsn, int)
        return lsn

    def fill_ring(self) -> None:
        """Write as much as the intake log holds, once.

        Its files are written out when they are first needed and recycled ever after: a cost of
        the volume's first minutes that would else fall on whatever is measured first.
        """
        config = self.store.config
        passing = self.directory / "passing"
        Content().write_file(passing, "random", config.ring_files * config.ring_file_bytes)
        passing.unlink()
        self.settle()

    def settle(self) -> None:
        """Wait until the indexer has nothing left to do."""
        if connect := connect_if_mounted(self.store):
            connect.close()
            self.sync()


def _fresh(path: Path) -> Path:
    path.mkdir(parents=True)
    # Database servers, which refuse to run as root, work below it.
    path.chmod(0o755)
    return path


def _for_all(otherwise: str) -> list[str]:
    """bindfs lets everyone in when it may; only root always may."""
    return [] if os.geteuid() == 0 else [otherwise]


@contextmanager
def _served(command: list[str], mount_point: Path) -> Iterator[None]:
    """Run a filesystem in the foreground while the block lasts."""
    log = mount_point.with_name(mount_point.name + ".log")
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            stdout=output,
            stderr=output,
        )
    try:
        _wait_until_mounted(process, mount_point, log)
        yield
    finally:
        unmount_lazily(mount_point)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_mounted(process: subprocess.Popen[bytes], mount_point: Path, log: Path) -> None:
    limit = time.monotonic() + START_LIMIT_S
    while not os.path.ismount(mount_point):
        if process.poll() is not None or time.monotonic() > limit:
            said = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{process.args!r} did not mount {mount_point}:\n{said}")
        time.sleep(_POLL_S)


def unmount_lazily(mount_point: Path) -> None:
    """Take away whatever is mounted there; fine if nothing is."""
    if _is_mount_point(mount_point):
        program = shutil.which("fusermount3") or "fusermount3"
        subprocess.run([program, "-uz", str(mount_point)], check=False, stdin=subprocess.DEVNULL)


def _is_mount_point(path: Path) -> bool:
    """From the kernel's table: asking the mount itself may fail or hang once its daemon is dead."""
    wanted = os.fsencode(path)
    table = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return any(line.split()[4] == wanted for line in table)


def _end_if_ours(pid: int, store_root: Path) -> None:
    """Kill a process of our volume that outlived the unmount (its command line names the store)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return
    if os.fsencode(store_root) in command.split(b"\0"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def missing_programs(names: list[str]) -> dict[str, str]:
    """Targets whose program is not installed: name to program."""
    needed = {name: NEEDED_PROGRAMS[name] for name in names if name in NEEDED_PROGRAMS}
    return {name: program for name, program in needed.items() if shutil.which(program) is None}


def decoded(output: str) -> Any:
    """JSON that a program printed, perhaps after some lines of its own."""
    return json.loads(output[output.index("{") :])
