"""What each kind of op does to the tree in the index: nodes, names, links, attributes, bases.

One handler per kind, called in LSN order by `index`. Adoptions are the exception to that order:
they happen at their `since`, the MOUNT op of the session that found the node, after which there
may be newer rows of other names already. One thread at a time.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable

from store.errors import InconsistentLog
from store.format import Flag, Kind, key_lsn, key_name_lsn, key_node_lsn
from store.index_baseline import BaselineTree
from store.index_content import ContentWriter
from store.index_env import CLOCK_PREFIX, FOLD_PREFIX, GAP_PREFIX, Tables, Transaction
from store.index_history import NEWEST, HistoryWriter
from store.index_listing import Change, ListingCodec, link_name
from store.index_lookup import HELD, REMOVED, Lookup
from store.index_nodes import Node, NodeWriter, adopted_state, new_state
from store.index_points import PointWriter
from store.index_rows import BaseState, NodeState, encode_base, mark_row
from store.ops import (
    RENAME_EXCHANGE,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_UID,
    Adopted,
    Attributes,
    Created,
    Folded,
    Op,
    Renamed,
    decode_entry,
)
from store.types import Lsn

_PERMISSIONS = 0o7777
CLOCK_AHEAD_NS = 1_000_000_000
"""The log's clock counts as ahead of the machine's from this difference on."""


class TreeWriter:
    """Applies ops to the tables of the tree."""

    def __init__(self, tables: Tables, points: PointWriter) -> None:
        self._tables = tables
        self.nodes = NodeWriter(tables)
        self.content = ContentWriter(tables)
        listing = ListingCodec()
        self._dirlog: HistoryWriter[dict[bytes, int], Change] = HistoryWriter(
            tables.dirlog, listing
        )
        self._links: HistoryWriter[dict[bytes, int], Change] = HistoryWriter(tables.links, listing)
        self.baseline = BaselineTree(
            tables, self.nodes, self.content, self._dirlog, self._links, points
        )
        self.handlers: dict[int, Callable[[Op], None]] = {
            Kind.TRUNCATE: self._truncate,
            Kind.CREATE: self._create,
            Kind.LINK: self._link,
            Kind.UNLINK: self._unlink,
            Kind.RENAME: self._rename,
            Kind.SETATTR: self._setattr,
            Kind.SETXATTR: self._setxattr,
            Kind.REMOVEXATTR: self._removexattr,
            Kind.MARK: self._mark,
            Kind.ADOPT: self._adopt,
            Kind.ADOPT_NAME: self._adopt_name,
            Kind.BASE: self._base,
            Kind.DIR_SEEDED: self._dir_seeded,
            Kind.GAP: self._gap,
            Kind.FOLDED: self._folded,
            Kind.MOUNT: self._clock,
            Kind.CHECKPOINT: self._clock,
        }
        """By kind; ops of other kinds (and WRITE, which `index` does itself) change no tree."""

    def begin(self, txn: Transaction, lookup: Lookup) -> None:
        """Work in this write transaction from now on."""
        self._txn = txn
        self._lookup = lookup
        self.nodes.begin(txn, lookup)
        self.content.begin(txn, lookup)
        self._dirlog.begin(txn)
        self._links.begin(txn)
        self.baseline.begin(txn, lookup)

    def flush(self) -> None:
        """Write everything that is pending: the end of a batch."""
        self.nodes.flush()
        self.content.flush()
        self._dirlog.flush()
        self._links.flush()

    def forget(self) -> None:
        """Drop everything that is pending or remembered: the transaction was aborted."""
        self.nodes.forget()
        self.content.forget()
        self._dirlog.forget()
        self._links.forget()

    # --- content and attributes ------------------------------------------------------------------

    def _truncate(self, op: Op) -> None:
        node, size = self.nodes.get(op.node), op.offset
        old_size, node.size_bytes = node.size_bytes, size
        if size == 0 and old_size:
            node.generation = op.lsn
            node.mtime_ns = node.ctime_ns = op.time_ns
            self.nodes.write(node, op.lsn)
            return
        if size < old_size:
            self.content.cut(op.node, node.generation, op.lsn, size, old_size)
        node.touch(op.lsn, op.time_ns)

    def _setattr(self, op: Op) -> None:
        node, given = self.nodes.get(op.node), Attributes.decode(op.payload)
        if given.mask & SET_MODE:
            node.mode = node.mode & ~_PERMISSIONS | given.mode & _PERMISSIONS
        if given.mask & SET_UID:
            node.uid = given.uid
        if given.mask & SET_GID:
            node.gid = given.gid
        if given.mask & SET_ATIME:
            node.atime_ns = given.atime_ns
        if given.mask & SET_MTIME:
            node.mtime_ns = given.mtime_ns
        self._changed(node, op)

    def _setxattr(self, op: Op) -> None:
        payload = bytes(op.payload)
        self._put_xattr(op.node, payload[: op.offset], op.lsn, HELD + payload[op.offset :])
        self._changed(self.nodes.get(op.node), op)

    def _removexattr(self, op: Op) -> None:
        self._put_xattr(op.node, bytes(op.payload), op.lsn, REMOVED)
        self._changed(self.nodes.get(op.node), op)

    def _put_xattr(self, node: int, name: bytes, lsn: int, row: bytes) -> None:
        self._txn.put(key_name_lsn(node, name, lsn), row, db=self._tables.xattrs)

    def _changed(self, node: Node, op: Op) -> None:
        """The op changed the node's attributes."""
        node.ctime_ns = op.time_ns
        self.nodes.write(node, op.lsn)

    # --- names -----------------------------------------------------------------------------------

    def _create(self, op: Op) -> None:
        created = Created.decode(op.payload)
        state = new_state(op.node, created.mode, op.lsn, op.time_ns, created.uid, created.gid)
        size = len(created.target) if stat.S_ISLNK(created.mode) else 0
        state = state._replace(rdev=created.rdev, target=created.target, size_bytes=size)
        self.nodes.add(state, op.lsn, complete=stat.S_ISDIR(created.mode))
        self._links.append(
            key_lsn(op.node), (op.lsn, link_name(op.offset, created.name), 1), new=True
        )
        self._set_name(op, op.offset, created.name, op.node)

    def _link(self, op: Op) -> None:
        node, name = self.nodes.get(op.node), bytes(op.payload)
        node.links += 1
        self._changed(node, op)
        self._add_link(op, op.node, op.offset, name)
        self._set_name(op, op.offset, name, op.node)

    def _unlink(self, op: Op) -> None:
        name = bytes(op.payload)
        self._drop_link(op, op.node, op.offset, name)
        self._lose_name(op, op.node)
        self._set_name(op, op.offset, name, 0)

    def _rename(self, op: Op) -> None:
        moved, old_parent = Renamed.decode(op.payload), op.offset
        other = moved.other
        exchange = bool(moved.flags & RENAME_EXCHANGE)
        self._drop_link(op, op.node, old_parent, moved.name)
        self._add_link(op, op.node, moved.new_parent, moved.new_name)
        if other:
            self._drop_link(op, other, moved.new_parent, moved.new_name)
        if other and exchange:
            self._add_link(op, other, old_parent, moved.name)
            self._changed(self.nodes.get(other), op)
        elif other:
            self._lose_name(op, other)
        self._set_name(op, old_parent, moved.name, other if exchange else 0)
        self._set_name(op, moved.new_parent, moved.new_name, op.node)
        self._changed(self.nodes.get(op.node), op)

    def _lose_name(self, op: Op, number: int) -> None:
        node = self.nodes.get(number)
        node.links = max(node.links - 1, 0)
        if not node.links and node.inode:
            key = key_lsn(node.inode)
            if self._txn.get(key, db=self._tables.inodes) == key_lsn(number):
                self._txn.delete(key, db=self._tables.inodes)
        self._changed(node, op)

    def _set_name(self, op: Op, directory: int, name: bytes, node: int) -> None:
        """The name leads to the node (0: nowhere) from the op on."""
        parent = self.nodes.get(directory)
        self._txn.put(key_name_lsn(directory, name, op.lsn), key_lsn(node), db=self._tables.names)
        if parent.complete:
            self._dirlog.append(key_lsn(directory), (op.lsn, name, node))
        parent.touch(op.lsn, op.time_ns)

    def _add_link(self, op: Op, node: int, directory: int, name: bytes) -> None:
        self._links.append(key_lsn(node), (op.lsn, link_name(directory, name), 1))

    def _drop_link(self, op: Op, node: int, directory: int, name: bytes) -> None:
        self._links.append(key_lsn(node), (op.lsn, link_name(directory, name), 0))

    def _mark(self, op: Op) -> None:
        self._txn.put(key_lsn(op.lsn), mark_row(op), db=self._tables.marks)

    def _gap(self, op: Op) -> None:
        row = op.offset.to_bytes(8, "little") + bytes(op.payload)
        self._txn.put(GAP_PREFIX + key_lsn(op.lsn), row, db=self._tables.meta)

    def _folded(self, op: Op) -> None:
        """A write whose bytes are not here: the node had changed, and what it became came later."""
        self.nodes.get(op.node).touch(op.lsn, op.time_ns)
        if op.payload:
            until = Folded.decode(op.payload).until
            self._txn.put(FOLD_PREFIX + key_lsn(until), bytes(op.payload), db=self._tables.meta)

    def _clock(self, op: Op) -> None:
        """The machine's clock, which may have been set back behind the log's.

        Of two ops the later one counts at every time from its own on; so the rows, in the order of
        their times, are in the order of their LSNs as well.
        """
        wall_ns = _wall_ns(op.payload)
        if not 0 < wall_ns < op.time_ns - CLOCK_AHEAD_NS:
            return
        key = CLOCK_PREFIX + key_lsn(wall_ns)
        with self._txn.cursor(self._tables.meta) as cursor:
            found = cursor.set_range(key)
            while found and cursor.key().startswith(CLOCK_PREFIX):
                found = cursor.delete()
        self._txn.put(key, key_lsn(op.lsn), db=self._tables.meta)

    # --- what was there before -------------------------------------------------------------------

    def _adopt(self, op: Op) -> None:
        since, adopted = self._since(op), Adopted.decode(op.payload)
        known = self.nodes.find(op.node)
        if known is not None and self._was_described(op):
            if adopted.parent:
                self._adopted_name(op, adopted.parent, adopted.name, new=False)
            return
        if known is not None and self.nodes.newest_lsn(known) > since:
            raise InconsistentLog(f"node {op.node} changed before it was adopted at LSN {since}")
        state = adopted_state(op.node, Lsn(since), adopted)
        complete = stat.S_ISDIR(state.mode) and known is not None and known.complete
        self.nodes.add(state, since, complete)
        self._adopt_base(state, complete)
        self._adopt_xattrs(state, adopted, known is not None)
        if adopted.parent:
            self._adopted_name(op, adopted.parent, adopted.name, new=known is None)
        if adopted.inode and state.links > 1:
            self._txn.put(key_lsn(adopted.inode), key_lsn(op.node), db=self._tables.inodes)

    def _since(self, op: Op) -> Lsn:
        """When an adopted node or name was seen; not before the history here begins."""
        baseline = self.baseline.baseline
        return Lsn(max(op.offset, baseline.lsn) if baseline is not None else op.offset)

    def _was_described(self, op: Op) -> bool:
        """Was the adopted node or name seen before the history here begins? Then what it was like
        there is known already."""
        baseline = self.baseline.baseline
        return baseline is not None and op.offset <= baseline.lsn

    def _adopt_base(self, state: NodeState, listed: bool) -> None:
        complete = listed
        if not stat.S_ISDIR(state.mode):
            complete = not (stat.S_ISREG(state.mode) and state.size_bytes)
        size = state.size_bytes if stat.S_ISREG(state.mode) else 0
        self._put_base(state.node, BaseState(state.changed, size, complete))

    def _put_base(self, node: int, base: BaseState) -> None:
        self._txn.put(key_node_lsn(node, base.since), encode_base(base), db=self._tables.bases)

    def _adopt_xattrs(self, state: NodeState, adopted: Adopted, known: bool) -> None:
        held = dict(adopted.xattrs)
        if known:
            for name in self._lookup.xattrs(state.node, state.changed):
                if name not in held:
                    self._put_xattr(state.node, name, state.changed, REMOVED)
        for name, value in held.items():
            self._put_xattr(state.node, name, state.changed, HELD + value)

    def _adopt_name(self, op: Op) -> None:
        parent, name = decode_entry(op.payload)
        self.nodes.get(op.node)
        self._adopted_name(op, parent, name, new=False)

    def _adopted_name(self, op: Op, directory: int, name: bytes, new: bool) -> None:
        """The name led to the node from `since` on. `new`: nothing is known of the node's names.

        A name that has changed since then (it was removed through the mount and made again behind
        its back) leads there from the op on.
        """
        node, since = op.node, self._since(op)
        parent = self.nodes.get(directory)
        row = self._lookup.name_row_at(directory, name, NEWEST)
        if row is not None and row[1] == node:
            return
        if (row is not None and row[0] > since) or self._was_described(op):
            since = op.lsn
        self._txn.put(key_name_lsn(directory, name, since), key_lsn(node), db=self._tables.names)
        if parent.complete:
            self._dirlog.insert(key_lsn(directory), since, (since, name, node))
        link: Change = (since, link_name(directory, name), 1)
        if new:
            self._links.append(key_lsn(node), link, new=True)
        else:
            self._links.insert(key_lsn(node), since, link)

    def _base(self, op: Op) -> None:
        base = self._lookup.base(op.node)
        if base is None and self.baseline.baseline is not None:
            return  # that content is as of before the history here begins, and described there
        if base is None:
            raise InconsistentLog(f"base content of node {op.node}, which was never adopted")
        self.content.base(op.node, base.since, op.lsn, op.offset, len(op.payload))
        if op.flags & Flag.LAST:
            self._put_base(op.node, base._replace(complete=True))

    def _dir_seeded(self, op: Op) -> None:
        """The directory's log, which is kept for complete ones only, begins with its past."""
        directory = self.nodes.get(op.node)
        base = self._lookup.base(op.node)
        if directory.complete or base is None:
            return
        rows = [(lsn, name, node) for name, lsn, node in self._lookup.all_name_rows(op.node)]
        rows.sort()
        for row in rows:
            self._dirlog.append(key_lsn(op.node), row)
        directory.complete = True
        self._put_base(op.node, base._replace(complete=True))


def _wall_ns(payload: bytes | memoryview) -> int:
    """What the machine's clock said; 0 when the op does not tell."""
    try:
        said = json.loads(bytes(payload))["time_ns"]
    except (ValueError, KeyError, TypeError):
        return 0
    return said if isinstance(said, int) and 0 < said < 1 << 63 else 0
