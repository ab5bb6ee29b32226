"""The intake log: what was appended is read back, in order, after any end."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import DamagedError, IntakeGap
from store.format import Kind
from store.intake import LITTLE_BYTES, Intake
from store.ops import Op
from store.ring import rings_in_use
from store.tail import IntakeTail
from store.types import Lsn
from store.volume import Store, new_config

EVERYTHING = Lsn(1 << 62)


def make_store(root: Path) -> Store:
    return Store.create(
        root / "store",
        new_config("/nowhere", 1, ring_files=3, ring_file_bytes=8 << 20),
    )


def open_intake(store: Store, indexed: int = 0) -> Intake:
    return Intake.open(store, IntakeTail(store).end_of_log(), Lsn(indexed))


def read_all(store: Store, lsn: int = 1) -> list[Op]:
    tail = IntakeTail(store)
    tail.seek(Lsn(lsn))
    found: list[Op] = []
    while ops := tail.read_ops(1 << 20, EVERYTHING):
        found += ops
    tail.close()
    return found


def test_ops_come_back_in_order_with_increasing_times(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    intake = open_intake(store)
    for number in range(100):
        assert intake.append(Kind.WRITE, 7, number * 10, b"x" * number, actor=3) == number + 1
    ops = read_all(store)
    assert [op.lsn for op in ops] == list(range(1, 101))
    assert [len(op.payload) for op in ops] == list(range(100))
    assert all(a.time_ns < b.time_ns for a, b in itertools.pairwise(ops))
    assert {op.actor for op in ops} == {3}


def test_a_clock_that_goes_back_does_not_reorder_the_log(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    times = iter([100, 50, 50, 200, 10])
    end = IntakeTail(store).end_of_log()
    intake = Intake.open(store, end, Lsn(0), clock_ns=lambda: next(times))
    for _ in range(5):
        intake.append(Kind.FSYNC, 1)
    assert [op.time_ns for op in read_all(store)] == [100, 101, 102, 200, 201]


def test_the_log_goes_on_after_a_restart_and_a_torn_tail_is_cut(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    intake = open_intake(store)
    for _ in range(10):
        intake.append(Kind.WRITE, 2, 0, b"a" * 100)
    intake.close()
    end = IntakeTail(store).end_of_log()
    assert end.ring is not None
    with end.ring.path.open("r+b") as file:  # the last record loses its last byte
        file.seek(end.position - 5)
        file.write(b"\xff")
    again = open_intake(store)
    assert again.lsn == 9
    assert again.append(Kind.WRITE, 2, 0, b"b" * 50) == 10
    assert [bytes(op.payload[:1]) for op in read_all(store)] == [b"a"] * 9 + [b"b"]


def test_damage_before_the_end_is_reported_and_nothing_is_cut(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    intake = open_intake(store)
    for _ in range(10):
        intake.append(Kind.WRITE, 2, 0, b"a" * 100)
        intake.sync()
    intake.close()
    path = rings_in_use(store)[0].path
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096 + 64 + 3)
        file.write(b"\xff")
    with pytest.raises(DamagedError, match="damaged"):
        open_intake(store)
    after = path.read_bytes()
    assert sum(x != y for x, y in zip(before, after, strict=True)) == 1


def test_the_ring_is_reused_only_when_its_ops_are_safe(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    intake = open_intake(store)
    block = os.urandom(1 << 20)

    def fill_one_file() -> None:
        number = intake.lsn + 7  # seven records of 1 MiB fit a file of 8 MiB
        while intake.lsn < number:
            intake.append(Kind.WRITE, 2, 0, block)

    fill_one_file()
    last_of_first_file = intake.lsn
    for _ in range(2):
        assert intake.prepare_next(Lsn(0)), "a file that was never used is free"
        fill_one_file()
    assert not intake.prepare_next(Lsn(last_of_first_file - 1)), "someone still needs file 0"
    assert intake.prepare_next(last_of_first_file)
    fill_one_file()
    with pytest.raises(IntakeGap):
        read_all(store, 1)
    assert read_all(store, last_of_first_file + 1)[-1].lsn == intake.lsn


def test_when_the_journal_is_ahead_the_log_starts_behind_it(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    intake = open_intake(store)
    intake.append(Kind.WRITE, 2, 0, b"old")
    intake.close()
    again = open_intake(store, indexed=500)
    assert again.append(Kind.WRITE, 2, 0, b"new") == 501
    assert [op.lsn for op in read_all(store, 501)] == [501]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=40))
def test_any_run_with_restarts_reads_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool]]
) -> None:
    store = make_store(tmp_path_factory.mktemp("intake"))
    intake = open_intake(store)
    expected = []
    for size, restart in steps:
        data = os.urandom(size)
        intake.append(Kind.WRITE, 2, size, data)
        expected.append(data)
        if restart:
            intake.close()
            intake = open_intake(store)
    assert [bytes(op.payload) for op in read_all(store)] == expected


def test_there_is_little_room_wherever_there_is_room(tmp_path: Path) -> None:
    intake = open_intake(make_store(tmp_path))
    payload = bytes(LITTLE_BYTES // 2)
    while intake.has_little_room():
        intake.append(Kind.WRITE, 7, 0, payload)
    assert not intake.has_room()
    assert intake.prepare_next(intake.lsn)
    assert intake.has_room()
    assert intake.has_little_room()
