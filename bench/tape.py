"""Study: an archive from the stage onto a cartridge, beside `dd` with the same blocks.

The cartridge is one of a virtual library on the same disk as the stage, so that both do the same
work: read a file that is not in the kernel's cache, write it in blocks, have it on disk at the end.
They take turns. What the spooler does besides is its digest, and reading back, which is timed
beside a `dd` of what was written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench.content import Content
from bench.plan import DESIGN, Figure, Scale, Study, at_least
from bench.tape_writing import forget
from bench.targets import ROOT
from tape.library import create_virtual

BLOCKS = (256 << 10, 1 << 20)
_RATIO = 0.9
_MEMORY_MIB = 64
_BUFFER_S = 1.0
"""The buffer of an LTO drive (512 MiB to 1 GiB) lasts for longer at its full speed (400 MB/s)."""


def _measure(work: Path, scale: Scale) -> list[Figure]:
    size = (32 if scale.short else 1024) << 20
    archive = work / "archive"
    with archive.open("wb") as file:
        for block in Content().blocks("random", size):
            file.write(block)
        os.fsync(file.fileno())
    found: list[Figure] = []
    for block_bytes in BLOCKS:
        found += _with_blocks(work, scale, archive, block_bytes)
    return found


def _with_blocks(work: Path, scale: Scale, archive: Path, block_bytes: int) -> list[Figure]:
    size = archive.stat().st_size
    home = work / f"library {block_bytes}"
    create_virtual(home, capacity_bytes=2 * size + (64 << 20), slots=3, block_bytes=block_bytes)
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {"write": [], "read": []}
    for _ in range(scale.rounds):
        copy = work / "copy"
        theirs["write"].append(_dd(archive, copy, block_bytes, "conv=fsync"))
        theirs["read"].append(_dd(copy, Path("/dev/null"), block_bytes))
        copy.unlink()
        forget(archive)
        command = [sys.executable, "-m", "bench.tape_writing", home, 1, archive, block_bytes]
        said = subprocess.run(
            [str(each) for each in command], cwd=ROOT, check=True, stdout=subprocess.PIPE
        ).stdout
        for name, value in json.loads(said).items():
            ours.setdefault(name, []).append(value)
    return _figures(size, block_bytes, ours, theirs)


def _dd(source: Path, target: Path, block_bytes: int, *options: str) -> float:
    """Seconds that dd takes, from a file that is not in the cache."""
    forget(source)
    start = time.perf_counter()
    subprocess.run(
        ["dd", f"if={source}", f"of={target}", f"bs={block_bytes}", "status=none", *options],
        check=True,
    )
    return time.perf_counter() - start


def _figures(
    size: int, block_bytes: int, ours: dict[str, list[float]], theirs: dict[str, list[float]]
) -> list[Figure]:
    title = f"blocks of {block_bytes >> 10} KiB"
    write, dd_write = (size / 1e6 / median(each) for each in (ours["written_s"], theirs["write"]))
    read, dd_read = (size / 1e6 / median(each) for each in (ours["read_s"], theirs["read"]))
    stop_s, memory = max(ours["longest_stop_s"]), max(ours["memory_bytes"]) / (1 << 20)
    ratio = write / dd_write
    return [
        Figure(f"{title}: dd onto the disk", f"{dd_write:.0f} MB/s"),
        Figure(f"{title}: stage to cartridge, to the filemark", f"{write:.0f} MB/s"),
        Figure(
            f"{title}: of dd", f"{ratio:.2f}", f"≥ {_RATIO} ({DESIGN})", at_least(ratio, _RATIO)
        ),
        Figure(
            f"{title}: longest stop between two blocks",
            f"{stop_s * 1000:.0f} ms",
            f"≤ {_BUFFER_S * 1000:.0f} ms, a drive's buffer ({DESIGN})",
            stop_s <= _BUFFER_S,
        ),
        Figure(
            f"{title}: memory beside the program",
            f"{memory:.0f} MiB",
            f"≤ {_MEMORY_MIB} MiB ({DESIGN})",
            memory <= _MEMORY_MIB,
        ),
        Figure(f"{title}: reading back", f"{read:.0f} MB/s (dd: {dd_read:.0f} MB/s)"),
    ]


STUDIES = (Study("tape", "An archive onto a cartridge, beside dd", _measure),)
