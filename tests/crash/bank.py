"""A process that does transactions in an SQLite database on the mount, and their check.

    python -m tests.crash.bank DATABASE LEDGER SEED

Money moves between accounts; each transaction carries the next number. The number of each that
was committed is written to the ledger, outside the mount.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import sys
from pathlib import Path
from types import FrameType

ACCOUNTS = 50
MODES = ("delete", "truncate", "persist", "wal")


def make(database: Path, mode: str) -> None:
    """A bank with money in it, before protection begins."""
    with contextlib.closing(sqlite3.connect(database)) as bank, bank:
        bank.execute(f"pragma journal_mode={mode}")
        # Only WAL stays with the file; the tellers must be told of the others.
        bank.execute(f"pragma user_version={MODES.index(mode)}")
        bank.execute("create table account (id integer primary key, money integer, memo text)")
        bank.execute("create table done (number integer primary key)")
        rows = [(number, 100, "") for number in range(ACCOUNTS)]
        bank.executemany("insert into account values (?, ?, ?)", rows)
        bank.execute("insert into done values (0)")


def check(database: Path, ledger: Path) -> list[str]:
    """What is wrong with the bank: [] when all that was committed is there."""
    known = [int(line) for line in ledger.read_text().split()] if ledger.exists() else []
    with contextlib.closing(sqlite3.connect(database)) as bank:
        wrong = [str(row) for row in bank.execute("pragma integrity_check") if row != ("ok",)]
        (money,) = bank.execute("select sum(money) from account").fetchone()
        (newest,) = bank.execute("select max(number) from done").fetchone()
        (count,) = bank.execute("select count(*) from done").fetchone()
    if money != 100 * ACCOUNTS:
        wrong.append(f"the bank has {money} instead of {100 * ACCOUNTS}")
    if newest < max(known, default=0):
        wrong.append(f"transaction {max(known)} was committed, the newest is {newest}")
    if count != newest + 1:
        wrong.append(f"{count} transactions up to number {newest}")
    return [f"bank: {line}" for line in wrong]


class Teller:
    """The loop. `stop` may be called at any time."""

    def __init__(self, database: Path, ledger: Path, seed: int) -> None:
        self._bank = sqlite3.connect(database, isolation_level=None)
        (mode,) = self._bank.execute("pragma user_version").fetchone()
        self._bank.execute(f"pragma journal_mode={MODES[mode]}")
        # In DELETE mode, a commit is safe from a power cut only when the folder is synced as well.
        self._bank.execute("pragma synchronous=extra")
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._random = random.Random(seed)
        self._stopping = False

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End after the transaction at hand."""
        self._stopping = True

    def run(self) -> None:
        """Work until stopped; sqlite3.Error when the mount is gone."""
        (number,) = self._bank.execute("select max(number) from done").fetchone()
        while not self._stopping:
            number += 1
            one, other = self._random.sample(range(ACCOUNTS), 2)
            memo = self._random.randbytes(self._random.randrange(900)).hex()
            self._bank.execute("begin immediate")
            move = "update account set money = money + ?, memo = ? where id = ?"
            self._bank.execute(move, (-1, memo, one))
            self._bank.execute(move, (1, memo, other))
            self._bank.execute("insert into done values (?)", (number,))
            self._bank.execute("commit")
            os.write(self._ledger, b"%d\n" % number)


def main(arguments: list[str]) -> int:
    """The process: 0 when stopped, or when the mount went away under it."""
    database, ledger, seed = arguments
    try:
        teller = Teller(Path(database), Path(ledger), int(seed))
        signal.signal(signal.SIGTERM, teller.stop)
        print("ready", flush=True)
        teller.run()
    except sqlite3.OperationalError as error:
        print(f"the bank closes: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
