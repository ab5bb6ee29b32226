"""A program at work on a real mount: its client's record, and the points that cdpfs found."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from store.format import Kind
from store.journal import Journal
from store.types import Lsn, TimeNs
from store.volume import Store
from tests.commandline import ProtectedTree
from tests.transactions.program import Commit, Program, read_record

_CHANGES = {
    Kind.WRITE,
    Kind.TRUNCATE,
    Kind.CREATE,
    Kind.LINK,
    Kind.UNLINK,
    Kind.RENAME,
}

MAX_NOTE = 8000
"""Characters of the daemon's log that a failure shows."""


class Boundary(NamedTuple):
    """A transaction point."""

    lsn: Lsn
    time_ns: int
    reason: str


class Recording:
    """What was recorded: `commits`, and the LSNs `[start, stop)` of the work."""

    def __init__(self, program: Program, tree: ProtectedTree) -> None:
        self.program = program
        self.place = tree.tree / "app"
        self.commits: list[Commit] = []
        self.start = self.stop = Lsn(0)
        self._tree = tree

    def make(self, count: int, seed: int) -> None:
        """Let the program do `count` transactions."""
        self.place.mkdir()
        self.program.prepare(self.place)
        self.start = Lsn(self._now() + 1)
        record = self.program.outside / "record"
        self.program.run(self.place, record, count, seed)
        self.commits = list(read_record(record))
        self.stop = Lsn(self._now() + 1)
        os.listdir(self.past(self.stop - 1))  # a view waits for the indexer

    def _now(self) -> int:
        return int(self._tree.json("status", str(self._tree.tree))["lsn"])

    def past(self, lsn: int) -> Path:
        """The program's folder as of an LSN."""
        return self.place / ".snapshots" / f"@lsn:{lsn}"

    def points(self) -> list[Boundary]:
        """The transaction points that lie in the work, as `cdpfs points` lists them."""
        moments = ("--since", f"@lsn:{self.start}", "--until", f"@lsn:{self.stop - 1}")
        found = self._tree.json("points", str(self.place), "--grade", "transaction", *moments)
        return [Boundary(Lsn(p["lsn"]), p["time_ns"], p["reason"]) for p in found]

    def is_mid_transaction(self, lsn: Lsn) -> bool:
        """Whether cdpfs says that a group is in the midst of a transaction there."""
        return bool(self.said_of(f"@lsn:{lsn}")["mid_transaction"])

    def said_of(self, moment: str) -> dict[str, Any]:
        """What cdpfs says about the program's folder at a moment."""
        view = self.place / ".snapshots" / moment
        found: dict[str, Any] = json.loads(os.getxattr(view, "user.cdpfs.point.json"))
        return found

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """The volume's journal."""
        status = self._tree.json("status", str(self._tree.tree))
        with Journal(Store.open(Path(status["store"]))) as journal:
            yield journal

    def cuts(self, count: int, chance: random.Random) -> list[Lsn]:
        """LSNs of changes, anywhere in the work."""
        with self.journal() as journal:
            changes = [op.lsn for op in journal.ops(self.start, self.stop) if op.kind in _CHANGES]
        return sorted(chance.sample(changes, min(count, len(changes))))

    def oracle_points(self) -> list[Boundary]:
        """What a perfect inference would find for a single client: the end of each transaction."""
        with self.journal() as journal:
            found = []
            for commit in self.commits:
                lsn = journal.lsn_at(TimeNs(commit.ack_ns))
                op = journal.op(lsn)
                assert op is not None
                found.append(Boundary(lsn, op.time_ns, "the client's record"))
        return sorted(found)


@contextmanager
def recorded(program: Program, count: int, seed: int) -> Iterator[Recording]:
    """A recording that can be looked at inside; nothing is left of it afterwards."""
    base = Path(tempfile.mkdtemp(prefix="cdpfs-", dir="/var/tmp"))
    base.chmod(0o755)
    tree = ProtectedTree(base)
    program.outside = base / "outside"
    program.outside.mkdir()
    try:
        tree.run("protect", str(tree.tree))
        recording = Recording(program, tree)
        try:
            recording.make(count, seed)
        finally:
            program.stop()
        yield recording
        tree.run("umount", str(tree.tree))
    except BaseException as error:
        for log in (base / "home").glob("*/log/*"):
            error.add_note(f"{log.name}:\n{log.read_text()[-MAX_NOTE:]}")
        raise
    finally:
        tree.end()
        shutil.rmtree(base)
