"""The way through a view's tree, from any place on: the order of the members of a full.

Duty: directories before what is in them, entries in the order of their names. Everything is told by
the view and a `Cursor`, so a walk can be gone on with after a crash. Memory: the names of the
directories that lead to where it is. Synchronous; one thread.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from store.types import NO_NODE, ROOT, NodeId
from tape.layout import Cursor
from timetravel.errors import NoSuchNode
from timetravel.view import NodeState, View

TREE_DONE = Cursor(directory=NO_NODE, entry=0)
"""The cursor of an archive that holds nothing of the tree any more."""

_STATES = 256
"""Attributes that are looked up at once."""

_KNOWN_FIRSTS = 10_000
"""Nodes with several names whose first one is remembered."""


class Spot(NamedTuple):
    """A thing in the tree, and the cursor of an archive that begins with it."""

    cursor: Cursor
    path: bytes
    """Relative to the root."""
    state: NodeState


class _Directory:
    """A directory on the way, and how far the walk has come in it."""

    def __init__(self, view: View, path: bytes, state: NodeState) -> None:
        self.path, self.state = path, state
        self.entries = view.entries(state.node)
        self.next = 0
        self._view = view
        self._states: list[NodeState] = []
        self._states_start = 0

    def take(self) -> Spot | None:
        """The next entry; None behind the last."""
        if self.next >= len(self.entries):
            return None
        entry, self.next = self.next, self.next + 1
        if not self._states_start <= entry < self._states_start + len(self._states):
            chunk = self.entries[entry : entry + _STATES]
            self._states = self._view.states([node for _, node in chunk])
            self._states_start = entry
        name = self.entries[entry][0]
        path = self.path + b"/" + name if self.path else name
        cursor = Cursor(directory=self.state.node, entry=entry)
        return Spot(cursor, path, self._states[entry - self._states_start])


class TreeWalk:
    """The things of a tree from `cursor` on (None: from the beginning), but for the root itself."""

    def __init__(self, view: View, cursor: Cursor | None) -> None:
        self._view = view
        self._stack: list[_Directory] = []
        if cursor != TREE_DONE:
            self._descend(cursor or Cursor(directory=ROOT, entry=0))

    def _descend(self, cursor: Cursor) -> None:
        directory = NodeId(cursor.directory)
        names = self._view.path_of(directory).split(b"/") if directory != ROOT else []
        path, state = b"", self._view.root()
        self._stack.append(_Directory(self._view, path, state))
        for name in names:
            above = self._stack[-1]
            number = next(i for i, entry in enumerate(above.entries) if entry[0] == name)
            above.next = number + 1
            path = path + b"/" + name if path else name
            state = self._view.state(above.entries[number][1])
            self._stack.append(_Directory(self._view, path, state))
        self._stack[-1].next = cursor.entry

    def above(self) -> list[tuple[bytes, NodeState]]:
        """The directories that lead to the next thing, the root first."""
        while self._stack and self._stack[-1].next >= len(self._stack[-1].entries):
            if len(self._stack) == 1:
                break
            self._stack.pop()
        return [(directory.path, directory.state) for directory in self._stack]

    def __iter__(self) -> Iterator[Spot]:
        while self._stack:
            spot = self._stack[-1].take()
            if spot is None:
                self._stack.pop()
                continue
            if stat.S_ISDIR(spot.state.mode):
                self._stack.append(_Directory(self._view, spot.path, spot.state))
            yield spot


class FirstNames:
    """Which of a node's names the walk meets first: that one is the file, the others are links."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._known: OrderedDict[NodeId, bytes] = OrderedDict()

    def path(self, state: NodeState) -> bytes:
        """The path that the walk meets first. NoSuchNode."""
        found = self._known.get(state.node)
        if found is None:
            names = self._view.names(state.node)
            if not names:
                raise NoSuchNode(state.node, self._view.lsn)
            ways = []
            for directory, name in names:
                above = self._view.path_of(directory)
                ways.append((above.split(b"/") if above else []) + [name])
            found = self._known[state.node] = b"/".join(min(ways))
            if len(self._known) > _KNOWN_FIRSTS:
                self._known.popitem(last=False)
        return found
