"""Study: replication over a line: is the limit held and used, and how far behind is the replica?

Two network namespaces with a veth pair that tbf shapes; the site is mounted in one, the vault runs
in the other, both on this machine. What the interface counts is compared with the limit. pgbench
then makes changes over 100 Mbit/s, and again while the line is cut.
"""

from __future__ import annotations

import bisect
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import postgres
from bench.plan import Case, Figure, Scale, Study
from replicator.status import read_status
from store.journal import Journal
from store.types import Lsn
from store.volume import Store
from tests.network.line import Counter, Line, missing
from tests.network.two_hosts import TwoHosts

WINDOW_S = 10.0
TOO_MUCH, ENOUGH = 1.05, 0.9
MBIT = 1_000_000
LIMITS = (
    # rate of the line, limit as it is written, and in bits per second
    (56_000, "40k", 40_000),
    (56_000, "56k", 56_000),
    (1 * MBIT, "600k", 600_000),
    (1 * MBIT, "1M", 1 * MBIT),
    (100 * MBIT, "20M", 20 * MBIT),
    (100 * MBIT, "60M", 60 * MBIT),
    (100 * MBIT, "95M", 95 * MBIT),
)
FAST_BPS = 100 * MBIT
SAMPLE_S = 0.02
RPO_P99_S = 2.0
OFFLINE_S = 60.0
CHANGES = (("1M", 1 * MBIT), ("pause", 0), ("10M", 10 * MBIT))
CHANGE_S = 2.0


@contextlib.contextmanager
def _two_hosts(line_bps: int, work: Path) -> Iterator[TwoHosts]:
    work.mkdir()
    with Line(line_bps) as line:
        hosts = TwoHosts(line, work)
        try:
            hosts.serve()
            hosts.protect("--ring-files", "4", "--ring-file-bytes", "64M")
            hosts.replicate()
            hosts.wait()
            yield hosts
        finally:
            hosts.end()


def _measure(work: Path, scale: Scale) -> list[Figure]:
    if reason := missing():
        return [Figure("not measured", reason)]
    figures = []
    limits = LIMITS[:1] if scale.short else LIMITS
    for number, (line_bps, limit, limit_bps) in enumerate(limits):
        length_s = WINDOW_S + (1 if scale.short else 5 * scale.seconds)
        with _two_hosts(line_bps, work / f"limit{number}") as hosts:
            figures.append(_limit_figure(hosts, limit, limit_bps, length_s))
    with _two_hosts(FAST_BPS, work / "changes") as hosts:
        figures += _change_figures(hosts)
    return figures


def _measure_behind(work: Path, scale: Scale) -> list[Figure]:
    reason = missing() or ("" if postgres.is_installed() else "PostgreSQL is not installed")
    if reason:
        return [Figure("not measured", reason)]
    with _two_hosts(FAST_BPS, work / "pgbench") as hosts:
        return _behind_figures(hosts, scale)


def _limit_figure(hosts: TwoHosts, limit: str, limit_bps: int, length_s: float) -> Figure:
    with Counter(hosts.line.site) as counter:
        hosts.throttle(limit)
        hosts.until("limit_bps", limit_bps)
        hosts.work("work", int(1.3 * limit_bps / 8 * (length_s + 3)))
        hosts.until("state", "sending")
        begun_s = time.monotonic()
        time.sleep(length_s)
        stop_s = time.monotonic()
    most = counter.most(WINDOW_S, begun_s, stop_s) / limit_bps
    used = counter.rate(begun_s, stop_s) / limit_bps
    return Figure(
        f"line of {_rate(hosts.line.rate_bps)}, limit {limit}: fullest 10 s, used over all",
        f"{100 * most:.1f} %, {100 * used:.1f} %",
        f"≤ {100 * TOO_MUCH:.0f} %, ≥ {100 * ENOUGH:.0f} %",
        most <= TOO_MUCH and used >= ENOUGH,
    )


def _change_figures(hosts: TwoHosts) -> list[Figure]:
    """The rate from two seconds after each change on, for five seconds."""
    changes = []
    with Counter(hosts.line.site) as counter:
        hosts.throttle("20M")
        hosts.work("work", 40 << 20)
        hosts.until("state", "sending")
        for limit, limit_bps in CHANGES:
            at_s = hosts.throttle(limit)
            time.sleep(CHANGE_S + 5.0)
            changes.append((limit, limit_bps, at_s + CHANGE_S, time.monotonic()))
    figures = []
    for limit, limit_bps, start_s, stop_s in changes:
        rate = counter.rate(start_s, stop_s)
        met = rate <= TOO_MUCH * limit_bps + 500 and rate >= ENOUGH * limit_bps
        title = f"changed to {limit} by command: rate from 2 s afterwards on"
        figures.append(Figure(title, _rate(rate), "the new limit", met))
    return figures


# --- how far behind ------------------------------------------------------------------------------


class _Watch:
    """Samples up to where the vault has everything, all the time. A context manager."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples: list[tuple[int, int]] = []
        """(wall time in ns, acknowledged LSN)"""

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            said = read_status(self._store.root)
            if said is not None:
                self.samples.append((time.time_ns(), said.acked_lsn))


def _behind_figures(hosts: TwoHosts, scale: Scale) -> list[Figure]:
    store = Store.open(Path(hosts.json("status", str(hosts.tree))["store"]))
    (case,) = postgres.CASES
    place = hosts.tree / "database"
    place.mkdir(mode=0o755)
    case.prepare(place, scale)
    try:
        hosts.wait()
        with _Watch(store) as watch:
            tps = case.run(place, scale)["pgbench"]
        hosts.wait()
        return [
            _rpo_figure(store, watch.samples, tps),
            _catch_up_figure(hosts, lambda: _changes_for(case, place, scale)),
        ]
    finally:
        case.finish(place)


def _rpo_figure(store: Store, samples: list[tuple[int, int]], tps: float) -> Figure:
    """The age of the oldest change that the vault had not acknowledged, at each sample."""
    with Journal(store) as journal, journal.snapshot() as snapshot:
        batches = [(place.first_lsn, place.first_time_ns) for place in snapshot.batches(Lsn(1))]
    firsts = [first for first, _ in batches]
    ages = []
    for now_ns, acked_lsn in samples:
        at = bisect.bisect_right(firsts, acked_lsn)
        waiting = at < len(batches) and batches[at][1] <= now_ns
        ages.append((now_ns - batches[at][1]) / 1e9 if waiting else 0.0)
    ages.sort()
    p50, p99 = (ages[int(len(ages) * share)] for share in (0.5, 0.99))
    return Figure(
        f"lag (RPO) over 100 Mbit/s under pgbench at {tps:.0f} transactions/s: p50, p99, worst",
        f"{p50:.2f} s, {p99:.2f} s, {ages[-1]:.2f} s",
        f"p99 ≤ {RPO_P99_S:.0f} s",
        p99 <= RPO_P99_S,
    )


def _changes_for(case: Case, place: Path, scale: Scale) -> float:
    """Make changes for about OFFLINE_S (less in a short run); the seconds that it took."""
    begun = time.monotonic()
    while True:
        case.run(place, scale)
        took = time.monotonic() - begun
        if scale.short or took >= OFFLINE_S:
            return took


def _catch_up_figure(hosts: TwoHosts, work: Callable[[], float]) -> Figure:
    """Changes made while the line was cut, and how long it takes to bring them over."""
    hosts.line.cut()
    offline_s = work()
    before = hosts.status()["wire_sent_bytes"]
    lag_bytes = hosts.status()["lag_bytes"]
    begun = time.monotonic()
    hosts.line.mend()
    hosts.wait()
    took_s = time.monotonic() - begun
    sent = hosts.status()["wire_sent_bytes"] - before
    return Figure(
        f"catching up with {offline_s:.0f} s of pgbench while the line was cut "
        f"({lag_bytes >> 20} MiB, {sent / (1 << 20):.1f} MiB on the line)",
        f"{took_s:.1f} s: {offline_s / took_s:.1f} times as fast as it was made",
        "faster than real time",
        took_s < offline_s,
    )


def _rate(bps: float) -> str:
    return f"{bps / MBIT:g} Mbit/s" if bps >= MBIT else f"{bps / 1000:.4g} kbit/s"


STUDIES = (
    Study("wan", "The limit on a line", _measure),
    Study("wan-lag", "How far the replica is behind", _measure_behind),
)
