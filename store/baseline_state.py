"""What later ops refer back to, when the history of a copy begins in the midst of another.

Duty: who did things (ACTOR ops), and what barrier inference knew, as a list of rows with a version
and bounds, from a snapshot and back. The site's index has inference's rows as of its own end, which
lies behind the beginning of the copy; so the rows are those, with the points in between, and the
copy infers nothing of its own before that end (`end_lsn`). Points from before the beginning that
still held there are put at the beginning itself: the state is the same.

All of it is little-endian: a head (version, the beginning, `end_lsn`, highest NodeId), then
entries: table (8 bits), lengths of key and row (32 bits each), key, row. Pure but for the snapshot;
one thread.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Iterable, Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from store.barrier_groups import ACTOR_ROW, FAMILY_ROW, MACHINE_KEY
from store.barrier_state import (
    FamilyState,
    GroupState,
    decode_group,
    decode_group_state,
    decode_machine,
    decode_point,
    encode_group,
    point_row,
)
from store.format import key_lsn, key_node_lsn
from store.ops import Actor
from store.types import Lsn, NodeId, TimeNs

if TYPE_CHECKING:
    from store.snapshot import Snapshot

VERSION: Final = 1
MAX_STATE_BYTES: Final = 64 << 20
"""More than that is not taken along: then points are inferred anew from the beginning on."""

MAX_ACTORS: Final = 8192
"""Processes that are taken along, the newest; fsd remembers half as many."""

MAX_OPS_SEARCHED: Final = 1 << 18
"""Ops before the beginning that are looked through for who was at work."""

MAX_ENTRY_BYTES: Final = 512 << 10
"""Of one row; a group of all the files that one may have takes less."""

_head = struct.Struct("<HQQQ")
_entry = struct.Struct("<BII")


class Kind(IntEnum):
    """Which table a row is of."""

    ACTOR = 1  # LSN of an ACTOR op (8 bytes, big-endian) → its payload
    GROUP = 2  # as in the index
    BARRIER = 3  # as in the index
    POINT = 4  # as in the index
    HELD_POINT = 5  # the same, but it is not listed: it was made before the beginning


class Entry(NamedTuple):
    """A row."""

    kind: int
    key: bytes
    row: bytes

    @property
    def size_bytes(self) -> int:
        """As it is encoded."""
        return _entry.size + len(self.key) + len(self.row)


class State(NamedTuple):
    """What `collect_state` gathered."""

    lsn: Lsn
    end_lsn: Lsn
    """The rows are as found up to here; 0: there are none of inference."""
    max_node: NodeId
    entries: list[Entry]


class CollectedState(NamedTuple):
    """What is to be kept beside a copy that begins in the midst of a history."""

    data: bytes
    end_lsn: Lsn
    """The copy must reach at least up to here to be gone on with."""


# --- bytes ----------------------------------------------------------------------------------------


def encode_entries(entries: Iterable[Entry]) -> bytes:
    """Back to back."""
    parts: list[bytes] = []
    for kind, key, row in entries:
        parts += (_entry.pack(kind, len(key), len(row)), key, row)
    return b"".join(parts)


def decode_entries(data: bytes | memoryview) -> Iterator[Entry]:
    """The entries in `data`, each of which makes sense. ValueError."""
    raw = bytes(data)
    at = 0
    while at < len(raw):
        if len(raw) - at < _entry.size:
            raise ValueError("an entry of the state is cut short")
        kind, key_length, length = _entry.unpack_from(raw, at)
        at += _entry.size
        stop = at + key_length + length
        if key_length + length > MAX_ENTRY_BYTES or stop > len(raw):
            raise ValueError("an entry of the state is impossible")
        entry = Entry(kind, raw[at : at + key_length], raw[at + key_length : stop])
        _check_entry(entry)
        yield entry
        at = stop


def encode_state(state: State) -> bytes:
    """All of it."""
    head = _head.pack(VERSION, state.lsn, state.end_lsn, state.max_node)
    return head + encode_entries(state.entries)


def decode_state(data: bytes | memoryview) -> State:
    """From bytes. ValueError when they are damaged, or of a newer version."""
    if len(data) < _head.size or len(data) > MAX_STATE_BYTES + _head.size:
        raise ValueError(f"{len(data)} bytes are no state")
    version, lsn, end_lsn, max_node = _head.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"version {version} of the state is not known")
    entries = list(decode_entries(memoryview(data)[_head.size :]))
    return State(Lsn(lsn), Lsn(end_lsn), NodeId(max_node), entries)


def _check_entry(entry: Entry) -> None:
    """ValueError unless whoever uses the row can."""
    check = _CHECKS.get(entry.kind)
    if check is None:
        raise ValueError(f"entries of kind {entry.kind} are not known")
    try:
        check(entry.key, entry.row)
    except (msgspec.MsgspecError, struct.error, KeyError, IndexError, OverflowError) as error:
        raise ValueError(f"an entry of the state is malformed: {error}") from error


def _check_actor(key: bytes, row: bytes) -> None:
    _number(key)
    Actor.decode(row)


def _check_group(key: bytes, row: bytes) -> None:
    number, state = _number(key), decode_group_state(row)
    decode_group(number, row)
    if state.id != number or not 0 <= state.merged_into < max(number, 1):
        raise ValueError(f"group {number} contradicts itself")


def _check_barrier(key: bytes, row: bytes) -> None:
    if key == MACHINE_KEY:
        decode_machine(row)
    elif key[:1] == FAMILY_ROW:
        _number(key[1:])
        msgspec.msgpack.decode(row, type=FamilyState)
    elif len(key) not in (9, 17) or len(row) != 8:
        raise ValueError("a row of inference is malformed")


def _check_point(key: bytes, row: bytes) -> None:
    if len(key) != 16:
        raise ValueError("a point is malformed")
    decode_point(_number(key[:8]), _number(key[8:]), row)


_CHECKS: Final[dict[int, Callable[[bytes, bytes], None]]] = {
    Kind.ACTOR: _check_actor,
    Kind.GROUP: _check_group,
    Kind.BARRIER: _check_barrier,
    Kind.POINT: _check_point,
    Kind.HELD_POINT: _check_point,
}


def _number(key: bytes) -> int:
    if len(key) != 8:
        raise ValueError("a key of the state is no number")
    return int.from_bytes(key, "big")


# --- from a snapshot ------------------------------------------------------------------------------


def collect_state(snapshot: Snapshot, lsn: Lsn) -> CollectedState:
    """What a copy needs that begins at `lsn`, beside the tree.

    ValueError when the snapshot has no op of that LSN, or one that never happened.
    """
    op = snapshot.op(lsn)
    if op is None or op.aborted:
        raise ValueError(f"no history can begin at LSN {lsn}")
    collector = _Collector(snapshot, lsn, op.time_ns)
    payloads = collector.actors()
    actors = [Entry(Kind.ACTOR, key_lsn(number), payload) for number, payload in payloads.items()]
    entries = [*actors, *collector.inference(payloads)]
    end_lsn = snapshot.indexed_lsn
    if not _within_bounds(entries):
        entries, end_lsn = actors, Lsn(0)
    state = State(lsn, end_lsn, snapshot.max_node(), entries)
    return CollectedState(encode_state(state), end_lsn)


def _within_bounds(entries: list[Entry]) -> bool:
    sizes = [entry.size_bytes for entry in entries]
    return sum(sizes) <= MAX_STATE_BYTES and max(sizes, default=0) <= MAX_ENTRY_BYTES


class _Collector:
    def __init__(self, snapshot: Snapshot, lsn: Lsn, time_ns: TimeNs) -> None:
        self._snapshot = snapshot
        self._reader = snapshot.point_reader
        self._lsn = lsn
        self._stop = Lsn(snapshot.indexed_lsn + 1)
        self._time_ns = time_ns

    def actors(self) -> dict[int, bytes]:
        """Payloads of ACTOR ops up to the beginning, by LSN: of those who may go on working.

        They are named by groups, by ops around the beginning, or began lately.
        """
        wanted: set[int] = set()
        for _, row in self._reader.rows("groups"):
            wanted.update(file.actor for file in decode_group_state(row).files)
        start = Lsn(max(self._lsn + 1 - MAX_OPS_SEARCHED, 1))
        wanted.update(op.actor for op in self._snapshot.ops(start, self._stop))
        wanted.update(self._families()[-MAX_ACTORS // 2 :])
        chosen = sorted((lsn for lsn in wanted if 0 < lsn <= self._lsn), reverse=True)[:MAX_ACTORS]
        found = {lsn: self._snapshot.actor(Lsn(lsn)) for lsn in sorted(chosen)}
        return {lsn: payload for lsn, payload in found.items() if payload is not None}

    def _families(self) -> list[int]:
        """LSNs of all ACTOR ops up to the beginning of which inference knows the family."""
        rows = self._reader.rows("barriers", ACTOR_ROW)
        known = (int.from_bytes(key[1:], "big") for key, _ in rows)
        return [lsn for lsn in known if lsn <= self._lsn]

    def inference(self, actors: Container[int]) -> Iterator[Entry]:
        """Groups, their points, and what else inference remembers; of `actors`, the families."""
        for key, row in self._reader.rows("groups"):
            state = decode_group_state(row)
            yield Entry(Kind.GROUP, key, self._moved(state, row))
            if not state.merged_into or state.merged_at > self._lsn:
                yield from self._points_of(Lsn(state.id))
        for key, row in self._reader.rows("barriers"):
            number = int.from_bytes(key[1:9], "big")
            if key[:1] != ACTOR_ROW or number > self._lsn or number in actors:
                yield Entry(Kind.BARRIER, key, row)

    def _moved(self, state: GroupState, row: bytes) -> bytes:
        """A group's row, whose newest point may have to be put at the beginning."""
        point = state.point
        if point is None or point.lsn >= self._lsn or 0 < state.open_since <= self._lsn:
            return row
        point.lsn, point.time_ns = self._lsn, self._time_ns
        return encode_group(state)

    def _points_of(self, group: Lsn) -> Iterator[Entry]:
        key = key_node_lsn(group, self._lsn)
        before = next(self._reader.points_before(group, self._lsn, "sync"), None)
        if before is not None and before.lsn < self._lsn and not 0 < before.until <= self._lsn:
            moved = before._replace(lsn=self._lsn, time_ns=self._time_ns)
            yield Entry(Kind.HELD_POINT, key, point_row(moved))
        for point in self._reader.points_of(group, self._lsn, self._stop):
            yield Entry(Kind.POINT, key_node_lsn(group, point.lsn), point_row(point))
