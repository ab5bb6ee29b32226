"""What the ops of a crashed session touched, read back from the journal.

Duty: how far back recovery must look, and which names, nodes and ranges it has to compare. Reads
the journal only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from store.format import Flag, Kind
from store.journal import Journal, OpMeta, Snapshot
from store.ops import RENAME_EXCHANGE, Created, Renamed
from store.types import Lsn, NodeId

_WINDOW = 4096
QUIET = frozenset(
    (
        Kind.MOUNT,
        Kind.ADOPT,
        Kind.ADOPT_NAME,
        Kind.BASE,
        Kind.DIR_SEEDED,
        Kind.SEEDED,
        Kind.CHECKPOINT,
    )
)
"""Ops that change nothing in the tree."""

Name = tuple[NodeId, bytes]
"""A name in a directory."""


@dataclass
class Touched:
    """What changed since the checkpoint: names, and nodes with the ranges that were written."""

    names: dict[Name, list[NodeId]] = field(default_factory=dict)
    """(directory, name) → the nodes that stood there at some time."""
    nodes: dict[NodeId, list[tuple[int, int]]] = field(default_factory=dict)
    timed: set[NodeId] = field(default_factory=set)
    """Nodes of which only the mtime may be missing."""
    exchange: tuple[Name, Name] | None = None
    """The two names of the last op, if it was an exchange."""

    def add(self, more: Touched) -> None:
        """Take in what later ops touched."""
        for key, nodes in more.names.items():
            self.names.setdefault(key, []).extend(nodes)
        for node, ranges in more.nodes.items():
            self.nodes.setdefault(node, []).extend(ranges)
        self.exchange = more.exchange

    def name(self, directory: NodeId, name: bytes, node: NodeId) -> None:
        """The name was given to the node, or taken from it."""
        self.names.setdefault((directory, name), []).append(node)
        self.nodes.setdefault(node, [])
        self.nodes.setdefault(directory, [])


@dataclass(frozen=True)
class Before:
    """What is known of the session that crashed: what is on disk, and in which boot it was."""

    checkpoint: Lsn
    """Ops up to this LSN are on disk in the backing tree; 0 when that was never noted."""
    boot: str
    """The machine's boot id, "" if unknown."""


def look_back(journal: Journal, snapshot: Snapshot, end: Lsn) -> Before:
    """Find the last checkpoint and the boot by walking back from op `end`."""
    boot = ""
    stop, first = int(end) + 1, _first_lsn(snapshot)
    while stop > first:
        start = max(stop - _WINDOW, first)
        checkpoint = Lsn(0)
        mount = Lsn(0)
        for op in snapshot.ops(Lsn(start), Lsn(stop)):
            if op.kind in (Kind.CHECKPOINT, Kind.CLEAN):
                checkpoint = Lsn(op.offset if op.kind == Kind.CHECKPOINT else op.lsn)
            if op.kind in (Kind.CHECKPOINT, Kind.MOUNT) and op.length:
                mount = op.lsn
        if mount and not boot:
            boot = _boot_in(journal.read_payload(mount))
        if checkpoint:
            return Before(checkpoint, boot)
        stop = start
    return Before(Lsn(0), boot)


def undisturbed_since(snapshot: Snapshot, end: Lsn) -> int:
    """When the tree was last unmounted in order, if nothing was changed through cdpfs since.

    Wall time in ns; 0 when there were changes. Sessions that were killed while they looked for
    external changes, or before anybody wrote, make no difference.
    """
    stop, first = int(end) + 1, _first_lsn(snapshot)
    while stop > first:
        start = max(stop - _WINDOW, first)
        found = 0
        for op in snapshot.ops(Lsn(start), Lsn(stop)):
            if op.kind == Kind.CLEAN:
                found = op.offset
            elif op.kind not in QUIET and not op.flags & Flag.EXTERNAL:
                found = -1
        if found:
            return max(found, 0)
        stop = start
    return 0


def _first_lsn(snapshot: Snapshot) -> int:
    """Where the log begins that is here."""
    first = snapshot.first()
    return first.lsn if first is not None else 1


def _boot_in(payload: bytes) -> str:
    try:
        return str(json.loads(payload)["boot"])
    except (ValueError, KeyError, TypeError):
        return ""


def collect(journal: Journal, snapshot: Snapshot, start: Lsn, doubtful: Lsn, end: Lsn) -> Touched:
    """What the ops of (start, end] touched: up to `doubtful` only times, then all of it."""
    touched = Touched()
    for op in snapshot.ops(Lsn(start + 1), Lsn(end + 1)):
        if op.aborted:
            continue
        whole = Touched()
        _collect_op(journal, op, whole)
        if op.lsn > doubtful:
            touched.add(whole)
        else:
            touched.timed.update(whole.nodes)
    return touched


def _collect_op(journal: Journal, op: OpMeta, touched: Touched) -> None:
    parent = NodeId(op.offset)
    if op.kind == Kind.WRITE:
        touched.nodes.setdefault(op.node, []).append((op.offset, op.offset + op.length))
    elif op.kind in (Kind.TRUNCATE, Kind.SETATTR, Kind.SETXATTR, Kind.REMOVEXATTR):
        touched.nodes.setdefault(op.node, [])
    elif op.kind == Kind.CREATE:
        touched.name(parent, Created.decode(journal.read_payload(op.lsn)).name, op.node)
    elif op.kind in (Kind.LINK, Kind.UNLINK):
        touched.name(parent, journal.read_payload(op.lsn), op.node)
    elif op.kind == Kind.RENAME:
        renamed = Renamed.decode(journal.read_payload(op.lsn))
        touched.name(parent, renamed.name, op.node)
        touched.name(renamed.new_parent, renamed.new_name, op.node)
        if renamed.other:
            touched.name(renamed.new_parent, renamed.new_name, renamed.other)
        if renamed.flags & RENAME_EXCHANGE:
            touched.name(parent, renamed.name, renamed.other)
            touched.exchange = (parent, renamed.name), (renamed.new_parent, renamed.new_name)
