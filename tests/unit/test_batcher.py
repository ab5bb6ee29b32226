"""Where batches end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store import batcher
from store.batcher import Batcher
from store.format import Kind
from store.ops import Op
from store.types import Lsn, NodeId, TimeNs

SECOND = 1_000_000_000


def op(lsn: int, size: int = 0, kind: Kind = Kind.WRITE, offset: int = 0) -> Op:
    return Op(Lsn(lsn), TimeNs(lsn), kind, 0, NodeId(2), offset, Lsn(0), 0, bytes(size))


def lsns(batches: list[list[Op]]) -> list[tuple[int, int]]:
    return [(ops[0].lsn, ops[-1].lsn) for ops in batches]


def test_a_batch_of_a_mebibyte_ends_at_the_next_barrier() -> None:
    collected = Batcher()
    collected.add([op(lsn, 1 << 18) for lsn in range(1, 6)], 0)
    assert collected.take(0, settled=True) == []
    collected.add([op(6, kind=Kind.FSYNC), op(7, 10)], 0)
    assert lsns(collected.take(0, settled=True)) == [(1, 6)]


def test_a_barrier_in_a_small_batch_does_not_end_it() -> None:
    collected = Batcher()
    collected.add([op(1, 100), op(2, kind=Kind.FSYNC)], 0)
    assert collected.take(SECOND - 1, settled=True) == []
    assert lsns(collected.take(SECOND, settled=True)) == [(1, 2)]
    assert collected.empty


def test_eight_mebibytes_force_an_end() -> None:
    collected = Batcher()
    collected.add([op(lsn, 1 << 20) for lsn in range(1, 21)], 0)
    assert lsns(collected.take(0, settled=True)) == [(1, 8), (9, 16)]


def test_very_many_small_ops_force_an_end() -> None:
    collected = Batcher()
    collected.add([op(lsn) for lsn in range(1, batcher.MAX_OPS + 2)], 0)
    assert lsns(collected.take(0, settled=False)) == [(1, batcher.MAX_OPS)]


def test_age_ends_a_batch_at_its_last_barrier_and_the_rest_a_second_later() -> None:
    collected = Batcher()
    collected.add([op(1), op(2, kind=Kind.RENAME), op(3)], 0)
    assert lsns(collected.take(SECOND, settled=True)) == [(1, 2)]
    assert collected.take(2 * SECOND - 1, settled=True) == []
    assert lsns(collected.take(2 * SECOND, settled=True)) == [(3, 3)]


def test_a_poke_ends_a_batch_at_once() -> None:
    collected = Batcher()
    collected.add([op(1), op(2, kind=Kind.FSYNC), op(3)], 0)
    assert lsns(collected.take(0, settled=True, everything=True)) == [(1, 3)]


def test_an_abort_stays_with_its_op_even_behind_a_forced_end() -> None:
    collected = Batcher()
    collected.add([op(lsn, 1 << 20) for lsn in range(1, 9)], 0)
    assert collected.take(0, settled=False) == []
    collected.add([op(9, kind=Kind.ABORT, offset=8), op(10)], 0)
    assert lsns(collected.take(0, settled=False)) == [(1, 9)]


def test_an_abort_of_the_last_barrier_stays_with_it() -> None:
    collected = Batcher()
    collected.add([op(1), op(2, kind=Kind.RENAME), op(3, kind=Kind.ABORT, offset=2), op(4)], 0)
    assert lsns(collected.take(SECOND, settled=True)) == [(1, 3)]


@st.composite
def streams(draw: st.DrawFn) -> list[Op]:
    found: list[Op] = []
    for kind, size in draw(
        st.lists(
            st.tuples(
                st.sampled_from([Kind.WRITE, Kind.FSYNC, Kind.RENAME, Kind.ABORT]),
                st.sampled_from([0, 4096, 300_000, 1 << 20]),
            ),
            max_size=60,
        )
    ):
        abort = kind == Kind.ABORT
        found.append(op(len(found) + 1, 0 if abort else size, kind, len(found) if abort else 0))
    return found


@given(streams(), st.data())
def test_batches_are_the_stream_and_never_part_an_abort_from_its_op(
    ops: list[Op], data: st.DataObject
) -> None:
    collected = Batcher()
    found: list[list[Op]] = []
    at = now = 0
    while at < len(ops):
        count = data.draw(st.integers(1, 10))
        settled = at + count >= len(ops) or ops[at + count].kind != Kind.ABORT
        collected.add(ops[at : at + count], now)
        now += data.draw(st.sampled_from([0, SECOND // 2, 2 * SECOND]))
        found += collected.take(now, settled, data.draw(st.booleans()))
        at += count
    found += collected.take(now, settled=True, everything=True)
    assert [one for ops_found in found for one in ops_found] == ops
    assert collected.empty
    assert all(ops_found for ops_found in found)
    assert all(one[0].kind != Kind.ABORT for one in found if one[0].lsn > 1)
    assert all(sum(len(one.payload) for one in some) <= 9 << 20 for some in found)
