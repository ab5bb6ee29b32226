"""Everything that a view has, node by node, as a copy of the tree is made from it.

Duty: walk a view from its root. Synchronous; any thread. Memory holds the names on the way down and
the nodes with several links, not the tree.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import NamedTuple

from store.ops import Adopted
from store.types import NO_NODE, NodeId
from timetravel.place import joined
from timetravel.view import NodeState, View


class Walked(NamedTuple):
    """A name, and the node under it."""

    node: NodeId
    parent: NodeId
    """0 for the root."""
    name: bytes
    """Empty for the root."""
    path: bytes
    """Relative to the root, which is b""."""
    state: NodeState
    xattrs: tuple[tuple[bytes, bytes], ...]
    """By name; of a further link none, since they were told."""
    first: bool
    """False: a further hard link of a node that came before."""


class _Name(NamedTuple):
    """A name that is to be walked."""

    parent: NodeId
    name: bytes
    path: bytes
    state: NodeState


def walk_tree(view: View) -> Iterator[Walked]:
    """Every name of the view, directories before what is in them. NotSeeded."""
    linked: set[NodeId] = set()
    waiting = [_Name(NO_NODE, b"", b"", view.root())]
    while waiting:
        parent, name, path, state = waiting.pop()
        first = state.node not in linked
        if state.links > 1 and not stat.S_ISDIR(state.mode):
            linked.add(state.node)
        xattrs = tuple(sorted(view.xattrs(state.node).items())) if first else ()
        yield Walked(state.node, parent, name, path, state, xattrs, first)
        if stat.S_ISDIR(state.mode):
            waiting += reversed(
                [
                    _Name(state.node, below, joined(path, below), child)
                    for below, child in view.listing(state.node)
                ]
            )


def adopted_of(walked: Walked) -> Adopted:
    """The same, as an op describes it."""
    state = walked.state
    return Adopted(
        walked.parent,
        walked.name,
        state.mode,
        state.uid,
        state.gid,
        state.rdev,
        state.size_bytes if stat.S_ISREG(state.mode) else 0,
        state.atime_ns,
        state.mtime_ns,
        state.ctime_ns,
        0,
        state.links,
        state.target,
        walked.xattrs,
    )
