"""What a view answers, and how it asks for what the journal does not hold yet."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store.errors import NotSeeded
from store.format import CHUNK_BYTES, Flag, Kind
from store.ops import Adopted
from store.types import ROOT, Lsn, NodeId
from tests.unit.recorded_tree import START_NS, STEP_NS, RecordedTree
from timetravel.errors import NoSuchNode, NoSuchPath, NotADirectory
from timetravel.view import View


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    yield recorded
    recorded.close()


def view_of(tree: RecordedTree) -> View:
    return View(tree.journal, tree.commit())


def test_walk_finds_what_stood_at_a_path(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"hello")
    view = view_of(tree)
    assert view.walk(b"").node == view.root().node == ROOT
    assert view.walk(b"d/f").size_bytes == 5
    assert view.walk(b"/d//./f/").node == tree.node(b"d/f")
    assert view.walk(b"d/../../d/f").node == tree.node(b"d/f")
    assert view.find(b"d/g") is None
    assert view.time_ns == tree.clock_ns


def test_walk_through_a_file_or_a_link_finds_nothing(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"hello")
    tree.symlink(b"d", b"l")
    view = view_of(tree)
    for path in (b"d/f/g", b"l/f", b"missing"):
        with pytest.raises(NoSuchPath) as caught:
            view.walk(path)
        assert caught.value.hint


def test_the_past_stays_when_the_present_changes(tree: RecordedTree) -> None:
    tree.write(b"f", b"first")
    before = view_of(tree)
    tree.write(b"f", b"SECOND")
    tree.rename(b"f", b"g")
    after = view_of(tree)
    node = tree.node(b"g")
    assert before.read(node, 0, 100) == b"first"
    assert after.read(node, 0, 100) == b"SECOND"
    assert after.read(node, 2, 3) == b"CON"
    assert after.read(node, 6, 10) == b""
    assert [name for name, _ in before.entries(ROOT)] == [b"f"]
    assert (before.path_of(node), after.path_of(node)) == (b"f", b"g")
    assert after.path_of(ROOT) == b""


def test_a_node_without_a_name_is_gone(tree: RecordedTree) -> None:
    tree.write(b"f", b"x")
    node = tree.node(b"f")
    tree.remove(b"f")
    view = view_of(tree)
    for question in (view.state, view.path_of, view.entries):
        with pytest.raises(NoSuchNode):
            question(node)
    assert view.lookup(ROOT, b"f") is None


def test_names_are_only_asked_of_directories(tree: RecordedTree) -> None:
    tree.write(b"f", b"x")
    view = view_of(tree)
    with pytest.raises(NotADirectory):
        view.entries(tree.node(b"f"))
    with pytest.raises(NotADirectory):
        view.lookup(tree.node(b"f"), b"g")


def test_a_directory_has_one_link_whatever_is_in_it(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.mkdir(b"d/e")
    assert view_of(tree).walk(b"d").links == 1


def test_data_areas_leave_out_the_holes(tree: RecordedTree) -> None:
    tree.write(b"f", b"a" * 1000)
    tree.write(b"f", b"b" * 300_000, 40 << 20)
    tree.truncate(b"f", 50 << 20)
    view = view_of(tree)
    areas = list(view.data_areas(tree.node(b"f")))
    assert areas == [(0, 1000), (40 << 20, (40 << 20) + 300_000)]


def test_an_empty_file_and_one_big_hole_have_no_data(tree: RecordedTree) -> None:
    tree.write(b"empty", b"")
    tree.write(b"hole", b"")
    tree.truncate(b"hole", 100 << 20)
    view = view_of(tree)
    assert list(view.data_areas(tree.node(b"empty"))) == []
    assert list(view.data_areas(tree.node(b"hole"))) == []
    assert view.read(tree.node(b"hole"), 5, 10) == bytes(10)


def test_several_threads_may_read_one_view(tree: RecordedTree) -> None:
    for number in range(50):
        tree.write(b"f%d" % number, b"%d" % number * 1000)
    view = view_of(tree)

    def read(number: int) -> bytes:
        return view.read(view.walk(b"f%d" % number).node, 0, 1 << 20)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(read, range(50)))
    assert found == [b"%d" % number * 1000 for number in range(50)]


class Unseeded:
    """A file and a directory that were there before, and a seeder that brings them on demand."""

    node = NodeId(500)
    directory = NodeId(501)
    size = 2 * CHUNK_BYTES + 10

    def __init__(self, tree: RecordedTree) -> None:
        self.tree = tree
        self.demands: list[NotSeeded] = []
        self.adopt(self.node, b"old", 0o100644, self.size)
        self.adopt(self.directory, b"dir", 0o40755, 0)
        tree.commit()

    def adopt(self, node: NodeId, name: bytes, mode: int, size: int, above: NodeId = ROOT) -> None:
        times = START_NS - 5
        adopted = Adopted(above, name, mode, 0, 0, 0, size, times, times, times, node, 1)
        self.tree.log(Kind.ADOPT, node, 1, adopted.encode())

    def bring(self, error: NotSeeded) -> None:
        self.demands.append(error)
        if error.region is not None:
            offset = error.region * CHUNK_BYTES
            chunk = bytes([error.region + 1]) * min(CHUNK_BYTES, self.size - offset)
            self.tree.log(Kind.BASE, NodeId(error.node), offset, chunk)
        else:
            self.adopt(NodeId(502), b"inner", 0o100644, 0, self.directory)
            self.tree.log(Kind.DIR_SEEDED, self.directory)
        self.tree.commit()


def test_without_a_demand_unseeded_content_is_an_error(tree: RecordedTree) -> None:
    old = Unseeded(tree)
    view = View(tree.journal, Lsn(1))
    assert view.walk(b"old").size_bytes == old.size
    with pytest.raises(NotSeeded) as caught:
        view.read(old.node, CHUNK_BYTES, 10)
    assert caught.value.region == 1
    with pytest.raises(NotSeeded):
        view.entries(old.directory)


def test_unseeded_content_is_demanded_and_then_read(tree: RecordedTree) -> None:
    old = Unseeded(tree)
    view = View(tree.journal, Lsn(1), old.bring)
    found = view.read(old.node, CHUNK_BYTES - 1, old.size)
    assert found == b"\1" + b"\2" * CHUNK_BYTES + b"\3" * 10
    assert [error.region for error in old.demands] == [0, 1, 2]
    assert view.read(old.node, 0, 5) == b"\1" * 5
    assert len(old.demands) == 3
    assert list(view.data_areas(old.node)) == [(0, old.size)]


def test_unseeded_names_are_demanded_and_then_listed(tree: RecordedTree) -> None:
    old = Unseeded(tree)
    view = View(tree.journal, Lsn(1), old.bring)
    assert view.walk(b"dir/inner").node == 502
    assert view.entries(old.directory) == [(b"inner", NodeId(502))]
    assert len(old.demands) == 1


def test_what_demand_does_not_bring_is_an_error_in_the_end(tree: RecordedTree) -> None:
    old = Unseeded(tree)
    view = View(tree.journal, Lsn(1), lambda error: None)
    with pytest.raises(NotSeeded):
        view.read(old.node, 0, 1)


def test_a_view_before_the_first_op_has_no_root(tree: RecordedTree) -> None:
    tree.commit()
    with pytest.raises(NoSuchNode):
        View(tree.journal, Lsn(0)).root()
    assert View(tree.journal, Lsn(1)).time_ns == START_NS + STEP_NS


def test_last_of_a_base_ends_the_demand(tree: RecordedTree) -> None:
    old = Unseeded(tree)
    tree.log(Kind.BASE, old.node, 0, b"")
    tree.log(Kind.BASE, old.node, CHUNK_BYTES, b"")
    last = b"z" * 10
    tree.log(Kind.BASE, old.node, 2 * CHUNK_BYTES, last, Flag.LAST)
    tree.commit()
    view = View(tree.journal, Lsn(1))
    assert view.read(old.node, 2 * CHUNK_BYTES - 1, 100) == b"\0" + last
    assert list(view.data_areas(old.node)) == [(2 * CHUNK_BYTES, old.size)]
