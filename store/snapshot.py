"""One consistent state of the journal: what any node, name or byte was at any LSN.

For one thread at a time. What the journal does not hold yet because seeding has not reached it
raises `NotSeeded`.
"""

from __future__ import annotations

import heapq
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from store.barrier_state import Group
from store.batch import BatchHeader
from store.errors import NeverCaptured, NotSeeded, RecoveryUnfinished, StoreError
from store.extents import RegionPiece, window
from store.format import CHUNK_BYTES
from store.index_env import IndexEnvironment
from store.index_history import NEWEST
from store.index_listing import split_link
from store.index_lookup import Lookup, text_of
from store.index_points import KnownGroups, PointReader
from store.index_rows import (
    Baseline,
    BaseState,
    BatchPlace,
    FoldSpan,
    GapSpan,
    NodeState,
    OpMeta,
    Piece,
    Point,
)
from store.ops import Folded, Gap, Op
from store.segment import SegmentReader
from store.types import NO_LSN, Lsn, NodeId, TimeNs

_KEEP_PIECES = 100_000
"""Pieces of regions that a snapshot remembers, for the next read nearby."""

_FEW_REGIONS = 4
"""Of so many regions each is looked up; of more, only those that have content are."""


class Snapshot:
    """A consistent state of the index. A context manager; for one thread at a time.

    An open one keeps LMDB from reusing pages, so it must not stay open for long without `renew`.
    """

    def __init__(
        self, env: IndexEnvironment, segments: SegmentReader, foreign_lsn: Lsn = NO_LSN
    ) -> None:
        self._env = env
        self._segments = segments
        self._foreign_lsn = foreign_lsn
        self._visited = 0
        self._closed = False
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self) -> None:
        self._txn = self._env.begin()
        self._lookup = Lookup(self._txn, self._env.tables)
        self._points = PointReader(self._txn, self._env.tables)
        self._state = self._lookup.index_state()
        self.baseline: Baseline | None = self._lookup.baseline()
        """Where the history of a copy begins; None: with the volume's first op."""
        self._floor = self.baseline.lsn if self.baseline is not None else NO_LSN
        """What has a lower LSN only describes the tree at the beginning."""
        if self.baseline is not None and not self.baseline.whole:
            self.close()
            raise RecoveryUnfinished("not all of this copy is there", "make it again")
        self._regions: dict[tuple[int, int, int, int], list[RegionPiece]] = {}
        self._kept = 0

    def close(self) -> None:
        """Let go of the state. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._txn.abort()
        # LMDB has a limited number of readers, and counts this one as long as anything refers to
        # its transaction: a closed snapshot that lives on in a traceback must not.
        del self._txn, self._lookup, self._points

    def renew(self) -> None:
        """Move to the newest committed state."""
        self._visited = self.rows_visited
        self._txn.abort()
        self._begin()

    @property
    def rows_visited(self) -> int:
        """Rows of the index, and deltas in them, looked at so far: what the lookups cost."""
        return self._visited + self._lookup.rows_visited

    @property
    def indexed_lsn(self) -> Lsn:
        """LSN of the newest op in it; 0 when there is none."""
        return self._state.indexed_lsn

    # --- ops -------------------------------------------------------------------------------------

    def first(self) -> OpMeta | None:
        """The oldest op."""
        return self._lookup.op(self._first_lsn())

    def _first_lsn(self) -> Lsn:
        return self._floor or self._lookup.first_lsn()

    def last(self) -> OpMeta | None:
        """The newest op."""
        return self._lookup.op(self._state.indexed_lsn)

    def lsn_at(self, time_ns: TimeNs) -> Lsn:
        """The newest op with a time of at most `time_ns`; 0 if there is none."""
        low, high = self._first_lsn(), self._state.indexed_lsn
        if not high or time_ns < self._lookup.time_of(low):
            return Lsn(0)
        while low < high:
            middle = (low + high + 1) // 2
            if self._lookup.time_of(middle) <= time_ns:
                low = Lsn(middle)
            else:
                high = Lsn(middle - 1)
        return low

    def lsn_at_clock(self, wall_ns: int) -> Lsn:
        """The newest op from when the machine's clock said `wall_ns` or less; 0 for none.

        The same as `lsn_at` unless the clock was set back: then the log's goes on in front, and
        what was noted of the machine's decides, to within half a minute. Never less for more.
        """
        return max(self.lsn_at(TimeNs(wall_ns)), self._lookup.lsn_by_clock(wall_ns))

    def op(self, lsn: Lsn) -> OpMeta | None:
        """One op; None if the index doesn't hold it."""
        return self._lookup.op(lsn) if lsn >= self._floor else None

    def ops(self, start: Lsn, stop: Lsn) -> Iterator[OpMeta]:
        """The ops of LSN `[start, stop)`, in order."""
        return self._lookup.ops(max(start, self._floor), stop)

    def actor(self, lsn: Lsn) -> bytes | None:
        """Payload of an ACTOR op, also of one from before a baseline; None: it is not known."""
        here = lsn if lsn > self._floor else self._lookup.actor_lsn(lsn)
        op = self._lookup.op(here) if here else None
        return None if op is None else self._fetch([Piece(0, op.length, here, 0)])

    def payload(self, lsn: Lsn) -> bytes:
        """The whole payload of an op, its checksums tested."""
        op = self.op(lsn)
        if op is None:
            raise StoreError(f"the journal does not hold LSN {lsn}", "see `cdpfs status`")
        return self._fetch([Piece(0, op.length, lsn, 0)])

    def payload_part(self, lsn: Lsn, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)` of an op's payload. KeyError when it has no such bytes."""
        op = self.op(lsn)
        if op is None or not 0 <= start <= stop <= op.length:
            raise KeyError(lsn)
        return self._fetch([Piece(start, stop, lsn, start)])

    # --- batches ---------------------------------------------------------------------------------

    def batches(self, start: Lsn) -> Iterator[BatchPlace]:
        """The batches from the one that holds LSN `start` on, in order."""
        return self._lookup.batches(max(start, self._floor))

    def batch_of(self, lsn: Lsn) -> BatchPlace | None:
        """The batch that holds an op; None if the index doesn't hold it."""
        return self._lookup.batch_of(lsn) if lsn >= self._floor else None

    def read_batch(self, place: BatchPlace) -> tuple[BatchHeader, list[Op]]:
        """A whole batch from its segment, its digest tested. DamagedError."""
        return self._segments.read_batch(place.segment_first_lsn, place.offset)

    def batch_bytes(self, place: BatchPlace) -> bytes:
        """A batch as its segment holds it, its checksums tested. DamagedError."""
        return self._segments.batch_bytes(place.segment_first_lsn, place.offset)

    # --- nodes -----------------------------------------------------------------------------------

    def state(self, node: NodeId, lsn: Lsn) -> NodeState | None:
        """Attributes of `node` at `lsn`; None if it was not known then or had no name left.

        The inode number of another machine's file counts as none.
        """
        state = self._node_state(node, lsn)
        if state is not None and state.inode and self._is_foreign(node, lsn):
            return state._replace(inode=0)
        return state

    def _node_state(self, node: NodeId, lsn: Lsn) -> NodeState | None:
        found = self._lookup.node_at(node, lsn)
        return found[0] if found is not None and found[0].links else None

    def _is_foreign(self, node: NodeId, lsn: Lsn) -> bool:
        """Was the node, as it was at `lsn`, adopted before the volume came to this machine?"""
        if not self._foreign_lsn:
            return False
        base = self._lookup.base(node)
        return base is None or not self._foreign_lsn < base.since <= lsn

    def xattrs(self, node: NodeId, lsn: Lsn) -> dict[bytes, bytes]:
        """Extended attributes of `node` at `lsn`."""
        return self._lookup.xattrs(node, lsn)

    def names(self, node: NodeId, lsn: Lsn) -> list[tuple[NodeId, bytes]]:
        """(directory, name) of every link that `node` had at `lsn` and that is known."""
        return sorted(map(split_link, self._lookup.links(node, lsn)))

    def node_ops(self, node: NodeId, start: Lsn, stop: Lsn) -> Iterator[Lsn]:
        """LSNs in `[start, stop)` at which `node` changed (an adoption counts at its `since`)."""
        return self._lookup.node_ops(node, start, stop)

    def node_by_inode(self, inode: int) -> NodeId | None:
        """The adopted node of that backing inode, if it was adopted with several links."""
        found = self._lookup.node_by_inode(inode)
        return None if found is None or self._is_foreign(found, Lsn(NEWEST)) else found

    def base(self, node: NodeId) -> BaseState | None:
        """The content that `node` had when it was last adopted; None if it never was."""
        return self._lookup.base(node)

    def max_node(self) -> NodeId:
        """The highest NodeId in the log; 0 if there is none."""
        return self._state.max_node

    # --- directories -----------------------------------------------------------------------------

    def child(self, directory: NodeId, name: bytes, lsn: Lsn) -> NodeId | None:
        """What `name` in `directory` was at `lsn`. NotSeeded if that is not known yet.

        A name that has a row at a later LSN only is known not to have been there before: what
        replaces or removes a name that was there adopts it first.
        """
        found = self._lookup.name_at(directory, name, lsn)
        if (
            found is None
            and not self._lookup.has_name(directory, name)
            and not self._lookup.dir_complete(directory)
        ):
            raise NotSeeded(directory, name=name)
        return found or None

    def children(self, directory: NodeId, lsn: Lsn) -> Iterator[tuple[bytes, NodeId]]:
        """All names of `directory` at `lsn`, sorted. NotSeeded if they are not all known yet."""
        if not self._lookup.dir_complete(directory):
            raise NotSeeded(directory)
        listing = self._lookup.listing(directory, lsn)
        return ((name, NodeId(node)) for name, node in sorted(listing.items()))

    def dir_complete(self, directory: NodeId) -> bool:
        """Whether all names of a known directory are in the journal."""
        return self._lookup.dir_complete(directory)

    def name_rows(self, directory: NodeId, name: bytes) -> Iterator[tuple[Lsn, NodeId]]:
        """History of one name, oldest first: (LSN, node from then on or 0)."""
        return self._lookup.name_rows(directory, name)

    def dead_names(self, directory: NodeId, lsn: Lsn) -> Iterator[tuple[bytes, NodeId, Lsn]]:
        """Names that once were and are not at `lsn`: name, last node, LSN of the removal.

        Unlike a listing this reads every name that the directory ever had.
        """
        for name in self._lookup.all_names(directory):
            removal = self._lookup.name_row_at(directory, name, lsn)
            if removal is None or removal[1]:
                continue
            before = self._lookup.name_at(directory, name, removal[0] - 1)
            if before:
                yield name, before, removal[0]

    def known_names(self, directory: NodeId, lsn: Lsn) -> Iterator[tuple[bytes, NodeId]]:
        """Names at `lsn`, also of a directory whose listing is incomplete: those that are known."""
        for name in self._lookup.all_names(directory):
            node = self._lookup.name_at(directory, name, lsn)
            if node:
                yield name, node

    # --- content ---------------------------------------------------------------------------------

    def region_seeded(self, node: NodeId, region: int) -> bool:
        """Whether that chunk of the node's newest base content is in the journal (or none is)."""
        base = self._lookup.base(node)
        return (
            base is None
            or base.complete
            or region * CHUNK_BYTES >= base.size_bytes
            or self._lookup.region_based(node, base.since, region)
        )

    def pieces(self, node: NodeId, lsn: Lsn, start: int, stop: int) -> list[Piece]:
        """Where the bytes `[start, min(stop, size))` of `node` at `lsn` stand, without gaps.

        NotSeeded for content that the journal doesn't hold yet, NeverCaptured for content that
        it never will. Nothing for a node that is not there.
        """
        state = self._node_state(node, lsn)
        if state is None or not stat.S_ISREG(state.mode):
            return []
        stop = min(stop, state.size_bytes)
        if start >= stop:
            return []
        found: list[Piece] = []
        for region in self._regions_with_content(state, start, stop):
            base = region * CHUNK_BYTES
            low, high = max(start - base, 0), min(stop - base, CHUNK_BYTES)
            _fill(found, start, base + low)
            for piece in window(self._region(state, region, lsn), low, high, base):
                if piece[2]:
                    _fill(found, start, piece[0])
                    found.append(Piece(*piece))  # type: ignore[arg-type]
        _fill(found, start, stop)
        return found

    def _regions_with_content(self, state: NodeState, start: int, stop: int) -> list[int]:
        """Numbers of the regions of `[start, stop)` that may hold more than zeros, in order."""
        node, generation = state.node, state.generation
        first, after = start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)
        based_here = state.inode or generation == self._floor
        base = self._lookup.base(node, generation) if based_here else None
        if base is not None and not base.complete:
            based = -(-base.size_bytes // CHUNK_BYTES)
            for region in range(first, min(after, based)):
                if not self._lookup.region_based(node, generation, region):
                    raise self._missing(node, generation, region)
        if after - first <= _FEW_REGIONS:
            return list(range(first, after))
        return list(self._lookup.regions(node, generation, first, after))

    def _missing(self, node: NodeId, generation: int, region: int) -> StoreError:
        if generation == self._floor:
            return NeverCaptured(
                f"content chunk {region} of node {node} is not in this copy: it had never been "
                "captured, or the file had no name where the copy begins"
            )
        newest = self._lookup.base(node)
        if newest is None or newest.since == generation:
            return NotSeeded(node, region=region)
        return NeverCaptured(
            f"content chunk {region} of node {node}: it changed outside the mount before the "
            f"initial backup had read what LSN {generation} found"
        )

    def _region(self, state: NodeState, region: int, lsn: Lsn) -> list[RegionPiece]:
        key = (state.node, state.generation, region, lsn)
        pieces = self._regions.get(key)
        if pieces is None:
            if self._kept > _KEEP_PIECES:
                self._regions.clear()
                self._kept = 0
            pieces = self._regions[key] = self._lookup.region(*key)
            self._kept += len(pieces) + 1
        return pieces

    def read(self, node: NodeId, lsn: Lsn, start: int, stop: int) -> bytes:
        """The bytes `[start, min(stop, size))` of `node` at `lsn`. Raises as `pieces` does."""
        return self._fetch(self.pieces(node, lsn, start, stop))

    def _fetch(self, pieces: list[Piece]) -> bytes:
        """The bytes of pieces. Those that lie side by side in a batch are read at once."""
        parts: list[bytes] = []
        segment, offset, position, end = Lsn(0), 0, 0, 0
        for start, stop, source, source_offset in pieces:
            length = stop - start
            at = -1
            if source:
                batch, at = self._place(source, source_offset)
                if at == end and (batch.segment_first_lsn, batch.offset) == (segment, offset):
                    end += length
                    continue
            if end > position:
                parts.append(self._segments.read_payload(segment, offset, position, end - position))
            if source:
                segment, offset = batch.segment_first_lsn, batch.offset
                position, end = at, at + length
            else:
                parts.append(bytes(length))
                position = end = -1
        if end > position:
            parts.append(self._segments.read_payload(segment, offset, position, end - position))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _place(self, source: int, source_offset: int) -> tuple[BatchPlace, int]:
        """The batch that holds a byte of an op's payload, and where in the batch's payload."""
        op, batch = self._lookup.op(source), self._lookup.batch_of(source)
        assert op is not None and batch is not None, source
        return batch, op.position + source_offset

    # --- points and totals -----------------------------------------------------------------------

    def marks(self) -> list[tuple[str, Lsn, TimeNs]]:
        """Every mark, oldest first."""
        return [(text_of(name), lsn, time_ns) for lsn, time_ns, name in self._lookup.marks(0)]

    def gaps(self) -> list[GapSpan]:
        """Every span of time whose changes went unlogged, oldest first."""
        found = []
        for lsn, started_ns, payload in self._lookup.gaps():
            gap = Gap.decode(payload)
            found.append(GapSpan(lsn, started_ns, gap.ended_ns, gap.reason, gap.found))
        return found

    def folds(self, start: Lsn) -> Iterator[FoldSpan]:
        """What was left out on the way to a replica, as far as it ends behind LSN `start`."""
        for row in self._lookup.folds(start):
            folded = Folded.decode(row)
            yield FoldSpan(folded.first, folded.until, folded.writes, folded.points)

    def fold_at(self, lsn: Lsn) -> FoldSpan | None:
        """The fold because of which the state at `lsn` is not to be had; None: it is."""
        found = next(self.folds(lsn), None)
        return found if found is not None and found.first <= lsn else None

    def points(
        self, start: Lsn, stop: Lsn, grade: str | None = None, group: Lsn | None = None
    ) -> Iterator[Point]:
        """Recovery points of LSN `[start, stop)`, oldest first, of one grade, or of all but crash.

        With a `group` only its own; marks and crash points belong to none.
        """
        start = max(start, self._floor)
        if grade == "crash":
            found = self._lookup.crash_points(start, stop)
        elif group is not None:
            found = self._points.points_of(group, start, stop)
        else:
            found = heapq.merge(
                self._points.points(start, stop), self._lookup.mark_points(start, stop), key=_lsn_of
            )
        return (point for point in found if grade in {None, point.grade})

    @property
    def point_reader(self) -> PointReader:
        """Points and groups as rows, for as long as this state is open."""
        return self._points

    def point_before(self, group: Lsn, lsn: Lsn, least: str = "sync") -> Point | None:
        """The group's newest point at or before `lsn` with at least that grade."""
        return next(self.points_before(group, lsn, least), None)

    def points_before(self, group: Lsn, lsn: Lsn, least: str = "sync") -> Iterator[Point]:
        """The same, and those before it, going back."""
        return self._points.points_before(group, lsn, least)

    def groups(self, known: KnownGroups | None = None) -> Iterator[Group]:
        """Every consistency group there ever was, the oldest first.

        `known` remembers what was decoded, for whoever asks again and again.
        """
        return self._points.groups(known)

    def group(self, number: Lsn) -> Group | None:
        """One consistency group."""
        return self._points.group(number)

    def stats(self) -> dict[str, int]:
        """ops, payload_bytes, segment_bytes, index_bytes, first_time_ns, last_time_ns."""
        first, state = self._first_lsn(), self._state
        return {
            "ops": state.indexed_lsn - first + 1 if first else 0,
            "payload_bytes": state.payload_bytes,
            "segment_bytes": state.segment_bytes,
            "index_bytes": self._env.used_bytes(),
            "first_time_ns": state.first_time_ns,
            "last_time_ns": state.last_time_ns,
        }


def _fill(pieces: list[Piece], start: int, stop: int) -> None:
    """Zeros from the end of the pieces (from `start` when there are none) up to `stop`."""
    at = pieces[-1].stop if pieces else start
    if at < stop:
        pieces.append(Piece(at, stop, Lsn(0), 0))


def _lsn_of(point: Point) -> Lsn:
    return point.lsn
