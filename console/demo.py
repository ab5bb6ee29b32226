"""`cdpfs demo`: protect a real tree, damage it, take everything back, and check that it is equal.

Duty: the story that `scripts/quickstart` tells. It works in a new directory of its own, with
stores and registry inside it, and drives the same `cdpfs` commands that a person would type. Each
check either holds or ends the demo with an error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from console import demo_writer
from console.daemon import environment
from console.errors import ConsoleError
from console.output import duration_text, say, size_text, time_json, time_text

RING = ("--ring-files", "4", "--ring-file-bytes", str(32 << 20))
"""A small intake ring: the demo is over before the usual gibibyte would be of use."""
ORDERS_BEFORE = 100
"""Orders that are committed before anything happens."""
SPOILED = "lib/argparse.py"
REMOVED = "lib/asyncio"
SHOP = "shop"


def run_demo(parent: str | None, keep: bool) -> None:
    """The whole tour. ConsoleError when anything is not as it must be."""
    started = time.monotonic()
    top = Path(tempfile.mkdtemp(prefix="cdpfs-demo-", dir=parent))
    tour = _Tour(top)
    try:
        with tour.protected():
            tour.tell_damage_and_recovery()
    finally:
        if keep:
            say(f"Everything is kept in {top}; to see it again:")
            say(f"  export CDPFS_HOME={top / 'home'}; cdpfs mount {tour.tree}")
        else:
            shutil.rmtree(top)
    say(f"All checks passed, {duration_text(time.monotonic() - started)} in all.")


@dataclass
class _Writer:
    """The shop's process and what it has said so far: (order, time of the commit's end)."""

    process: subprocess.Popen[str]
    committed: list[tuple[int, int]] = field(default_factory=list)
    grown: threading.Condition = field(default_factory=threading.Condition)

    def listen(self, lines: IO[str]) -> None:
        for line in lines:
            order, time_ns = line.split()
            with self.grown:
                self.committed.append((int(order), int(time_ns)))
                self.grown.notify_all()

    def wait_for(self, count: int) -> None:
        """Until `count` orders are committed; ends with an error when the process does."""
        with self.grown:
            while len(self.committed) < count:
                if not self.grown.wait(1.0) and self.process.poll() is not None:
                    raise ConsoleError("the demo's database writer ended by itself")

    def committed_by(self, time_ns: int) -> int:
        """The newest order whose commit had returned by then."""
        return max((order for order, end_ns in self.committed if end_ns <= time_ns), default=0)


class _Tour:
    """One run: where everything is, and the steps."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.tree = top / "work"
        self.database = self.tree / SHOP / "orders.db"
        self.environment = environment() | {"CDPFS_HOME": str(top / "home")}
        self.started = time.monotonic()

    @contextmanager
    def protected(self) -> Iterator[None]:
        """The tree, made and protected; unmounted at the end, whatever happened."""
        self.step("Making a tree of real files", self._make_tree)
        try:
            self.step("Protecting it", lambda: self.cdpfs("protect", str(self.tree), *RING))
            yield
        finally:
            if os.path.ismount(self.tree):
                self.step("Unmounting", lambda: self.cdpfs("umount", str(self.tree)))

    def tell_damage_and_recovery(self) -> None:
        """What goes wrong, and how each piece comes back."""
        with self._shop_open() as writer:
            writer.wait_for(ORDERS_BEFORE)
            before = _checksums(self.tree / REMOVED) | _checksums(self.tree / SPOILED)
            writer.wait_for(len(writer.committed) + ORDERS_BEFORE)
            moment_ns = time.time_ns()
            writer.wait_for(len(writer.committed) + ORDERS_BEFORE)
            say(f"\n-- It is {time_text(moment_ns)}: all is well. A second later it is not:")
            self._damage()
            writer.wait_for(len(writer.committed) + 10)
        committed = writer.committed_by(moment_ns)
        self.step("Taking it all back", lambda: self._restore(moment_ns))
        self._check(before, committed)

    def step(self, title: str, work: Callable[[], object]) -> None:
        """Do one step and say how long it took."""
        say(f"\n-- {title}")
        began = time.monotonic()
        work()
        say(f"   ({duration_text(time.monotonic() - began)})")

    def cdpfs(self, *arguments: str) -> None:
        """Run a command as a person would, showing it."""
        say("   $ cdpfs " + " ".join(arguments))
        self._run([sys.executable, "-P", "-m", "console", *arguments])

    def shell(self, *command: str) -> None:
        """Run any other program, showing it."""
        say("   $ " + " ".join(command))
        self._run(list(command))

    def _run(self, command: list[str]) -> None:
        sys.stdout.flush()
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd="/",
        )
        for line in done.stdout.splitlines():
            say("     " + line)
        if done.returncode:
            raise ConsoleError(f"the command above failed with exit code {done.returncode}")

    def _make_tree(self) -> None:
        library = sysconfig.get_path("stdlib")
        leave_out = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "test")
        shutil.copytree(library, self.tree / "lib", symlinks=True, ignore=leave_out)
        self.database.parent.mkdir()
        demo_writer.create(str(self.database))
        sizes = [path.lstat().st_size for path in self.tree.rglob("*") if path.is_file()]
        say(f"   {len(sizes)} files, {size_text(sum(sizes))}, copied from {library}")
        say(f"   and a SQLite database, {self.database}")

    @contextmanager
    def _shop_open(self) -> Iterator[_Writer]:
        """The shop takes orders while this lasts."""
        say("\n-- A program starts to commit orders to the database, about a hundred a second")
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "console.demo_writer", str(self.database)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            writer = _Writer(process)
            listener = threading.Thread(target=writer.listen, args=(process.stdout,))
            listener.start()
            try:
                yield writer
            finally:
                process.stdin.close()
                listener.join()
                process.wait()

    def _damage(self) -> None:
        connection = sqlite3.connect(self.database, timeout=30)
        with connection:
            gone = connection.execute("DELETE FROM orders WHERE amount > 500").rowcount
        connection.close()
        say(f"   a DELETE with the wrong WHERE removed {gone} orders from {self.database.name}")
        shutil.rmtree(self.tree / REMOVED)
        say(f"   somebody removed the directory {REMOVED}")
        spoiled = self.tree / SPOILED
        spoiled.write_bytes(os.urandom(spoiled.stat().st_size))
        say(f"   a program wrote garbage over {SPOILED}")

    def _restore(self, moment_ns: int) -> None:
        moment = "@" + time_json(moment_ns)
        self.cdpfs("restore", str(self.tree / SPOILED), "--at", moment)
        self.cdpfs("restore", str(self.tree / SHOP), "--at", moment)
        view = self.tree / ".snapshots" / moment
        self.shell("cp", "-a", str(view / REMOVED), str(self.tree / REMOVED))

    def _check(self, before: dict[str, str], committed: int) -> None:
        say("\n-- Checking")
        after = _checksums(self.tree / REMOVED) | _checksums(self.tree / SPOILED)
        _must(after == before, f"{len(before)} files have the checksums from before the damage")
        connection = sqlite3.connect(self.database)
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        rows = connection.execute("SELECT id, amount FROM orders ORDER BY id").fetchall()
        connection.close()
        _must(verdict == "ok", "SQLite's integrity check says ok")
        newest = rows[-1][0] if rows else 0
        expected = [(order, demo_writer.amount_of(order)) for order in range(1, newest + 1)]
        _must(
            newest >= committed and rows == expected,
            f"all {committed} orders that were committed by then are there, and no half one",
        )


def _checksums(top: Path) -> dict[str, str]:
    """blake2b of every file at or below `top`, by path."""
    paths = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
    return {str(path): hashlib.blake2b(path.read_bytes()).hexdigest() for path in paths}


def _must(holds: bool, claim: str) -> None:
    if not holds:
        raise ConsoleError(f"this check of the demo failed: {claim}")
    say(f"   ok  {claim}")
