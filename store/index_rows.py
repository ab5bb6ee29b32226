"""What the index answers and how its rows look. Pure; any thread; no I/O.

Numbers in values are little-endian; keys (`format`) are big-endian.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import NamedTuple

from store.batch import BatchHeader
from store.ops import Op
from store.types import Lsn, NodeId, TimeNs


class NodeState(NamedTuple):
    """Attributes of a node at a moment."""

    node: NodeId
    mode: int
    """File type and permission bits."""
    uid: int
    gid: int
    rdev: int
    size_bytes: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    links: int
    """Names of the node; 1 for a directory that has its name."""
    target: bytes
    """Of symbolic links; else empty."""
    generation: int
    """Of the content: LSN of its CREATE, of its last TRUNCATE to 0, or `since` of its ADOPT."""
    changed: Lsn
    """LSN of its last change (for an adopted node: its `since`)."""
    inode: int
    """st_ino of the backing file if the node was adopted, else 0."""


class OpMeta(NamedTuple):
    """One op without its payload."""

    lsn: Lsn
    time_ns: TimeNs
    kind: int
    flags: int
    node: NodeId
    offset: int
    length: int
    actor: Lsn
    aborted: bool
    position: int
    """Where its payload starts in the raw payload of its batch."""


class BaseState(NamedTuple):
    """The content that a node had before cdpfs knew it."""

    since: Lsn
    size_bytes: int
    complete: bool
    """All of it is in the journal (of a directory: all its names)."""


class Piece(NamedTuple):
    """A run of a file's bytes `[start, stop)`, all of one op."""

    start: int
    stop: int
    source: Lsn
    """The op whose payload holds them; 0: zeros."""
    source_offset: int
    """Where they start in that payload."""


class Point(NamedTuple):
    """A recovery point."""

    lsn: Lsn
    time_ns: TimeNs
    grade: str
    """crash, sync, transaction or mark."""
    group: Lsn
    """Id of its consistency group; 0: the whole volume."""
    reason: str
    name: str
    """Of a mark, else empty."""
    until: Lsn
    """The first op at which the group is no longer as at this point; 0: there is none yet."""


class GapSpan(NamedTuple):
    """Changes of a span of time that went unlogged; see `format.Kind.GAP`."""

    lsn: Lsn
    """Of the GAP op: the state before it is that from before the gap."""
    started_ns: int
    ended_ns: int
    """Wall times."""
    reason: str
    found: bool
    """The daemon ended inside the gap; its end is when that was found."""


class FoldSpan(NamedTuple):
    """Ops whose content a replica was not sent in full; see `ops.Folded`.

    States from `first` on and before `until` are not to be had.
    """

    first: Lsn
    until: Lsn
    writes: int
    points: int


def mark_row(op: Op) -> bytes:
    """The row of a mark."""
    return op.time_ns.to_bytes(8, "little") + bytes(op.payload)


_baseline = struct.Struct("<QQQQ?")


class Baseline(NamedTuple):
    """Where the history of a copy begins; what was there then is in batches before that.

    Ops with lower LSNs only describe it: they are no history.
    """

    lsn: Lsn
    time_ns: TimeNs = TimeNs(0)
    """Of the op that had this LSN at the site."""
    end_lsn: Lsn = Lsn(0)
    """Groups and points are stated as they were found up to here; 0: they are not stated."""
    max_node: NodeId = NodeId(0)
    """NodeIds up to this one had been given by `end_lsn`, or by the beginning."""
    whole: bool = False
    """All of the description is there, and history has begun."""

    def encode(self) -> bytes:
        """The row's value."""
        return _baseline.pack(*self)

    @classmethod
    def decode(cls, row: bytes) -> Baseline:
        """From the row's value."""
        return cls(*_baseline.unpack(row))


# --- ops: up to OPS_PER_ROW consecutive ones in a row, keyed by the LSN of the first -------------

OPS_PER_ROW = 48
"""Two rows of as many ops fill a page of LMDB."""

ABORTED = 0x80
"""Bit in an op's flags byte, beside those of `format.Flag`: an ABORT cancelled it."""

OP_ROW = struct.Struct("<BBIQQQQI")
"""kind, flags | ABORTED, payload length, time, node, offset, actor, position in the batch."""


def op_in_row(row: bytes, index: int, lsn: int) -> OpMeta:
    """The op number `index` of a row; its LSN is `lsn`."""
    kind, flags, length, time_ns, node, offset, actor, position = OP_ROW.unpack_from(
        row, index * OP_ROW.size
    )
    return OpMeta(
        Lsn(lsn),
        TimeNs(time_ns),
        kind,
        flags & ~ABORTED,
        NodeId(node),
        offset,
        length,
        Lsn(actor),
        bool(flags & ABORTED),
        position,
    )


# --- batches: keyed by the first LSN -------------------------------------------------------------

_batch = struct.Struct("<QQQQQQQ32s")


class BatchPlace(NamedTuple):
    """A batch and where it lies."""

    first_lsn: Lsn
    last_lsn: Lsn
    first_time_ns: TimeNs
    last_time_ns: TimeNs
    segment_first_lsn: Lsn
    offset: int
    """Of the batch in its segment."""
    total_bytes: int
    payload_bytes: int
    digest: bytes

    @classmethod
    def of(cls, header: BatchHeader, segment_first_lsn: Lsn, offset: int) -> BatchPlace:
        """The place of a batch at `offset` of a segment."""
        return cls(
            header.first_lsn,
            header.last_lsn,
            header.first_time_ns,
            header.last_time_ns,
            segment_first_lsn,
            offset,
            header.total_bytes,
            header.payload_bytes,
            header.digest,
        )

    def encode(self) -> bytes:
        """The row's value."""
        return _batch.pack(*self[1:])

    @classmethod
    def decode(cls, first_lsn: int, row: bytes) -> BatchPlace:
        """From key and value."""
        return cls(Lsn(first_lsn), *_batch.unpack(row))


# --- the state of the index: one row -------------------------------------------------------------

_state = struct.Struct("<QQQQQQQQ32s")


class IndexState(NamedTuple):
    """Where the index stands."""

    indexed_lsn: Lsn = Lsn(0)
    """LSN of the newest op in it; 0: none."""
    max_node: NodeId = NodeId(0)
    segment_first_lsn: Lsn = Lsn(0)
    """Which segment the newest batch is in; 0: there is no batch."""
    segment_end: int = 0
    """Where in that segment the newest batch ends."""
    payload_bytes: int = 0
    segment_bytes: int = 0
    """Of all batches."""
    first_time_ns: TimeNs = TimeNs(0)
    last_time_ns: TimeNs = TimeNs(0)
    last_digest: bytes = bytes(32)
    """Of the newest batch; zeros when there is none."""

    def encode(self) -> bytes:
        """The row's value."""
        return _state.pack(*self)

    @classmethod
    def decode(cls, row: bytes) -> IndexState:
        """From the row's value."""
        return cls(*_state.unpack(row))


# --- nodes: full rows and touches, keyed by node and LSN -----------------------------------------
#
# A node that is written to changes its size and times only, so that is all a touch holds, and its
# time is that of its op. One row has the touches of a run of ops; its key has the LSN of the first.

FULL, TOUCHES, RESIZES = 0, 1, 2
"""First byte of a row: attributes; touches that leave one size; touches with a size each."""

TOUCHES_PER_ROW = 128

_full = struct.Struct("<BIIIIQqqqIQQ")
_touch = struct.Struct("<BQQ")


def encode_full(state: NodeState) -> bytes:
    """A full row. `changed` is the LSN of its key."""
    return (
        _full.pack(
            FULL,
            state.mode,
            state.uid,
            state.gid,
            state.rdev,
            state.size_bytes,
            state.atime_ns,
            state.mtime_ns,
            state.ctime_ns,
            state.links,
            state.generation,
            state.inode,
        )
        + state.target
    )


def decode_full(node: int, lsn: int, row: bytes) -> NodeState:
    """The state in a full row of that key."""
    _, mode, uid, gid, rdev, size, atime, mtime, ctime, links, generation, inode = (
        _full.unpack_from(row)
    )
    return NodeState(
        NodeId(node),
        mode,
        uid,
        gid,
        rdev,
        size,
        atime,
        mtime,
        ctime,
        links,
        row[_full.size :],
        generation,
        Lsn(lsn),
        inode,
    )


def encode_touches(full_lsn: int, lsns: list[int], sizes: list[int]) -> bytes:
    """A row of touches: LSN of the full row they build on, the size if it is one, then columns.

    The columns are LSNs less the first (32 bits each) and, of RESIZES, sizes (64 bits each).
    """
    first, count, size = lsns[0], len(lsns), sizes[0]
    deltas = [lsn - first for lsn in lsns]
    if sizes.count(size) == count:
        return _touch.pack(TOUCHES, full_lsn, size) + struct.pack(f"<{count}I", *deltas)
    return _touch.pack(RESIZES, full_lsn, 0) + struct.pack(f"<{count}I{count}Q", *deltas, *sizes)


def touches_in_row(row: bytes, first: int) -> tuple[list[int], list[int]]:
    """LSNs and sizes of the touches in a row with key LSN `first`."""
    kind, _, size = _touch.unpack_from(row)
    if kind == TOUCHES:
        count = (len(row) - _touch.size) // 4
        deltas = struct.unpack_from(f"<{count}I", row, _touch.size)
        return [first + delta for delta in deltas], [size] * count
    count = (len(row) - _touch.size) // 12
    numbers = struct.unpack_from(f"<{count}I{count}Q", row, _touch.size)
    return [first + delta for delta in numbers[:count]], list(numbers[count:])


def touch_at(row: bytes, first: int, lsn: int) -> tuple[int, int, int]:
    """(LSN of the full row, LSN of the touch, size) of a row's newest touch at or before `lsn`."""
    kind, full_lsn, size = _touch.unpack_from(row)
    width = 4 if kind == TOUCHES else 12
    count = (len(row) - _touch.size) // width
    deltas = struct.unpack_from(f"<{count}I", row, _touch.size)
    index = bisect_right(deltas, lsn - first) - 1
    if kind == RESIZES:
        (size,) = struct.unpack_from("<Q", row, _touch.size + 4 * count + 8 * index)
    return full_lsn, first + deltas[index], size


# --- bases: keyed by node and since --------------------------------------------------------------

_base = struct.Struct("<QB")


def encode_base(base: BaseState) -> bytes:
    """The row's value."""
    return _base.pack(base.size_bytes, base.complete)


def decode_base(since: int, row: bytes) -> BaseState:
    """From the key's LSN and the value."""
    size, complete = _base.unpack(row)
    return BaseState(Lsn(since), size, bool(complete))
