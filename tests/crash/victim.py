"""A volume whose processes are killed.

Only processes that this volume started are ever killed, each by its id: the daemon is our child,
the indexer is the daemon's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from store.errors import NotSeeded
from store.volume import Store
from tests.volume import SOURCE, Volume


class Victim(Volume):
    """A volume that can be started without waiting, and killed at any time."""

    def __init__(self, base: Path, *, at: bool = False, **settings: Any) -> None:
        super().__init__(base, at=at, **settings)
        self._answers = -1
        self._received = b""

    @classmethod
    def of(cls, base: Path, store: Store) -> Victim:
        """The volume of a store that is there already, mounted in place."""
        made = cls.__new__(cls)
        made.tree = made.backing = base / "tree"
        made.store = store
        made.log = base / "fsd.log"
        made.process = None
        made._answers = -1
        made._received = b""
        return made

    def start(self, *program: str, environment: dict[str, str] | None = None) -> None:
        """Start the daemon (or `program`, which runs it); `wait_mounted` follows."""
        self._answers, writing = os.pipe()
        self._received = b""
        command = [sys.executable, *(program or ("-m", "fsd")), str(self.store.root)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--ready-fd", str(writing)],
                pass_fds=(writing,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=SOURCE,
                env=environment,
                start_new_session=True,
            )
        os.close(writing)

    def wait_mounted(self, deadline_s: float | None = None) -> dict[str, Any] | None:
        """What the daemon says, {} when it ends without a word; None at the deadline."""
        until = None if deadline_s is None else time.monotonic() + deadline_s
        while True:
            while b"\n" in self._received:
                line, self._received = self._received.split(b"\n", 1)
                answer: dict[str, Any] = json.loads(line)
                if "progress" not in answer:
                    self._hang_up()
                    return answer
            left = None if until is None else max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self._answers], [], [], left)
            if not ready:
                return None
            data = os.read(self._answers, 1 << 16)
            if not data:
                self._hang_up()
                return {}
            self._received += data

    def _hang_up(self) -> None:
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1

    def demand(self, missing: NotSeeded) -> None:
        """Have the daemon bring into the journal what a view lacks."""
        name = None if missing.name is None else os.fsdecode(missing.name)
        self.call("seed", node=missing.node, region=missing.region, name=name)

    def indexers(self) -> list[int]:
        """The daemon's children that are indexers."""
        if self.process is None:
            return []
        pid = self.process.pid
        found = []
        for listing in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in listing.read_text().split()]
        return [child for child in found if _is_indexer(child)]

    def kill_indexer(self) -> bool:
        """Kill it; was there one?"""
        found = self.indexers()
        for pid in found:
            _kill(pid)
        return bool(found)

    def kill_daemon(self) -> None:
        """Kill the daemon, and leave everything else as the kernel leaves it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None
        self._hang_up()


def _is_indexer(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"store.indexer" in command


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
