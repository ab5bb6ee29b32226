"""Study: protecting a directory that holds many files already."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.content import Content
from bench.plan import FIRST, Figure, Scale, Study
from bench.processes import anonymous_bytes, cpu_seconds, peak_resident_bytes, resident_bytes
from bench.targets import Volume

FILE_BYTES = 2048
MAX_RSS_MB = 150
_FILES_PER_DIRECTORY = 500
_POLL_S = 0.2


def _measure(work: Path, scale: Scale) -> list[Figure]:
    directory = work / "volume"
    _make_files(directory, scale.existing_files)
    os.sync()
    with Volume(directory, work / "store", work / "home", scale.ring_file_bytes) as volume:
        answered_s = volume.mount()
        start = time.monotonic()
        names = len(os.listdir(directory))
        listed_s = time.monotonic() - start
        waiting = _seeded(volume)
        seeded_s = time.monotonic() - start
        pids = volume.pids()
        after_seeding = resident_bytes(pids["fsd"])
        walk_s = _walk(directory)
        return [
            Figure("existing files", f"{scale.existing_files:,} of {FILE_BYTES} bytes"),
            Figure(
                "`cdpfs protect` returned, the mount answering",
                f"{answered_s:.2f} s",
            ),
            Figure(f"first listing of the root ({names} names)", f"{listed_s * 1e3:.1f} ms"),
            Figure(
                "slowest stat of another file while seeding went on",
                f"{waiting * 1e3:.1f} ms",
            ),
            Figure("seeding", f"{scale.existing_files / seeded_s:,.0f} files/s, {seeded_s:.1f} s"),
            Figure("CPU of fsd for it", f"{cpu_seconds(pids['fsd']):.1f} s"),
            Figure("RSS of fsd after seeding", _mb(after_seeding)),
            Figure(
                "stat of every file through the mount",
                f"{scale.existing_files / walk_s:,.0f} files/s",
            ),
            Figure(
                "RSS of fsd with all files known to the kernel",
                f"{_mb(resident_bytes(pids['fsd']))}, "
                f"{_mb(anonymous_bytes(pids['fsd']))} of it not file-backed",
            ),
            _peak(pids["fsd"]),
        ]


def _make_files(directory: Path, count: int) -> None:
    content = Content()
    for number in range(count):
        folder = directory / f"d{number // _FILES_PER_DIRECTORY:04}"
        if number % _FILES_PER_DIRECTORY == 0:
            folder.mkdir(parents=True)
        (folder / f"f{number:06}").write_bytes(content.text(FILE_BYTES))


def _seeded(volume: Volume) -> float:
    """Wait until the initial backup is complete; the longest stat of a file meanwhile, seconds."""
    worst = 0.0
    folders = sorted(volume.directory.iterdir())
    number = 0
    while not volume.status()["seeding"]["complete"]:
        folder = folders[number % len(folders)]
        first = number // len(folders) + (number % len(folders)) * _FILES_PER_DIRECTORY
        start = time.perf_counter()
        os.stat(folder / f"f{first:06}")
        worst = max(worst, time.perf_counter() - start)
        number += 1
        time.sleep(_POLL_S)
    return worst


def _walk(directory: Path) -> float:
    start = time.monotonic()
    for folder in sorted(directory.iterdir()):
        for entry in sorted(folder.iterdir()):
            os.stat(entry)
    return time.monotonic() - start


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _peak(pid: int) -> Figure:
    peak = peak_resident_bytes(pid)
    return Figure("peak RSS of fsd", _mb(peak), f"≤ {MAX_RSS_MB} MB ({FIRST})", peak <= 150e6)


STUDIES = (Study("seeding", "Protecting many existing files", _measure),)
