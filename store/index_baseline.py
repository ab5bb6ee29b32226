"""What baseline batches do to the index: the tree with which the history of a copy begins.

Duty: rows of nodes, names and extended attributes stand at the LSN at which history begins (the
baseline's), though the ops that describe them have lower ones; listings, links and content, whose
rows hold more than one change, stand at those. Nothing of it counts before the BASELINE op has
come. One thread at a time.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence

from store.baseline_state import decode_entries
from store.errors import InconsistentLog
from store.format import Flag, Kind, key_lsn, key_name_lsn, key_node_lsn
from store.index_content import ContentWriter
from store.index_env import ACTOR_PREFIX, BASELINE_KEY, Tables, Transaction
from store.index_history import HistoryWriter
from store.index_listing import Change, link_name
from store.index_lookup import HELD, Lookup
from store.index_nodes import NodeWriter, adopted_state
from store.index_points import PointWriter
from store.index_rows import Baseline, BaseState, encode_base, mark_row
from store.ops import Actor, Adopted, Op, begins_history, decode_entry
from store.types import ROOT, Lsn, NodeId

Listing = HistoryWriter[dict[bytes, int], Change]
"""The history of listings, or of links."""


class BaselineTree:
    """Applies the ops of baseline batches, and says which batches may come."""

    def __init__(
        self,
        tables: Tables,
        nodes: NodeWriter,
        content: ContentWriter,
        dirlog: Listing,
        links: Listing,
        points: PointWriter,
    ) -> None:
        self._tables = tables
        self._nodes = nodes
        self._content = content
        self._dirlog = dirlog
        self._links = links
        self._points = points
        self.baseline: Baseline | None = None
        """As of the newest op; None: history begins with its first op."""
        self.handlers: dict[int, Callable[[Op], None]] = {
            Kind.BASELINE: self._announce,
            Kind.ADOPT: self._node,
            Kind.ADOPT_NAME: self._further_name,
            Kind.SETXATTR: self._xattr,
            Kind.BASE: self._data,
            Kind.ACTOR: self._actor,
            Kind.BASELINE_ROWS: self._rows,
        }
        """By kind, of ops with the flag BASELINE."""

    def begin(self, txn: Transaction, lookup: Lookup) -> None:
        """Work in this write transaction from now on."""
        self._txn = txn
        self._lookup = lookup
        self._know(lookup.baseline())

    def _know(self, baseline: Baseline | None) -> None:
        self.baseline = baseline
        self._nodes.baseline = self._points.baseline = baseline

    def place(self, ops: Sequence[Op], indexed: Lsn) -> bool:
        """Is this one of the batches that only describe? InconsistentLog unless it comes next."""
        first, baseline = ops[0], self.baseline
        if begins_history(first):
            if baseline is None or baseline.whole or first.lsn != baseline.lsn:
                raise InconsistentLog(f"no history can begin at LSN {first.lsn}")
            return False
        if first.lsn != indexed + 1:
            raise InconsistentLog(
                f"the batch starts at LSN {first.lsn}, the index ends at {indexed}"
            )
        describes = bool(first.flags & Flag.BASELINE)
        expected = not baseline.whole if baseline is not None else describes and not indexed
        if describes != expected:
            raise InconsistentLog(f"a baseline's description can't begin or end at LSN {first.lsn}")
        return describes

    # --- the description -------------------------------------------------------------------------

    def apply(self, op: Op) -> None:
        """One op of a baseline batch. InconsistentLog, ValueError."""
        handler = self.handlers.get(op.kind)
        if handler is None or not op.flags & Flag.BASELINE:
            raise InconsistentLog("this op describes no beginning")
        if (op.kind == Kind.BASELINE) != (self.baseline is None):
            raise InconsistentLog("a baseline is announced once, and first")
        handler(op)

    @property
    def _lsn(self) -> Lsn:
        """Where history begins."""
        assert self.baseline is not None
        return self.baseline.lsn

    def _announce(self, op: Op) -> None:
        if op.lsn != 1 or op.offset <= op.lsn:
            raise InconsistentLog(f"history can't begin at LSN {op.offset}")
        self._put(Baseline(Lsn(op.offset)))

    def _put(self, baseline: Baseline) -> None:
        self._know(baseline)
        self._txn.put(BASELINE_KEY, baseline.encode(), db=self._tables.meta)

    def _node(self, op: Op) -> None:
        adopted = Adopted.decode(op.payload)
        if self._nodes.find(op.node) is not None:
            raise InconsistentLog(f"node {op.node} is described twice")
        if op.flags & Flag.LOST and not stat.S_ISREG(adopted.mode):
            raise InconsistentLog(f"node {op.node} has no content that could be lost")
        if bool(adopted.parent) == (op.node == ROOT):
            raise InconsistentLog(f"node {op.node} has no place in the tree")
        state = adopted_state(op.node, self._lsn, adopted)._replace(inode=0)
        self._nodes.add(state, self._lsn, complete=stat.S_ISDIR(state.mode))
        if op.flags & Flag.LOST:
            base = encode_base(BaseState(self._lsn, adopted.size_bytes, complete=False))
            self._txn.put(key_node_lsn(op.node, self._lsn), base, db=self._tables.bases)
        for name, value in adopted.xattrs:
            self._put_xattr(op.node, name, value)
        if adopted.parent:
            self._name(op, adopted.parent, adopted.name, new=True)

    def _further_name(self, op: Op) -> None:
        if self._nodes.get(op.node).is_directory:
            raise InconsistentLog(f"directory {op.node} has two names")
        self._name(op, *decode_entry(op.payload), new=False)

    def _name(self, op: Op, directory: NodeId, name: bytes, new: bool) -> None:
        key = key_name_lsn(directory, name, self._lsn)
        if not self._txn.put(key, key_lsn(op.node), overwrite=False, db=self._tables.names):
            raise InconsistentLog(f"two nodes are called {name!r} in directory {directory}")
        self._dirlog.append(key_lsn(directory), (op.lsn, name, op.node))
        self._links.append(key_lsn(op.node), (op.lsn, link_name(directory, name), 1), new=new)

    def _xattr(self, op: Op) -> None:
        self._nodes.get(op.node)
        payload = bytes(op.payload)
        self._put_xattr(op.node, payload[: op.offset], payload[op.offset :])

    def _put_xattr(self, node: int, name: bytes, value: bytes) -> None:
        key = key_name_lsn(node, name, self._lsn)
        self._txn.put(key, HELD + value, db=self._tables.xattrs)

    def _data(self, op: Op) -> None:
        node = self._nodes.get(op.node)
        if not stat.S_ISREG(node.mode) or op.offset + len(op.payload) > node.size_bytes:
            raise InconsistentLog(f"node {op.node} has no content at {op.offset}")
        self._content.write(op.node, node.generation, op.lsn, op.offset, len(op.payload))

    def _actor(self, op: Op) -> None:
        Actor.decode(op.payload)
        key = ACTOR_PREFIX + key_lsn(op.offset)
        self._txn.put(key, key_lsn(op.lsn), db=self._tables.meta)

    def _rows(self, op: Op) -> None:
        for entry in decode_entries(op.payload):
            self._points.load(entry)

    # --- history begins --------------------------------------------------------------------------

    def start(self, op: Op, last_lsn: Lsn) -> None:
        """The BASELINE op, of a batch up to `last_lsn`: what was described counts from now on."""
        if op.offset and op.offset < last_lsn:
            raise InconsistentLog(f"groups are stated up to LSN {op.offset}, within a batch")
        self._check_tree()
        self._put(Baseline(op.lsn, op.time_ns, Lsn(op.offset), op.node, whole=True))
        if op.payload:
            row = mark_row(op)
            self._txn.put(key_lsn(op.lsn), row, db=self._tables.marks)

    def _check_tree(self) -> None:
        """Every name must be in a directory. Rows of earlier batches are all written."""
        root = self._lookup.node_at(ROOT, self._lsn)
        if root is None or not stat.S_ISDIR(root[0].mode):
            raise InconsistentLog("the tree at the beginning of history has no root")
        with self._txn.cursor(self._tables.names) as cursor:
            found = cursor.first()
            while found:
                directory = int.from_bytes(cursor.key()[:8], "big")
                state = self._lookup.node_at(directory, self._lsn)
                if state is None or not stat.S_ISDIR(state[0].mode):
                    raise InconsistentLog(f"there are names in node {directory}, no directory")
                found = cursor.set_range(key_lsn(directory + 1))
