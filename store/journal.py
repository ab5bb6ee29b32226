"""Reading the journal: what any node, name or byte was at any LSN.

`Journal` opens the index and the segments of a store for reading: one per process, any thread.
Its snapshots (`store.snapshot`) answer; this is the door to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from store.barrier_state import Group
from store.errors import NeverCaptured, NotSeeded
from store.index_env import IndexEnvironment
from store.index_rows import BaseState, FoldSpan, GapSpan, NodeState, OpMeta, Piece, Point
from store.segment import SegmentReader
from store.snapshot import Snapshot
from store.types import Lsn, NodeId, TimeNs
from store.volume import Store

__all__ = [
    "BaseState",
    "FoldSpan",
    "GapSpan",
    "Group",
    "Journal",
    "NeverCaptured",
    "NodeState",
    "NotSeeded",
    "OpMeta",
    "Piece",
    "Point",
    "Snapshot",
]


class Journal:
    """The journal of a store, opened for reading. A context manager; any thread.

    Every method of `Snapshot` is here too, each call on a fresh snapshot of its own.
    """

    def __init__(self, store: Store) -> None:
        self._env = IndexEnvironment(store.index_dir)
        self._segments = SegmentReader(store)
        self._foreign_lsn = Lsn(store.config.foreign_lsn)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the index and the segments. Closing twice is fine."""
        self._env.close()
        self._segments.close()

    def snapshot(self) -> Snapshot:
        """The newest committed state."""
        return Snapshot(self._env, self._segments, self._foreign_lsn)

    def read_payload(self, lsn: Lsn) -> bytes:
        """The whole payload of an op, its checksums tested."""
        with self.snapshot() as snapshot:
            return snapshot.payload(lsn)

    @property
    def indexed_lsn(self) -> Lsn:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.indexed_lsn

    def first(self) -> OpMeta | None:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.first()

    def last(self) -> OpMeta | None:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.last()

    def lsn_at(self, time_ns: TimeNs) -> Lsn:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.lsn_at(time_ns)

    def lsn_at_clock(self, wall_ns: int) -> Lsn:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.lsn_at_clock(wall_ns)

    def op(self, lsn: Lsn) -> OpMeta | None:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.op(lsn)

    def ops(self, start: Lsn, stop: Lsn) -> Iterator[OpMeta]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            yield from snapshot.ops(start, stop)

    def state(self, node: NodeId, lsn: Lsn) -> NodeState | None:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.state(node, lsn)

    def child(self, directory: NodeId, name: bytes, lsn: Lsn) -> NodeId | None:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.child(directory, name, lsn)

    def children(self, directory: NodeId, lsn: Lsn) -> Iterator[tuple[bytes, NodeId]]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.children(directory, lsn)

    def xattrs(self, node: NodeId, lsn: Lsn) -> dict[bytes, bytes]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.xattrs(node, lsn)

    def pieces(self, node: NodeId, lsn: Lsn, start: int, stop: int) -> list[Piece]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.pieces(node, lsn, start, stop)

    def read(self, node: NodeId, lsn: Lsn, start: int, stop: int) -> bytes:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.read(node, lsn, start, stop)

    def names(self, node: NodeId, lsn: Lsn) -> list[tuple[NodeId, bytes]]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.names(node, lsn)

    def node_ops(self, node: NodeId, start: Lsn, stop: Lsn) -> Iterator[Lsn]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            yield from snapshot.node_ops(node, start, stop)

    def name_rows(self, directory: NodeId, name: bytes) -> Iterator[tuple[Lsn, NodeId]]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            yield from snapshot.name_rows(directory, name)

    def dead_names(self, directory: NodeId, lsn: Lsn) -> Iterator[tuple[bytes, NodeId, Lsn]]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            yield from snapshot.dead_names(directory, lsn)

    def dir_complete(self, directory: NodeId) -> bool:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.dir_complete(directory)

    def base(self, node: NodeId) -> BaseState | None:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.base(node)

    def region_seeded(self, node: NodeId, region: int) -> bool:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.region_seeded(node, region)

    def node_by_inode(self, inode: int) -> NodeId | None:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.node_by_inode(inode)

    def marks(self) -> list[tuple[str, Lsn, TimeNs]]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.marks()

    def gaps(self) -> list[GapSpan]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.gaps()

    def points(
        self, start: Lsn, stop: Lsn, grade: str | None = None, group: Lsn | None = None
    ) -> Iterator[Point]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            yield from snapshot.points(start, stop, grade, group)

    def point_before(self, group: Lsn, lsn: Lsn, least: str = "sync") -> Point | None:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.point_before(group, lsn, least)

    def groups(self) -> Iterator[Group]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            yield from snapshot.groups()

    def group(self, number: Lsn) -> Group | None:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.group(number)

    def max_node(self) -> NodeId:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.max_node()

    def stats(self) -> dict[str, int]:
        """See `Snapshot`."""
        with self.snapshot() as snapshot:
            return snapshot.stats()
