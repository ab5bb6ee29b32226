"""The group commit: who flushes the intake log where, and that nobody is answered too early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from fsd.flusher import INLINE_LIMIT_S, Flusher
from store.format import Kind
from store.intake import Intake
from store.tail import IntakeTail
from store.types import Lsn
from store.volume import Store, new_config


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    config = new_config("/nowhere", 1, ring_files=3, ring_file_bytes=8 << 20)
    store = Store.create(tmp_path / "store", config)
    return Intake.open(store, IntakeTail(store).end_of_log(), Lsn(0))


class Clock:
    """A clock by which each flush takes as long as it is told."""

    def __init__(self, flush_s: float) -> None:
        self.flush_s = flush_s
        self._now = 0.0

    def __call__(self) -> float:
        self._now += self.flush_s
        return self._now


async def others_ran(work: Callable[[], object]) -> int:
    """How often another task got its turn while `work` went on."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        before = turns
        await work()  # type: ignore[misc]
        ran = turns - before
        nursery.cancel_scope.cancel()
    return ran


async def make_acquainted(flusher: Flusher, intake: Intake) -> None:
    for _ in range(3):
        await flusher.durable(intake.append(Kind.FSYNC, 1))


async def test_a_caller_with_nobody_behind_is_served_on_the_loop(intake: Intake) -> None:
    flusher = Flusher(intake, Clock(INLINE_LIMIT_S / 10))
    await make_acquainted(flusher, intake)
    flusher.others_wait = lambda: False
    lsn = intake.append(Kind.FSYNC, 1)
    assert not await others_ran(lambda: flusher.durable(lsn))
    assert intake.durable_lsn == lsn


@pytest.mark.parametrize(("flush_s", "waiting"), [(INLINE_LIMIT_S / 10, True), (0.1, False)])
async def test_a_flush_keeps_no_one_waiting_and_a_slow_one_never_holds_the_loop(
    intake: Intake, flush_s: float, waiting: bool
) -> None:
    flusher = Flusher(intake, Clock(flush_s))
    await make_acquainted(flusher, intake)
    flusher.others_wait = lambda: waiting
    lsn = intake.append(Kind.FSYNC, 1)
    assert await others_ran(lambda: flusher.durable(lsn))
    assert intake.durable_lsn >= lsn


async def test_callers_that_come_during_a_flush_share_the_next_one(intake: Intake) -> None:
    flusher = Flusher(intake, Clock(INLINE_LIMIT_S / 10))
    answered: list[int] = []

    async def caller() -> None:
        lsn = intake.append(Kind.FSYNC, 1)
        await flusher.durable(lsn)
        assert intake.durable_lsn >= lsn
        answered.append(lsn)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(caller)
    assert len(answered) == 20
    assert flusher.flushes <= 3


async def test_what_is_durable_already_is_not_flushed_again(intake: Intake) -> None:
    flusher = Flusher(intake)
    await flusher.durable(intake.append(Kind.FSYNC, 1))
    flushes = flusher.flushes
    await flusher.durable(intake.lsn)
    assert flusher.flushes == flushes
