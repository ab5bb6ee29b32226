"""The TPC-B-like SQLite run that replication is measured with (DESIGN §11): schema, run, check.

One client that updates an account, its teller and its branch and adds a row of history, each in a
transaction of its own, with 4 KiB pages and full syncs. The random numbers are seeded: the same
call makes the same database. After TPC-B (tpc.org/tpcb), scaled down. Blocking; one thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from string import ascii_lowercase

ACCOUNTS = 40_000
BRANCHES = 4
TELLERS = 10 * BRANCHES
TRANSACTIONS = 1_000
PAGE_BYTES = 4096

_FIXED_ZERO = 1 << 40
"""A balance of nothing where rows have a fixed size: SQLite keeps it and its like in 6 bytes."""

_TABLES = """
CREATE TABLE branch (bid INTEGER PRIMARY KEY, balance INT, filler TEXT);
CREATE TABLE teller (tid INTEGER PRIMARY KEY, bid INT, balance INT, filler TEXT);
CREATE TABLE account (aid INTEGER PRIMARY KEY, bid INT, balance INT, filler TEXT);
CREATE TABLE history (tid INT, bid INT, aid INT, delta INT, mtime INT, filler TEXT);
"""


@dataclass(frozen=True)
class Shape:
    """How the run is made.

    `mode` is SQLite's journal_mode. With `growing` rows balances start at 0 and every changed row's
    text gets a character more, so that rows move in their page, and to other pages; else every
    row keeps its size.
    """

    mode: str
    growing: bool

    @property
    def name(self) -> str:
        """For tables."""
        return f"{'growing' if self.growing else 'fixed'} rows, {self.mode}"

    @property
    def zero(self) -> int:
        """The stored balance of an account with nothing in it."""
        return 0 if self.growing else _FIXED_ZERO


SHAPES = tuple(Shape(mode, growing) for growing in (False, True) for mode in ("DELETE", "WAL"))


def connect(path: Path, shape: Shape) -> sqlite3.Connection:
    """The database, opened as the run does."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA page_size={PAGE_BYTES}")
    database.execute(f"PRAGMA journal_mode={shape.mode}")
    database.execute("PRAGMA synchronous=FULL")
    return database


class _Text:
    """Letters that no two rows have alike, the same ones each time."""

    def __init__(self) -> None:
        self._random = Random(0)

    def __call__(self, length: int) -> str:
        return "".join(self._random.choices(ascii_lowercase, k=length))


def create(path: Path, shape: Shape) -> None:
    """Make the database, about 4 MB."""
    zero = shape.zero
    text = _Text()
    with closing(connect(path, shape)) as database:
        database.executescript(_TABLES)
        database.execute("BEGIN")
        rows = ((number, zero, text(84)) for number in range(BRANCHES))
        database.executemany("INSERT INTO branch VALUES (?, ?, ?)", rows)
        database.executemany(
            "INSERT INTO teller VALUES (?, ?, ?, ?)",
            ((number, number * BRANCHES // TELLERS, zero, text(80)) for number in range(TELLERS)),
        )
        database.executemany(
            "INSERT INTO account VALUES (?, ?, ?, ?)",
            ((number, number * BRANCHES // ACCOUNTS, zero, text(80)) for number in range(ACCOUNTS)),
        )
        database.execute("COMMIT")


def transactions(path: Path, shape: Shape, count: int, seed: int = 1) -> Iterator[int]:
    """Run `count` transactions, one whenever the next item is asked for; yields their numbers."""
    random = Random(seed)
    with closing(connect(path, shape)) as database:
        for number in range(count):
            account, teller = random.randrange(ACCOUNTS), random.randrange(TELLERS)
            delta = random.randint(-99_999, 99_999)
            _transaction(database, shape, (account, teller, delta, number))
            yield number


def _transaction(
    database: sqlite3.Connection, shape: Shape, values: tuple[int, int, int, int]
) -> None:
    account, teller, delta, number = values
    branch = teller * BRANCHES // TELLERS
    execute = database.execute
    change = "balance = balance + ?" + (", filler = filler || '+'" if shape.growing else "")
    execute("BEGIN IMMEDIATE")
    execute(f"UPDATE account SET {change} WHERE aid = ?", (delta, account))
    execute("SELECT balance FROM account WHERE aid = ?", (account,)).fetchone()
    execute(f"UPDATE teller SET {change} WHERE tid = ?", (delta, teller))
    execute(f"UPDATE branch SET {change} WHERE bid = ?", (delta, branch))
    execute(
        "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)",
        (teller, branch, account, delta, 1_700_000_000 + number, "h" * 22),
    )
    execute("COMMIT")


def faults(path: Path, shape: Shape) -> list[str]:
    """What is wrong with a database of the run at a transaction's end; [] when all is well."""
    with closing(sqlite3.connect(path)) as database:
        (sound,) = database.execute("PRAGMA integrity_check").fetchone()
        sums = {
            table: database.execute(f"SELECT sum(balance - {shape.zero}) FROM {table}").fetchone()
            for table in ("account", "teller", "branch")
        }
        sums["history"] = database.execute("SELECT coalesce(sum(delta), 0) FROM history").fetchone()
    found = [] if sound == "ok" else [f"integrity_check: {sound}"]
    if len(set(sums.values())) != 1:
        found.append(f"the sums differ: {sums}")
    return found
