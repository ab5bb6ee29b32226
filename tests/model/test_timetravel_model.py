"""Random histories: what a view gives, a restore brings back and an undo leaves is what was."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.random_changes import RandomChanges
from tests.unit.recorded_tree import Entry, RecordedTree, capture, capture_view
from timetravel.diff import ChangeKind, diff
from timetravel.place import Place
from timetravel.restore import restore
from timetravel.undo import undo
from timetravel.view import View

SEEDS = st.integers(0, 2**32)


def describe(entries: dict[bytes, Entry]) -> dict[bytes, tuple[object, ...]]:
    """Short enough for a readable failure; content by length and hash."""
    return {
        path: (*entry[:5], len(entry.content), hash(entry.content), entry.xattrs, entry.links_of)
        for path, entry in entries.items()
    }


class Past:
    """A random history with one remembered moment in the middle."""

    def __init__(self, base: Path, seed: int) -> None:
        self.tree = RecordedTree(base)
        self.tree.mkdir(b"top")
        self.tree.write(b"outside", b"not ours")
        self.changes = RandomChanges(self.tree, seed, b"top")
        self.changes.run(self.changes.rng.randrange(5, 60))
        self.then = self.tree.commit()
        self.was = self.tree.capture()
        self.changes.run(self.changes.rng.randrange(1, 40))
        self.now = self.tree.commit()

    def view(self) -> View:
        return View(self.tree.journal, self.then)

    def present(self) -> View:
        return View(self.tree.journal, self.now)


@given(seed=SEEDS)
@settings(max_examples=25)
def test_a_view_shows_what_was(seed: int) -> None:
    with TemporaryDirectory() as base:
        past = Past(Path(base), seed)
        assert describe(capture_view(past.view())) == describe(past.was)
        assert describe(capture_view(past.present())) == describe(past.tree.capture())
        past.tree.close()


@given(seed=SEEDS)
@settings(max_examples=25)
def test_a_restored_tree_is_what_was(seed: int) -> None:
    with TemporaryDirectory() as base:
        past = Past(Path(base), seed)
        os.mkdir(os.path.join(base, "out"))
        with Place(os.fsencode(base) + b"/out") as place:
            report = restore(past.view(), b"", place, b"copy", durable=False)
        assert report.ok, report.failures
        assert describe(capture(place.root + b"/copy")) == describe(past.was)
        past.tree.close()


@pytest.mark.parametrize("with_now", [True, False])
@given(seed=SEEDS)
@settings(max_examples=25)
def test_a_restore_in_place_makes_the_tree_what_it_was(with_now: bool, seed: int) -> None:
    with TemporaryDirectory() as base:
        past = Past(Path(base), seed)
        now = past.present() if with_now else None
        with Place(past.tree.root) as place:
            report = restore(
                past.view(), b"top", place, b"top", delete_new=True, now=now, durable=False
            )
        assert report.ok, report.failures
        assert describe(past.tree.capture(b"top")) == describe(below(past.was, b"top"))
        past.tree.close()


@given(seed=SEEDS)
@settings(max_examples=50)
def test_undo_makes_the_tree_what_it_was(seed: int) -> None:
    with TemporaryDirectory() as base:
        past = Past(Path(base), seed)
        with Place(past.tree.root) as place:
            report = undo(past.view(), past.present(), b"top", place, durable=False)
        assert report.ok, report.failures
        assert describe(past.tree.capture()) == describe(past.was)
        past.tree.close()


@given(seed=SEEDS)
@settings(max_examples=25)
def test_the_difference_names_what_differs(seed: int) -> None:
    with TemporaryDirectory() as base:
        past = Past(Path(base), seed)
        before = past.was
        after = past.tree.capture()
        named = set()
        for change in diff(past.view(), past.present()):
            named |= {change.path, change.old_path}
            if change.kind is ChangeKind.ADDED:
                assert change.path in after
            else:
                assert change.old_path in before
        for path in before.keys() | after.keys():
            if before.get(path) == after.get(path) or path in named:
                continue
            # Only what moved along with a directory above it, or is linked differently.
            moved = any(path.startswith(name + b"/") for name in named)
            old, new = before.get(path), after.get(path)
            relinked = old and new and old._replace(links_of=b"") == new._replace(links_of=b"")
            assert moved or relinked, path
        shutil.rmtree(past.tree.root)
        past.tree.close()


def below(entries: dict[bytes, Entry], top: bytes) -> dict[bytes, Entry]:
    """The entries at and below `top`, by paths relative to it."""
    return {
        path.removeprefix(top).removeprefix(b"/"): entry._replace(
            links_of=entry.links_of.removeprefix(top).removeprefix(b"/")
        )
        for path, entry in entries.items()
        if path == top or path.startswith(top + b"/")
    }
