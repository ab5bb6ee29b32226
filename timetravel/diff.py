"""What differs between two moments below a path.

Duty: walk two views of one journal side by side and name every difference once: added, removed,
modified or renamed, told apart by NodeId. Synchronous; any thread. It reads nothing of what did
not change: a node whose last change lies at or before the older view is equal in both, and when
the ops between the views are few, directories without a change below them are not entered.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, Flag, auto

from store.format import Kind
from store.journal import Snapshot
from store.ops import Renamed
from store.types import NO_NODE, ROOT, Lsn, NodeId
from timetravel.content import PIECE_BYTES, same_pieces
from timetravel.place import joined
from timetravel.view import NodeState, View

SCAN_OPS = 200_000
"""Up to this many ops between two views are read in order to enter changed directories only."""

_WINDOW_BYTES = 16 * PIECE_BYTES
"""How much of a file is compared by where its bytes stand before any byte is read."""


class ChangeKind(Enum):
    """What became of an entry."""

    ADDED = "added"
    REMOVED = "removed"
    MODIFIED = "modified"
    RENAMED = "renamed"


class Part(Flag):
    """What is different about an entry that is in both views."""

    NONE = 0
    CONTENT = auto()
    MODE = auto()
    OWNER = auto()
    TIMES = auto()  # mtime; atime and ctime are never compared
    XATTRS = auto()
    TARGET = auto()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. Paths are relative to the volume's root."""

    kind: ChangeKind
    path: bytes
    """In the newer view; for REMOVED in the older one."""
    old_path: bytes
    """In the older view; for ADDED the same as `path`."""
    old: NodeState | None
    new: NodeState | None
    parts: Part = Part.NONE
    """Of MODIFIED and RENAMED."""

    @property
    def replaced(self) -> bool:
        """Another node stands under the same path: what editors do by renaming over it."""
        if self.old is None or self.new is None:
            return False
        return self.old.node != self.new.node

    @property
    def only_directory_times(self) -> bool:
        """A directory whose only difference follows from other changes: listings leave it out."""
        state = self.new
        is_directory = state is not None and stat.S_ISDIR(state.mode)
        return is_directory and self.kind is ChangeKind.MODIFIED and self.parts is Part.TIMES


def diff(old: View, new: View, path: bytes = b"") -> Iterator[Change]:
    """The changes from `old` to `new` at and below `path`, in the order of a walk.

    `old.lsn` must be at most `new.lsn`. A name that left the path's directory for elsewhere counts
    as removed, one that came from elsewhere as added. Nothing is read but what changed. NoSuchPath
    if neither view has the path.
    """
    assert old.lsn <= new.lsn, (old.lsn, new.lsn)
    return _Comparison(old, new, path).run()


_Name = tuple[NodeId, bytes]
"""A directory and a name in it."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two entries to compare; one may be missing."""

    old_path: bytes
    new_path: bytes
    old: NodeState | None
    new: NodeState | None
    renamed: bool = False
    """The node itself has another name; below a renamed directory only the paths differ."""


class _Comparison:
    def __init__(self, old: View, new: View, path: bytes) -> None:
        self._old = old
        self._new = new
        self._scope = b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))
        self._stirred = _stirred_nodes(old, new)
        """Nodes with a change at or below them; None if that is not known."""

    def run(self) -> Iterator[Change]:
        old, new = self._old.find(self._scope), self._new.find(self._scope)
        if old is None and new is None:
            self._new.walk(self._scope)  # raises
        # An explicit stack of iterators: trees can be deeper than Python's own.
        pending = [_split(_Pair(self._scope, self._scope, old, new))]
        while pending:
            pair = next(pending[-1], None)
            if pair is None:
                pending.pop()
                continue
            change = self._change(pair)
            if change is not None:
                yield change
            if _is_directory(pair.old) or _is_directory(pair.new):
                pending.append(self._below(pair))

    def _change(self, pair: _Pair) -> Change | None:
        """What the two entries themselves differ in."""
        old, new = pair.old, pair.new
        if old is None:
            return Change(ChangeKind.ADDED, pair.new_path, pair.new_path, None, new)
        if new is None:
            return Change(ChangeKind.REMOVED, pair.old_path, pair.old_path, old, None)
        parts = differing_parts(self._old, self._new, old, new)
        if pair.renamed:
            return Change(ChangeKind.RENAMED, pair.new_path, pair.old_path, old, new, parts)
        if parts or old.node != new.node:
            return Change(ChangeKind.MODIFIED, pair.new_path, pair.old_path, old, new, parts)
        return None

    def _below(self, pair: _Pair) -> Iterator[_Pair]:
        """The pairs below two directories (or below the one that there is)."""
        old, new = pair.old, pair.new
        same = old is not None and new is not None and old.node == new.node
        if same and self._stirred is not None and new is not None and new.node not in self._stirred:
            return
        old_names = dict(self._old.entries(old.node)) if old is not None else {}
        if same and new is not None and new.changed <= self._old.lsn:
            new_names = old_names
        else:
            new_names = dict(self._new.entries(new.node)) if new is not None else {}
        for name in sorted(old_names.keys() | new_names.keys()):
            before, after = old_names.get(name), new_names.get(name)
            old_path, new_path = joined(pair.old_path, name), joined(pair.new_path, name)
            if before is not None and before == after:
                if self._stirred is None or before in self._stirred:
                    yield from self._same_node(before, old_path, new_path)
                continue
            left = self._leaving(before, (old.node, name), old_path) if old and before else None
            came = self._arriving(after, (new.node, name), new_path) if new and after else None
            if left is not None and left.new is not None:
                yield left  # renamed; what arrived in its place has nothing to do with it
                left = None
            yield from _split(_merged(left, came))

    def _same_node(self, node: NodeId, old_path: bytes, new_path: bytes) -> Iterator[_Pair]:
        new = self._new.state(node)
        if new.changed > self._old.lsn:
            yield _Pair(old_path, new_path, self._old.state(node), new)
        elif stat.S_ISDIR(new.mode):
            yield _Pair(old_path, new_path, new, new)

    def _leaving(self, node: NodeId, name: _Name, path: bytes) -> _Pair:
        """A node that lost `name`: paired with the name that it got instead, if any."""
        gone, come = self._names_changed(node)
        place = gone.index(name) if name in gone else len(come)
        old = self._old.state(node)
        if place >= len(come):
            return _Pair(path, path, old, None)
        directory, new_name = come[place]
        new_path = joined(self._new.path_of(directory), new_name)
        return _Pair(path, new_path, old, self._new.state(node), renamed=True)

    def _arriving(self, node: NodeId, name: _Name, path: bytes) -> _Pair | None:
        """A node that got `name`; None if it is paired with one that it lost."""
        gone, come = self._names_changed(node)
        if name in come and come.index(name) < len(gone):
            return None
        return _Pair(path, path, None, self._new.state(node))

    def _names_changed(self, node: NodeId) -> tuple[list[_Name], list[_Name]]:
        """Names inside the scope that `node` lost and got; the n-th are taken for one rename."""
        old = {name for name in self._old.names(node) if self._in_scope(self._old, name[0])}
        new = {name for name in self._new.names(node) if self._in_scope(self._new, name[0])}
        return sorted(old - new), sorted(new - old)

    def _in_scope(self, view: View, directory: NodeId) -> bool:
        if not self._scope:
            return True
        path = view.path_of(directory)
        return path == self._scope or path.startswith(self._scope + b"/")


def same_file(old_view: View, new_view: View, old: NodeState, new: NodeState) -> bool:
    """Whether two nodes of one type have the same content and attributes."""
    return differing_parts(old_view, new_view, old, new) is Part.NONE


def differing_parts(old_view: View, new_view: View, old: NodeState, new: NodeState) -> Part:
    """What differs between two nodes of the same type. Content is read only where it may."""
    if old.node == new.node and new.changed <= old_view.lsn:
        return Part.NONE
    parts = Part.NONE
    if old.mode != new.mode:
        parts |= Part.MODE
    if (old.uid, old.gid) != (new.uid, new.gid):
        parts |= Part.OWNER
    if old.mtime_ns != new.mtime_ns:
        parts |= Part.TIMES
    if old.target != new.target:
        parts |= Part.TARGET
    if old_view.xattrs(old.node) != new_view.xattrs(new.node):
        parts |= Part.XATTRS
    is_file = stat.S_ISREG(new.mode)
    if old.rdev != new.rdev or (is_file and _content_differs(old_view, new_view, old, new)):
        parts |= Part.CONTENT
    return parts


def _content_differs(old_view: View, new_view: View, old: NodeState, new: NodeState) -> bool:
    size = old.size_bytes
    if size != new.size_bytes:
        return True
    for window in range(0, size, _WINDOW_BYTES):
        stop = min(window + _WINDOW_BYTES, size)
        if old.node == new.node and same_pieces(old_view, new_view, old.node, window, stop):
            continue
        for start in range(window, stop, PIECE_BYTES):
            length = min(PIECE_BYTES, stop - start)
            before = old_view.read(old.node, start, length)
            if before != new_view.read(new.node, start, length):
                return True
    return False


def _is_directory(state: NodeState | None) -> bool:
    return state is not None and stat.S_ISDIR(state.mode)


def _merged(left: _Pair | None, came: _Pair | None) -> _Pair:
    """One pair of what is gone from a name and what stands there now."""
    old_path = left.old_path if left else came.new_path if came else b""
    new_path = came.new_path if came else old_path
    return _Pair(old_path, new_path, left.old if left else None, came.new if came else None)


def _split(pair: _Pair) -> Iterator[_Pair]:
    """The pair, or two if the types differ: a file does not turn into a directory."""
    old, new = pair.old, pair.new
    if old is None and new is None:
        return
    if old is None or new is None or stat.S_IFMT(old.mode) == stat.S_IFMT(new.mode):
        yield pair
        return
    yield _Pair(pair.old_path, pair.old_path, old, None)
    yield _Pair(pair.new_path, pair.new_path, None, new)


def _stirred_nodes(old: View, new: View) -> set[NodeId] | None:
    """The nodes that an op between the views changed, and all directories above them.

    None when there are too many ops, or a session began in between: what a mount finds changed in
    the backing tree is dated back to its beginning, whenever it is found.
    """
    if new.lsn - old.lsn > SCAN_OPS:
        return None
    with new.journal.snapshot() as snapshot:
        touched = _touched_nodes(snapshot, old, new)
    if touched is None:
        return None
    stirred: set[NodeId] = set()
    pending = list(touched)
    while pending:
        node = pending.pop()
        if node in stirred:
            continue
        stirred.add(node)
        if node != ROOT:
            pending.extend(directory for view in (old, new) for directory, _ in view.names(node))
    return stirred


def _touched_nodes(snapshot: Snapshot, old: View, new: View) -> set[NodeId] | None:
    touched: set[NodeId] = set()
    for op in snapshot.ops(Lsn(old.lsn + 1), Lsn(new.lsn + 1)):
        if op.kind == Kind.MOUNT:
            return None
        if op.aborted or op.kind not in _CHANGING:
            continue
        touched.add(op.node)
        if op.kind in _NAMING:
            touched.add(NodeId(op.offset))
        if op.kind == Kind.RENAME:
            renamed = Renamed.decode(new.journal.read_payload(op.lsn))
            touched.update((renamed.new_parent, renamed.other))
    touched.discard(NO_NODE)
    return touched


_NAMING = frozenset({Kind.CREATE, Kind.LINK, Kind.UNLINK, Kind.RENAME})
_CHANGING = _NAMING | {
    Kind.WRITE,
    Kind.FOLDED,
    Kind.TRUNCATE,
    Kind.SETATTR,
    Kind.SETXATTR,
    Kind.REMOVEXATTR,
}
