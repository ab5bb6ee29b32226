"""Cases of making data durable: fsync, fdatasync, SQLite commits. One thread, closed loop."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench.content import Content
from bench.plan import DESIGN, FIRST, Aim, Case, Metric, Scale

PAGE_BYTES = 4096
_PAGES = 64
_PREALLOCATED_BYTES = 16 << 20
_ROWS = 10_000


def rate(step: Callable[[], object], seconds: float) -> float:
    """How often per second `step` runs."""
    start = now = time.perf_counter()
    stop = start + seconds
    count = 0
    while now < stop:
        step()
        count += 1
        now = time.perf_counter()
    return count / (now - start)


def _pages() -> itertools.cycle[bytes]:
    return itertools.cycle(list(Content().blocks("mixed", _PAGES * PAGE_BYTES, PAGE_BYTES)))


def _append(place: Path, scale: Scale) -> dict[str, float]:
    pages = _pages()
    path = place / "appended"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o644)

    def step() -> None:
        os.write(fd, next(pages))
        os.fsync(fd)

    try:
        return {"append_fsync": rate(step, scale.seconds)}
    finally:
        os.close(fd)


def _preallocate(place: Path, scale: Scale) -> None:
    Content().write_file(place / "preallocated", "mixed", _PREALLOCATED_BYTES)


def _overwrite(place: Path, scale: Scale) -> dict[str, float]:
    pages = _pages()
    offsets = itertools.cycle(range(0, _PREALLOCATED_BYTES, PAGE_BYTES))
    fd = os.open(place / "preallocated", os.O_WRONLY)

    def step() -> None:
        os.pwrite(fd, next(pages), next(offsets))
        os.fdatasync(fd)

    try:
        os.fsync(fd)
        return {"overwrite_fdatasync": rate(step, scale.seconds)}
    finally:
        os.close(fd)


def _database(place: Path, mode: str) -> sqlite3.Connection:
    database = sqlite3.connect(place / f"{mode}.db", isolation_level=None)
    database.execute(f"PRAGMA journal_mode={mode}")
    database.execute("PRAGMA synchronous=FULL")
    return database


def _make_databases(place: Path, scale: Scale) -> None:
    for mode in ("DELETE", "WAL"):
        with closing(_database(place, mode)) as database:
            database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INT, pad TEXT)")
            database.execute(
                "CREATE TABLE history (id INTEGER PRIMARY KEY, account INT, amount INT)"
            )
            rows = ((number, 0, "x" * 80) for number in range(_ROWS))
            database.execute("BEGIN")
            database.executemany("INSERT INTO account VALUES (?, ?, ?)", rows)
            database.execute("COMMIT")


def _commits(place: Path, scale: Scale) -> dict[str, float]:
    return {
        f"sqlite_{mode.lower()}": _commit_rate(place, mode, scale.seconds)
        for mode in ("DELETE", "WAL")
    }


def _commit_rate(place: Path, mode: str, seconds: float) -> float:
    numbers = itertools.count(1)
    with closing(_database(place, mode)) as database:

        def step() -> None:
            number = next(numbers)
            account = number * 7919 % _ROWS
            database.execute("BEGIN IMMEDIATE")
            database.execute("UPDATE account SET balance = balance + 1 WHERE id = ?", (account,))
            database.execute("INSERT INTO history (account, amount) VALUES (?, 1)", (account,))
            database.execute("COMMIT")

        return rate(step, seconds)


_DATABASE_AIMS = (Aim("ext4", 1.0, DESIGN),)

CASES = (
    Case(
        "append-fsync",
        (
            Metric(
                "append_fsync",
                "4 KiB append + fsync each",
                "/s",
                (Aim("ext4", 0.9, FIRST), Aim("ext4", 1.0, DESIGN)),
            ),
        ),
        _append,
    ),
    Case(
        "overwrite-fdatasync",
        (
            Metric(
                "overwrite_fdatasync",
                "4 KiB overwrite, preallocated, + fdatasync each",
                "/s",
                (Aim("ext4", 0.4, FIRST), Aim("ext4", 0.6, DESIGN)),
            ),
        ),
        _overwrite,
        _preallocate,
    ),
    Case(
        "sqlite",
        (
            Metric("sqlite_delete", "SQLite commits, DELETE/FULL", "/s", _DATABASE_AIMS),
            Metric("sqlite_wal", "SQLite commits, WAL/FULL", "/s", _DATABASE_AIMS),
        ),
        _commits,
        _make_databases,
    ),
)
