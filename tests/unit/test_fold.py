"""Folding a batch: what is left out is never seen where the fold ends, nor later."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from replicator.fold import fold, overwritten
from store.batch import NO_DIGEST, decode_batch, encode_batch
from store.format import Kind
from store.ops import Created, Folded, Op
from store.types import Lsn
from tests.unit.held_ops import make_op

CREATED = Created(b"name", 0o100644, 0, 0).encode()


@st.composite
def changes(draw: st.DrawFn) -> list[Op]:
    """Ops on a few nodes: some are there before, some are made and removed."""
    ops: list[Op] = []
    there = {2, 3}
    newest = 3
    for choice in draw(st.lists(st.integers(0, 9), min_size=1, max_size=50)):
        lsn = len(ops) + 1
        node, kind, offset, payload = draw(st.sampled_from(sorted(there))), Kind.WRITE, 0, b""
        if choice == 0:
            newest += 1
            there.add(newest)
            node, kind, offset, payload = newest, Kind.CREATE, 1, CREATED
        elif choice == 1 and len(there) > 1:
            there.discard(node)
            kind, offset, payload = Kind.UNLINK, 1, b"name"
        elif choice == 2:
            kind, offset = Kind.TRUNCATE, draw(st.integers(0, 40))
        elif choice == 3:
            kind = Kind.FSYNC
        else:
            offset = draw(st.integers(0, 30))
            payload = draw(st.binary(min_size=1, max_size=20))
        ops.append(make_op(lsn, lsn * 50_000, int(kind), 0, node, offset, payload))
    return ops


def contents(ops: list[Op], until: int) -> dict[int, bytes]:
    """What the nodes that still have a name hold at an LSN."""
    found = {2: bytearray(b"2" * 25), 3: bytearray()}
    for op in ops[:until]:
        if op.kind == Kind.CREATE:
            found[op.node] = bytearray()
        elif op.kind == Kind.UNLINK:
            found.pop(op.node)
        elif op.kind == Kind.TRUNCATE:
            data = found[op.node]
            found[op.node] = data[: op.offset] + bytes(max(op.offset - len(data), 0))
        elif op.kind == Kind.WRITE:
            data, stop = found[op.node], op.offset + len(op.payload)
            data.extend(bytes(max(stop - len(data), 0)))
            data[op.offset : stop] = op.payload
    return {node: bytes(data) for node, data in found.items()}


@given(changes(), st.data())
def test_states_from_the_end_of_a_fold_on_are_those_of_the_site(
    ops: list[Op], data: st.DataObject
) -> None:
    until = data.draw(st.integers(1, len(ops)))
    folded = fold(ops, Lsn(until), 3)
    if folded is None:
        assert not overwritten(ops, Lsn(until))
        return
    for lsn in range(until, len(ops) + 1):
        assert contents(folded, lsn) == contents(ops, lsn)
    first = next(op.lsn for op in folded if op.kind == Kind.FOLDED)
    for lsn in range(first):
        assert contents(folded, lsn) == contents(ops, lsn)


@given(changes(), st.data())
def test_ops_keep_their_numbers_and_their_order_in_time(ops: list[Op], data: st.DataObject) -> None:
    until = Lsn(data.draw(st.integers(1, len(ops))))
    folded = fold(ops, until, 3)
    if folded is None:
        return
    assert [op.lsn for op in folded] == [op.lsn for op in ops]
    assert all(one.time_ns < other.time_ns for one, other in pairwise(folded))
    gone = [op for op in folded if op.kind == Kind.FOLDED]
    said = [Folded.decode(op.payload) for op in gone if op.payload]
    assert said == [Folded(gone[0].lsn, until, len(gone), 3)]
    assert gone[-1].payload


@given(changes())
def test_a_folded_batch_keeps_its_place_in_the_chain_of_the_site(ops: list[Op]) -> None:
    folded = fold(ops, ops[-1].lsn, 0)
    if folded is None:
        return
    site = encode_batch(ops, NO_DIGEST).header
    made = encode_batch(folded, NO_DIGEST, site_digest=site.digest)
    header, got = decode_batch(made.data)
    assert header.digest == site.digest
    assert header.folded and header.content_digest not in (site.digest, NO_DIGEST)
    assert got == folded


def test_what_retires_a_rollback_journal_is_kept() -> None:
    zeros, page = bytes(28), bytes(range(1, 101))
    ops = [
        make_op(1, 1, int(Kind.WRITE), 0, 2, 0, page),
        make_op(2, 2, int(Kind.WRITE), 0, 2, 0, zeros),
        make_op(3, 3, int(Kind.WRITE), 0, 2, 0, page),
    ]
    assert overwritten(ops, Lsn(3)) == {1}


def test_a_batch_with_an_op_that_never_happened_is_left_alone() -> None:
    page = bytes(range(1, 101))
    ops = [make_op(lsn, lsn, int(Kind.WRITE), 0, 2, 0, page) for lsn in (1, 2)]
    ops.append(make_op(3, 3, int(Kind.ABORT), 0, 0, 2, b""))
    assert fold(ops, Lsn(3), 0) is None
