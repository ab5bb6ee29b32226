"""Study: getting a large file back, from a view and by `cdpfs restore`, beside restic and borg.

All four hold the same bytes on the same disk and restore them to the same directory, in turn. What
they read is in the page cache for all alike (nothing global is dropped). cdpfs reads back and
compares what it wrote; the others do not.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from bench.content import Content
from bench.plan import DESIGN, FIRST, Figure, Scale, Study, at_least
from bench.targets import Volume

MAX_ROUNDS = 3
VIEW_MB_S = 300.0
_FILE = "large"


def _run(command: list[str], cwd: Path, **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=dict(os.environ, **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


class _Peers:
    """restic and borg with a repository each; those that are not installed are left out."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._restic = ["restic", "--no-cache", "-q", "-r", str(work / "restic")]
        self._secrets = {"RESTIC_PASSWORD": "bench", "BORG_BASE_DIR": str(work / "borg-home")}
        self._secrets["BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"] = "yes"

    def _call(self, *command: str, cwd: Path | None = None) -> None:
        _run(list(command), cwd or self._work, **self._secrets)

    def store(self, source: Path) -> dict[str, Callable[[Path], Path]]:
        """Back `source` up; by name, how to restore it into a directory (yields the file)."""
        ways: dict[str, Callable[[Path], Path]] = {}
        if shutil.which("restic"):
            self._call(*self._restic, "init")
            self._call(*self._restic, "backup", str(source))
            ways["restic restore"] = lambda to: self._restic_restore(source, to)
        if shutil.which("borg"):
            repository = str(self._work / "borg")
            self._call("borg", "init", "--encryption=none", repository)
            self._call("borg", "create", f"{repository}::bench", _FILE, cwd=source.parent)
            ways["borg extract"] = self._borg_extract
        return ways

    def _restic_restore(self, source: Path, to: Path) -> Path:
        self._call(*self._restic, "restore", "latest", "--target", str(to))
        return to / source.relative_to("/")

    def _borg_extract(self, to: Path) -> Path:
        self._call("borg", "extract", f"{self._work / 'borg'}::bench", cwd=to)
        return to / _FILE


class _Ours:
    """The two ways of cdpfs; each round asks for a moment that no cache has seen yet."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._file = volume.directory / _FILE
        self._touched = volume.directory / "touched"

    def ways(self) -> dict[str, Callable[[int, Path], Path]]:
        """By name, how to restore the file as of an LSN into a directory."""
        return {"cp from a view": self._copy, "cdpfs restore": self._restore}

    def prepare(self) -> int:
        """The moment for the next restore."""
        self._touched.write_bytes(os.urandom(16))
        return self._volume.sync()

    def _copy(self, lsn: int, to: Path) -> Path:
        view = self._volume.directory / ".snapshots" / f"@lsn:{lsn}" / _FILE
        _run(["cp", str(view), str(to / _FILE)], to)
        return to / _FILE

    def _restore(self, lsn: int, to: Path) -> Path:
        self._volume.run("restore", str(self._file), "--at", f"@lsn:{lsn}", "--to", str(to))
        return to / _FILE


def _measure(work: Path, scale: Scale) -> list[Figure]:
    source = work / "source" / _FILE
    source.parent.mkdir()
    Content().write_file(source, "mixed", scale.restore_bytes)
    peers = _Peers(work).store(source)
    directory = work / "volume"
    directory.mkdir()
    with Volume(directory, work / "store", work / "home", scale.ring_file_bytes) as volume:
        volume.mount()
        shutil.copyfile(source, directory / _FILE)
        rates = _rounds(work, scale, source, _Ours(volume), peers)
    return _figures({name: median(values) for name, values in rates.items()})


def _rounds(
    work: Path,
    scale: Scale,
    source: Path,
    ours: _Ours,
    peers: dict[str, Callable[[Path], Path]],
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {}
    for number in range(min(scale.rounds, MAX_ROUNDS)):
        lsn = ours.prepare()
        ways: dict[str, Callable[[Path], Path]] = {
            name: partial(way, lsn) for name, way in ours.ways().items()
        }
        for name, way in (ways | peers).items():
            to = work / "restored"
            to.mkdir()
            os.sync()
            start = time.perf_counter()
            restored = way(to)
            took_s = time.perf_counter() - start
            if number == 0 and not filecmp.cmp(source, restored, shallow=False):
                raise RuntimeError(f"{name} brought back something else")
            rates.setdefault(name, []).append(scale.restore_bytes / 1e6 / took_s)
            shutil.rmtree(to)
    return rates


def _figures(rates: dict[str, float]) -> list[Figure]:
    found = [
        Figure(
            "cp from a view",
            f"{rates['cp from a view']:.0f} MB/s",
            f"≥ {VIEW_MB_S:.0f} MB/s ({FIRST})",
            rates["cp from a view"] >= VIEW_MB_S,
        ),
        Figure("cdpfs restore", f"{rates['cdpfs restore']:.0f} MB/s"),
    ]
    for peer in ("restic restore", "borg extract"):
        if peer not in rates:
            found.append(Figure(peer, "not installed (scripts/setup --peers)"))
            continue
        found.append(Figure(peer, f"{rates[peer]:.0f} MB/s"))
        for ours, aim in (("cp from a view", 1.0), ("cdpfs restore", 2.0)):
            ratio = rates[ours] / rates[peer]
            met = at_least(ratio, aim)
            found.append(Figure(f"{ours} ÷ {peer}", f"{ratio:.2f}", f"≥ {aim} ({DESIGN})", met))
    return found


STUDIES = (
    Study("restore", "Restoring a 1 GiB file, half text, half random", _measure, peers=True),
)
