"""Reading the journal: what any node, name or byte was at any LSN.

`Journal` opens the index and the segments of a store read-only: one per process, any thread.
`Snapshot` is one consistent state of the index, for one thread at a time. Everything the index
does not know yet because seeding has not reached it raises `NotSeeded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from store.errors import NeverCaptured, NotSeeded
from store.index_rows import BaseState, NodeState, OpMeta, Piece, Point
from store.types import Lsn, NodeId, TimeNs
from store.volume import Store

__all__ = [
    "BaseState",
    "Journal",
    "NeverCaptured",
    "NodeState",
    "NotSeeded",
    "OpMeta",
    "Piece",
    "Point",
    "Snapshot",
]


class Snapshot:
    """A consistent state of the index. A context manager; for one thread at a time.

    An open one keeps LMDB from reusing pages, so it must not stay open for long without `renew`.
    """

    rows_visited: int
    """Index rows looked at since the snapshot began: what a lookup costs."""
    indexed_lsn: Lsn
    """LSN of the newest op in it; 0 when there is none."""

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
        """Let go of the state. Closing twice is fine."""
        raise NotImplementedError

    def renew(self) -> None:
        """Move to the newest committed state."""
        raise NotImplementedError

    def first(self) -> OpMeta | None:
        """The oldest op."""
        raise NotImplementedError

    def last(self) -> OpMeta | None:
        """The newest op."""
        raise NotImplementedError

    def lsn_at(self, time_ns: TimeNs) -> Lsn:
        """The newest op with a time of at most `time_ns`; 0 if there is none."""
        raise NotImplementedError

    def op(self, lsn: Lsn) -> OpMeta | None:
        """One op; None if the index doesn't hold it."""
        raise NotImplementedError

    def ops(self, start: Lsn, stop: Lsn) -> Iterator[OpMeta]:
        """The ops of LSN `[start, stop)`, in order."""
        raise NotImplementedError

    def state(self, node: NodeId, lsn: Lsn) -> NodeState | None:
        """Attributes of `node` at `lsn`; None if it was not known then or had no name left."""
        raise NotImplementedError

    def child(self, directory: NodeId, name: bytes, lsn: Lsn) -> NodeId | None:
        """What `name` in `directory` was at `lsn`. NotSeeded if that is not known yet."""
        raise NotImplementedError

    def children(self, directory: NodeId, lsn: Lsn) -> Iterator[tuple[bytes, NodeId]]:
        """All names of `directory` at `lsn`, sorted. NotSeeded if they are not all known yet."""
        raise NotImplementedError

    def xattrs(self, node: NodeId, lsn: Lsn) -> dict[bytes, bytes]:
        """Extended attributes of `node` at `lsn`."""
        raise NotImplementedError

    def pieces(self, node: NodeId, lsn: Lsn, start: int, stop: int) -> list[Piece]:
        """Where the bytes `[start, min(stop, size))` of `node` at `lsn` stand, without gaps.

        NotSeeded for content that the journal doesn't hold yet.
        """
        raise NotImplementedError

    def read(self, node: NodeId, lsn: Lsn, start: int, stop: int) -> bytes:
        """The bytes `[start, min(stop, size))` of `node` at `lsn`."""
        raise NotImplementedError

    def names(self, node: NodeId, lsn: Lsn) -> list[tuple[NodeId, bytes]]:
        """(directory, name) of every link that `node` had at `lsn` and that is known."""
        raise NotImplementedError

    def node_ops(self, node: NodeId, start: Lsn, stop: Lsn) -> Iterator[Lsn]:
        """LSNs in `[start, stop)` at which `node` changed (an adoption counts at its `since`)."""
        raise NotImplementedError

    def name_rows(self, directory: NodeId, name: bytes) -> Iterator[tuple[Lsn, NodeId]]:
        """History of one name, oldest first: (LSN, node from then on or 0)."""
        raise NotImplementedError

    def dead_names(self, directory: NodeId, lsn: Lsn) -> Iterator[tuple[bytes, NodeId, Lsn]]:
        """Names that once were and are not at `lsn`: name, last node, LSN of the removal."""
        raise NotImplementedError

    def dir_complete(self, directory: NodeId) -> bool:
        """Whether all names of a known directory are in the journal."""
        raise NotImplementedError

    def base(self, node: NodeId) -> BaseState | None:
        """The content that `node` had when it was last adopted; None if it never was."""
        raise NotImplementedError

    def region_seeded(self, node: NodeId, region: int) -> bool:
        """Whether that chunk of the node's newest base content is in the journal (or none is)."""
        raise NotImplementedError

    def node_by_inode(self, inode: int) -> NodeId | None:
        """The adopted node of that backing inode, if it was adopted with several links."""
        raise NotImplementedError

    def marks(self) -> list[tuple[str, Lsn, TimeNs]]:
        """Every mark, oldest first."""
        raise NotImplementedError

    def points(self, start: Lsn, stop: Lsn, grade: str | None = None) -> Iterator[Point]:
        """Recovery points of LSN `[start, stop)`, oldest first, of one grade or of all."""
        raise NotImplementedError

    def max_node(self) -> NodeId:
        """The highest NodeId in the log; 0 if there is none."""
        raise NotImplementedError

    def stats(self) -> dict[str, int]:
        """ops, payload_bytes, segment_bytes, index_bytes, first_time_ns, last_time_ns."""
        raise NotImplementedError


class Journal:
    """The journal of a store, opened for reading. A context manager; any thread.

    Every method of `Snapshot` is here too, each call on a fresh snapshot of its own.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def snapshot(self) -> Snapshot:
        """The newest committed state."""
        raise NotImplementedError

    def read_payload(self, lsn: Lsn) -> bytes:
        """The whole payload of an op, its checksums tested."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the index and the segments. Closing twice is fine."""
        raise NotImplementedError
