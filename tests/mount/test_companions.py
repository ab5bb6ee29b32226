"""Restoring, bisecting and listing a live SQLite database through the command line."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from console.exit_codes import ExitCode
from tests.commandline import RING, ProtectedTree

SHOP = "shop/app.db"
SQLITE_CHECK = "sqlite3 {} 'pragma integrity_check'"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[ProtectedTree]:
    """A protected directory with a folder for databases."""
    made = ProtectedTree(tmp_path)
    (made.tree / "shop").mkdir()
    try:
        made.run("protect", str(made.tree), *RING)
        yield made
        if made.is_mounted:
            made.run("umount", str(made.tree))
    finally:
        made.end()


def connect(volume: ProtectedTree, mode: str) -> sqlite3.Connection:
    database = sqlite3.connect(volume.tree / SHOP, isolation_level=None)
    database.execute(f"pragma journal_mode = {mode}").fetchone()
    database.execute("pragma synchronous = full")
    database.execute("create table if not exists entry (number, text)")
    return database


def add(database: sqlite3.Connection, count: int) -> None:
    for _ in range(count):
        database.execute("insert into entry select count(*), hex(randomblob(400)) from entry")


def rows(path: Path) -> int:
    """How many rows a database has that SQLite finds in order and that lacks none of them."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        count, most = database.execute("select count(*), max(number) from entry").fetchone()
    assert count == most + 1
    return int(count)


def transactions(volume: ProtectedTree) -> list[Any]:
    path = volume.path(SHOP)
    return [p for p in volume.json("points", path, "--grade", "transaction") if p["group"]]


def middle_of_a_commit(volume: ProtectedTree) -> int:
    """An LSN at which the rollback journal is hot and the database half written."""
    newest, before = transactions(volume)[-1], transactions(volume)[-2]
    for lsn in range(newest["lsn"] - 1, before["lsn"], -1):
        past = volume.tree / ".snapshots" / f"@lsn:{lsn}" / "shop"
        if (past / "app.db-journal").exists() and (past / "app.db-journal").stat().st_size:
            return lsn
    raise AssertionError("no journal was ever there")


def test_points_name_the_group_and_the_reason(volume: ProtectedTree) -> None:
    with closing(connect(volume, "delete")) as database:
        add(database, 5)
    found = transactions(volume)
    assert len(found) >= 5
    assert {point["group"] for point in found} == {"shop"}
    assert found[-1]["reason"] == "unlink of app.db-journal after fsync of app.db"
    assert volume.json("points", str(volume.tree), "--grade", "transaction") == found
    shown = volume.run("points", volume.path(SHOP), "--grade", "transaction").stdout.decode()
    assert "unlink of app.db-journal" in shown


def test_a_time_goes_to_the_commit_before_it_and_exact_does_not(volume: ProtectedTree) -> None:
    with closing(connect(volume, "delete")) as database:
        add(database, 5)
    middle = middle_of_a_commit(volume)
    before = transactions(volume)[-2]
    history = volume.json("history", volume.path(SHOP), "--until", f"@lsn:{middle}")
    moment = "@" + history[-1]["time"]
    snapshots = volume.tree / "shop" / ".snapshots"
    point = json.loads(os.getxattr(snapshots / moment, "user.cdpfs.point.json"))
    assert (point["lsn"], point["grade"]) == (before["lsn"], "transaction")
    assert b"grade=transaction" in os.getxattr(snapshots / moment, "user.cdpfs.point")
    exact = json.loads(os.getxattr(snapshots / f"{moment}!exact", "user.cdpfs.point.json"))
    assert exact["lsn"] > point["lsn"]
    assert exact["mid_transaction"]
    assert exact["groups"][0]["group"] == "shop"
    assert rows(snapshots / moment / "app.db") == 4


def test_the_root_lists_moments_between_transactions(volume: ProtectedTree) -> None:
    with closing(connect(volume, "delete")) as database:
        add(database, 5)
        database.execute("begin immediate")
        database.execute("update entry set text = 'half'")
        names = [name for name in os.listdir(volume.tree / ".snapshots") if "@mark" not in name]
        for name in names:
            top = volume.tree / ".snapshots" / name
            assert b"mid_transaction=0" in os.getxattr(top, "user.cdpfs.point")
        assert names
        database.execute("rollback")


def test_a_database_without_its_journal_is_not_restored_unless_told_to(
    volume: ProtectedTree,
) -> None:
    with closing(connect(volume, "delete")) as database:
        add(database, 5)
    middle = middle_of_a_commit(volume)
    path, moment = volume.path(SHOP), f"@lsn:{middle}"
    content = Path(path).read_bytes()
    done = volume.run("restore", path, "--at", moment, code=ExitCode.COMPANIONS)
    assert b"shop/app.db-journal" in done.stderr
    assert Path(path).read_bytes() == content
    copy = volume.top / "copy.db"
    volume.run("restore", path, "--at", moment, "--to", str(copy), code=ExitCode.COMPANIONS)
    assert not copy.exists()
    report = volume.json("restore", path, "--at", moment, "--to", str(copy), "--with-companions")
    assert report["mid_transaction"]
    assert [c["action"] for c in report["companions"]] == ["restored"]
    assert (volume.top / "copy.db-journal").exists()
    assert rows(copy) == 4
    done = volume.run("restore", path, "--at", moment, "--alone")
    assert b"CAUTION" in done.stderr
    assert not (volume.tree / "shop" / "app.db-journal").exists()


def test_in_place_a_later_log_goes_and_comes_back_with_undo(volume: ProtectedTree) -> None:
    path = volume.path(SHOP)
    with closing(connect(volume, "delete")) as database:
        add(database, 5)
    before = volume.now()
    # In WAL mode, and ended so that the log stays.
    program = (
        "import sqlite3, os, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "d.execute('pragma journal_mode = wal'); d.execute('pragma synchronous = full');"
        "[d.execute('insert into entry select count(*), 1 from entry') for _ in range(3)];"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)
    volume.run("restore", path, "--at", before, code=ExitCode.COMPANIONS)
    report = volume.json("restore", path, "--at", before, "--with-companions")
    assert {c["path"]: c["action"] for c in report["companions"]}["shop/app.db-wal"] == "removed"
    assert sorted(os.listdir(volume.tree / "shop")) == ["app.db"]
    assert rows(Path(path)) == 5
    for command in report["undo"].split(" && "):
        volume.run(*command.split()[1:])
    assert rows(Path(path)) == 8


@pytest.mark.parametrize(
    ("answer", "code", "alone"),
    [(b"w\n", 0, False), (b"a\n", 0, True), (b"n\n", ExitCode.COMPANIONS, None)],
)
def test_on_a_terminal_it_asks(
    volume: ProtectedTree, answer: bytes, code: int, alone: bool | None
) -> None:
    with closing(connect(volume, "delete")) as database:
        add(database, 3)
    moment = f"@lsn:{middle_of_a_commit(volume)}"
    copy = volume.top / "copy.db"
    here, there = pty.openpty()
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "console", "restore", volume.path(SHOP)),
                *("--at", moment, "--to", str(copy)),
            ],
            env=volume.environment,
            stdin=there,
            stdout=subprocess.DEVNULL,
            stderr=there,
        )
        said = b""
        while b"[w]" not in said:
            said += os.read(here, 4096)
        os.write(here, answer)
        assert process.wait() == code
    finally:
        os.close(here)
        os.close(there)
    assert b"app.db-journal" in said
    assert copy.exists() == (alone is not None)
    assert (volume.top / "copy.db-journal").exists() == (alone is False)


def test_status_says_where_each_group_stands(volume: ProtectedTree) -> None:
    with closing(connect(volume, "delete")) as database:
        add(database, 3)
    assert transactions(volume)  # the index is up to now
    (group,) = [
        group
        for group in volume.json("status", str(volume.tree))["groups"]["newest"]
        if group["group"] == "shop"
    ]
    assert group["point"]["grade"] == "transaction"
    assert "app.db" in group["files"]
    assert b"shop (app.db" in volume.run("status", str(volume.tree)).stdout


def test_reading_commands_say_what_the_moment_came_to(volume: ProtectedTree) -> None:
    with closing(connect(volume, "delete")) as database:
        add(database, 3)
    middle = middle_of_a_commit(volume)
    done = volume.run("cat", volume.path(SHOP), "--at", f"@lsn:{middle}")
    assert b"CAUTION: in the midst of a transaction of shop (app.db" in done.stderr
    newest = transactions(volume)[-1]
    done = volume.run("cat", volume.path(SHOP), "--at", "@" + newest["time"])
    assert f"LSN {newest['lsn']}, transaction".encode() in done.stderr
    done = volume.run("diff", volume.path("shop"), "--from", "@" + newest["time"])
    assert f"LSN {newest['lsn']}, transaction".encode() in done.stderr


def spoil(path: Path) -> None:
    """Garbage over a page in the middle, as a broken program would."""
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"garbage!" * 512)


def test_bisect_finds_where_a_database_broke_and_who_did_it(volume: ProtectedTree) -> None:
    with closing(connect(volume, "delete")) as database:
        add(database, 40)
    good = volume.now()
    spoil(volume.tree / SHOP)
    bad = volume.now()
    with closing(sqlite3.connect(volume.tree / SHOP, isolation_level=None)) as database:
        for _ in range(10):
            database.execute("insert into entry values (0, 0)")
    found = volume.json("bisect", volume.path(SHOP), "--check", SQLITE_CHECK)
    last_good, first_bad = found["good"]["lsn"], found["bad"]["lsn"]
    assert last_good <= int(good[5:]) < first_bad
    assert len(found["tried"]) <= 9
    assert found["changes"][0]["path"] == SHOP
    assert os.getpid() in [version["pid"] for version in found["versions"]]
    exact = volume.json("bisect", volume.path(SHOP), "--check", SQLITE_CHECK, "--exact")
    assert last_good <= exact["good"]["lsn"] < exact["bad"]["lsn"] <= int(bad[5:])
    assert exact["bad"]["lsn"] == exact["good"]["lsn"] + 1
    shown = volume.run("bisect", volume.path(SHOP), "--check", SQLITE_CHECK)
    assert b"first bad" in shown.stdout
    assert b" of at most " in shown.stderr


def test_bisect_of_a_directory_takes_a_text_that_the_output_must_have(
    volume: ProtectedTree,
) -> None:
    letter = volume.tree / "shop" / "letter"
    for number in range(8):
        letter.write_text(f"version {number}\n")
        volume.run("mark", f"m{number}", str(volume.tree))
    found = volume.json(
        *("bisect", volume.path("shop"), "--check", "cat {}/letter"),
        *("--expect", "version [0-4]", "--grade", "mark", "--from", "@mark:m0"),
    )
    marks = {p["name"]: p["lsn"] for p in volume.json("points", str(volume.tree)) if p["name"]}
    assert (found["good"]["lsn"], found["bad"]["lsn"]) == (marks["m4"], marks["m5"])


def test_bisect_says_when_its_ends_do_not_fit(volume: ProtectedTree) -> None:
    (volume.tree / "shop" / "f").write_text("x")
    path = volume.path("shop/f")
    first = ("--from", volume.now())
    (volume.tree / "shop" / "f").write_text("y")
    done = volume.run("bisect", path, "--check", "true", *first, code=ExitCode.NOT_BETWEEN)
    assert b"still good" in done.stderr
    done = volume.run("bisect", path, "--check", "false", *first, code=ExitCode.NOT_BETWEEN)
    assert b"is not good" in done.stderr
    done = volume.run("bisect", path, "--check", "no-such-check", *first, code=ExitCode.FAILURE)
    assert b"can't be run" in done.stderr
    volume.run("bisect", path, "--check", "true", "--expect", "(", code=ExitCode.USAGE)


def test_a_check_that_hangs_counts_as_bad(volume: ProtectedTree) -> None:
    file = volume.tree / "shop" / "f"
    file.write_text("quick\n")
    start = volume.now()
    file.write_text("slow\n")
    check = "grep -q quick {} || sleep 1000"
    found = volume.json(
        *("bisect", volume.path("shop/f"), "--check", check, "--timeout", "1", "--from", start)
    )
    assert "ran out of time" in found["tried"][0]["verdict"]
