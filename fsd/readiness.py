"""How the session loop waits for the kernel's next request: briefly awake, then asleep.

Duty: stand in for the parts of trio that pyfuse3's session loop uses between two requests. With
trio's own, each request passes the scheduler twice and ends in epoll, which costs as much as a
small write itself; a caller that works synchronously sends its next request a few microseconds
after the last answer. So:

- `ReadLock` is taken without a trip through the scheduler when it is free, and wakes one waiter
  when it is let go. That one runs as soon as the present worker really awaits something, and goes
  on reading requests then: nobody is left unserved.
- `wait_readable` looks at the device a few times before it goes to sleep in epoll. It stops doing
  so while that does not pay, and it always lets other tasks run after a slice of time.

pyfuse3 is made for such a replacement (its asyncio variant works the same way). Loop's thread only.
Figures: docs/performance.md.
"""

from __future__ import annotations

import select
import time
from collections import deque
from types import SimpleNamespace, TracebackType
from typing import Any

import pyfuse3
import trio

SPIN_S = 40e-6
"""How long to look for the next request before sleeping: about what a wake-up costs."""

SLICE_S = 2e-3
"""Other tasks run at least this often."""

MIN_HITS = 0.2
"""When fewer looks than this part find a request, looking is given up for a while."""

PAUSE_ROUNDS = 256
"""So many sleeps later it is tried again."""


class ReadLock:
    """One worker at a time waits for the device."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._woken = False

    async def __aenter__(self) -> None:
        while self._held:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def abort(_: Any, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
            self._woken = False
        self._held = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held = False
        if self._waiting and not self._woken:
            self._woken = True
            trio.lowlevel.reschedule(self._waiting.popleft())


class Readiness:
    """Waiting for the device, awake at first."""

    def __init__(self) -> None:
        self._poll: select.poll | None = None
        self._slice_ends = 0.0
        self._hits = 1.0
        self._pause = 0
        self.device_fd = -1
        """Looked at directly only when set; before that (handshake) trio waits."""

    def watch(self, fd: int) -> None:
        """From now on `fd` is the real device."""
        self.device_fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def pending(self) -> bool:
        """Does a request wait at this moment?"""
        return self._poll is not None and bool(self._poll.poll(0))

    async def wait_readable(self, fd: int) -> None:
        """Return when the device has a request, or an error to tell."""
        poll = self._poll
        if poll is not None and fd == self.device_fd:
            now = time.perf_counter()
            if now > self._slice_ends:
                await trio.lowlevel.checkpoint()
                now = time.perf_counter()
                self._slice_ends = now + SLICE_S
            if self._pause:
                self._pause -= 1
                if poll.poll(0):
                    return
            elif self._look(poll, now + SPIN_S):
                return
        await trio.lowlevel.wait_readable(fd)
        self._slice_ends = time.perf_counter() + SLICE_S

    def _look(self, poll: select.poll, until: float) -> bool:
        while not poll.poll(0):
            if time.perf_counter() > until:
                self._hits -= self._hits / 32
                if self._hits < MIN_HITS:
                    self._pause = PAUSE_ROUNDS
                    self._hits = 1.0
                return False
        self._hits += (1.0 - self._hits) / 32
        return True


def install() -> Readiness:
    """Make pyfuse3's session loop use this module's waiting."""
    readiness = Readiness()
    lowlevel = SimpleNamespace(
        wait_readable=readiness.wait_readable,
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=trio.lowlevel.notify_closing,
    )
    replacement = SimpleNamespace(
        lowlevel=lowlevel,
        Lock=ReadLock,
        ClosedResourceError=trio.ClosedResourceError,
        open_nursery=trio.open_nursery,
    )
    pyfuse3.trio = replacement  # type: ignore[attr-defined]
    return readiness
