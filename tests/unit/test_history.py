"""The versions of a path, what was deleted, and the recovery points."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.format import Kind
from store.types import Lsn, TimeNs
from tests.unit.recorded_tree import START_NS, STEP_NS, RecordedTree
from timetravel.deleted import Deleted, before_deletion, search_deleted
from timetravel.errors import NoSuchPath
from timetravel.grade import Grade
from timetravel.history import Event, Version, history
from timetravel.moment import AtMark, AtTime, parse_moment
from timetravel.points import points, selection_for_listing
from timetravel.resolve import resolve
from timetravel.view import View


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    yield recorded
    recorded.close()


def versions(tree: RecordedTree, path: bytes) -> list[Version]:
    tree.commit()
    return list(history(tree.journal, path))


def events(tree: RecordedTree, path: bytes) -> list[tuple[Event, ...]]:
    return [version.events for version in versions(tree, path)]


# --- history -----------------------------------------------------------------------------------


def test_a_version_is_what_one_process_did_without_a_pause(tree: RecordedTree) -> None:
    tree.act_as(10, b"vim")
    tree.write(b"f", b"a" * 100)
    tree.wait(1)
    tree.write(b"f", b"b" * 100, 100)
    tree.wait(3)
    tree.write(b"f", b"c", 0)
    tree.act_as(11, b"sed")
    tree.truncate(b"f", 0)
    tree.write(b"f", b"d")
    tree.wait(3)
    tree.chmod(b"f", 0o600)
    found = versions(tree, b"f")
    assert [version.events for version in found] == [
        (Event.CREATED, Event.WRITTEN),
        (Event.WRITTEN,),
        (Event.TRUNCATED, Event.WRITTEN),
        (Event.ATTRIBUTES,),
    ]
    first, second, third, _ = found
    assert first.actor is not None and third.actor is not None
    assert (first.actor.pid, first.actor.command, first.actor.uid) == (10, b"vim", 7)
    assert (first.written_bytes, first.size_bytes) == (200, 200)
    assert first.ops == {"create": 1, "write": 2}
    assert first.last_time_ns - first.first_time_ns == 2 * STEP_NS + 10**9
    assert (second.written_bytes, second.size_bytes) == (1, 200)
    assert (third.actor.command, third.size_bytes) == (b"sed", 1)
    view = View(tree.journal, second.last)
    assert view.read(view.walk(b"f").node, 0, 3) == b"caa"


def test_a_mark_ends_a_version_and_so_do_ten_minutes(tree: RecordedTree) -> None:
    tree.write(b"f", b"1")
    tree.mark("here")
    tree.write(b"f", b"2")
    assert len(versions(tree, b"f")) == 2
    for _ in range(650):
        tree.wait(1)
        tree.write(b"f", b"3")
    assert len(versions(tree, b"f")) == 3


def test_an_editors_save_is_one_version_of_the_path(tree: RecordedTree) -> None:
    tree.write(b"f", b"one")
    for text in (b"second", b"third one"):
        tree.wait(10)
        tree.write(b".f.tmp", text)
        tree.chmod(b".f.tmp", 0o600)
        tree.rename(b".f.tmp", b"f")
    found = versions(tree, b"f")
    assert [version.events for version in found] == [
        (Event.CREATED, Event.WRITTEN),
        (Event.CREATED, Event.WRITTEN, Event.ATTRIBUTES, Event.REPLACED),
        (Event.CREATED, Event.WRITTEN, Event.ATTRIBUTES, Event.REPLACED),
    ]
    assert [version.size_bytes for version in found] == [3, 6, 9]
    assert [version.written_bytes for version in found] == [3, 6, 9]
    assert found[2].other_name == b".f.tmp"
    assert len({version.node for version in found}) == 3


def test_moves_and_deletions_are_told_where_they_happened(tree: RecordedTree) -> None:
    tree.write(b"a", b"1")
    tree.wait(5)
    tree.rename(b"a", b"b")
    tree.wait(5)
    tree.remove(b"b")
    tree.wait(5)
    tree.write(b"b", b"again")
    a, b = versions(tree, b"a"), versions(tree, b"b")
    assert [version.events for version in a] == [
        (Event.CREATED, Event.WRITTEN),
        (Event.RENAMED_TO,),
    ]
    assert (a[1].size_bytes, a[1].other_name) == (None, b"b")
    assert [version.events for version in b] == [
        (Event.CREATED, Event.WRITTEN),
        (Event.RENAMED_FROM,),
        (Event.DELETED,),
        (Event.CREATED, Event.WRITTEN),
    ]
    assert (b[1].size_bytes, b[1].other_name) == (1, b"a")
    assert b[2].size_bytes is None
    assert b[2].node != b[3].node


def test_swapped_files_keep_their_histories_apart(tree: RecordedTree) -> None:
    tree.write(b"a", b"1")
    tree.write(b"b", b"22")
    tree.wait(5)
    tree.exchange(b"a", b"b")
    tree.wait(5)
    tree.exchange(b"a", b"b")
    found = versions(tree, b"a")
    assert [version.events for version in found] == [
        (Event.CREATED, Event.WRITTEN),
        (Event.CREATED, Event.WRITTEN),
        (Event.RENAMED_FROM,),
        (Event.RENAMED_FROM,),
    ]
    assert [version.size_bytes for version in found] == [1, 2, 2, 1]


def test_links_and_directories_have_histories(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"1")
    tree.wait(5)
    tree.link(b"d/f", b"other")
    tree.wait(5)
    tree.remove(b"other")
    assert events(tree, b"d/f") == [
        (Event.CREATED, Event.WRITTEN),
        (Event.LINKED,),
        (Event.UNLINKED,),
    ]
    assert events(tree, b"other")[-1] == (Event.DELETED,)
    assert events(tree, b"d") == [(Event.CREATED, Event.ENTRIES)]
    assert Event.ENTRIES in events(tree, b"")[0] + events(tree, b"")[-1]


def test_what_was_found_and_what_changed_outside(tree: RecordedTree) -> None:
    Path(os.fsdecode(tree.path(b"f"))).write_bytes(b"before")
    tree.know(b"f")
    tree.adopt(b"f", Lsn(1))
    tree.wait(60)
    mount = tree.log(Kind.MOUNT, 0, 0, b"{}")
    Path(os.fsdecode(tree.path(b"f"))).write_bytes(b"outside!")
    tree.adopt(b"f", mount)
    found = versions(tree, b"f")
    assert [version.events for version in found] == [(Event.ADOPTED,), (Event.EXTERNAL,)]
    assert [version.size_bytes for version in found] == [6, 8]
    assert [version.actor for version in found] == [None, None]


def test_the_range_of_a_history_can_be_limited(tree: RecordedTree) -> None:
    for number in range(5):
        tree.write(b"f", b"%d" % number)
        tree.wait(5)
    everything = versions(tree, b"f")
    third = everything[2]
    some = list(history(tree.journal, b"f", since=third.first, until=third.last))
    assert some == [third]


def test_a_path_that_never_was_has_no_history(tree: RecordedTree) -> None:
    with pytest.raises(NoSuchPath):
        versions(tree, b"nothing/at/all")


def test_a_path_below_deleted_directories_has_a_history(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"1")
    tree.remove_tree(b"d")
    assert events(tree, b"d/f") == [(Event.CREATED, Event.WRITTEN, Event.DELETED)]


# --- deleted -----------------------------------------------------------------------------------


def search(tree: RecordedTree, directory: bytes = b"", pattern: str = "") -> list[Deleted]:
    return list(search_deleted(View(tree.journal, tree.commit()), directory, pattern))


def test_deleted_files_are_found_and_can_be_read(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/Report.XLS", b"numbers")
    tree.write(b"d/stays.xls", b"")
    tree.act_as(99, b"rm")
    tree.wait(60)
    tree.remove(b"d/Report.XLS")
    for pattern in ("report", "*.XLS", "d/*.XLS", "Report.XLS", ""):
        (found,) = search(tree, pattern=pattern)
        assert found.path == b"d/Report.XLS"
    assert search(tree, pattern="*.txt") == []
    assert [found.path for found in search(tree, b"d")] == [b"d/Report.XLS"]
    assert found.actor is not None and found.actor.command == b"rm"
    assert found.removed_time_ns == tree.clock_ns
    view = View(tree.journal, found.restore_lsn)
    assert view.read(view.walk(found.path).node, 0, 100) == b"numbers"


def test_deleted_trees_are_searched_and_come_back_whole(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.mkdir(b"d/e")
    for number in range(10):
        tree.write(b"d/e/%d" % number, b"x")
    was = tree.capture(b"d")
    tree.wait(60)
    tree.act_as(99, b"rm")
    tree.remove_tree(b"d")
    tree.wait(60)
    tree.write(b"later", b"")
    found = {item.path: item for item in search(tree)}
    assert found.keys() == {b"d", b"d/e"} | {b"d/e/%d" % number for number in range(10)}
    view = View(tree.journal, before_deletion(View(tree.journal, tree.lsn), found[b"d"]))
    assert len(view.entries(view.walk(b"d/e").node)) == 10
    assert len(was) == 12


def test_moved_replaced_and_linked_things_are_not_deleted(tree: RecordedTree) -> None:
    for name in (b"moved", b"saved", b"linked"):
        tree.write(name, b"1")
    tree.link(b"linked", b"link")
    tree.remove(b"linked")
    tree.rename(b"moved", b"elsewhere")
    tree.write(b"tmp", b"2")
    tree.rename(b"tmp", b"saved")
    assert search(tree) == []


def test_patterns_are_about_characters_not_bytes(tree: RecordedTree) -> None:
    tree.write("größe".encode(), b"1")
    tree.write(b"\xff\xfe", b"1")
    tree.remove("größe".encode())
    tree.remove(b"\xff\xfe")
    assert [found.path for found in search(tree, pattern="gr??e")] == ["größe".encode()]
    assert [found.path for found in search(tree, pattern="GRÖSSE")] == ["größe".encode()]
    assert len(search(tree)) == 2


# --- points ------------------------------------------------------------------------------------


def test_points_are_those_of_groups_and_marks_and_batch_ends(tree: RecordedTree) -> None:
    tree.write(b"f", b"1")
    first = tree.commit()
    tree.wait(5)
    mark = tree.mark("m")
    tree.write(b"g", b"2")
    second = tree.commit()
    found = [(p.lsn, p.grade) for p in points(tree.journal)]
    assert [point for point in found if point[1] != "sync"] == [
        (first, "crash"),
        (mark, "mark"),
        (second, "crash"),
    ]
    assert (first, "sync") in found
    assert found == sorted(found, key=lambda point: point[0])
    assert [p.name for p in points(tree.journal, grade=Grade.MARK)] == ["m"]
    assert [p.lsn for p in points(tree.journal, since=mark, until=mark)] == [mark]
    batches = {first, mark, second}
    assert {p.lsn for p in points(tree.journal, b"f")} & batches == {first, mark}
    assert [p.lsn for p in points(tree.journal, grade=Grade.SYNC, groups=())] == [mark]


def test_the_listing_thins_out_with_age(tree: RecordedTree) -> None:
    tree.mark("start")
    for pause_s, count in [(86400 * 2, 5), (3600, 30), (60, 70), (1, 100)]:
        for _ in range(count):
            tree.wait(pause_s)
            tree.write(b"f", b"x")
    tree.commit()
    now_ns = tree.clock_ns + 10**9
    found = selection_for_listing(tree.journal, now_ns)
    assert [point.lsn for point in found] == sorted(point.lsn for point in found)
    ages_s = [(now_ns - point.time_ns) / 1e9 for point in found if point.entry_name[1] == "2"]
    assert 58 <= sum(age < 3600 for age in ages_s) <= 62
    assert 22 <= sum(3600 <= age < 86400 for age in ages_s) <= 25
    assert 6 <= sum(age >= 86400 for age in ages_s) <= 8
    assert found[-1].lsn == tree.lsn
    assert [point.entry_name for point in found if point.grade is Grade.MARK] == ["@mark:start"]
    for point in found:
        moment = parse_moment(point.entry_name, now_ns=now_ns, zone=None)
        assert isinstance(moment, AtTime | AtMark)
        assert resolve(tree.journal, moment, now_ns=now_ns).lsn == point.lsn


def test_the_listing_of_an_empty_journal_is_empty(tree: RecordedTree) -> None:
    assert selection_for_listing(tree.journal, START_NS) == []


def test_points_know_their_times(tree: RecordedTree) -> None:
    lsn = tree.commit()
    (point,) = points(tree.journal)
    assert point.time_ns == TimeNs(tree.clock_ns)
    assert point.lsn == lsn
