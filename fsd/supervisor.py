"""The indexer process: started, poked, watched, started again when it dies.

Duty: keep one `python -m store.indexer` going for the session. If it dies or hangs, the mount goes
on (until the ring is full); it is started again with growing pauses. Loop's thread.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

from fsd.errors import IndexerFailed
from store.statepage import StatePage
from store.types import Lsn
from store.volume import Store

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
START_LIMIT_S = 60.0
_POLL_S = 0.002


class Supervisor:
    """Keeps the indexer of a store alive. `restarts` counts how often it had to."""

    def __init__(self, store: Store, page: StatePage) -> None:
        self._store = store
        self._page = page
        self._process: trio.Process | None = None
        self._poke_fd = -1
        self._stopping = False
        self.restarts = 0

    @property
    def pid(self) -> int:
        """The indexer's process, 0 when there is none at the moment."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start it, and start it again whenever it ends, until `stop`."""
        pause_s = FIRST_PAUSE_S
        while not self._is_stopping():
            began = time.monotonic()
            await self._start()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            assert self._process is not None
            code = await self._process.wait()
            self._close_poke()
            if self._is_stopping():
                return
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            log.warning("the indexer ended with code %s; starting it again", code)
            self.restarts += 1
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _is_stopping(self) -> bool:
        return self._stopping

    async def _start(self) -> None:
        reading, self._poke_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._poke_fd, False)
        try:
            command = [sys.executable, "-m", "store.indexer", str(self._store.root)]
            self._process = await trio.lowlevel.open_process(
                command, stdin=reading, stdout=subprocess.DEVNULL, cwd=_program_folder()
            )
        finally:
            os.close(reading)

    def _close_poke(self) -> None:
        if self._poke_fd >= 0:
            os.close(self._poke_fd)
            self._poke_fd = -1

    def poke(self) -> None:
        """Have everything that is applied indexed and committed now."""
        try:
            if self._poke_fd >= 0:
                os.write(self._poke_fd, b"!")
        except (BlockingIOError, BrokenPipeError):
            pass  # it has pokes enough, or is about to be started again

    async def wait_indexed(self, lsn: Lsn, publish: Callable[[], None]) -> None:
        """Return when the journal holds every op up to `lsn`; `publish` frees ops for indexing."""
        waited = 0
        while self._page.indexed_lsn < lsn:
            if waited % 50 == 0:
                publish()
                self.poke()
            await trio.sleep(_POLL_S)
            waited += 1

    async def wait_ready(self, lsn: Lsn) -> None:
        """Return when a freshly started indexer has published its position, at `lsn` or later.

        IndexerFailed when it does not within a minute or keeps ending.
        """
        with trio.move_on_after(START_LIMIT_S):
            while not (self._page.indexer_pid and self._page.indexed_lsn >= lsn):
                if self.restarts > 3:
                    break
                await trio.sleep(_POLL_S)
            else:
                return
        raise IndexerFailed(
            "the indexer does not come up", "see log/fsd.log in the store, and cdpfs verify"
        )

    async def stop(self) -> None:
        """Let it finish what is applied and end."""
        self._stopping = True
        self._close_poke()
        if self._process is not None:
            await self._process.wait()


def _program_folder() -> str:
    """The folder that holds our packages: the child must find them whatever the caller's cwd."""
    return str(Path(__file__).resolve().parent.parent)
