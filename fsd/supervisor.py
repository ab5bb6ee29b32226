"""The indexer process: started, poked, watched, started again when it dies.

Duty: keep one `python -m store.indexer` going for the session. If it dies or hangs, the mount goes
on (until the ring is full); it is started again with growing pauses. One that shows no sign of life
for a while is killed: that is always safe. Loop's thread.
"""

from __future__ import annotations

import contextlib
import json
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
"""An indexer that gets no further for so long does not come up."""

HUNG_S = 20.0
"""An indexer without a sign of life for so long hangs; one that is well gives 20 in a second."""

GIVE_UP_S = 30.0
"""At the end of a session, so long is waited for an indexer that gets no further."""

GIVE_UP_FULL_S = 2.0
"""The same when the disk is full: then it is not the indexer that could hurry."""

MAX_WORDS = 4096
_POLL_S = 0.002

HOPELESS = frozenset(("DamagedError", "IntakeGap", "IndexStale", "UnsupportedFormat"))
"""Errors that another start will meet as well."""


class Supervisor:
    """Keeps the indexer of a store alive. `restarts` counts how often it had to."""

    def __init__(self, store: Store, page: StatePage) -> None:
        self._store = store
        self._page = page
        self._process: trio.Process | None = None
        self._poke_fd = -1
        self._stopping = False
        self._hurry = trio.Event()
        self.restarts = 0
        self.last_words: dict[str, str] = {}
        """Of the indexer that ended last: kind, message and hint of its error; {} for none."""

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
            code = await self._wait_for_end(self._process)
            self._close_poke()
            if self._is_stopping():
                return
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            log.warning("the indexer ended with code %s; starting it again", code)
            self.restarts += 1
            self._hurry = trio.Event()
            await trio.sleep(min(pause_s, FIRST_PAUSE_S))
            with trio.move_on_after(pause_s):
                await self._hurry.wait()
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _wait_for_end(self, process: trio.Process) -> int:
        """Its exit code; one that hangs is killed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._kill_if_hung, process)
            await self._listen(process)
            code = await process.wait()
            nursery.cancel_scope.cancel()
        return code

    async def _kill_if_hung(self, process: trio.Process) -> None:
        beat, since = self._page.indexer_beat_ns, time.monotonic()
        while True:
            await trio.sleep(1.0)
            if self._page.indexer_beat_ns != beat:
                beat, since = self._page.indexer_beat_ns, time.monotonic()
            # A fresh one, which has not beaten yet, may wait for the lock of its predecessor.
            elif self._page.indexer_pid == process.pid and time.monotonic() - since > HUNG_S:
                log.warning("the indexer (pid %d) hangs; killing it", process.pid)
                process.kill()
                return

    async def _listen(self, process: trio.Process) -> None:
        """Until it ends; it says one line of JSON before that when something is wrong."""
        assert process.stdout is not None
        self.last_words = {}
        said = b""
        async for data in process.stdout:
            said = (said + data)[-MAX_WORDS:]
        with contextlib.suppress(ValueError):
            words = json.loads(said.strip().rpartition(b"\n")[2])
            self.last_words = {key: str(words.get(key, "")) for key in ("kind", "message", "hint")}

    def _is_stopping(self) -> bool:
        return self._stopping

    async def _start(self) -> None:
        reading, self._poke_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._poke_fd, False)
        try:
            command = [sys.executable, "-m", "store.indexer", str(self._store.root)]
            self._process = await trio.lowlevel.open_process(
                command, stdin=reading, stdout=subprocess.PIPE, cwd=program_folder()
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

    def hurry(self) -> None:
        """As `poke`; and if it has ended, start it without a long pause."""
        self.poke()
        self._hurry.set()

    async def wait_indexed(self, lsn: Lsn, publish: Callable[[], None]) -> None:
        """Return when the journal holds every op up to `lsn`; `publish` frees ops for indexing."""
        waited = 0
        while self._page.indexed_lsn < lsn:
            if waited % 50 == 0:
                publish()
                self.hurry()
            await trio.sleep(_POLL_S)
            waited += 1

    async def wait_ready(self, lsn: Lsn) -> None:
        """Return when a freshly started indexer has published its position, at `lsn` or later.

        IndexerFailed when it gets no further for a minute, or keeps ending.
        """
        seen, since = (0, 0), time.monotonic()
        while not (self._page.indexer_pid and self._page.indexed_lsn >= lsn):
            now = (self._page.indexer_pid, self._page.indexed_lsn)
            if now != seen:
                seen, since = now, time.monotonic()
            hopeless = self.restarts and self.last_words.get("kind") in HOPELESS
            if hopeless or self.restarts > 3 or time.monotonic() - since > START_LIMIT_S:
                raise self._failure()
            await trio.sleep(_POLL_S)

    def _failure(self) -> IndexerFailed:
        """The error to give up with, in the indexer's own words if it left any."""
        words = self.last_words
        if not words and self.pid and not self._page.indexer_pid:
            return IndexerFailed(
                "the indexer of an earlier session still runs and does not end",
                f"find it and end it: fuser -v {self._store.indexer_lock_path}",
            )
        return IndexerFailed(
            words.get("message") or "the indexer does not come up",
            words.get("hint") or "see log/fsd.log in the store, and cdpfs verify",
            words.get("kind", ""),
        )

    async def wait_indexed_or_give_up(self, lsn: Lsn, publish: Callable[[], None]) -> bool:
        """As `wait_indexed`, but only while the indexer gets on; did it get there?"""
        while (before := self._page.indexed_lsn) < lsn:
            with trio.move_on_after(self.patience_s):
                await self.wait_indexed(Lsn(min(lsn, before + 1)), publish)
            if self._page.indexed_lsn == before:
                return False
        return True

    @property
    def patience_s(self) -> float:
        """How long to wait, at the end, for an indexer that gets no further."""
        return GIVE_UP_FULL_S if self._page.indexer_trouble else GIVE_UP_S

    async def stop(self) -> None:
        """Let it finish what is applied and end."""
        self._stopping = True
        self._hurry.set()
        self._close_poke()
        if self._process is not None:
            await self._process.wait()


def program_folder() -> str:
    """The folder that holds our packages: the child must find them whatever the caller's cwd."""
    return str(Path(__file__).resolve().parent.parent)
