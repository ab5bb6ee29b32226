"""The writer's side of node history: attributes in full, and the short rows of writes.

The newest state of the nodes used lately is kept in memory from batch to batch, so that a hot file
costs no lookup. One thread at a time.
"""

from __future__ import annotations

import stat
from itertools import islice

from store.errors import InconsistentLog
from store.format import key_node_lsn
from store.index_env import Tables, Transaction
from store.index_history import NEWEST
from store.index_lookup import Lookup
from store.index_rows import (
    TOUCHES_PER_ROW,
    Baseline,
    BaseState,
    NodeState,
    encode_base,
    encode_full,
    encode_touches,
)
from store.ops import Adopted
from store.types import Lsn, NodeId

KEEP_NODES = 1 << 15
"""Nodes remembered from batch to batch; some 500 bytes each."""

MAX_FILE_BYTES = (1 << 63) - 1
"""No file is larger."""


class Node:
    """A node as of the newest op, changed in place."""

    __slots__ = (
        "atime_ns",
        "complete",
        "ctime_ns",
        "full_lsn",
        "generation",
        "gid",
        "inode",
        "links",
        "mode",
        "mtime_ns",
        "node",
        "rdev",
        "size_bytes",
        "sizes",
        "target",
        "touches",
        "uid",
    )

    def __init__(self, state: NodeState, full_lsn: int, complete: bool) -> None:
        self.node = state.node
        self.mode = state.mode
        self.uid = state.uid
        self.gid = state.gid
        self.rdev = state.rdev
        self.size_bytes = state.size_bytes
        self.atime_ns = state.atime_ns
        self.mtime_ns = state.mtime_ns
        self.ctime_ns = state.ctime_ns
        self.links = state.links
        self.target = state.target
        self.generation = state.generation
        self.inode = state.inode
        self.full_lsn = full_lsn
        """LSN of its last full row; 0: none is written yet."""
        self.complete = complete
        """Of a directory: the journal has all its names."""
        self.touches: list[int] = []
        """LSNs of touches that are not in the index yet, and the sizes they left."""
        self.sizes: list[int] = []

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    def touch(self, lsn: int, time_ns: int) -> None:
        """The op changed content: size (set before), modification and change time."""
        self.mtime_ns = self.ctime_ns = time_ns
        if self.touches and self.touches[-1] == lsn:
            self.sizes[-1] = self.size_bytes
        else:
            self.touches.append(lsn)
            self.sizes.append(self.size_bytes)


class NodeWriter:
    """Newest states, and their rows."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._known: dict[int, Node] = {}
        self.used: dict[int, Node] = {}
        """Nodes used in this batch; the hot path looks here before it calls `get`."""
        self.baseline: Baseline | None = None
        """Where the history of a copy begins."""
        self._rows: dict[bytes, bytes] = {}

    def begin(self, txn: Transaction, lookup: Lookup) -> None:
        """Work in this write transaction from now on."""
        self._txn = txn
        self._lookup = lookup

    def find(self, number: int) -> Node | None:
        """The node's newest state."""
        node = self.used.get(number)
        if node is not None:
            return node
        node = self._known.get(number)
        if node is None:
            found = self._lookup.node_at(number, NEWEST)
            if found is None:
                return None
            state, full_lsn = found
            complete = stat.S_ISDIR(state.mode) and self._lookup.dir_complete(number)
            node = Node(state, full_lsn, complete)
        self.used[number] = node
        return node

    def get(self, number: int) -> Node:
        """The node's newest state; InconsistentLog when the log never introduced it."""
        node = self.find(number)
        if node is None and self.baseline is not None and number <= self.baseline.max_node:
            return self._nameless(number, self.baseline)
        if node is None:
            raise InconsistentLog(f"node {number} is not known")
        return node

    def _nameless(self, number: int, baseline: Baseline) -> Node:
        """A node that had no name where the history of a copy begins, so that it is not described:
        a file that somebody still has open, as a rule, which never shows."""
        state = new_state(number, stat.S_IFREG, baseline.lsn, baseline.time_ns, 0, 0)
        unknown = encode_base(BaseState(baseline.lsn, MAX_FILE_BYTES, complete=False))
        self._txn.put(key_node_lsn(number, baseline.lsn), unknown, db=self._tables.bases)
        return self.add(state._replace(links=0), baseline.lsn, complete=False)

    def add(self, state: NodeState, lsn: int, complete: bool) -> Node:
        """A node that is new, or known and replaced as a whole, from `lsn` on."""
        node = Node(state, 0, complete)
        old = self.used.get(state.node)
        if old is not None:
            self._write_touches(old)
        self.used[state.node] = node
        self.write(node, lsn)
        return node

    def write(self, node: Node, lsn: int) -> None:
        """Put the node's state down in full, as of `lsn`."""
        self._write_touches(node)
        node.full_lsn = lsn
        state = NodeState(
            node.node,
            node.mode,
            node.uid,
            node.gid,
            node.rdev,
            node.size_bytes,
            node.atime_ns,
            node.mtime_ns,
            node.ctime_ns,
            node.links,
            node.target,
            node.generation,
            lsn,  # type: ignore[arg-type]
            node.inode,
        )
        self._rows[key_node_lsn(node.node, lsn)] = encode_full(state)

    def flush(self) -> None:
        """Write everything that is pending."""
        for number, node in self.used.items():
            if node.touches:
                self._write_touches(node)
            self._known.pop(number, None)
            self._known[number] = node
        self.used.clear()
        with self._txn.cursor(self._tables.nodes) as cursor:
            cursor.putmulti(sorted(self._rows.items()))
        self._rows = {}
        for oldest in list(islice(self._known, max(len(self._known) - KEEP_NODES, 0))):
            del self._known[oldest]

    def forget(self) -> None:
        """Drop everything that is pending or remembered."""
        self._known, self._rows = {}, {}
        self.used.clear()

    def newest_lsn(self, node: Node) -> int:
        """LSN of the newest row of a node."""
        return node.touches[-1] if node.touches else self._newest_written(node)

    def _newest_written(self, node: Node) -> int:
        found = self._lookup.node_at(node.node, NEWEST)
        return max(node.full_lsn, found[0].changed if found is not None else 0)

    def _write_touches(self, node: Node) -> None:
        for start in range(0, len(node.touches), TOUCHES_PER_ROW):
            lsns = node.touches[start : start + TOUCHES_PER_ROW]
            sizes = node.sizes[start : start + TOUCHES_PER_ROW]
            key = key_node_lsn(node.node, lsns[0])
            self._rows[key] = encode_touches(node.full_lsn, lsns, sizes)
        node.touches = []
        node.sizes = []


def new_state(node: int, mode: int, lsn: int, time_ns: int, uid: int, gid: int) -> NodeState:
    """A node that an op at `lsn` makes."""
    return NodeState(
        NodeId(node),
        mode,
        uid,
        gid,
        rdev=0,
        size_bytes=0,
        atime_ns=time_ns,
        mtime_ns=time_ns,
        ctime_ns=time_ns,
        links=1,
        target=b"",
        generation=lsn,
        changed=lsn,  # type: ignore[arg-type]
        inode=0,
    )


def adopted_state(node: NodeId, since: Lsn, adopted: Adopted) -> NodeState:
    """A node that was found to be there at `since`."""
    size = adopted.size_bytes if stat.S_ISREG(adopted.mode) else len(adopted.target)
    return NodeState(
        node,
        adopted.mode,
        adopted.uid,
        adopted.gid,
        adopted.rdev,
        size,
        adopted.atime_ns,
        adopted.mtime_ns,
        adopted.ctime_ns,
        1 if stat.S_ISDIR(adopted.mode) else adopted.links,
        adopted.target,
        since,
        since,
        adopted.inode,
    )
