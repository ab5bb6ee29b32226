"""The one definition of the past: a volume's names, attributes and content as of one LSN.

Duty: answer for one LSN what a file system would have answered. FUSE, restore and HTTP are
adapters over it. Read-only, synchronous, any thread: each call reads a fresh snapshot of the
index, and nothing is cached, since what is right for an LSN can still become known later (what
was there before cdpfs is adopted retroactively) and the callers that need a cache (the kernel)
have one. It knows nothing of moments as people write them, of FUSE or of the live tree.

Directories report `links` = 1: counting their subdirectories would cost a pass over all names,
and 1 is what file systems that do not count report (`find` and `fts` then do not rely on it).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from store.errors import NotSeeded
from store.format import CHUNK_BYTES
from store.journal import Journal, NodeState, Piece, Snapshot
from store.types import NO_NODE, ROOT, Lsn, NodeId, TimeNs
from timetravel.errors import NoSuchNode, NoSuchPath, NotADirectory
from timetravel.moment import format_time

__all__ = ["NodeState", "Piece", "View"]

_Answer = TypeVar("_Answer")

_AREA_WINDOW_BYTES = 16 * CHUNK_BYTES
"""How much of a file `data_areas` asks for at once: bounds the piece lists held in memory."""

_MAX_DEMANDS = 10_000
"""Demands that one question may cost; each brings in something else, so more is a bug."""


class View:
    """The past as of `lsn`. See the module's docstring for the threading rule.

    `demand` is called with what the journal does not hold yet and returns when it does; without
    it, NotSeeded goes to the caller of whatever method met it.
    """

    def __init__(
        self,
        journal: Journal,
        lsn: Lsn,
        demand: Callable[[NotSeeded], None] | None = None,
    ) -> None:
        self.journal = journal
        self.lsn = lsn
        self._demand = demand
        with journal.snapshot() as snapshot:
            op = snapshot.op(lsn)
        self.time_ns = op.time_ns if op is not None else TimeNs(0)

    def root(self) -> NodeState:
        """The volume's top directory."""
        return self.state(ROOT)

    def state(self, node: NodeId) -> NodeState:
        """Attributes of `node`; NoSuchNode if it did not exist or had no name left."""
        state = self._ask(lambda snapshot: snapshot.state(node, self.lsn))
        if state is None:
            raise NoSuchNode(node, self.lsn)
        return state

    def states(self, nodes: Sequence[NodeId]) -> list[NodeState]:
        """As `state`, of several nodes at once: one pass over the index."""

        def find(snapshot: Snapshot) -> list[NodeState]:
            found = []
            for node in nodes:
                state = snapshot.state(node, self.lsn)
                if state is None:
                    raise NoSuchNode(node, self.lsn)
                found.append(state)
            return found

        return self._ask(find)

    def lookup(self, directory: NodeId, name: bytes) -> NodeState | None:
        """What stood under `name`; None if nothing did. NotADirectory."""

        def find(snapshot: Snapshot) -> NodeState | None:
            try:
                node = snapshot.child(directory, name, self.lsn)
            except NotSeeded:
                # Only of a directory can something be demanded.
                self._check_directory(snapshot, directory)
                raise
            if node is None:
                # The check costs a lookup, so only where the answer is in doubt.
                self._check_directory(snapshot, directory)
                return None
            return snapshot.state(node, self.lsn)

        return self._ask(find)

    def entries(self, directory: NodeId) -> list[tuple[bytes, NodeId]]:
        """All names with their nodes, sorted, without `.` and `..`. NotADirectory."""

        def listing(snapshot: Snapshot) -> list[tuple[bytes, NodeId]]:
            self._check_directory(snapshot, directory)
            return list(snapshot.children(directory, self.lsn))

        return self._ask(listing)

    def listing(self, directory: NodeId) -> list[tuple[bytes, NodeState]]:
        """As `entries`, with the attributes: one pass over the index instead of one for each."""

        def states(snapshot: Snapshot) -> list[tuple[bytes, NodeState]]:
            self._check_directory(snapshot, directory)
            found = []
            for name, node in snapshot.children(directory, self.lsn):
                state = snapshot.state(node, self.lsn)
                if state is None:
                    raise NoSuchNode(node, self.lsn)
                found.append((name, state))
            return found

        return self._ask(states)

    def _check_directory(self, snapshot: Snapshot, node: NodeId) -> None:
        state = snapshot.state(node, self.lsn)
        if state is None:
            raise NoSuchNode(node, self.lsn)
        if not stat.S_ISDIR(state.mode):
            raise NotADirectory(node, self.lsn)

    def xattrs(self, node: NodeId) -> dict[bytes, bytes]:
        """Extended attributes by name, ACLs among them."""
        return self._ask(lambda snapshot: snapshot.xattrs(node, self.lsn))

    def read(self, node: NodeId, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start` on; fewer, or none, at the end of the file."""
        stop = start + size
        parts = []
        # By regions, so that seeding one region does not mean reading its neighbours again.
        for cut_start, cut_stop in _regions(start, stop):
            part = self._read_region(node, cut_start, cut_stop)
            parts.append(part)
            if len(part) < cut_stop - cut_start:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_region(self, node: NodeId, start: int, stop: int) -> bytes:
        return self._ask(lambda snapshot: snapshot.read(node, self.lsn, start, stop))

    def pieces(self, node: NodeId, start: int, stop: int) -> list[Piece]:
        """Where the bytes `[start, min(stop, size))` stand in the journal, without gaps."""
        return self._ask(lambda snapshot: snapshot.pieces(node, self.lsn, start, stop))

    def data_areas(self, node: NodeId) -> Iterator[tuple[int, int]]:
        """The intervals `[start, stop)` of a file that are not holes, in order, not touching."""
        size = self.state(node).size_bytes
        area_start = area_stop = 0
        for window in range(0, size, _AREA_WINDOW_BYTES):
            for piece in self.pieces(node, window, min(window + _AREA_WINDOW_BYTES, size)):
                if not piece.source:
                    continue
                if piece.start != area_stop:
                    if area_stop > area_start:
                        yield area_start, area_stop
                    area_start = piece.start
                area_stop = piece.stop
        if area_stop > area_start:
            yield area_start, area_stop

    def expecting(self, _files: Iterable[tuple[NodeId, int]]) -> AbstractContextManager[object]:
        """See `timetravel.readable.Readable`: here nothing is gained by knowing."""
        return nullcontext()

    def find(self, path: bytes) -> NodeState | None:
        """What stood at `path`, relative to the volume's root (b"" is the root); None if nothing.

        Symbolic links are not followed; `..` goes up and stops at the root.
        """
        state = self.root()
        above: list[NodeState] = []
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            if name == b"..":
                state = above.pop() if above else state
                continue
            below = self.lookup(state.node, name) if stat.S_ISDIR(state.mode) else None
            if below is None:
                return None
            above.append(state)
            state = below
        return state

    def walk(self, path: bytes) -> NodeState:
        """As `find`; NoSuchPath if nothing stood there."""
        state = self.find(path)
        if state is None:
            raise NoSuchPath(path, format_time(self.time_ns))
        return state

    def path_of(self, node: NodeId) -> bytes:
        """A path of `node`, relative to the root: b"" for the root, its first name for links.

        NoSuchNode if it had none.
        """
        names: list[bytes] = []
        seen = {node}
        while node != ROOT:
            parents = self.names(node)
            if not parents or parents[0][0] in seen:
                raise NoSuchNode(node, self.lsn)
            node, name = parents[0]
            seen.add(node)
            names.append(name)
        return b"/".join(reversed(names))

    def names(self, node: NodeId) -> list[tuple[NodeId, bytes]]:
        """(directory, name) of every link of `node`, as far as they are known; sorted."""
        found = self._ask(lambda snapshot: snapshot.names(node, self.lsn))
        return sorted(entry for entry in found if entry[0] != NO_NODE)

    def _ask(self, question: Callable[[Snapshot], _Answer]) -> _Answer:
        """The answer of a fresh snapshot, after demanding whatever it lacks."""
        for _ in range(_MAX_DEMANDS):
            try:
                with self.journal.snapshot() as snapshot:
                    return question(snapshot)
            except NotSeeded as error:
                if self._demand is None:
                    raise
                # Its traceback would keep this frame, and so the snapshot, in a cycle.
                lacking = error.with_traceback(None)
            self._demand(lacking)
        raise lacking


def _regions(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """`[start, stop)` cut at multiples of the region size."""
    while start < stop:
        cut = min(stop, (start // CHUNK_BYTES + 1) * CHUNK_BYTES)
        yield start, cut
        start = cut
