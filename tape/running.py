"""The spooler's process at work: when a run begins, and what tells it to look.

Duty: watch the journal, the settings, the pipe to the daemon and the signals; have a run made in a
thread when one is due; write the status. One trio loop. Whatever the library does, nobody else
waits for it: what goes wrong is in the status, and is tried again with growing pauses.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Final

import msgspec
import trio

from store.consumer import told_to_end
from store.errors import StoreError
from store.journal import Journal
from store.key_file import read_key_file
from store.keys import KeyRing
from store.volume import Store, is_locked, take_lock
from tape.catalogue_file import CatalogueFile
from tape.errors import BadSettings, TapeError
from tape.facts import newest_barrier
from tape.library import open_library
from tape.plan import NS_PER_S, Rest
from tape.rules import rules_of
from tape.run import close_left_pools, spool
from tape.settings import TapeSettings, load_settings
from tape.spool_status import (
    SpoolStatus,
    Wanted,
    drop_wanted,
    read_wanted,
    write_status,
)
from tape.watch import Watch
from tape.work import Tally, Work

log = logging.getLogger(__name__)

LOCK_NAME: Final = "spooler.lock"
LOOK_S: Final = 5.0
"""What has become due is noticed after so long at the most."""
STATUS_S: Final = 1.0
STATUS_ANYWAY_S: Final = 20.0
"""The status is written this often though nothing has changed: a sign of life."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 600.0
"""Between tries, after failures."""
SETTLE_LOOK_S: Final = 0.1

Failure = TapeError | StoreError | OSError


class Ended(Exception):
    """The process is to end."""


class SpoolerProcess:
    """Everything that spools one store. `run` it once; `close` it afterwards."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock_fd = take_lock(store.root / LOCK_NAME)
        try:
            self._journal = Journal(store)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._watch = Watch(store, self._journal)
        self._ending = threading.Event()
        self._poked = trio.Event()
        self._status = SpoolStatus(pid=os.getpid())
        self._tally = Tally()
        self._pause_s = 0.0

    def close(self) -> None:
        """Give everything back."""
        self._journal.close()
        os.close(self._lock_fd)

    @property
    def status(self) -> SpoolStatus:
        """How it is."""
        return self._status

    async def run(self, line_fd: int = -1, until_done: bool = False) -> None:
        """Spool until told to end: by a signal, by the end of `line_fd`, by the settings.

        With `until_done`, also when what is wanted is on tape, or could not be brought there. Any
        byte on `line_fd` asks for a look at the settings and at what is wanted.
        """
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(self._until_told, line_fd, scope)
            nursery.start_soon(self._write_status)
            await self._follow(until_done)
            scope.cancel()
        self._status.state = "down"
        write_status(self._store.root, self._status)

    # --- runs -----------------------------------------------------------------------------------

    async def _follow(self, until_done: bool) -> None:
        """One look after the other; until the settings say not to."""
        while True:
            self._poked = trio.Event()
            try:
                settings = await trio.to_thread.run_sync(load_settings, self._store.root)
                if settings is None or not settings.enabled:
                    log.info("the tape library is switched off")
                    self._status.state = "stopped"
                    return
                done = await trio.to_thread.run_sync(self._look, settings)
            except Ended:
                return
            except (TapeError, StoreError, OSError) as error:
                self._failed(error, "refused" if isinstance(error, BadSettings) else "waiting")
                done = False
            if until_done and (done or self._status.error):
                return
            with trio.move_on_after(self._pause_s or LOOK_S):
                await self._poked.wait()
                self._pause_s = 0.0

    def _look(self, settings: TapeSettings) -> bool:
        """Do what is due; is everything that is wanted on tape?"""
        self._status.library = settings.library
        self._status.alarm_lag_s = settings.alarm_lag_s
        wanted = read_wanted(self._store.root)
        if wanted is None and time.time_ns() < (self._status.retry_ns or 0):
            return False
        goal = wanted.lsn if wanted is not None else None
        found = self._watch.pools(settings, goal)
        self._status.alarms = self._watch.alarms(settings)
        if not any(due for _, due in found):
            self._status.pools = [status for status, _ in found]
            self._succeeded(wanted)
            return True
        if wanted is not None:
            self._settle(wanted.lsn)
        self._status.state = "spooling"
        outcome = self._spool(settings, goal)
        return self._finish(settings, wanted, goal, outcome)

    def _spool(self, settings: TapeSettings, goal: int | None) -> dict[str, Rest | Failure]:
        """One run, with the library to ourselves."""
        config = self._store.config
        home = Path(settings.library)
        with (
            open_library(home, f"spooling {config.name}") as library,
            CatalogueFile.open(library.catalogue) as catalogue,
        ):
            doors = library.changer.inventory().doors
            free = sum(not door.full for door in doors)
            rules = rules_of(settings, config.uuid, time.time_ns(), free)
            work = Work(
                self._store,
                self._journal,
                library,
                catalogue,
                settings.archive_bytes_for(library.capacity_bytes),
                settings.min_scratch,
                ring=_ring(settings),
                tally=self._tally,
                check=self._check,
            )
            goals = {each.pool: goal for each in rules}
            keep_ns = {pool.name: pool.keep_ns for pool in settings.pools}
            close_left_pools(work, keep_ns.keys())
            return spool(work, rules, goals, keep_ns)

    def _finish(
        self,
        settings: TapeSettings,
        wanted: Wanted | None,
        goal: int | None,
        outcome: dict[str, Rest | Failure],
    ) -> bool:
        """Say what a run came to; is everything that is wanted on tape?"""
        found = self._watch.pools(settings, goal)
        self._status.alarms = self._watch.alarms(settings)
        errors: dict[str, Failure] = {
            pool: error for pool, error in outcome.items() if not isinstance(error, Rest)
        }
        for status, _ in found:
            error = errors.get(status.pool)
            if error is not None:
                status.error, status.hint = str(error), _hint(error)
        self._status.pools = [status for status, _ in found]
        for error in errors.values():
            self._failed(error, "waiting")
            return False
        if any(due for _, due in found):
            return False  # more has come, or the rest is waited for
        self._succeeded(wanted)
        return True

    def _settle(self, lsn: int) -> None:
        """Wait until the quiet time after an op is over, or it is at a barrier before that.

        Somebody who asks for a copy just after a change means it to be in a whole transaction.
        """
        until = time.monotonic() + self._store.config.quiet_s + STATUS_S
        while time.monotonic() < until:
            end = int(self._journal.indexed_lsn)
            barrier = newest_barrier(self._store, self._journal, end, time.time_ns(), far=False)
            if barrier.clean and barrier.lsn >= lsn:
                return
            self._check()
            time.sleep(SETTLE_LOOK_S)

    def _check(self) -> None:
        if self._ending.is_set():
            raise Ended

    def _succeeded(self, wanted: Wanted | None) -> None:
        status = self._status
        status.state, status.error, status.hint, status.retry_ns = "idle", "", "", None
        status.kind = ""
        self._pause_s = 0.0
        if wanted is not None:
            drop_wanted(self._store.root, wanted)

    def _failed(self, error: Exception, state: str) -> None:
        """It is tried again later."""
        log.info("%s; %s", error, _hint(error))
        status = self._status
        status.state = "refused" if state == "refused" else "waiting"
        status.error, status.kind, status.hint = str(error), type(error).__name__, _hint(error)
        status.failures += 1
        self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        status.retry_ns = time.time_ns() + int(self._pause_s * NS_PER_S)

    # --- status, signals ------------------------------------------------------------------------

    async def _write_status(self) -> None:
        written = b""
        written_at = 0.0
        while True:
            status, tally = self._status, self._tally
            status.doing = tally.doing
            status.done_bytes, status.archives = tally.done_bytes, tally.archives
            status.time_ns = 0
            now = msgspec.json.encode(status)
            if now != written or trio.current_time() - written_at >= STATUS_ANYWAY_S:
                await trio.to_thread.run_sync(write_status, self._store.root, status)
                written, written_at = now, trio.current_time()
            await trio.sleep(STATUS_S)

    async def _until_told(self, line_fd: int, scope: trio.CancelScope) -> None:
        await told_to_end(line_fd, lambda: self._poked.set())
        self._ending.set()
        scope.cancel()


def _hint(error: Exception) -> str:
    return str(getattr(error, "hint", "see log/spooler.log in the store"))


def is_running(store: Store) -> bool:
    """Does some process spool this store now?"""
    return is_locked(store.root / LOCK_NAME)


def _ring(settings: TapeSettings) -> KeyRing | None:
    """What seals the sets, as the key file has it now. BadKeyFile: nothing is written unsealed."""
    return read_key_file(Path(settings.seal.key_file)) if settings.seal.key_file else None
