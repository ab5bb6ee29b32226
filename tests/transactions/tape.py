"""A program at work on a mount whose journal goes onto cartridges, and what they alone give back.

The spooler is killed again and again. When the program is done, the books of the library are lost;
a scan makes a store from the cartridges, and the program's own invariant judges it at each barrier
that an archive names. What comes back there must be what the site has there.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from store.journal import Journal
from store.types import Lsn
from store.volume import Store
from tape.catalogue_file import read_catalogue
from tests.commandline import RING, ProtectedTree
from tests.mount.fingerprint import fingerprint
from tests.transactions.at_work import at_work
from tests.transactions.copies import scratch
from tests.transactions.evaluate import Look, imprecise, violations
from tests.transactions.program import Broken, Commit, Program
from tests.transactions.recording import Boundary
from tests.transactions.replica import Work
from timetravel.grade import Grade
from timetravel.place import Place
from timetravel.restore import restore
from timetravel.view import View


@dataclass
class FromTape:
    """All barriers on one program's cartridges."""

    program: str
    barriers: list[Lsn] = field(default_factory=list)
    kills: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def row(self) -> str:
        """For people."""
        return f"{self.program}: {len(self.barriers)} barriers, spooler killed {self.kills} times"


class OnTape:
    """A protected tree with a program in it, and a library."""

    def __init__(self, program: Program, base: Path) -> None:
        self._program = program
        self._tree = ProtectedTree(base)
        self._place = self._tree.tree / "app"
        self._library = base / "library"
        self._again = base / "again"

    def begin(self) -> None:
        """The program's files are there, and on a cartridge."""
        tree = str(self._tree.tree)
        self._tree.run("tape", "create-library", str(self._library), "--capacity", "512M")
        self._tree.run("protect", tree, *RING)
        self._tree.run("tape", "attach", tree, "--library", str(self._library))
        self._place.mkdir()
        self._program.prepare(self._place)
        status = self._tree.json("status", tree)
        self._prepared = int(status["lsn"])
        self._site = Store.open(Path(status["store"]))
        self._tree.run("tape", "spool", tree)

    def end(self) -> None:
        """Leave neither a process nor a mount behind."""
        self._tree.end()

    def logs(self) -> Iterator[tuple[str, str]]:
        """What all processes said."""
        for path in (self._tree.top / "home").glob("*/log/*"):
            yield path.name, path.read_text()

    def sample(self, rounds: int, seed: int) -> FromTape:
        """Have the program at work for so many runs of the spooler; judge what is on tape."""
        chance, found = random.Random(seed), FromTape(self._program.name)
        work = Work(self._program, self._place, seed)
        try:
            for _ in range(rounds):
                time.sleep(chance.uniform(0.5, 1.5))
                self._kill(found)
                self._tree.run("tape", "spool", str(self._tree.tree))
        finally:
            commits = work.end()
        self._program.stop()
        self._tree.run("umount", str(self._tree.tree))
        self._judge(found, commits)
        return found

    def _kill(self, found: FromTape) -> None:
        pid = self._tree.json("status", str(self._tree.tree))["pids"].get("spooler")
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                found.kills += 1

    def _judge(self, found: FromTape, commits: list[Commit]) -> None:
        shutil.rmtree(self._library / "catalogue")
        self._tree.run("tape", "scan", "--library", str(self._library), "--store", str(self._again))
        rebuilt = Store.open(self._again)
        with Journal(self._site) as site, Journal(rebuilt) as again:
            for lsn in self._barriers(site, again):
                found.barriers.append(lsn)
                found.wrong += self._judge_at(lsn, site, again, commits)

    def _barriers(self, site: Journal, again: Journal) -> list[Lsn]:
        """Those of all archives from where the program's transactions are known."""
        state = read_catalogue(self._library / "catalogue")
        named = {
            Lsn(archive.barrier_lsn)
            for cartridge in state.cartridges.values()
            for archive in cartridge.archives
            if archive.kind == "log" and archive.barrier_lsn
        }
        first = again.first()
        assert first is not None
        with site.snapshot() as snapshot:
            start = Lsn(self._prepared + 1)
            return [
                lsn
                for lsn in sorted(named)
                if lsn >= first.lsn
                and next(iter(snapshot.points(start, Lsn(lsn + 1), Grade.TRANSACTION.label)), None)
            ]

    def _judge_at(
        self, lsn: Lsn, site: Journal, again: Journal, commits: list[Commit]
    ) -> list[str]:
        op = again.op(lsn)
        assert op is not None
        point = Boundary(lsn, op.time_ns, "a barrier on tape")
        with scratch() as folder:
            at_site, whole, strict = (folder / name for name in ("site", "whole", "strict"))
            for journal, copy in ((site, at_site), (again, whole), (again, strict)):
                _bring_out(journal, lsn, copy)
            wrong = [] if fingerprint(at_site) == fingerprint(whole) else ["another tree"]
            look = self._look(lsn, whole, strictly=False)
            wrong += violations(commits, point, look)
            if self._program.has_strict_check:
                for entry in strict.iterdir():
                    if self._program.strict_files and entry.name not in self._program.strict_files:
                        entry.unlink()
                wrong += imprecise(look, self._look(lsn, strict, strictly=True), point)
        return wrong

    def _look(self, lsn: Lsn, copy: Path, strictly: bool) -> Look:
        check = self._program.check_strict if strictly else self._program.check
        try:
            return Look(lsn, check(copy), "")
        except Broken as broken:
            return Look(lsn, None, str(broken))


def _bring_out(journal: Journal, lsn: Lsn, copy: Path) -> None:
    copy.mkdir()
    copy.chmod(0o755)
    with Place(os.fsencode(copy.parent)) as place:
        report = restore(View(journal, lsn), b"app", place, os.fsencode(copy.name))
    assert report.ok, report.failures


def on_tape(program: Program) -> AbstractContextManager[OnTape]:
    """A program whose files are on tape already; nothing is left of it afterwards."""
    return at_work(program, OnTape)
