"""Study: does reading the past get slower as history grows? And what the indexer costs.

Two volumes get the same work, one a short history, one a long one. Then they are asked by turns for
4 KiB of a file at a moment that nobody asked for before, so that nothing is in the kernel's cache:
through the mount (path lookup, open, read, close), and in the journal directly.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

from bench.content import Content
from bench.plan import DESIGN, FIRST, Figure, Scale, Study, at_least
from bench.processes import cpu_seconds
from bench.targets import Volume
from store.journal import Journal
from store.types import Lsn
from timetravel.view import View

PAGE_BYTES = 4096
MAX_RATIO = 2.0
_FILE = "data"
_OPS_BETWEEN_LOOKS = 500
_NAMES_EVERY = 25
"""One write in so many is followed by a file that comes and goes."""


class _Grown:
    """A volume with a history of a given length."""

    def __init__(self, volume: Volume, scale: Scale, op_count: int) -> None:
        self.volume = volume
        self.file_bytes = scale.file_bytes // 2
        self.build_s = 0.0
        self.catch_up_s = 0.0
        self.cpu_s: dict[str, float] = {}
        Content().write_file(volume.directory / _FILE, "text", self.file_bytes)
        self.first = volume.sync()
        self._grow(self.first + op_count)
        self.last = volume.sync()

    def _grow(self, until: int) -> None:
        """Write pages at random, with names that come and go, until the log is that long."""
        pids = self.volume.pids()
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        start = time.monotonic()
        pages = list(Content(2).blocks("text", 1 << 20, PAGE_BYTES))
        pick = random.Random(3)
        fd = os.open(self.volume.directory / _FILE, os.O_WRONLY)
        try:
            number = 0
            while self.volume.status()["lsn"] < until:
                for _ in range(_OPS_BETWEEN_LOOKS):
                    at = pick.randrange(self.file_bytes // PAGE_BYTES) * PAGE_BYTES
                    os.pwrite(fd, pages[number % len(pages)], at)
                    number += 1
                    if number % _NAMES_EVERY == 0:
                        passing = self.volume.directory / f"passing-{number % 7}"
                        passing.touch()
                        passing.unlink()
        finally:
            os.close(fd)
        self.build_s = time.monotonic() - start
        self.volume.sync()
        self.catch_up_s = time.monotonic() - start - self.build_s
        self.cpu_s = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}

    def moments(self, count: int, seed: int) -> list[tuple[int, int]]:
        """Different LSNs all over the history, each with a place in the file."""
        pick = random.Random(seed)
        pages = self.file_bytes // PAGE_BYTES
        lsns = pick.sample(range(self.first, self.last), count)
        return [(lsn, pick.randrange(pages) * PAGE_BYTES) for lsn in lsns]


def _through_mount(grown: _Grown) -> Callable[[int, int], bytes]:
    def read(lsn: int, at: int) -> bytes:
        fd = os.open(grown.volume.directory / ".snapshots" / f"@lsn:{lsn}" / _FILE, os.O_RDONLY)
        try:
            return os.pread(fd, PAGE_BYTES, at)
        finally:
            os.close(fd)

    return read


def _in_journal(journal: Journal) -> Callable[[int, int], bytes]:
    def read(lsn: int, at: int) -> bytes:
        view = View(journal, Lsn(lsn))
        return view.read(view.walk(_FILE.encode()).node, at, PAGE_BYTES)

    return read


def _latencies(
    readers: Sequence[Callable[[int, int], bytes]], moments: Sequence[list[tuple[int, int]]]
) -> list[list[float]]:
    """Seconds of each read, the readers by turns."""
    found: list[list[float]] = [[] for _ in readers]
    for step in zip(*moments, strict=True):
        for reader, (lsn, at), into in zip(readers, step, found, strict=True):
            start = time.perf_counter()
            data = reader(lsn, at)
            into.append(time.perf_counter() - start)
            if len(data) != PAGE_BYTES:
                raise RuntimeError(f"read {len(data)} bytes at {at} as of LSN {lsn}")
    return found


def _measure(work: Path, scale: Scale) -> list[Figure]:
    with ExitStack() as stack:
        grown = []
        for count in scale.history_ops:
            directory = work / f"volume-{count}"
            directory.mkdir()
            volume = stack.enter_context(
                Volume(directory, work / f"store-{count}", work / "home", scale.ring_file_bytes)
            )
            volume.mount()
            grown.append(_Grown(volume, scale, count))
        os.sync()
        samples = 50 if scale.short else 400
        mounted = _latencies(
            [_through_mount(one) for one in grown], [one.moments(samples, 4) for one in grown]
        )
        journals = [stack.enter_context(Journal(one.volume.store)) for one in grown]
        direct = _latencies(
            [_in_journal(journal) for journal in journals],
            [one.moments(samples, 5) for one in grown],
        )
    return [
        *_lookup_figures("open + 4 KiB read at a new @moment, on the mount", mounted, scale),
        *_lookup_figures("the same in the journal directly", direct, scale),
        *_indexer_figures(grown[-1], scale),
    ]


def _lookup_figures(title: str, latencies: list[list[float]], scale: Scale) -> list[Figure]:
    found = []
    for count, values in zip(scale.history_ops, latencies, strict=True):
        p95 = quantiles(values, n=20)[-1]
        text = f"{median(values) * 1e6:,.0f} µs (p95 {p95 * 1e6:,.0f} µs)"
        found.append(Figure(f"{title}: {count:,} ops of history", text))
    ratio = median(latencies[1]) / median(latencies[0])
    aim = f"≤ {MAX_RATIO:.0f} ({FIRST}, {DESIGN})"
    found.append(
        Figure(f"{title}: ratio", f"{ratio:.2f}", aim, at_least(MAX_RATIO, round(ratio, 2)))
    )
    return found


def _indexer_figures(grown: _Grown, scale: Scale) -> list[Figure]:
    ops = scale.history_ops[1]
    figures = [
        Figure(
            "making the long history: one writer of 4 KiB, longer than the ring",
            f"{ops / grown.build_s:,.0f} ops/s, indexed {grown.catch_up_s:.1f} s after the last",
        )
    ]
    for name in ("indexer", "fsd"):
        cpu_s = grown.cpu_s[name]
        text = f"{cpu_s / ops * 1e6:.0f} µs ({ops / max(cpu_s, 1e-9):,.0f} ops per CPU second)"
        figures.append(Figure(f"CPU of the {name} per op", text))
    return figures


STUDIES = (
    Study("history", "Reading the past as history grows, and the cost of indexing", _measure),
)
