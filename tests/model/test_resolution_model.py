"""Times resolved in a real index, over random work of databases and other programs.

The truth is what the programs know: a database is half done from the first write of a transaction
to the unlink of its journal. No point may lie there, and a later time may never lead to an
earlier LSN.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from store.format import Kind
from store.types import Lsn
from tests.unit.recorded_tree import RecordedTree
from timetravel.grade import Grade
from timetravel.moment import AtTime
from timetravel.resolve import PathSubject, ResolvedPoint, resolve
from timetravel.standing import BarrierSettings
from timetravel.view import View

S = 10**9


class Programs:
    """Two databases with rollback journals, a text editor, and a log that is never synced."""

    def __init__(self, tree: RecordedTree) -> None:
        self.tree = tree
        self.half_done: dict[bytes, list[tuple[int, int]]] = {b"one": [], b"two": []}
        """Of each database the LSNs `[start, stop)` in the midst of a transaction."""
        self._begun: dict[bytes, int] = {}
        self._logged = 0
        for directory in (b"one", b"two", b"text", b"log"):
            tree.mkdir(directory)

    def begin(self, name: bytes) -> None:
        """Write the journal and the database, if no transaction is under way."""
        if name in self._begun:
            return
        self._act(name)
        journal, database = name + b"/app.db-journal", name + b"/app.db"
        self._begun[name] = self.tree.lsn + 1
        self.tree.write(journal, b"\xd9\xd5\x05\xf9 old pages")
        self.tree.log(Kind.FSYNC, self.tree.node(journal))
        self.tree.write(database, b"%d" % self.tree.lsn)

    def commit(self, name: bytes) -> None:
        """A whole transaction, or the rest of the one that is under way."""
        self.begin(name)
        self._act(name)
        self.tree.log(Kind.FSYNC, self.tree.node(name + b"/app.db"))
        self.tree.remove(name + b"/app.db-journal")
        self.half_done[name].append((self._begun.pop(name), self.tree.lsn))

    def save(self) -> None:
        """The editor saves by renaming a new file over the old one."""
        self._act(b"text")
        self.tree.write(b"text/letter.new", b"dear %d" % self.tree.lsn)
        self.tree.log(Kind.FSYNC, self.tree.node(b"text/letter.new"))
        self.tree.rename(b"text/letter.new", b"text/letter")

    def say(self) -> None:
        """A line in the log, which is never synced."""
        self._act(b"log")
        self.tree.write(b"log/messages", b"line\n", self._logged * 5)
        self._logged += 1

    def end(self) -> None:
        """Nothing is under way any more; what is, counts as half done up to the end."""
        for name, start in self._begun.items():
            self.half_done[name].append((start, self.tree.lsn + 1))

    def _act(self, name: bytes) -> None:
        self.tree.act_as(10 + [b"one", b"two", b"text", b"log"].index(name))


actions: dict[str, Callable[[Programs], None]] = {
    "commit one": lambda programs: programs.commit(b"one"),
    "commit two": lambda programs: programs.commit(b"two"),
    "begin one": lambda programs: programs.begin(b"one"),
    "begin two": lambda programs: programs.begin(b"two"),
    "save": Programs.save,
    "say": Programs.say,
    "wait": lambda programs: programs.tree.wait(1),
    "wait long": lambda programs: programs.tree.wait(5),
}


def ask(tree: RecordedTree, lsn: int, path: bytes, limit_s: float) -> ResolvedPoint:
    op = tree.journal.op(Lsn(lsn))
    assert op is not None
    return resolve(
        tree.journal,
        AtTime(op.time_ns),
        now_ns=tree.clock_ns + S,
        subject=PathSubject(lambda at: View(tree.journal, at), path),
        settings=BarrierSettings(limit_s),
    )


@given(st.lists(st.sampled_from(sorted(actions)), max_size=25), st.sampled_from([3.0, 60.0]))
def test_times_lead_between_transactions_and_in_order(chosen: list[str], limit_s: float) -> None:
    with tempfile.TemporaryDirectory() as base:
        tree = RecordedTree(Path(base))
        try:
            programs = Programs(tree)
            for name in (b"one", b"two"):
                programs.commit(name)  # now it is known what a commit looks like
            start = tree.lsn
            for action in chosen:
                actions[action](programs)
            programs.end()
            tree.commit()
            for path in (b"", b"one", b"two"):
                _check(tree, programs, path, start, limit_s)
        finally:
            tree.close()


def _check(tree: RecordedTree, programs: Programs, path: bytes, start: int, limit_s: float) -> None:
    before = 0
    for lsn in range(start, tree.lsn + 1):
        point = ask(tree, lsn, path, limit_s)
        assert before <= point.lsn <= lsn
        before = point.lsn
        assert point.back_ns <= limit_s * S
        assert point.mid_transaction == any(not group.clean for group in point.groups)
        if point.grade >= Grade.TRANSACTION:
            for name, intervals in programs.half_done.items():
                if path in (b"", name):
                    assert not any(a <= point.lsn < b for a, b in intervals), (lsn, point)
