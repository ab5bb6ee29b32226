"""The processes that carry the journal elsewhere: kept running, poked, and ended with the session.

Duty: for each consumer that a store is set up for, keep one process going: started again with
growing pauses when it ends, killed when it gives no sign of life. Whatever becomes of one, the
mount does not wait for it. Loop's thread. It knows of a consumer only its program, the file that
sets it up, and the file in which it says how it is; not what it does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import trio

from fsd.supervisor import program_folder

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Settings that nobody told us of are noticed after so long."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
HUNG_S = 120.0
"""A consumer that has not written its status for so long hangs; a sound one does every 20 s."""

GRACE_S = 1.0
"""At the end it may finish what it does for so long."""

MAX_STATUS_BYTES = 1 << 16


class Kind(NamedTuple):
    """A kind of consumer. Its settings are TOML with `enabled`, its status is a JSON object."""

    name: str
    module: str
    settings: str
    status: str


REPLICATOR = Kind("replicator", "replicator", "replica.toml", "replica.status")
SPOOLER = Kind("spooler", "tape", "tape.toml", "tape.status")


class Consumer:
    """One consumer of a store."""

    def __init__(self, kind: Kind, store_root: Path) -> None:
        self.kind = kind
        self._root = store_root
        self._process: trio.Process | None = None
        self._line_fd = -1
        self._began = 0.0
        self._woken = trio.Event()

    @property
    def pid(self) -> int:
        """Its process, 0 when there is none at the moment."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    def is_wanted(self) -> bool:
        """Is it set up and switched on? Settings that can't be read are its own to complain of."""
        try:
            with (self._root / self.kind.settings).open("rb") as file:
                return bool(tomllib.load(file).get("enabled", True))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError):
            return True

    def poke(self) -> None:
        """Have it, and us, look at its settings now."""
        self._woken.set()
        if self._line_fd >= 0:
            # An error means that it has pokes enough, or has just ended.
            with contextlib.suppress(OSError):
                os.write(self._line_fd, b"!")

    def describe(self) -> dict[str, Any] | None:
        """How it is, in its own words; None when it is not set up."""
        if not (self._root / self.kind.settings).exists():
            return None
        said = self._last_words()
        if not self.pid:
            said["state"] = "down" if self.is_wanted() else "stopped"
            lag_s, time_ns = said.get("lag_s"), said.get("time_ns")
            if isinstance(lag_s, int | float) and isinstance(time_ns, int) and lag_s:
                # What it is behind gets older though nobody counts.
                said["lag_s"] = round(lag_s + max(time.time_ns() - time_ns, 0) / 1e9, 3)
        return said

    def _last_words(self) -> dict[str, Any]:
        try:
            with (self._root / self.kind.status).open("rb") as file:
                said = json.loads(file.read(MAX_STATUS_BYTES))
        except (OSError, ValueError):
            said = None
        return said if isinstance(said, dict) else {"state": "connecting"}

    async def run(self) -> None:
        """Keep it going until cancelled; then end it."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._woken = trio.Event()
            if not self.is_wanted():
                await self._sleep(LOOK_S)
                continue
            self._began = time.monotonic()
            code = await self._live()
            if time.monotonic() - self._began > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            if not self.is_wanted():
                log.info("the %s has ended", self.kind.name)
                pause_s = FIRST_PAUSE_S
                continue
            log.warning("the %s ended with code %s; starting it again", self.kind.name, code)
            await self._sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _sleep(self, longest_s: float) -> None:
        with trio.move_on_after(longest_s):
            await self._woken.wait()

    async def _live(self) -> int | None:
        """One life of the process; its exit code, None when it can't even be killed."""
        try:
            process = await self._start()
        except OSError as error:
            log.error("the %s can't be started: %s", self.kind.name, error)
            return None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._kill_if_hung, process)
                code = await process.wait()
                nursery.cancel_scope.cancel()
            return code
        finally:
            with trio.CancelScope(shield=True):
                await self._end(process)

    async def _start(self) -> trio.Process:
        reading, self._line_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._line_fd, False)
        try:
            command = [sys.executable, "-m", self.kind.module, str(self._root)]
            self._process = await trio.lowlevel.open_process(
                command, stdin=reading, stdout=subprocess.DEVNULL, cwd=program_folder()
            )
        except BaseException:
            self._close_line()
            raise
        finally:
            os.close(reading)
        return self._process

    async def _kill_if_hung(self, process: trio.Process) -> None:
        while True:
            await trio.sleep(LOOK_S)
            try:
                silent_s = time.time() - (self._root / self.kind.status).stat().st_mtime
            except OSError:
                silent_s = HUNG_S
            # The clock may have been set; what has run for a short time only is not judged.
            if silent_s >= HUNG_S and time.monotonic() - self._began >= HUNG_S:
                log.warning("the %s (pid %d) hangs; killing it", self.kind.name, process.pid)
                process.kill()
                return

    async def _end(self, process: trio.Process) -> None:
        """Tell it to end; kill it if it does not at once. It is never waited for in vain."""
        self._close_line()
        if process.returncode is not None:
            return
        process.terminate()
        with trio.move_on_after(GRACE_S):
            await process.wait()
            return
        process.kill()
        with trio.move_on_after(GRACE_S):
            await process.wait()

    def _close_line(self) -> None:
        if self._line_fd >= 0:
            os.close(self._line_fd)
            self._line_fd = -1


class Consumers:
    """All consumers of a store."""

    def __init__(self, store_root: Path) -> None:
        self.replicator = Consumer(REPLICATOR, store_root)
        self.spooler = Consumer(SPOOLER, store_root)
        self.all = [self.replicator, self.spooler]

    async def run(self) -> None:
        """Keep them going until cancelled; they have ended when it returns."""
        async with trio.open_nursery() as nursery:
            for consumer in self.all:
                nursery.start_soon(consumer.run)

    @property
    def pids(self) -> dict[str, int]:
        """Those that run, by name."""
        return {each.kind.name: each.pid for each in self.all if each.pid}


def replication_alarms(said: dict[str, Any] | None) -> list[str]:
    """What a person should look at in the replicator's words."""
    if said is None:
        return []
    state, error = said.get("state"), said.get("error")
    if state == "down":
        return ["the replicator is not running; it is being started again"]
    if state in ("refused", "forked"):
        return [f"replication is {state}: {error}"]
    lag_s, limit_s = said.get("lag_s"), said.get("alarm_lag_s")
    if isinstance(lag_s, int | float) and limit_s and lag_s > limit_s and state != "stopped":
        return [f"the replica is {lag_s:.0f} s behind"]
    return []


def tape_alarms(said: dict[str, Any] | None) -> list[str]:
    """What a person should look at in the spooler's words."""
    if said is None:
        return []
    state, error = said.get("state"), said.get("error")
    if state == "stopped":
        return []
    if state == "down":
        return ["the tape spooler is not running; it is being started again"]
    alarms = [f"tape: {error}"] if error else []
    limit_s = said.get("alarm_lag_s")
    for pool in _objects(said.get("pools")):
        name, lag_s = pool.get("pool"), pool.get("lag_s")
        if pool.get("error") and pool.get("error") != error:
            alarms.append(f"tape: pool {name}: {pool['error']}")
        if isinstance(lag_s, int | float) and limit_s and lag_s > limit_s:
            alarms.append(f"what is {lag_s / 3600:.0f} h old is not on tape in the pool {name}")
    return alarms + [f"tape: {each}" for each in said.get("alarms") or [] if isinstance(each, str)]


def _objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects in a list; of anything else none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
