"""How far the readers of a journal that is still arriving are shown."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.format import Flag, Kind
from store.ops import Actor, Gap
from store.types import NO_NODE, Lsn
from tests.unit.recorded_tree import RecordedTree
from tests.unit.test_standing import Database
from timetravel.barrier_search import Level
from timetravel.gaps import within_resync
from timetravel.head import Head, HeadTracker, head_point
from timetravel.standing import BarrierSettings


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    yield recorded
    recorded.close()


class Reader:
    """Somebody who asks for the head after each arrival."""

    def __init__(self, tree: RecordedTree, limit_s: float = 60.0) -> None:
        self.tree = tree
        self.settings = BarrierSettings(limit_s, 2.0)
        self.tracker = HeadTracker(self.settings)

    def ask(self) -> Head:
        self.tree.commit()
        with self.tree.journal.snapshot() as snapshot:
            return self.tracker.advance(snapshot)


def daemon(tree: RecordedTree, pid: int) -> None:
    """What follows is done by a process with a session of its own."""
    actor = Actor(7, 8, pid, 1, pid, b"daemon")
    tree._actor = Lsn(0)
    tree._actor = tree.log(Kind.ACTOR, NO_NODE, 0, actor.encode())


def two_databases(tree: RecordedTree) -> tuple[Database, Database]:
    """Each a group of its own."""
    found = []
    for number, name in enumerate((b"one", b"two")):
        tree.mkdir(name)
        daemon(tree, 100 + number)
        found.append(Database(tree, name + b"/app.db"))
        for _ in range(4):
            found[-1].commit()
        tree.wait(3)
    return found[0], found[1]


def test_nothing_held_is_no_head(tree: RecordedTree) -> None:
    with tree.journal.snapshot() as snapshot:
        assert HeadTracker(BarrierSettings()).advance(snapshot).lsn == 0


def test_the_head_is_between_the_transactions_of_all_groups(tree: RecordedTree) -> None:
    one, two = two_databases(tree)
    reader = Reader(tree)
    daemon(tree, 100)
    at_rest = reader.ask().lsn
    before = Lsn(one.begin())
    assert reader.ask().lsn == at_rest
    daemon(tree, 101)
    two.commit()
    head = reader.ask()
    assert head.lsn < before  # the other one is still in the midst of something
    daemon(tree, 100)
    tree.remove(b"one/app.db-journal")
    head = reader.ask()
    assert (head.lsn, head.level) == (tree.lsn, Level.WHOLE)
    point = head_point(tree.journal, head, reader.settings)
    assert not point.mid_transaction
    assert point.grade.label == "transaction"


def test_the_head_never_moves_back_wherever_the_log_is_cut(tree: RecordedTree) -> None:
    one, two = two_databases(tree)
    reader = Reader(tree)
    newest = reader.ask().lsn
    dice = random.Random(5)
    whole = [newest]
    for _ in range(60):
        database, pid = dice.choice(((one, 100), (two, 101)))
        daemon(tree, pid)
        database.begin()
        if dice.random() < 0.5:
            assert reader.ask().lsn in whole
        tree.remove(database.path + b"-journal")
        whole.append(tree.lsn)
        # What names the next actor changes no file.
        whole.append(Lsn(tree.lsn + 1))
        if dice.random() < 0.5:
            head = reader.ask().lsn
            assert head in whole and head >= newest
            newest = head
    again = Reader(tree)
    assert again.ask().lsn == reader.ask().lsn


def test_quiet_is_told_by_the_log_and_not_by_a_clock_here(tree: RecordedTree) -> None:
    reader = Reader(tree)
    daemon(tree, 7)
    begin = reader.ask().lsn
    tree.write(b"notes", b"half")
    assert reader.ask().lsn < tree.lsn
    assert reader.ask().lsn >= begin
    tree.wait(5)
    written = tree.lsn
    tree.log(Kind.CHECKPOINT, NO_NODE, 0, b"{}")
    assert reader.ask().lsn >= written


def test_a_volume_that_is_never_at_rest_is_shown_after_the_limit_and_says_so(
    tree: RecordedTree,
) -> None:
    one, two = two_databases(tree)
    reader = Reader(tree, limit_s=10.0)
    daemon(tree, 100)
    start = reader.ask().lsn
    shown: list[Head] = []
    one.begin()
    for _ in range(40):
        daemon(tree, 101)
        two.begin()
        daemon(tree, 100)
        tree.remove(b"one/app.db-journal")
        one.begin()
        daemon(tree, 101)
        tree.remove(b"two/app.db-journal")
        tree.wait(1)
        head = reader.ask()
        if not shown or shown[-1].lsn != head.lsn:
            shown.append(head)
    assert shown[0].lsn == start
    moved = shown[1:]
    assert 2 <= len(moved) <= 5
    assert not any(head.is_barrier for head in moved)
    assert head_point(tree.journal, moved[-1], reader.settings).mid_transaction


def test_a_log_that_is_written_all_day_does_not_hold_the_head(tree: RecordedTree) -> None:
    tree.mkdir(b"log")
    daemon(tree, 9)
    for second in range(30):
        tree.write(b"log/all-day", b"line\n", second * 5)
        tree.wait(1)
    one, _ = two_databases(tree)
    reader = Reader(tree, limit_s=5.0)
    for second in range(30, 50):
        daemon(tree, 9)
        tree.write(b"log/all-day", b"line\n", second * 5)
        daemon(tree, 100)
        one.commit()
        tree.wait(1)
        head = reader.ask()
        if second > 36:  # by now it has been open for longer than the limit
            assert (head.lsn, head.level) == (tree.lsn, Level.REST)


def test_the_head_waits_for_all_that_had_changed_in_a_gap(tree: RecordedTree) -> None:
    tree.write(b"f", b"1")
    reader = Reader(tree)
    tree.wait(5)
    tree.log(Kind.CHECKPOINT, NO_NODE, 0, b"{}")
    before = reader.ask().lsn
    gap = Gap(tree.clock_ns, "the store was full", True)
    tree.log(Kind.GAP, NO_NODE, tree.clock_ns - 10**9, gap.encode())
    assert reader.ask().lsn == before
    for _ in range(3):
        tree.log(Kind.WRITE, tree.node(b"f"), 0, b"2", int(Flag.EXTERNAL | Flag.UNLOGGED))
        assert reader.ask().lsn == before
    tree.wait(5)
    tree.log(Kind.CHECKPOINT, NO_NODE, 0, b"{}")
    assert reader.ask().lsn == tree.lsn


def test_a_synchronous_write_is_not_taken_for_one_found_after_a_gap(tree: RecordedTree) -> None:
    tree.write(b"f", b"1")
    before = tree.lsn
    tree.log(Kind.WRITE, tree.node(b"f"), 0, b"2", int(Flag.SYNCHRONOUS))
    tree.commit()
    with tree.journal.snapshot() as snapshot:
        assert not within_resync(snapshot, before)


def test_what_was_shown_as_a_barrier_stays_one(tree: RecordedTree) -> None:
    reader = Reader(tree)
    daemon(tree, 100)
    shown = []
    for number in range(4):
        tree.write(b"notes", b"%d" % number)
        tree.log(Kind.FSYNC, tree.node(b"notes"), 0)
        shown.append(reader.ask())
    assert [head.lsn for head in shown] == sorted({head.lsn for head in shown})
    for head in shown:
        assert head.is_barrier
        assert not head_point(tree.journal, head, reader.settings).mid_transaction
