"""fsync: one flush of the intake log for everybody who waits (group commit).

Duty: return when the log is durable up to an LSN. Loop's thread; the flush itself runs in a worker
thread, so that the loop goes on, unless the only caller for a while has been one process and the
disk has been quick: then nobody else is kept waiting, and the two thread hops would cost about
half a flush (figures in docs/performance.md).
"""

from __future__ import annotations

import time

import trio

from store.intake import Intake
from store.types import Lsn

INLINE_LIMIT_S = 0.001
"""A disk whose flushes take longer on average is never waited for on the loop."""

LONE_RUN = 8
"""So many fsyncs in a row by the same process make it a lone caller."""


class Flusher:
    """The group commit over one intake log."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._running = False
        self._rounds = trio.Condition()
        self._average_s = INLINE_LIMIT_S
        self._lone: Lsn | None = None
        self._run = 0
        self.flushes = 0
        """Flushes so far."""

    async def durable(self, lsn: Lsn, actor: Lsn | None = None) -> None:
        """Return when every op up to `lsn` is on disk; OSError or StoreFull when it can't be.

        `actor` is the process that asks, None when nobody knows (fsync of a directory).
        """
        intake = self._intake
        if actor is not None:
            self._run = self._run + 1 if actor == self._lone else 0
            self._lone = actor
        if (
            not self._running
            and self._run >= LONE_RUN
            and self._average_s < INLINE_LIMIT_S
            and intake.durable_lsn < lsn
        ):
            start = time.perf_counter()
            intake.sync()
            self._learn(time.perf_counter() - start)
        while intake.durable_lsn < lsn:
            if self._running:
                async with self._rounds:
                    await self._rounds.wait()
            else:
                await self._flush()

    async def _flush(self) -> None:
        self._running = True
        start = time.perf_counter()
        try:
            await trio.to_thread.run_sync(self._intake.sync)
        finally:
            self._running = False
            with trio.CancelScope(shield=True):
                async with self._rounds:
                    self._rounds.notify_all()
        self._learn(time.perf_counter() - start)

    def _learn(self, took_s: float) -> None:
        self.flushes += 1
        self._average_s += (took_s - self._average_s) / 16
