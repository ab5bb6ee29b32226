"""SQLite in each journal mode: money moves between three tables, a counter says how often."""

from __future__ import annotations

import random
import sqlite3
import struct
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from tests.mount.peers import run
from tests.transactions.program import Broken, Counts, Program, Transact

TABLES = ("checking", "saving", "loan")
ACCOUNTS = 60
MONEY = 100
CACHE_PAGES = 20
"""So small that a large transaction spills: pages reach the database before the commit."""

LARGE_EVERY, ROLLBACK_EVERY = 17, 23
LARGE_ROWS = 120
LOCK_TIMEOUT_S = 120
SETTINGS = f"pragma synchronous = full; pragma cache_size = {CACHE_PAGES};\n"


class SQLite(Program):
    """A bank in one journal mode, synchronous = FULL, written by one client or several."""

    def __init__(
        self, mode: str, kind: str = "", clients: int = 1, database: str = "app.db"
    ) -> None:
        """`kind` is "shell" for a process of the `sqlite3` program for each transaction,
        "attached" for transactions over two databases, "" for one connection to one database."""
        self.name = f"sqlite-{mode.lower()}{kind and '-'}{kind}"
        self.clients = clients
        self._mode = mode
        self._kind = kind
        self._database = database
        self._files = (database, "other.db") if kind == "attached" else (database,)
        self.strict_files = () if mode == "WAL" else self._files

    def prepare(self, place: Path) -> None:
        with closing(self._open(place)) as bank:
            bank.execute("begin")
            for table in TABLES:
                schema = "other" if self._kind == "attached" and table == "loan" else "main"
                bank.execute(f"create table {schema}.{table} (id integer primary key, money, memo)")
                rows = [(number, MONEY, "") for number in range(ACCOUNTS)]
                bank.executemany(f"insert into {table} values (?, ?, ?)", rows)
            key = "primary key (client, number)"
            bank.execute(f"create table history (client, number, memo, {key})")
            bank.execute("create table counter (client integer primary key, number)")
            clients = [(client,) for client in range(self.clients)]
            bank.executemany("insert into counter values (?, 0)", clients)
            bank.execute("commit")

    def _open(self, place: Path) -> sqlite3.Connection:
        bank = sqlite3.connect(place / self._database, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        if self._kind == "attached":
            bank.execute("attach ? as other", (str(place / "other.db"),))
        assert bank.execute(f"pragma journal_mode = {self._mode}").fetchone()
        bank.executescript(SETTINGS)
        return bank

    @contextmanager
    def session(self, place: Path, chance: random.Random, client: int) -> Iterator[Transact]:
        if self._kind == "shell":
            yield lambda number: self._by_shell(place, chance, number)
            return
        with closing(self._open(place)) as bank:

            def do(number: int) -> None:
                for statement in _transaction(chance, client, number):
                    bank.execute(statement)

            yield do

    def _by_shell(self, place: Path, chance: random.Random, number: int) -> None:
        script = SETTINGS + ";\n".join(_transaction(chance, 0, number)) + ";\n"
        run("sqlite3", "-bail", place / self._database, given=script)

    def check(self, copy: Path) -> Counts:
        for name in self._files:
            if not (copy / name).exists():
                raise Broken(f"there is no {name}")
        try:
            with closing(self._open(copy)) as bank:
                return _check(bank)
        except sqlite3.DatabaseError as error:
            raise Broken(f"sqlite: {error}") from error

    def check_strict(self, copy: Path) -> Counts:
        if self._mode == "WAL":
            check_log_ends_with_commit(copy / f"{self._database}-wal")
        return self.check(copy)


def _transaction(chance: random.Random, client: int, number: int) -> Iterator[str]:
    """The statements of one transaction; now and then of another before it that is rolled back."""
    if number % ROLLBACK_EVERY == 0:
        yield "begin immediate"
        yield from _moves(chance, LARGE_ROWS)
        yield "rollback"
    yield "begin immediate"
    yield from _moves(chance, 1 if number % LARGE_EVERY else LARGE_ROWS)
    yield f"insert into history values ({client}, {number}, 'number {number}')"
    yield f"update counter set number = {number} where client = {client}"
    yield "commit"


def _moves(chance: random.Random, rows: int) -> Iterator[str]:
    for _ in range(rows):
        amount = chance.randrange(1, 50)
        for table, sign in zip(chance.sample(TABLES, 2), "-+", strict=True):
            memo = chance.randbytes(chance.randrange(600)).hex()
            change = f"money = money {sign} {amount}, memo = '{memo}'"
            yield f"update {table} set {change} where id = {chance.randrange(ACCOUNTS)}"


def _check(bank: sqlite3.Connection) -> Counts:
    found = bank.execute("pragma integrity_check").fetchall()
    if found != [("ok",)]:
        raise Broken(f"integrity_check: {found[:3]}")
    money = sum(bank.execute(f"select sum(money) from {table}").fetchone()[0] for table in TABLES)
    counters = bank.execute("select client, number from counter order by 1").fetchall()
    per_client = "select client, count(*), max(number) from history group by 1 order by 1"
    history = bank.execute(per_client).fetchall()
    if money != len(TABLES) * ACCOUNTS * MONEY:
        raise Broken(f"the accounts have {money}")
    if history != [(client, number, number) for client, number in counters if number]:
        raise Broken(f"counters {counters}, history {history}")
    return tuple(number for _, number in counters)


class Neighbours(Program):
    """Two databases in one folder, each of a program that knows nothing of the other."""

    name = "sqlite-neighbours"
    clients = 2

    def __init__(self) -> None:
        names = [f"{client}.db" for client in range(self.clients)]
        self._banks = [SQLite("DELETE", database=name) for name in names]
        self.strict_files = tuple(names)

    def prepare(self, place: Path) -> None:
        for bank in self._banks:
            bank.prepare(place)

    def session(
        self, place: Path, chance: random.Random, client: int
    ) -> AbstractContextManager[Transact]:
        return self._banks[client].session(place, chance, 0)

    def check(self, copy: Path) -> Counts:
        return tuple(bank.check(copy)[0] for bank in self._banks)


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
