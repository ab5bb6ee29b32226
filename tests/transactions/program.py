"""What a program under test is: how it works, and how a copy of its files is judged.

The client of a program runs in a process of its own and writes down, outside the mount, when it
began each transaction and when it was told that the transaction is done.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from tests.volume import SOURCE

Counts = tuple[int, ...]
"""How many transactions of each client a copy holds; they are the first so many of that client."""

Transact = Callable[[int], None]
"""Does the transaction with this number; the first is 1. It returns when it is acknowledged."""


class Broken(Exception):
    """A copy breaks the program's own check or the invariant. The text says how."""


class Commit(NamedTuple):
    """One line of the client's record."""

    client: int
    number: int
    begin_ns: int
    ack_ns: int


class Program(ABC):
    """A real program with an invariant. Its files are in one folder (`place`)."""

    name: str
    clients: int = 1
    outside: Path
    """A folder outside the mount, for sockets and logs; set before anything else."""
    strict_files: tuple[str, ...] = ()
    """Files that are whole by themselves whenever no transaction is under way; () if there is
    no such file, because the files are always to be read together (a write-ahead log)."""

    has_strict_check = True
    """Whether `check_strict` says more than `check`: no, where each LSN recovers to a whole number
    of transactions and nothing in the files tells a boundary from the rest."""

    @abstractmethod
    def prepare(self, place: Path) -> None:
        """Fill the folder, which exists and is empty, before the first transaction."""

    def session(
        self, place: Path, chance: random.Random, client: int
    ) -> AbstractContextManager[Transact]:
        """The side of a client (0, 1, ...), inside its process."""
        raise NotImplementedError

    @abstractmethod
    def check(self, copy: Path) -> Counts:
        """Judge a copy of the folder as the program would after a crash; Broken. May change it."""

    def check_strict(self, copy: Path) -> Counts:
        """Judge a copy that must hold no half transaction, recovery aside; Broken.

        `copy` has the `strict_files` only, if there are any; else whatever `check` tests is
        tested too.
        """
        return self.check(copy)

    def run(self, place: Path, record: Path, count: int, seed: int) -> None:
        """Do `count` transactions, shared out among the clients, and write the record."""
        command = [sys.executable, "-m", "tests.transactions.client"]
        processes = []
        for client in range(self.clients):
            share = count // self.clients
            words = (self.name, place, self.outside, record, share, seed + client, client)
            argv = [*command, *map(str, words)]
            processes.append(subprocess.Popen(argv, cwd=SOURCE, stdin=subprocess.DEVNULL))
        assert [process.wait() for process in processes] == [0] * self.clients

    def stop(self) -> None:  # noqa: B027  (most programs leave nothing running)
        """End what `prepare` started."""


def transact(
    program: Program, place: Path, record: Path, count: int, seed: int, client: int
) -> None:
    """The client's loop, in its own process."""
    fd = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with program.session(place, random.Random(seed), client) as do:
        for number in range(1, count + 1):
            begin_ns = time.time_ns()
            do(number)
            ack_ns = time.time_ns()
            os.write(fd, b"%d %d %d %d\n" % (client, number, begin_ns, ack_ns))
    os.close(fd)


def read_record(record: Path) -> Iterator[Commit]:
    """The lines of a client's record."""
    for line in record.read_text().splitlines():
        yield Commit(*map(int, line.split()))
