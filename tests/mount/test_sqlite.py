"""SQLite inside the mount: several writing processes at once, in each journal mode.

Each transaction adds a row and counts it elsewhere, so a torn one shows. WAL mode needs a shared,
writable mapping that is the same memory for all processes, and all modes need POSIX locks.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mount.arena import Arena, open_arena
from tests.mount.peers import popen, run

MODES = ("DELETE", "TRUNCATE", "PERSIST", "WAL")

WRITER = """
import sqlite3, sys
path, mode, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
database = sqlite3.connect(path, timeout=120, isolation_level=None)
database.execute(f"pragma journal_mode = {mode}").fetchone()
database.execute("pragma synchronous = full")
for number in range(count):
    database.execute("begin immediate")
    database.execute("insert into entry values (?, ?, ?)", (who, number, f"{who}.{number} " * 40))
    database.execute("update total set entries = entries + 1, sum = sum + ?", (number,))
    if number % 5 == 4:
        database.execute("delete from entry where who = ? and number = ?", (who, number - 2))
        database.execute("update total set entries = entries - 1, sum = sum - ?", (number - 2,))
    database.execute("commit")
    if number == count // 2:
        print("half", flush=True)
"""

READER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=120, isolation_level=None)
for _ in range(int(sys.argv[2])):
    database.execute("begin")
    counted = database.execute("select count(*), coalesce(sum(number), 0) from entry").fetchone()
    assert counted == database.execute("select entries, sum from total").fetchone()
    database.execute("commit")
"""


class Sizes(NamedTuple):
    """How much is written."""

    writers: int
    transactions: int


CI = Sizes(3, 30)
NIGHTLY = Sizes(6, 400)


@pytest.fixture
def arena() -> Iterator[Arena]:
    """An empty pair of places."""
    with open_arena() as made:
        yield made


def _create(folder: Path, mode: str) -> Path:
    folder.mkdir()
    path = folder / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        assert database.execute(f"pragma journal_mode = {mode}").fetchone() == (mode.lower(),)
        database.execute("create table entry (who, number, text, primary key (who, number))")
        database.execute("create table total (entries, sum)")
        database.execute("insert into total values (0, 0)")
    return path


def _start(path: Path, mode: str, sizes: Sizes) -> list[subprocess.Popen[str]]:
    count = str(sizes.transactions)
    return [
        popen([sys.executable, "-c", WRITER, path, mode, str(who), count], stdout=subprocess.PIPE)
        for who in range(sizes.writers)
    ]


def _finish(writers: list[subprocess.Popen[str]]) -> None:
    for writer in writers:
        with writer:
            writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * len(writers)


def _checked_rows(path: Path) -> list[tuple[int, int, str]]:
    """All rows of a database that is in order by SQLite's judgement and by ours."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        rows = database.execute("select * from entry order by who, number").fetchall()
        total = database.execute("select * from total").fetchall()
    assert total == [(len(rows), sum(number for _, number, _ in rows))]
    return rows


def _work(arena: Arena, mode: str, sizes: Sizes) -> None:
    plain = _create(arena.plain / "db", mode)
    _finish(_start(plain, mode, sizes))
    path = _create(arena.volume.tree / "db", mode)
    empty = arena.pause()
    writers = _start(path, mode, sizes)
    reader = popen([sys.executable, "-c", READER, path, "10"])
    halves = []
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        halves.append(arena.volume.sync())
    _finish(writers)
    assert reader.wait() == 0
    end = arena.pause()
    rows = _checked_rows(path)
    assert rows == _checked_rows(plain)
    _check_past(arena, path, {empty: 0, end: len(rows)}, halves)
    arena.check_moments()
    arena.check_after_remount()
    assert _checked_rows(path) == rows


def _check_past(arena: Arena, path: Path, exact: dict[int, int], halves: list[int]) -> None:
    """A copy of the past of the folder, of any moment, opens and holds what was committed."""
    for lsn in (*exact, *halves):
        copy = arena.outside / f"db@{lsn}"
        shutil.copytree(arena.volume.past(lsn) / path.parent.name, copy, dirs_exist_ok=True)
        rows = _checked_rows(copy / path.name)
        if lsn in exact:
            assert len(rows) == exact[lsn]
    for who, lsn in enumerate(halves):
        rows = _checked_rows(arena.outside / f"db@{lsn}" / path.name)
        mine = {number for writer, number, _ in rows if writer == who}
        assert mine, f"writer {who} had committed half of its rows by LSN {lsn}"


@pytest.mark.parametrize("mode", MODES)
def test_several_processes_write_at_once(arena: Arena, mode: str) -> None:
    _work(arena, mode, CI)


@pytest.mark.nightly
@pytest.mark.parametrize("mode", MODES)
def test_many_processes_write_for_long(arena: Arena, mode: str) -> None:
    _work(arena, mode, NIGHTLY)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_every_lsn_of_the_folder_is_a_database_in_order(arena: Arena, mode: str) -> None:
    """Whole-directory moments are crash-consistent: at *every* LSN, not only where one looked."""
    path = _create(arena.volume.tree / "db", mode)
    start = arena.volume.sync()
    _finish(_start(path, mode, Sizes(1, 6)))
    end = arena.volume.sync()
    before = 0
    for lsn in range(start, end + 1):
        copy = arena.outside / "db"
        shutil.copytree(arena.volume.past(lsn) / "db", copy)
        count = len(_checked_rows(copy / path.name))
        assert abs(count - before) <= 1
        before = count
        shutil.rmtree(copy)
    assert before == len(_checked_rows(path))


def test_the_command_line_program_dumps_backs_up_and_vacuums(arena: Arena) -> None:
    def work(place: Path) -> str:
        path = _create(place / "db", "DELETE")
        _finish(_start(path, "DELETE", Sizes(1, 12)))
        run("sqlite3", path, "vacuum into 'vacuumed.db'", cwd=place)
        run("sqlite3", path, ".backup copy.db", "delete from entry where number > 5;", cwd=place)
        run("sqlite3", path, "pragma auto_vacuum = 2; vacuum; pragma integrity_check", cwd=place)
        return "\n".join(run("sqlite3", file, ".dump") for file in sorted(place.rglob("*.db")))

    assert work(arena.volume.tree) == work(arena.plain)
