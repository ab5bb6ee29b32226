"""Which node has which name: the journal's answer, plus what is not indexed yet.

Duty: (directory, name) → NodeId for the live tree, and the few other things that fsd asks the
journal about nodes. Changes enter at once (`set`); they are dropped when the index has them. New
NodeIds are handed out here.

Runs on the loop's thread only; reads LMDB through one long-lived snapshot that moves on whenever
the indexer has committed.
"""

from __future__ import annotations

from collections import deque

from store.journal import BaseState, Journal, NotSeeded
from store.statepage import StatePage
from store.types import Lsn, NodeId

NOW = Lsn((1 << 62) - 1)
"""An LSN behind every op: the journal's newest state."""


class Names:
    """Names of the live tree."""

    def __init__(self, journal: Journal, page: StatePage) -> None:
        self._page = page
        self._snapshot = journal.snapshot()
        self._indexed = int(self._snapshot.indexed_lsn)
        self._names: dict[tuple[int, bytes], tuple[int, int]] = {}
        self._inodes: dict[int, tuple[NodeId, int]] = {}
        self._order: deque[tuple[int, tuple[int, bytes] | int]] = deque()
        self.pinned = False
        """Keep what is `set` from now on, since it is not on its way to the index."""
        self._unlogged: set[tuple[int, bytes]] = set()
        self._last_node = int(self._snapshot.max_node())
        self.last_inherited = self._last_node
        """Nodes up to here are known from earlier sessions."""

    def close(self) -> None:
        """Give the snapshot back."""
        self._snapshot.close()

    def new_node(self) -> NodeId:
        """A NodeId that was never used."""
        self._last_node += 1
        return NodeId(self._last_node)

    def used_node(self, node: int) -> None:
        """A NodeId from the log that the index may not have seen."""
        self._last_node = max(self._last_node, node)

    def set(self, directory: NodeId, name: bytes, node: int, lsn: Lsn) -> None:
        """From op `lsn` on the name stands for `node` (0: for nothing)."""
        key = (directory, name)
        if self.pinned:
            self._names[key] = (node, NOW)
            self._unlogged.add(key)
            return
        self._names[key] = (node, lsn)
        self._order.append((lsn, key))

    @property
    def unlogged(self) -> int:
        """How many names are kept because they are not on their way to the index."""
        return len(self._unlogged)

    def unpin(self, lsn: Lsn) -> None:
        """The log has got all of them, up to op `lsn`."""
        self.pinned = False
        for key in self._unlogged:
            self._names[key] = (self._names[key][0], lsn)
            self._order.append((lsn, key))
        self._unlogged.clear()

    def set_inode(self, inode: int, node: NodeId, lsn: Lsn) -> None:
        """The adopted `node` has several links and this backing inode."""
        self._inodes[inode] = (node, lsn)
        self._order.append((lsn, inode))

    def child(self, directory: NodeId, name: bytes) -> NodeId | None:
        """The node under a name; None when the journal knows of none."""
        found = self._names.get((directory, name))
        if found is not None:
            return NodeId(found[0]) if found[0] else None
        self._follow()
        try:
            return self._snapshot.child(directory, name, NOW)
        except NotSeeded:
            return None

    def may_be_old(self, directory: NodeId, name: bytes) -> bool:
        """Can what is there have been there before cdpfs?

        Not when the log has had the name, or a full listing of the directory, without it.
        """
        if (directory, name) in self._names:
            return False
        return self.index_lacks(directory, name)

    def index_lacks(self, directory: NodeId, name: bytes) -> bool:
        """Does the index know neither the name nor that there was nothing under it?"""
        self._follow()
        try:
            self._snapshot.child(directory, name, NOW)
        except NotSeeded:
            return True
        return False

    def node_by_inode(self, inode: int) -> NodeId | None:
        """The adopted node with this backing inode, among those with several links."""
        found = self._inodes.get(inode)
        if found is not None:
            return found[0]
        self._follow()
        return self._snapshot.node_by_inode(inode)

    def names_of(self, node: NodeId) -> list[tuple[NodeId, bytes]]:
        """(directory, name) pairs of a node in the live tree. Slow: walks what is not indexed."""
        self._follow()
        pairs = [(NodeId(key[0]), key[1]) for key, found in self._names.items() if found[0] == node]
        pairs += [pair for pair in self._snapshot.names(node, NOW) if self._names.get(pair) is None]
        return pairs

    def base(self, node: NodeId) -> BaseState | None:
        """How far a node's base content is in the journal, as indexed."""
        self._follow()
        return self._snapshot.base(node)

    def region_seeded(self, node: NodeId, region: int) -> bool:
        """Is this chunk of base content in the journal, as indexed?"""
        self._follow()
        return self._snapshot.region_seeded(node, region)

    def dir_complete(self, directory: NodeId) -> bool:
        """Are all names of the directory in the journal, as indexed?"""
        self._follow()
        return self._snapshot.dir_complete(directory)

    def holds(self, missing: NotSeeded) -> bool:
        """Is what a view lacked in the index by now?"""
        node = NodeId(missing.node)
        if missing.region is not None:
            return self.region_seeded(node, missing.region)
        if missing.name is None:
            return self.dir_complete(node)
        self._follow()
        try:
            self._snapshot.child(node, missing.name, NOW)
        except NotSeeded:
            return False
        return True

    @property
    def indexed_lsn(self) -> int:
        """Up to where the answers come from the index."""
        self._follow()
        return self._indexed

    def _follow(self) -> None:
        """Move on to the newest commit, then drop what it holds: never the other way round."""
        if self._page.indexed_lsn == self._indexed:
            return
        self._snapshot.renew()
        self._indexed = indexed = int(self._snapshot.indexed_lsn)
        order = self._order
        while order and order[0][0] <= indexed:
            lsn, key = order.popleft()
            if isinstance(key, tuple):
                if self._names.get(key, (0, 0))[1] == lsn:
                    del self._names[key]
            elif self._inodes.get(key, (0, 0))[1] == lsn:
                del self._inodes[key]
