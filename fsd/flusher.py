"""fsync: one flush of the intake log for everybody who waits (group commit).

Duty: return when the log is durable up to an LSN. Loop's thread. Where nobody else waits for the
loop at this moment, and the disk has been quick, the flush runs on the loop: two thread hops would
cost as much as the flush itself (figures in docs/performance.md). Otherwise it runs in a worker
thread, so that the others are served meanwhile, and share the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from store.intake import Intake
from store.types import Lsn

INLINE_LIMIT_S = 0.001
"""A disk whose flushes take longer on average is never waited for on the loop."""


class Flusher:
    """The group commit over one intake log."""

    def __init__(self, intake: Intake, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self._intake = intake
        self._clock_s = clock_s
        self._running = False
        self._rounds = trio.Condition()
        self._average_s = INLINE_LIMIT_S
        self.others_wait: Callable[[], bool] = lambda: True
        """Is there a request that a flush on the loop would keep waiting?"""
        self.flushes = 0
        """Flushes so far."""

    async def durable(self, lsn: Lsn) -> None:
        """Return when every op up to `lsn` is on disk; OSError or StoreFull when it can't be."""
        intake = self._intake
        if intake.durable_lsn < lsn and self._may_block():
            self._learn(self._sync())
        while intake.durable_lsn < lsn:
            if self._running:
                async with self._rounds:
                    await self._rounds.wait()
            else:
                await self._flush()

    def _may_block(self) -> bool:
        """Is it cheapest for everybody to flush right here?"""
        return not self._running and self._average_s < INLINE_LIMIT_S and not self.others_wait()

    async def idle(self) -> None:
        """Return when no flush is under way."""
        while self._running:
            async with self._rounds:
                if self._running:
                    await self._rounds.wait()

    async def _flush(self) -> None:
        self._running = True
        try:
            took_s = await trio.to_thread.run_sync(self._sync)
        finally:
            self._running = False
            with trio.CancelScope(shield=True):
                async with self._rounds:
                    self._rounds.notify_all()
        self._learn(took_s)

    def _sync(self) -> float:
        """Flush; returns how long the disk took: on a busy machine the thread hops take longer."""
        start = self._clock_s()
        self._intake.sync()
        return self._clock_s() - start

    def _learn(self, took_s: float) -> None:
        self.flushes += 1
        self._average_s += (took_s - self._average_s) / 16
