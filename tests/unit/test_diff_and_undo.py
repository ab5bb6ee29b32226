"""What changed between two moments, and taking it back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import timetravel.diff
from store.format import Kind
from tests.unit.random_changes import RandomChanges
from tests.unit.recorded_tree import RecordedTree
from timetravel.diff import Change, ChangeKind, Part, diff
from timetravel.errors import NoSuchPath
from timetravel.place import Place
from timetravel.steps import Action, Report
from timetravel.undo import plan_undo, undo
from timetravel.view import View


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    yield recorded
    recorded.close()


def view_of(tree: RecordedTree) -> View:
    return View(tree.journal, tree.commit())


def changes(old: View, new: View, path: bytes = b"") -> list[Change]:
    """Without the directories that only show that something in them changed."""
    return [change for change in diff(old, new, path) if not change.only_directory_times]


def told(old: View, new: View, path: bytes = b"") -> list[tuple[ChangeKind, bytes, bytes, Part]]:
    return [(c.kind, c.old_path, c.path, c.parts) for c in changes(old, new, path)]


# --- diff --------------------------------------------------------------------------------------


def test_each_kind_of_change_is_told_once(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    for name in (b"gone", b"moved", b"edited", b"mode", b"same", b"xattr"):
        tree.write(b"d/" + name, name)
    tree.symlink(b"one", b"d/link")
    old = view_of(tree)
    tree.remove(b"d/gone")
    tree.rename(b"d/moved", b"moved")
    tree.write(b"d/edited", b"EDITED")
    tree.chmod(b"d/mode", 0o600)
    tree.setxattr(b"d/xattr", b"user.a", b"1")
    tree.write(b"d/new", b"12345")
    tree.remove(b"d/link")
    tree.symlink(b"two", b"d/link")
    new = view_of(tree)
    assert told(old, new) == [
        (ChangeKind.MODIFIED, b"d/edited", b"d/edited", Part.CONTENT | Part.TIMES),
        (ChangeKind.REMOVED, b"d/gone", b"d/gone", Part.NONE),
        (ChangeKind.MODIFIED, b"d/link", b"d/link", Part.TARGET | Part.TIMES),
        (ChangeKind.MODIFIED, b"d/mode", b"d/mode", Part.MODE),
        (ChangeKind.RENAMED, b"d/moved", b"moved", Part.NONE),
        (ChangeKind.ADDED, b"d/new", b"d/new", Part.NONE),
        (ChangeKind.MODIFIED, b"d/xattr", b"d/xattr", Part.XATTRS),
    ]
    sizes = {
        c.path: (c.old and c.old.size_bytes, c.new and c.new.size_bytes) for c in diff(old, new)
    }
    assert sizes[b"d/new"] == (None, 5)
    assert sizes[b"d/gone"] == (4, None)


def test_a_renamed_directory_is_one_change_and_is_looked_into(tree: RecordedTree) -> None:
    tree.mkdir(b"old")
    tree.write(b"old/a", b"a")
    tree.write(b"old/b", b"b")
    old = view_of(tree)
    tree.rename(b"old", b"new")
    tree.write(b"new/b", b"B")
    assert told(old, view_of(tree)) == [
        (ChangeKind.RENAMED, b"old", b"new", Part.NONE),
        (ChangeKind.MODIFIED, b"old/b", b"new/b", Part.CONTENT | Part.TIMES),
    ]


def test_an_editors_save_is_a_modification(tree: RecordedTree) -> None:
    tree.write(b"f", b"one")
    old = view_of(tree)
    tree.write(b".f.swp", b"two")
    tree.rename(b".f.swp", b"f")
    (change,) = changes(old, view_of(tree))
    assert (change.kind, change.path, change.replaced) == (ChangeKind.MODIFIED, b"f", True)
    assert change.parts == Part.CONTENT | Part.TIMES


def test_swapped_files_are_two_renames(tree: RecordedTree) -> None:
    tree.write(b"a", b"one")
    tree.write(b"b", b"two")
    old = view_of(tree)
    tree.exchange(b"a", b"b")
    assert told(old, view_of(tree)) == [
        (ChangeKind.RENAMED, b"a", b"b", Part.NONE),
        (ChangeKind.RENAMED, b"b", b"a", Part.NONE),
    ]


def test_a_file_that_became_a_directory_is_two_changes(tree: RecordedTree) -> None:
    tree.write(b"x", b"one")
    old = view_of(tree)
    tree.remove(b"x")
    tree.mkdir(b"x")
    tree.write(b"x/y", b"")
    assert [(kind, path) for kind, _, path, _ in told(old, view_of(tree))] == [
        (ChangeKind.REMOVED, b"x"),
        (ChangeKind.ADDED, b"x"),
        (ChangeKind.ADDED, b"x/y"),
    ]


def test_what_moves_across_the_border_is_added_or_removed(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/leaves", b"1")
    tree.write(b"comes", b"2")
    old = view_of(tree)
    tree.rename(b"d/leaves", b"left")
    tree.rename(b"comes", b"d/came")
    assert [(kind, path) for kind, _, path, _ in told(old, view_of(tree), b"d")] == [
        (ChangeKind.ADDED, b"d/came"),
        (ChangeKind.REMOVED, b"d/leaves"),
    ]


def test_the_same_bytes_written_again_change_the_times_only(tree: RecordedTree) -> None:
    tree.write(b"f", b"x" * 100_000)
    old = view_of(tree)
    tree.write(b"f", b"x" * 50, 100)
    assert told(old, view_of(tree)) == [(ChangeKind.MODIFIED, b"f", b"f", Part.TIMES)]


def test_a_path_in_neither_view_is_refused(tree: RecordedTree) -> None:
    old = view_of(tree)
    tree.write(b"f", b"x")
    with pytest.raises(NoSuchPath):
        list(diff(old, view_of(tree), b"g"))
    assert [c.kind for c in diff(old, view_of(tree), b"f")] == [ChangeKind.ADDED]


def test_what_a_mount_found_changed_is_told(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"old")
    old = view_of(tree)
    mount = tree.log(Kind.MOUNT, 0, 0, b"{}")
    Path(os.fsdecode(tree.path(b"d/f"))).write_bytes(b"from outside")
    new = view_of(tree)
    tree.adopt(b"d/f", mount)
    tree.commit()
    (change,) = changes(old, new)
    assert change.path == b"d/f"
    assert Part.CONTENT in change.parts


@pytest.mark.parametrize("seed", range(5))
def test_looking_everywhere_finds_the_same(
    tree: RecordedTree, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.mkdir(b"top")
    random_changes = RandomChanges(tree, seed, b"top")
    random_changes.run(60)
    old = view_of(tree)
    random_changes.run(20)
    new = view_of(tree)
    found = list(diff(old, new))
    monkeypatch.setattr(timetravel.diff, "SCAN_OPS", 0)
    assert list(diff(old, new)) == found != []


# --- undo --------------------------------------------------------------------------------------


def take_back(tree: RecordedTree, view: View, path: bytes = b"") -> Report:
    with Place(tree.root) as place:
        return undo(view, view_of(tree), path, place, durable=False)


def test_undo_takes_everything_back(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.mkdir(b"d/sub")
    tree.write(b"d/sub/f", b"f")
    tree.write(b"d/g", b"g")
    view = view_of(tree)
    was = tree.capture()
    tree.remove_tree(b"d/sub")
    tree.rename(b"d", b"e")
    tree.write(b"e/g", b"changed")
    tree.mkdir(b"e/new")
    tree.write(b"e/new/h", b"h")
    assert take_back(tree, view).ok
    assert tree.capture() == was


def test_undo_renames_back_and_copies_nothing(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/big", b"x" * 1_000_000)
    view = view_of(tree)
    was = tree.capture()
    inode = os.stat(tree.path(b"d/big")).st_ino
    tree.mkdir(b"elsewhere")
    tree.rename(b"d", b"elsewhere/e")
    report = take_back(tree, view)
    assert report.written_bytes == 0
    assert tree.capture() == was
    assert os.stat(tree.path(b"d/big")).st_ino == inode


def test_undo_of_a_write_writes_what_differs(tree: RecordedTree) -> None:
    tree.write(b"big", b"x" * (20 << 20))
    view = view_of(tree)
    was = tree.capture()
    inode = os.stat(tree.path(b"big")).st_ino
    tree.write(b"big", b"spoiled", 9 << 20)
    report = take_back(tree, view, b"big")
    assert report.ok
    assert report.written_bytes == 1 << 20
    assert tree.capture() == was
    assert os.stat(tree.path(b"big")).st_ino == inode


def test_undo_leaves_alone_what_is_outside(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"1")
    tree.write(b"d/linked", b"1")
    tree.link(b"d/linked", b"outside")
    tree.write(b"other", b"1")
    view = view_of(tree)
    tree.write(b"other", b"2")
    tree.write(b"d/f", b"2")
    tree.remove(b"d/linked")
    tree.write(b"outside", b"changed")
    present = tree.capture()
    assert take_back(tree, view, b"d").ok
    found = tree.capture()
    assert found[b"other"] == present[b"other"]
    assert found[b"outside"] == present[b"outside"]
    assert found[b"d/f"].content == found[b"d/linked"].content == b"1"


def test_undo_of_a_removed_link_links_again(tree: RecordedTree) -> None:
    tree.write(b"a", b"1")
    tree.link(b"a", b"b")
    tree.link(b"a", b"c")
    view = view_of(tree)
    was = tree.capture()
    tree.remove(b"b")
    tree.rename(b"c", b"e")
    report = take_back(tree, view)
    assert report.written_bytes == 0
    assert tree.capture() == was


def test_undo_brings_a_path_back_with_the_directories_above(tree: RecordedTree) -> None:
    tree.mkdir(b"a")
    tree.mkdir(b"a/b")
    tree.write(b"a/b/f", b"1")
    view = view_of(tree)
    was = tree.capture(b"a")
    tree.remove_tree(b"a")
    assert take_back(tree, view, b"a/b").ok
    assert tree.capture(b"a") == was


def test_undo_does_not_delete_what_it_does_not_know(tree: RecordedTree) -> None:
    view = view_of(tree)
    tree.mkdir(b"new")
    now = view_of(tree)
    Path(os.fsdecode(tree.path(b"new/later"))).write_bytes(b"unlogged")
    with Place(tree.root) as place:
        report = undo(view, now, b"", place, durable=False)
    assert [failure.path for failure in report.failures] == [b"new"]
    assert os.path.exists(tree.path(b"new/later"))


def test_nothing_changed_takes_no_step(tree: RecordedTree) -> None:
    tree.write(b"f", b"1")
    view = view_of(tree)
    tree.mark("m")
    plan = plan_undo(view, view_of(tree), b"")
    assert {step.action for step in plan.steps} <= {Action.KEEP}
