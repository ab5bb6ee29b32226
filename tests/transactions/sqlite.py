"""SQLite in each journal mode: money moves between three tables, a counter says how often."""

from __future__ import annotations

import random
import sqlite3
import struct
from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.transactions.program import Broken, Counts, Program, Transact

TABLES = ("checking", "saving", "loan")
ACCOUNTS = 60
MONEY = 100
CACHE_PAGES = 20
"""So small that a large transaction spills: pages reach the database before the commit."""

LARGE_EVERY, ROLLBACK_EVERY = 17, 23
LARGE_ROWS = 120
LOCK_TIMEOUT_S = 120


class SQLite(Program):
    """One database in one journal mode, synchronous = FULL, written by one client or several."""

    def __init__(self, mode: str, clients: int = 1) -> None:
        self.name = f"sqlite-{mode.lower()}{'' if clients == 1 else f'-{clients}'}"
        self.clients = clients
        self._mode = mode
        self.strict_files = () if mode == "WAL" else ("app.db",)

    def prepare(self, place: Path) -> None:
        with closing(sqlite3.connect(place / "app.db", isolation_level=None)) as bank:
            bank.execute(f"pragma journal_mode = {self._mode}").fetchone()
            bank.execute("begin")
            for table in TABLES:
                bank.execute(f"create table {table} (id integer primary key, money, memo)")
                rows = [(number, MONEY, "") for number in range(ACCOUNTS)]
                bank.executemany(f"insert into {table} values (?, ?, ?)", rows)
            bank.execute(
                "create table history (client, number, memo, primary key (client, number))"
            )
            bank.execute("create table counter (client integer primary key, number)")
            clients = [(client,) for client in range(self.clients)]
            bank.executemany("insert into counter values (?, 0)", clients)
            bank.execute("commit")

    @contextmanager
    def session(self, place: Path, chance: random.Random, client: int) -> Iterator[Transact]:
        with closing(_connect(place / "app.db")) as bank:
            assert bank.execute(f"pragma journal_mode = {self._mode}").fetchone()
            bank.execute("pragma synchronous = full")
            bank.execute(f"pragma cache_size = {CACHE_PAGES}")

            def do(number: int) -> None:
                if number % ROLLBACK_EVERY == 0:
                    bank.execute("begin immediate")
                    _move(bank, chance, LARGE_ROWS)
                    bank.execute("rollback")
                bank.execute("begin immediate")
                _move(bank, chance, 1 if number % LARGE_EVERY else LARGE_ROWS)
                memo = f"number {number}"
                bank.execute("insert into history values (?, ?, ?)", (client, number, memo))
                bank.execute("update counter set number = ? where client = ?", (number, client))
                bank.execute("commit")

            yield do

    def check(self, copy: Path) -> Counts:
        return _check(copy / "app.db")

    def check_strict(self, copy: Path) -> Counts:
        if self._mode == "WAL":
            check_log_ends_with_commit(copy / "app.db-wal")
        return _check(copy / "app.db")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)


def _move(bank: sqlite3.Connection, chance: random.Random, rows: int) -> None:
    for _ in range(rows):
        amount = chance.randrange(1, 50)
        for table, sign in zip(chance.sample(TABLES, 2), (-1, 1), strict=True):
            memo = chance.randbytes(chance.randrange(600)).hex()
            change = f"update {table} set money = money + ?, memo = ? where id = ?"
            bank.execute(change, (sign * amount, memo, chance.randrange(ACCOUNTS)))


def _check(path: Path) -> Counts:
    if not path.exists():
        raise Broken("there is no database")
    try:
        with closing(sqlite3.connect(path)) as bank:
            found = bank.execute("pragma integrity_check").fetchall()
            if found != [("ok",)]:
                raise Broken(f"integrity_check: {found[:3]}")
            money = sum(bank.execute(f"select sum(money) from {t}").fetchone()[0] for t in TABLES)
            counters = bank.execute("select client, number from counter order by 1").fetchall()
            per_client = "select client, count(*), max(number) from history group by 1 order by 1"
            history = bank.execute(per_client).fetchall()
    except sqlite3.DatabaseError as error:
        raise Broken(f"sqlite: {error}") from error
    if money != len(TABLES) * ACCOUNTS * MONEY:
        raise Broken(f"the accounts have {money}")
    if history != [(client, number, number) for client, number in counters if number]:
        raise Broken(f"counters {counters}, history {history}")
    return tuple(number for _, number in counters)


_WAL_HEADER = struct.Struct(">IIIIIIII")
_WAL_FRAME = struct.Struct(">IIIIII")


def check_log_ends_with_commit(log: Path) -> None:
    """Broken unless the last frame that counts in a write-ahead log commits a transaction.

    What a rolled back transaction left may lie behind it: frames of the same round whose checksums
    do not go on from there. See https://www.sqlite.org/fileformat2.html#walformat.
    """
    data = log.read_bytes() if log.exists() else b""
    if len(data) < _WAL_HEADER.size:
        return
    _, _, page_bytes, _, *salts, check_1, check_2 = _WAL_HEADER.unpack_from(data)
    size = _WAL_FRAME.size + page_bytes
    after, checks = _WAL_HEADER.size, (check_1, check_2)
    for at in range(after, len(data) - size + 1, size):
        _, pages, *found, check_1, check_2 = _WAL_FRAME.unpack_from(data, at)
        if found != salts:
            break
        if pages:
            after, checks = at + size, (check_1, check_2)
    if len(data) >= after + size and _follows(data[after : after + size], salts, checks):
        raise Broken(f"the log goes on after its last commit, at byte {after}")


def _follows(frame: bytes, salts: list[int], checks: tuple[int, int]) -> bool:
    """Whether a frame goes on from the checksums of the one before it."""
    words = array("I", frame[:8] + frame[_WAL_FRAME.size :])  # the log is in the host's byte order
    one, two = checks
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return list(_WAL_FRAME.unpack_from(frame)[2:]) == [*salts, one, two]
