"""What `cdpfs status` shows of a running daemon. Loop's thread; reads counters, asks nobody."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import trio

from fsd.consumers import replication_alarms, tape_alarms
from fsd.session import Session
from store.holds import read_holds

METER_S = 1.0
METER_SAMPLES = 10
INDEXER_SILENT_S = 30.0
CLOCK_AHEAD_S = 5.0
LOW_SPACE = 0.05
"""Less than this part of the store's file system free raises an alarm."""


class Meter:
    """Ops per second over the last ten seconds."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._samples: deque[tuple[float, int]] = deque(maxlen=METER_SAMPLES + 1)

    async def run(self) -> None:
        """Take a sample each second until cancelled."""
        while True:
            self._samples.append((time.monotonic(), int(self._session.intake.lsn)))
            await trio.sleep(METER_S)

    @property
    def ops_per_s(self) -> float:
        """The rate; 0.0 before the second sample."""
        if len(self._samples) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_s - first_s)


def status_of(session: Session, meter: Meter) -> dict[str, Any]:
    """The values of `cdpfs status --json`. Sizes in bytes, times in ns since the epoch."""
    store, page, intake = session.store, session.page, session.intake
    with session.journal.snapshot() as snapshot:
        stats = snapshot.stats()
        last = snapshot.last()
    space = _space(store.root)
    replication = session.consumers.replicator.describe()
    tape = session.consumers.spooler.describe()
    journal_bytes = stats["segment_bytes"] + stats["index_bytes"]
    lag_ns = intake.time_ns - last.time_ns if last is not None else 0
    return {
        "volume": store.config.name,
        "state": "mounted",
        "directory": store.config.directory,
        "mount_point": store.config.mount_point,
        "store": str(store.root),
        "capture": store.config.capture,
        "pids": {
            "fsd": os.getpid(),
            "indexer": session.supervisor.pid,
            **session.consumers.pids,
        },
        "lsn": intake.lsn,
        "indexed_lsn": page.indexed_lsn,
        "durable_lsn": intake.durable_lsn,
        "seeding": seeding_of(session),
        "journal_bytes": journal_bytes,
        "segment_bytes": stats["segment_bytes"],
        "index_bytes": stats["index_bytes"],
        "payload_bytes": stats["payload_bytes"],
        "ratio": journal_bytes / stats["payload_bytes"] if stats["payload_bytes"] else None,
        "lag_s": max(lag_ns, 0) / 1e9 if page.indexed_lsn < intake.lsn else 0.0,
        "ops_per_s": meter.ops_per_s,
        "space": {
            "store_free_bytes": space.f_bavail * space.f_frsize if space else 0,
            "store_total_bytes": space.f_blocks * space.f_frsize if space else 0,
        },
        "protection": _protection_of(session),
        "history": {
            "oldest_ns": stats["first_time_ns"],
            "newest_ns": int(intake.time_ns),
        },
        "worst_loop_delay_ms": session.worst_loop_delay_ns / 1e6,
        "replication": replication,
        "tape": tape,
        "holds": read_holds(store.root),
        "alarms": alarms_of(session, space) + replication_alarms(replication) + tape_alarms(tape),
    }


def _protection_of(session: Session) -> dict[str, Any]:
    said = session.protection.describe()
    if _refuses_for_space(session):
        said |= {"state": "refusing", "reason": "the store's disk is full"}
    return said


def _refuses_for_space(session: Session) -> bool:
    """Without `strict`, a full log is where the next change begins a gap."""
    return session.full and session.protection.policy == "strict"


def _space(root: Path) -> os.statvfs_result | None:
    """None when the store is gone."""
    try:
        return os.statvfs(root)
    except OSError:
        return None


def seeding_of(session: Session) -> dict[str, Any]:
    """How far the initial backup is."""
    seeder, adopter = session.seeder, session.adopter
    return {
        "done_bytes": seeder.done_bytes,
        "total_bytes": max(adopter.adopted_bytes, seeder.done_bytes),
        "done_files": seeder.done_files,
        "total_files": max(adopter.adopted_files, seeder.done_files),
        "complete": adopter.all_seeded,
        "rate_bytes_s": seeder.rate_bytes_s,
        "unreadable": seeder.unreadable,
    }


def alarms_of(session: Session, space: os.statvfs_result | None) -> list[str]:
    """What a person should look at."""
    alarms = _alarms_of_protection(session)
    ahead_s = (session.intake.time_ns - time.time_ns()) / 1e9
    if ahead_s > CLOCK_AHEAD_S:
        alarms.append(
            f"the log's clock is ahead of the machine's by {ahead_s:.0f} s: the clock was set back"
        )
    page = session.page
    silent_s = (time.time_ns() - page.indexer_beat_ns) / 1e9
    if not session.supervisor.pid:
        alarms.append("the indexer is not running; it is being started again")
    elif page.indexer_beat_ns and silent_s > INDEXER_SILENT_S:
        alarms.append(f"the indexer has been silent for {silent_s:.0f} s")
    if page.indexer_trouble:
        alarms.append(f"the indexer can't write the journal: {os.strerror(page.indexer_trouble)}")
    if _refuses_for_space(session):
        alarms.append("the store's disk is full: writes are refused until there is space")
    if space is None:
        alarms.append("the store is not there")
    elif space.f_bavail < space.f_blocks * LOW_SPACE:
        alarms.append("the store's file system is nearly full")
    if session.seeder.unreadable:
        alarms.append(f"{session.seeder.unreadable} files could not be read for the backup")
    return alarms


def _alarms_of_protection(session: Session) -> list[str]:
    protection = session.protection
    if not protection.is_suspended():
        return []
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(protection.since_ns // 10**9))
    if protection.state == "refusing":
        return [f"changes are refused since {since}: {protection.cause}"]
    return [f"changes are NOT LOGGED since {since}: {protection.cause}"]
