"""Where a time goes in a real index, what that is worth, and what belongs to a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.barrier_state import (
    FileState,
    Group,
    GroupState,
    NewestPoint,
    decode_group,
    decode_group_state,
    encode_group,
)
from store.format import Kind
from store.types import Lsn, NodeId, TimeNs
from tests.unit.recorded_tree import RecordedTree
from timetravel.companions import find_companions
from timetravel.grade import Grade
from timetravel.groups import Concern, GroupTable
from timetravel.moment import AtLsn, AtTime
from timetravel.points import points
from timetravel.report import caution_about, point_fields, point_line, point_sentence
from timetravel.resolve import PathSubject, ResolvedPoint, resolve
from timetravel.standing import BarrierSettings
from timetravel.view import View

S = 10**9


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    yield recorded
    recorded.close()


class Database:
    """Commits as SQLite does with a rollback journal: the unlink of the journal is the commit."""

    def __init__(self, tree: RecordedTree, path: bytes) -> None:
        self.tree = tree
        self.path = path
        self.commits: list[Lsn] = []
        self._fills = 0

    def commit(self) -> Lsn:
        """One transaction; returns the LSN of the commit."""
        tree, journal = self.tree, self.path + b"-journal"
        self.begin()
        tree.remove(journal)
        self.commits.append(tree.lsn)
        return tree.lsn

    def begin(self) -> Lsn:
        """A transaction up to right before the commit."""
        tree, journal = self.tree, self.path + b"-journal"
        self._fills += 1
        tree.write(journal, b"\xd9\xd5\x05\xf9 old pages" * 40)
        self.fsync(journal)
        tree.write(self.path, b"%08d" % self._fills * 512)
        self.fsync(self.path)
        return tree.lsn

    def fsync(self, path: bytes) -> None:
        self.tree.log(Kind.FSYNC, self.tree.node(path))


def ask(
    tree: RecordedTree, lsn: int, path: bytes = b"", *, exact: bool = False, limit_s: float = 60.0
) -> ResolvedPoint:
    """The time of an op, asked right after the last one."""
    tree.commit()
    op = tree.journal.op(Lsn(lsn))
    assert op is not None
    return resolve(
        tree.journal,
        AtTime(op.time_ns, exact),
        now_ns=tree.clock_ns + 1,
        subject=PathSubject(lambda at: View(tree.journal, at), path),
        settings=BarrierSettings(limit_s=limit_s),
    )


def test_a_time_within_a_transaction_goes_to_the_commit_before(tree: RecordedTree) -> None:
    database = Database(tree, b"app.db")
    for _ in range(4):
        database.commit()
    third, last = database.commits[2:]
    for lsn in range(third + 1, last):
        point = ask(tree, lsn, b"app.db")
        assert (point.lsn, point.grade) == (third, Grade.TRANSACTION)
        assert point.reason == "unlink of app.db-journal after fsync of app.db"
        assert not point.mid_transaction
        assert point.asked_lsn == lsn
        assert point.back_ns == (lsn - third) * 1_000_000
    assert ask(tree, last, b"app.db").lsn == last


def test_what_is_synced_once_more_is_still_a_transaction(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    database = Database(tree, b"d/app.db")
    for _ in range(3):
        database.commit()
    tree.wait(5)
    tree.write(b"other", b"x")
    point = ask(tree, tree.lsn, b"d")
    assert point.grade is Grade.TRANSACTION
    assert point.reason == "unlink of app.db-journal after fsync of app.db"


def test_the_exact_moment_is_itself_and_flagged(tree: RecordedTree) -> None:
    database = Database(tree, b"app.db")
    for _ in range(3):
        database.commit()
    middle = database.commits[1] + 3
    point = ask(tree, middle, b"app.db", exact=True)
    assert (point.lsn, point.grade) == (middle, Grade.CRASH)
    assert point.mid_transaction
    assert "mid-transaction: . (app.db" in point.reason
    assert "CAUTION" in caution_about(point)
    assert point_fields(point)["mid_transaction"] is True
    assert "mid_transaction=1" in point_line(point)
    # An LSN at which nothing is under way is as good as the point before it.
    clean = resolve(tree.journal, AtLsn(database.commits[1]), now_ns=tree.clock_ns)
    assert (clean.grade, caution_about(clean)) == (Grade.TRANSACTION, "")


def test_beyond_the_limit_the_asked_moment_is_taken_and_said_to_be_half_done(
    tree: RecordedTree,
) -> None:
    database = Database(tree, b"app.db")
    for _ in range(3):
        database.commit()
    database.tree.wait(1)
    middle = database.begin()
    tree.remove(b"app.db-journal")
    point = ask(tree, middle, b"app.db", limit_s=0.001)
    assert (point.lsn, point.grade) == (middle, Grade.CRASH)
    assert "within 0.001 s" in point.reason
    assert ask(tree, middle, b"app.db").lsn == database.commits[-1]


def test_two_databases_go_to_a_moment_between_transactions_of_both(tree: RecordedTree) -> None:
    tree.mkdir(b"a")
    tree.mkdir(b"b")
    tree.act_as(10)
    one = Database(tree, b"a/one.db")
    one.commit()
    one.commit()
    tree.act_as(11)
    other = Database(tree, b"b/two.db")
    other.commit()
    both = other.commit()
    tree.act_as(10)
    middle = one.begin()
    tree.act_as(11)
    alone = other.commit()
    assert ask(tree, alone).lsn in range(both, middle)
    assert ask(tree, alone).grade is Grade.TRANSACTION
    assert ask(tree, alone, b"b").lsn == alone
    assert ask(tree, alone, b"b/two.db").lsn == alone
    point = ask(tree, alone, exact=True)
    assert [group.title for group in point.groups if not group.clean] == [b"a"]
    assert point.open_count == 1


def test_a_group_that_fell_quiet_at_the_end_of_the_log_is_at_a_sync_point(
    tree: RecordedTree,
) -> None:
    tree.write(b"notes", b"half a line")
    tree.write(b"notes", b" and the rest", 11)
    last = tree.commit()
    op = tree.journal.op(last)
    assert op is not None

    def worth(now_ns: int) -> ResolvedPoint:
        return resolve(tree.journal, AtTime(TimeNs(now_ns), exact=True), now_ns=now_ns)

    assert worth(op.time_ns + S).grade is Grade.CRASH
    later = worth(op.time_ns + 3 * S)
    assert (later.lsn, later.grade) == (last, Grade.SYNC)
    assert "quiet for 2 s" in later.reason


def test_a_transaction_that_is_left_open_does_not_fall_quiet(tree: RecordedTree) -> None:
    database = Database(tree, b"app.db")
    for _ in range(3):
        database.commit()
    middle = database.begin()
    tree.wait(600)
    tree.write(b"notes", b"x")
    point = ask(tree, middle, b"app.db")
    assert (point.lsn, point.grade) == (database.commits[-1], Grade.TRANSACTION)
    tree.wait(600)
    for lsn in (middle, tree.lsn):
        point = ask(tree, lsn, b"app.db", exact=True)
        assert (point.grade, point.mid_transaction) == (Grade.CRASH, True)


def test_a_file_that_did_not_exist_at_the_point_is_taken_as_it_was(tree: RecordedTree) -> None:
    database = Database(tree, b"app.db")
    for _ in range(3):
        database.commit()
    database.begin()
    tree.write(b"new", b"x")
    middle = tree.lsn
    point = ask(tree, middle, b"new")
    assert point.lsn == middle
    assert "was not there yet" in point.reason


def test_points_of_a_path_are_those_of_its_groups(tree: RecordedTree) -> None:
    for name in (b"a", b"b"):
        tree.mkdir(name)
    databases = [Database(tree, b"a/one.db"), Database(tree, b"b/two.db")]
    for _ in range(3):
        for pid, database in enumerate(databases):
            tree.act_as(pid + 10)
            database.commit()
    tree.commit()
    with tree.journal.snapshot() as snapshot:
        table = GroupTable(snapshot, now_ns=tree.clock_ns, quiet_ns=2 * S)
        end = snapshot.indexed_lsn
        below = table.concerned(Concern(tree.node(b"a")), end)
        file = table.concerned(Concern(tree.node(b"b"), b"two.db"), end)
        assert [table.title(group) for group in below] == [b"a"]
        assert [table.title(group) for group in file] == [b"b"]
    found = points(tree.journal, grade=Grade.TRANSACTION, groups={g.id for g in below})
    assert [point.lsn for point in found] == databases[0].commits


def test_names_of_any_bytes_are_shown_escaped(tree: RecordedTree) -> None:
    database = Database(tree, b"\xff\x1b[2J.db")
    for _ in range(3):
        database.commit()
    point = ask(tree, database.commits[-1])
    for text in (point_line(point), point_sentence(point)):
        assert "\\xff\\x1b[2J.db" in text
        text.encode()
    json.dumps(point_fields(point))
    middle = database.begin()
    assert "\\xff\\x1b[2J.db" in caution_about(ask(tree, middle, exact=True))


# --- companions ----------------------------------------------------------------------------------


def companions(tree: RecordedTree, lsn: int, path: bytes) -> dict[bytes, tuple[bool, bool]]:
    """Path → (it held something then, it differs now)."""
    tree.commit()
    view, now = View(tree.journal, Lsn(lsn)), View(tree.journal, tree.lsn)
    found = find_companions(view, now, path, now_ns=tree.clock_ns, quiet_ns=2 * S)
    return {c.path: (c.matters, c.differs) for c in found}


def test_a_journal_that_lies_beside_a_database_now_or_then_is_its_companion(
    tree: RecordedTree,
) -> None:
    database = Database(tree, b"app.db")
    first = database.commit()
    middle = database.begin()
    tree.remove(b"app.db-journal")
    assert companions(tree, first, b"app.db") == {}
    assert companions(tree, middle, b"app.db") == {b"app.db-journal": (True, True)}
    database.begin()
    assert companions(tree, first, b"app.db") == {b"app.db-journal": (False, True)}


def test_a_retired_journal_makes_no_difference(tree: RecordedTree) -> None:
    database = Database(tree, b"app.db")
    first = database.commit()
    database.begin()
    tree.write(b"app.db-journal", bytes(28))
    database.fsync(b"app.db-journal")
    assert companions(tree, first, b"app.db") == {b"app.db-journal": (False, False)}
    tree.truncate(b"app.db-journal", 0)
    assert companions(tree, first, b"app.db") == {b"app.db-journal": (False, False)}


def test_an_index_that_is_written_with_its_data_is_a_companion(tree: RecordedTree) -> None:
    """A pair without any journal: data synced first, index last."""
    tree.mkdir(b"pair")
    tree.write(b"pair/book.dat", b"")
    tree.write(b"pair/book.idx", b"")
    lsns = []
    for number in range(12):
        tree.write(b"pair/book.dat", b"record %04d" % number, number * 11)
        tree.log(Kind.FSYNC, tree.node(b"pair/book.dat"))
        tree.write(b"pair/book.idx", b"%04d" % number)
        tree.log(Kind.FSYNC, tree.node(b"pair/book.idx"))
        lsns.append(tree.lsn)
        tree.wait(0.1)
    tree.write(b"pair/unrelated", b"x")
    assert companions(tree, lsns[8], b"pair/book.dat") == {b"pair/book.idx": (True, True)}


def test_documents_saved_by_one_program_are_no_companions(tree: RecordedTree) -> None:
    """They share a group, but no transaction."""
    lsns = []
    for number in range(6):
        for name in (b"letter", b"table"):
            tree.write(name + b".tmp", b"version %d of " % number + name)
            tree.log(Kind.FSYNC, tree.node(name + b".tmp"))
            tree.log(Kind.CLOSE, tree.node(name + b".tmp"))
            tree.rename(name + b".tmp", name)
            lsns.append(tree.lsn)
            tree.wait(10)
    assert companions(tree, lsns[5], b"letter") == {}


# --- rows ----------------------------------------------------------------------------------------


def test_a_group_reads_as_it_was_written() -> None:
    state = GroupState(
        7,
        12,
        name="books",
        directories=[3, 5],
        files=[FileState(9, 3, b"a", dirty=20)],
        members=[(3, b"a"), (5, b"\xff")],
        last_lsn=21,
        last_ns=99,
        open_since=20,
        point=NewestPoint(19, 98, 2, b"fsync of a", 1),
        merged_into=2,
        merged_at=22,
        hot=[9],
    )
    assert decode_group_state(encode_group(state)) == state
    assert decode_group(7, encode_group(state)) == Group(
        Lsn(7),
        (NodeId(3), NodeId(5)),
        ((NodeId(3), b"a"), (NodeId(5), b"\xff")),
        Lsn(12),
        Lsn(21),
        TimeNs(99),
        Lsn(20),
        Lsn(2),
        Lsn(22),
        "books",
        hot=True,
    )
