"""What moments come to: the LSN, its grade, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.format import Kind
from store.types import Lsn, NodeId, TimeNs
from tests.unit.recorded_tree import RecordedTree
from timetravel.errors import MomentBeforeProtection, MomentError, MomentInFuture, UnknownMark
from timetravel.grade import Grade
from timetravel.moment import AtLsn, AtMark, AtTime, BeforeLastWrite, Moment
from timetravel.resolve import ResolvedPoint, resolve

HOUR_NS = 3600 * 10**9


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    yield recorded
    recorded.close()


def ask(tree: RecordedTree, moment: Moment, node: NodeId | None = None) -> ResolvedPoint:
    """Ten seconds after the last op."""
    tree.commit()
    return resolve(tree.journal, moment, now_ns=tree.clock_ns + 10**10, node=node)


def time_of(tree: RecordedTree, lsn: int) -> TimeNs:
    op = tree.journal.op(Lsn(lsn))
    assert op is not None
    return op.time_ns


def test_a_time_is_the_newest_op_at_or_before_it(tree: RecordedTree) -> None:
    tree.write(b"f", b"x")
    lsn = tree.commit()
    when = time_of(tree, lsn)
    tree.wait(60)
    tree.write(b"f", b"y")
    for time_ns in (when, when + 1, when + 59 * 10**9):
        point = ask(tree, AtTime(TimeNs(time_ns), exact=True))
        assert (point.lsn, point.time_ns) == (lsn, when)
    assert ask(tree, AtTime(TimeNs(when - 1), exact=True)).lsn == lsn - 1
    assert ask(tree, AtTime(when)).asked.startswith("@20")


def test_a_time_to_come_is_refused(tree: RecordedTree) -> None:
    tree.commit()
    with pytest.raises(MomentInFuture):
        ask(tree, AtTime(TimeNs(tree.clock_ns + HOUR_NS)))


def test_a_time_before_the_first_op_is_refused(tree: RecordedTree) -> None:
    tree.commit()
    assert ask(tree, AtTime(time_of(tree, 1))).lsn == 1
    with pytest.raises(MomentBeforeProtection) as caught:
        ask(tree, AtTime(TimeNs(time_of(tree, 1) - 1)))
    assert "cdpfs points" in caught.value.hint


def test_now_is_the_newest_op_even_if_the_clock_was_set_back(tree: RecordedTree) -> None:
    lsn = tree.commit()
    now_ns = tree.clock_ns - HOUR_NS
    assert resolve(tree.journal, AtTime(TimeNs(now_ns)), now_ns=now_ns).lsn == lsn
    # And what was logged "in the future" meanwhile can be asked for.
    point = resolve(tree.journal, AtTime(TimeNs(tree.clock_ns)), now_ns=now_ns)
    assert point.lsn == lsn


def test_an_lsn_is_itself_within_the_log(tree: RecordedTree) -> None:
    tree.write(b"f", b"x")
    last = tree.commit()
    assert ask(tree, AtLsn(Lsn(2))).lsn == 2
    assert ask(tree, AtLsn(last)).time_ns == time_of(tree, last)
    with pytest.raises(MomentInFuture):
        ask(tree, AtLsn(Lsn(last + 1)))
    with pytest.raises(MomentBeforeProtection):
        ask(tree, AtLsn(Lsn(0)))


def test_a_mark_is_graded_mark_however_it_is_asked_for(tree: RecordedTree) -> None:
    tree.write(b"f", b"x")
    lsn = tree.mark("before upgrade")
    tree.write(b"f", b"y")
    tree.commit()
    for moment in (AtMark("before upgrade"), AtLsn(lsn), AtTime(time_of(tree, lsn), exact=True)):
        point = ask(tree, moment)
        assert (point.lsn, point.grade) == (lsn, Grade.MARK)
    assert ask(tree, AtLsn(Lsn(lsn - 1))).grade is Grade.CRASH


def test_a_mark_set_again_has_moved(tree: RecordedTree) -> None:
    tree.mark("m")
    second = tree.mark("m")
    assert ask(tree, AtMark("m")).lsn == second


def test_an_unknown_mark_names_the_one_that_may_be_meant(tree: RecordedTree) -> None:
    tree.mark("before-upgrade")
    with pytest.raises(UnknownMark) as caught:
        ask(tree, AtMark("before-upgrad"))
    assert "@mark:before-upgrade" in caught.value.hint


def test_before_last_write_is_before_the_whole_last_burst(tree: RecordedTree) -> None:
    tree.act_as(10)
    tree.write(b"f", b"good")
    wanted = tree.commit()
    tree.wait(5)
    tree.truncate(b"f", 0)
    for number in range(500):
        tree.write(b"f", b"bad", number * 3)
        tree.wait(1)
    tree.write(b"other", b"x")
    tree.chmod(b"f", 0o600)
    point = ask(tree, BeforeLastWrite(), tree.node(b"f"))
    assert point.lsn == wanted
    assert f"{wanted + 1}" in point.reason


def test_writes_of_two_processes_are_two_bursts(tree: RecordedTree) -> None:
    tree.act_as(10)
    tree.write(b"f", b"mine")
    wanted = tree.lsn
    tree.act_as(11)
    tree.write(b"f", b"theirs")
    point = ask(tree, BeforeLastWrite(), tree.node(b"f"))
    assert point.lsn == wanted + 1  # the op that names the second process


def test_before_last_write_of_a_file_saved_by_rename_is_the_old_file(tree: RecordedTree) -> None:
    tree.write(b"f", b"old")
    wanted = tree.commit()
    tree.write(b"f.tmp", b"new")
    tree.rename(b"f.tmp", b"f")
    assert ask(tree, BeforeLastWrite(), tree.node(b"f")).lsn == wanted


def test_before_last_write_of_a_directory_is_about_its_names(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"x")
    wanted = tree.commit()
    tree.wait(5)
    tree.remove(b"d/f")
    tree.wait(5)
    tree.chmod(b"d", 0o700)
    assert ask(tree, BeforeLastWrite(), tree.node(b"d")).lsn == wanted


def test_before_last_write_needs_something_that_was_written(tree: RecordedTree) -> None:
    tree.commit()
    with pytest.raises(MomentError):
        ask(tree, BeforeLastWrite())
    with pytest.raises(MomentBeforeProtection):
        ask(tree, BeforeLastWrite(), NodeId(1))


def test_a_change_from_outside_counts_as_a_write(tree: RecordedTree) -> None:
    tree.write(b"f", b"x")
    node = tree.node(b"f")
    tree.wait(60)
    mount = tree.log(Kind.MOUNT, 0, 0, b"{}")
    tree.adopt(b"f", mount)
    tree.log(Kind.MARK, 0, 0, b"later")
    assert ask(tree, BeforeLastWrite(), node).lsn == mount - 1


def test_an_empty_journal_has_no_moments(tree: RecordedTree) -> None:
    with pytest.raises(MomentBeforeProtection):
        resolve(tree.journal, AtLsn(Lsn(1)), now_ns=tree.clock_ns)


def test_grades_are_ordered_and_named() -> None:
    assert Grade.CRASH < Grade.SYNC < Grade.TRANSACTION < Grade.MARK
    assert [Grade.of(grade.label) for grade in Grade] == list(Grade)
    with pytest.raises(ValueError, match="crash, sync, transaction, mark"):
        Grade.of("gold")
