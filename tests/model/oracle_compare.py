"""Compares a snapshot of the journal with the oracle, at one LSN or as a whole."""

from __future__ import annotations

import stat
from collections.abc import Callable
from functools import partial

from store.errors import NeverCaptured, NotSeeded
from store.format import CHUNK_BYTES, Kind
from store.index_rows import NodeState
from store.journal import Snapshot
from store.types import Lsn, NodeId, TimeNs
from tests.model.oracle_tree import OracleHistory, OracleNode

REACH = 200
"""Bytes on each side of a place in a file that are compared."""


def assert_same_at(snapshot: Snapshot, history: OracleHistory, lsn: int) -> None:
    """Everything that the journal says of one LSN is what the oracle says."""
    tree, at = history.tree(lsn), Lsn(lsn)
    for number in history.newest.nodes:
        node, expected = NodeId(number), tree.nodes.get(number)
        state = snapshot.state(node, at)
        if expected is None or not expected.links:
            assert state is None, (number, lsn)
            assert snapshot.pieces(node, at, 0, 100) == []
        else:
            assert state is not None, (number, lsn)
            assert_same_state(state, expected, lsn)
            assert snapshot.xattrs(node, at) == expected.xattrs, (number, lsn)
            if stat.S_ISREG(expected.mode):
                assert_same_content(snapshot, history, expected, lsn)
        assert snapshot.names(node, at) == tree.links_of(number), (number, lsn)
    assert_same_names(snapshot, history, lsn)


def assert_same_state(state: NodeState, expected: OracleNode, lsn: int) -> None:
    """Attributes."""
    for field in NodeState._fields:
        if field != "changed":
            assert getattr(state, field) == getattr(expected, field), (expected.node, lsn, field)


def assert_same_content(
    snapshot: Snapshot, history: OracleHistory, expected: OracleNode, lsn: int
) -> None:
    """Bytes around the places where files of the tests are changed, and that no piece overlaps."""
    node, at, size = NodeId(expected.node), Lsn(lsn), expected.size_bytes
    newest = history.since(expected.node)
    error = NotSeeded if newest == expected.generation else NeverCaptured
    for place in (0, CHUNK_BYTES, 2 * CHUNK_BYTES, size):
        start, stop = max(place - REACH, 0), place + REACH
        missing = any(
            chunk * CHUNK_BYTES < min(stop, size) and start < (chunk + 1) * CHUNK_BYTES
            for chunk in expected.missing
        )
        if missing and start < size:
            assert_raises(error, partial(snapshot.read, node, at, start, stop))
        else:
            assert snapshot.read(node, at, start, stop) == expected.read(start, stop), (
                expected.node,
                lsn,
                start,
            )
    if not expected.missing:
        ends = [0]
        for piece in snapshot.pieces(node, at, 0, size + 10):
            assert piece.start == ends[-1] < piece.stop
            ends.append(piece.stop)
        assert ends[-1] == size


def assert_raises(error: type[Exception], call: Callable[[], object]) -> None:
    """The call fails with just that error."""
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def assert_same_names(snapshot: Snapshot, history: OracleHistory, lsn: int) -> None:
    """Names, listings and names that are gone."""
    tree, at = history.tree(lsn), Lsn(lsn)
    ever = history.names_ever()
    for number, newest in history.newest.nodes.items():
        if not stat.S_ISDIR(newest.mode):
            continue
        directory, expected = NodeId(number), tree.children(number)
        assert snapshot.dir_complete(directory) == newest.complete
        for name in {name for parent, name in ever if parent == number} | {b"never there"}:
            if newest.complete or (number, name) in ever:
                found = snapshot.child(directory, name, at)
                assert (found or 0) == expected.get(name, 0), (number, name, lsn)
            else:
                assert_raises(NotSeeded, partial(snapshot.child, directory, name, at))
        if newest.complete:
            assert dict(snapshot.children(directory, at)) == expected, (number, lsn)
        else:
            assert_raises(NotSeeded, partial(snapshot.children, directory, at))
        assert sorted(snapshot.dead_names(directory, at)) == history.dead_names(number, lsn)


def assert_same_log(snapshot: Snapshot, history: OracleHistory) -> None:
    """The ops themselves, and what is asked of the log as a whole."""
    last = history.last_lsn
    assert snapshot.indexed_lsn == last
    metas = list(snapshot.ops(Lsn(1), Lsn(last + 1)))
    assert len(metas) == last
    aborted = {op.offset for op in history.ops if op.kind == Kind.ABORT}
    for meta, op in zip(metas, history.ops, strict=True):
        assert meta[:6] == op[:6]
        assert (meta.length, meta.actor) == (len(op.payload), op.actor)
        assert meta.aborted == (op.lsn in aborted)
        assert snapshot.lsn_at(op.time_ns) == op.lsn
        assert snapshot.lsn_at(TimeNs(op.time_ns - 1)) == op.lsn - 1
    marks = [
        (bytes(op.payload).decode(), op.lsn, op.time_ns)
        for op in history.ops
        if op.kind == Kind.MARK and op.lsn not in aborted
    ]
    assert snapshot.marks() == marks
    for number in history.newest.nodes:
        expected = history.changes(number)
        assert list(snapshot.node_ops(NodeId(number), Lsn(1), Lsn(last + 1))) == expected, number
