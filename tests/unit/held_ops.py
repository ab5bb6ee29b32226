"""Ops in memory as what both ends of a replication hold, and histories as programs make them."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash
from hypothesis import strategies as st

from replicator.columns import Meta
from replicator.shipment import ShippedBatch
from store.batch import NO_DIGEST, encode_batch
from store.format import Kind
from store.ops import Op
from store.types import Lsn, NodeId, TimeNs

PAGE = 4096


class HeldOps:
    """A `replicator.shipment.Held` of ops that begin with LSN 1."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self._ops = ops

    def _op(self, lsn: int) -> Op:
        if not 0 < lsn <= len(self._ops):
            raise KeyError(lsn)
        return self._ops[lsn - 1]

    def payload(self, lsn: int, start: int, stop: int) -> bytes:
        """See `Held`."""
        payload = self._op(lsn).payload
        if not 0 <= start <= stop <= len(payload):
            raise KeyError(lsn)
        return bytes(payload[start:stop])

    def size(self, lsn: int) -> int:
        """See `Held`."""
        return len(self._op(lsn).payload)

    def metas(self, start: int, stop: int) -> list[Meta]:
        """See `Held`."""
        return [
            Meta(op.kind, op.flags, len(op.payload), op.time_ns, op.node, op.offset, op.actor)
            for op in self._ops[start - 1 : stop - 1]
        ]


def make_batches(ops: Sequence[Op], count: int) -> list[ShippedBatch]:
    """Ops in batches of `count`, with their digests."""
    previous, made = NO_DIGEST, []
    for start in range(0, len(ops), count):
        part = list(ops[start : start + count])
        previous = encode_batch(part, previous).header.digest
        made.append(ShippedBatch(part, previous))
    return made


def _page(seed: int) -> bytes:
    return b"".join(xxhash.xxh3_64_digest(b"%d.%d" % (seed, i)) for i in range(PAGE // 8))


@st.composite
def histories(draw: st.DrawFn, max_ops: int = 60) -> list[Op]:
    """Ops of a program that rewrites pages, moves their content, and does other things."""
    pages: dict[int, bytes] = {}
    ops: list[Op] = []
    time_ns = draw(st.integers(1, 1 << 61))
    choices = draw(st.lists(st.integers(0, 7), min_size=2, max_size=max_ops))
    for choice in choices:
        lsn = len(ops) + 1
        time_ns += draw(st.sampled_from((1, 1000, 999_001, 20_000_000)))
        number = draw(st.integers(0, 5))
        node, offset, kind, flags = 2 + number % 3, number * PAGE, int(Kind.WRITE), 0
        data = pages.get(number, _page(number))
        if choice == 0:
            data = draw(st.binary(max_size=600))
            offset = draw(st.integers(0, 1 << 40))
        elif choice == 1:
            at = draw(st.integers(0, PAGE))
            data = (data[:at] + draw(st.binary(max_size=12)) + data[at:])[:PAGE]
        elif choice == 2:
            at = draw(st.integers(0, PAGE))
            data = (data[:at] + draw(st.binary(max_size=12)) + data)[:PAGE]
        elif choice == 3:
            node, offset = 9, draw(st.integers(0, 3)) * PAGE + 24
            split = PAGE - 24
            ops.append(make_op(lsn, time_ns, kind, 0, node, offset, data[:split]))
            lsn, time_ns = lsn + 1, time_ns + 1
            offset, data = offset + split, data[split:]
        elif choice == 4:
            kind, data, offset, flags = int(Kind.FSYNC), b"", 0, 4
        elif choice == 5:
            kind, offset = int(Kind.BASE), draw(st.integers(0, 3)) << 20
            data = b"".join(pages.get(place, _page(place)) for place in range(6))
        elif choice == 6:
            kind = draw(st.integers(0, 255))
            node, offset = draw(st.integers(0, 1 << 62)), draw(st.integers(0, 1 << 62))
            flags, data = draw(st.integers(0, 255)), draw(st.binary(max_size=40))
        if len(data) == PAGE:
            pages[number] = data
        ops.append(make_op(lsn, time_ns, kind, flags, node, offset, data))
    return ops


def make_op(
    lsn: int, time_ns: int, kind: int, flags: int, node: int, offset: int, payload: bytes
) -> Op:
    check = xxhash.xxh3_64_intdigest(payload)
    head = Lsn(lsn), TimeNs(time_ns), kind, flags, NodeId(node), offset, Lsn(lsn % 3)
    return Op(*head, check, payload)
