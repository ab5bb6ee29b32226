"""A program at work on a mount that replicates, and what a reader at the vault sees meanwhile.

Vault and replicator are killed again and again. At each such moment the replica's visible head is
brought out of the vault's files, by the journal there alone, and judged by the program's own
invariant. Afterwards the source must say of each head that nothing was under way there.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from console.control import Control
from store.journal import Journal
from store.types import Lsn
from store.volume import Store
from tests.commandline import RING, ProtectedTree
from tests.crash.far_end import FarVault
from tests.crash.replica import differences, newest_lsn
from tests.transactions.at_work import at_work
from tests.transactions.copies import scratch
from tests.transactions.evaluate import Look, imprecise, violations
from tests.transactions.program import Broken, Commit, Program, read_record
from tests.transactions.recording import Boundary
from tests.volume import SOURCE
from timetravel.grade import Grade
from timetravel.head import Head, HeadTracker
from timetravel.moment import AtLsn
from timetravel.place import Place
from timetravel.resolve import resolve
from timetravel.restore import restore
from timetravel.standing import BarrierSettings
from timetravel.view import View

KINDS = ("vault", "replicator", "nothing")
PATIENCE_S = 180.0
"""A vault that gets nothing for so long never will."""

POLL_S = 0.02
ENDLESS = 1_000_000
SERVER_ROUND = 200
"""Transactions of a server's client, which can't be stopped in the midst of its record."""


class Sample(NamedTuple):
    """One look at the head, when `killed` had just been killed."""

    head: Head
    killed: str
    whole: Look
    strict: Look


@dataclass
class Sampled:
    """All looks at one program's replica."""

    program: str
    samples: list[Sample] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def heads(self) -> int:
        """How many different heads were seen."""
        return len({sample.head.lsn for sample in self.samples})

    @property
    def row(self) -> str:
        """For people."""
        kills = [sample.killed for sample in self.samples]
        killed = ", ".join(f"{kind} {kills.count(kind)}" for kind in sorted(set(kills)))
        return f"{self.program}: {len(kills)} samples, {self.heads} heads ({killed})"


class Work:
    """The program at work, until `end`."""

    def __init__(self, program: Program, place: Path, seed: int) -> None:
        self._program, self._place, self._seed = program, place, seed
        self._record = program.outside / "record"
        self._clients: list[subprocess.Popen[bytes]] = []
        self._commits: list[Commit] = []
        self._ending = False
        self._thread: threading.Thread | None = None
        if type(program).run is Program.run:
            for client in range(program.clients):
                words = (program.name, place, program.outside, self._record, ENDLESS, seed, client)
                argv = [sys.executable, "-m", "tests.transactions.client", *map(str, words)]
                self._clients.append(subprocess.Popen(argv, cwd=SOURCE, stdin=subprocess.DEVNULL))
        else:
            self._thread = threading.Thread(target=self._rounds)
            self._thread.start()

    def _rounds(self) -> None:
        number = 0
        while not self._ending:
            number += 1
            self._program.run(self._place, self._record, SERVER_ROUND, self._seed + number)
            self._commits += read_record(self._record)
            for log in (self._program.outside / "live").glob("log.*"):
                log.unlink()

    def end(self) -> list[Commit]:
        """No more; all that was done. A client is killed, its last transaction is not in this."""
        self._ending = True
        if self._thread is not None:
            self._thread.join()
            return self._commits
        for client in self._clients:
            assert client.poll() is None, "the client has ended by itself"
            client.kill()
            client.wait()
        return list(read_record(self._record))


class Replicated:
    """A protected tree with a program in it, and its vault."""

    def __init__(self, program: Program, base: Path) -> None:
        self._program = program
        self._tree = ProtectedTree(base)
        self._place = self._tree.tree / "app"
        self._vault = FarVault(base / "far")
        self._scratch = base / "copies"
        self._scratch.mkdir()

    def begin(self) -> None:
        """The program's files are there, and at the vault."""
        tree = str(self._tree.tree)
        self._vault.start()
        self._tree.run("protect", tree, *RING)
        where = ("--to", self._vault.settings().link.url)
        token = ("--token-file", str(self._vault.token_file))
        self._tree.run("replicate", "start", tree, *where, *token)
        self._place.mkdir()
        self._program.prepare(self._place)
        status = self._tree.json("status", tree)
        self._prepared = int(status["lsn"])
        self._tree.run("replicate", "wait", tree)
        self._source = Store.open(Path(status["store"]))
        self._replica = self._vault.store(self._source)

    def end(self) -> None:
        """Leave neither a process nor a mount behind."""
        self._tree.end()
        self._vault.close()

    def logs(self) -> Iterator[tuple[str, str]]:
        """What all processes said."""
        yield "vault", self._vault.log_text()
        for path in (self._tree.top / "home").glob("*/log/*"):
            yield path.name, path.read_text()

    def _call(self, name: str) -> Any:
        with Control(self._source) as control:
            return control.call(name)

    # --- sampling --------------------------------------------------------------------------------

    def sample(self, samples: int, seed: int) -> Sampled:
        """Have the program at work until there are so many looks at the head."""
        chance, found = random.Random(seed), Sampled(self._program.name)
        work = Work(self._program, self._place, seed)
        try:
            self._look_often(found, samples, chance)
        finally:
            commits = work.end()
        self._judge(found, commits)
        return found

    def _look_often(self, found: Sampled, samples: int, chance: random.Random) -> None:
        while len(found.samples) < samples:
            self._wait_for_more(found)
            time.sleep(chance.uniform(0, 0.6))
            killed = self._kill(chance.choice(KINDS))
            head = self._head()
            if killed == "vault":
                self._vault.start()
            # The pauses after failures are made for what fails far less often.
            self._call("replicate")
            if self._is_known_at(head.lsn):
                found.samples.append(self._look(head, killed))

    def _is_known_at(self, lsn: Lsn) -> bool:
        """Has inference told a transaction of the program by then? Its first few are not known yet,
        and how many of them a shipment ends behind depends on how fast the machine is."""
        start, stop = Lsn(self._prepared + 1), Lsn(lsn + 1)
        with Journal(self._replica) as journal, journal.snapshot() as snapshot:
            found = snapshot.points(start, stop, Grade.TRANSACTION.label)
            return next(iter(found), None) is not None

    def _wait_for_more(self, found: Sampled) -> None:
        """The vault has more than at the last look."""
        before = found.samples[-1].head.held_lsn if found.samples else 0
        began = time.monotonic()
        while newest_lsn(self._replica) <= before:
            assert time.monotonic() - began < PATIENCE_S, self._call("status")["replication"]
            time.sleep(POLL_S)

    def _kill(self, what: str) -> str:
        if what == "vault":
            self._vault.kill()
        pid = self._call("status")["pids"].get("replicator")
        if what == "replicator" and pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return what

    def _head(self) -> Head:
        """What a reader who comes to the vault now is shown."""
        with Journal(self._replica) as journal, journal.snapshot() as snapshot:
            return HeadTracker(_settings(self._replica)).advance(snapshot)

    def _look(self, head: Head, killed: str) -> Sample:
        with scratch() as folder:
            copies: list[Path] = []
            for names in ((), self._program.strict_files):
                copy = folder / str(len(copies))
                copy.mkdir()
                copy.chmod(0o755)
                self._bring_out(head.lsn, copy)
                for entry in copy.iterdir():
                    if names and entry.name not in names:
                        entry.unlink()
                copies.append(copy)
            whole = self._verdict(head.lsn, copies[0], strictly=False)
            if not self._program.has_strict_check:
                return Sample(head, killed, whole, whole)
            return Sample(head, killed, whole, self._verdict(head.lsn, copies[1], strictly=True))

    def _bring_out(self, lsn: Lsn, copy: Path) -> None:
        with Journal(self._replica) as journal, Place(os.fsencode(copy.parent)) as place:
            report = restore(View(journal, lsn), b"app", place, os.fsencode(copy.name))
        assert report.ok, report.failures

    def _verdict(self, lsn: Lsn, copy: Path, strictly: bool) -> Look:
        check = self._program.check_strict if strictly else self._program.check
        try:
            return Look(lsn, check(copy), "")
        except Broken as broken:
            return Look(lsn, None, str(broken))

    # --- what must hold --------------------------------------------------------------------------

    def _judge(self, found: Sampled, commits: list[Commit]) -> None:
        self._tree.run("replicate", "wait", str(self._tree.tree))
        found.wrong += differences(self._source, self._replica)
        before = Lsn(0)
        with Journal(self._source) as journal:
            for sample in found.samples:
                head, where = sample.head, f"head {sample.head.lsn}, {sample.killed} killed"
                op = journal.op(head.lsn)
                assert op is not None
                point = Boundary(head.lsn, op.time_ns, "the head")
                wrong = violations(commits, point, sample.whole)
                wrong += imprecise(sample.whole, sample.strict, point)
                if head.lsn < before:
                    wrong.append(f"it was {before} already")
                if not head.is_barrier:
                    wrong.append("it is no barrier")
                wrong += _said_by(journal, head.lsn, _settings(self._source))
                found.wrong += [f"{where}: {line}" for line in wrong]
                before = head.lsn


def _said_by(source: Journal, lsn: Lsn, settings: BarrierSettings) -> list[str]:
    """What the source has against an LSN as a barrier of the whole volume."""
    last = source.last()
    assert last is not None
    point = resolve(source, AtLsn(lsn), now_ns=last.time_ns, settings=settings)
    if point.mid_transaction:
        return [f"at the source {point.open_count} groups are in the midst of a transaction"]
    return [] if point.grade >= Grade.SYNC else [f"at the source it is {point.grade.label}"]


def _settings(store: Store) -> BarrierSettings:
    return BarrierSettings(store.config.point_limit_s, store.config.quiet_s)


def replicated(program: Program) -> AbstractContextManager[Replicated]:
    """A program whose files are at a vault already; nothing is left of it afterwards."""
    return at_work(program, Replicated)
