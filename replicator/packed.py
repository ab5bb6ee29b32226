"""The body of a shipment in encoding 1: op metadata and payload in streams. Pure; one thread.

Duty: put `columns`, `pieces` and `streams` together. What the ops before the shipment say is asked
of a `Held`, at both ends, so that neither keeps a state that the other could lose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

import xxhash

from replicator.columns import PRIMING_OPS, Columns, Context, Meta
from replicator.errors import BadShipment
from replicator.pieces import Payloads, PieceDecoder, PieceEncoder, pieces
from replicator.sketch import Ref, Sketch
from replicator.streams import Level, Reader, Writer, unpack
from store.ops import Op
from store.types import Lsn, NodeId, TimeNs

_SLACK_BYTES: Final = 4096

_hash = xxhash.xxh3_64_intdigest


class Held(Payloads, Protocol):
    """What both ends have: all ops before a shipment."""

    def metas(self, start: int, stop: int) -> Sequence[Meta]:
        """The ops of LSN `[start, stop)`; fewer when not all of them are there."""


class NothingHeld:
    """For a shipment that refers to nothing."""

    def payload(self, lsn: int, start: int, stop: int) -> bytes:
        """There is none."""
        raise KeyError(lsn)

    def size(self, lsn: int) -> int:
        """There is none."""
        raise KeyError(lsn)

    def metas(self, start: int, stop: int) -> Sequence[Meta]:
        """There are none."""
        return ()


class Known(NamedTuple):
    """What an encoder may use: ops that the receiver holds, and guesses which are alike.

    `older` may know the payload that holds what was at a place of a node before an LSN.
    """

    held: Held = NothingHeld()
    sketch: Sketch | None = None
    older: Callable[[int, int, int], Ref | None] | None = None


class _Both:
    """The payloads of a shipment, as far as they are there, and those before it."""

    def __init__(self, held: Held, first_lsn: int, sizes: Iterable[int], raw: bytearray) -> None:
        self._held = held
        self._first = first_lsn
        self._starts = list(accumulate(sizes, initial=0))
        self._raw = raw

    def payload(self, lsn: int, start: int, stop: int) -> bytes:
        """See `Payloads`."""
        number = lsn - self._first
        if number < 0:
            return self._held.payload(lsn, start, stop)
        if not 0 <= start <= stop <= self.size(lsn):
            raise KeyError(lsn)
        at = self._starts[number]
        return bytes(self._raw[at + start : at + stop])

    def size(self, lsn: int) -> int:
        """See `Payloads`."""
        number = lsn - self._first
        if number < 0:
            return self._held.size(lsn)
        if number >= len(self._starts) - 1:
            raise KeyError(lsn)
        return self._starts[number + 1] - self._starts[number]


def pack_ops(ops: Sequence[Op], known: Known, level: Level) -> tuple[int, bytes]:
    """How many ops before were looked at, and the body of a shipment of consecutive ops."""
    first = ops[0].lsn
    primed = known.held.metas(max(first - PRIMING_OPS, 1), first)
    columns = Columns()
    columns.prime(primed)
    out = Writer()
    metas: list[Meta] = []
    contexts: list[Context] = []
    for op in ops:
        meta = Meta(op.kind, op.flags, len(op.payload), op.time_ns, op.node, op.offset, op.actor)
        columns.encode(meta, out)
        metas.append(meta)
        contexts.append(columns.context)
    raw = bytearray().join([op.payload for op in ops])
    both = _Both(known.held, first, [meta.length for meta in metas], raw)
    encoder = PieceEncoder(both, known.sketch or Sketch(), known.older)
    at = 0
    for piece in pieces(first, metas, contexts):
        encoder.encode(piece, bytes(raw[at : at + piece.size]), out)
        at += piece.size
    return len(primed), out.pack(level)


class Body(NamedTuple):
    """What a shipment's header says of its body."""

    first_lsn: int
    op_count: int
    payload_bytes: int
    raw_bytes: int
    primed: int


def unpack_ops(packed: bytes, body: Body, held: Held) -> list[Op]:
    """The ops of a body. BadShipment, also when it refers to what `held` does not have."""
    streams = unpack(packed, 2 * body.raw_bytes + _SLACK_BYTES)
    metas, contexts = _unpack_metas(streams, body, held)
    raw = bytearray()
    both = _Both(held, body.first_lsn, [meta.length for meta in metas], raw)
    decoder = PieceDecoder(both, streams)
    for piece in pieces(body.first_lsn, metas, contexts):
        raw += decoder.decode(piece)
    if not all(stream.exhausted for stream in streams.values()):
        raise BadShipment("a stream of the shipment goes on behind its end")
    return _join(metas, memoryview(bytes(raw)), body.first_lsn)


def _unpack_metas(
    streams: dict[str, Reader], body: Body, held: Held
) -> tuple[list[Meta], list[Context]]:
    start = body.first_lsn - body.primed
    if start < 1 or body.primed > PRIMING_OPS:
        raise BadShipment("the shipment's header is impossible")
    primed = held.metas(start, body.first_lsn) if body.primed else ()
    if len(primed) != body.primed:
        raise BadShipment(f"the shipment builds on LSN {start}, which is not held")
    columns = Columns()
    columns.prime(primed)
    metas, contexts, total = [], [], 0
    for _ in range(body.op_count):
        meta = columns.decode(streams)
        metas.append(meta)
        contexts.append(columns.context)
        total += meta.length
        if total > body.payload_bytes:
            break
    if total != body.payload_bytes:
        raise BadShipment("the shipment's op metadata contradicts its header")
    return metas, contexts


def _join(metas: Sequence[Meta], raw: memoryview, first_lsn: int) -> list[Op]:
    ops = []
    at = 0
    lsn = first_lsn
    for kind, flags, length, time_ns, node, offset, actor in metas:
        payload = raw[at : at + length]
        head = Lsn(lsn), TimeNs(time_ns), kind, flags, NodeId(node), offset, Lsn(actor)
        ops.append(Op(*head, _hash(payload), payload))
        at += length
        lsn += 1
    return ops
