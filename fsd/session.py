"""One mounted session of a volume: the parts that work on it, put together.

Duty: hold what the handlers and the background tasks share. Loop's thread.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import trio

from fsd.actors import Actors
from fsd.adopt import Adopter
from fsd.capture import Capture
from fsd.flusher import Flusher
from fsd.names import Names
from fsd.nodes import NodeTable
from fsd.seeding import Seeder
from fsd.supervisor import Supervisor
from store.errors import StoreFull
from store.intake import Intake
from store.journal import Journal
from store.statepage import StatePage
from store.types import Lsn
from store.volume import Store


def boot_id() -> str:
    """Which start of the machine this is: after another one, page caches are gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


class Session:
    """Everything that serves one mount. `checkpointed` is the newest CHECKPOINT's LSN."""

    def __init__(
        self,
        store: Store,
        page: StatePage,
        intake: Intake,
        journal: Journal,
        supervisor: Supervisor,
        root_fd: int,
    ) -> None:
        self.store = store
        self.page = page
        self.intake = intake
        self.journal = journal
        self.supervisor = supervisor
        self.root_fd = root_fd
        self.nodes = NodeTable(root_fd)
        self.names = Names(journal, page)
        self.capture = Capture(intake, self.nodes, self.names)
        self.actors = Actors(intake)
        self.flusher = Flusher(intake)
        self.adopter = Adopter(intake, self.nodes, self.names)
        self.seeder = Seeder(
            intake, self.nodes, self.names, self.adopter, self.wait_for_room_or_refuse
        )
        self.checkpointed = Lsn(0)
        self.serving = False
        """Do applications reach the tree through us?"""
        self.full = False
        """Is the intake log full, with no space for the journal to take it up?"""
        self.worst_loop_delay_ns = 0
        self.room_wanted = trio.Event()
        self.room = trio.Condition()

    async def wait_for_room(self) -> None:
        """Return when a request may append to the log (back-pressure: the ring may be full)."""
        while not self.intake.has_room():
            self.room_wanted.set()
            async with self.room:
                if not self.intake.has_room():
                    await self.room.wait()

    async def wait_for_room_or_refuse(self, little: bool = False) -> None:
        """As `wait_for_room`, for requests: StoreFull when waiting is no use, the disk being full.

        `little`: for requests that change no content. They go on in what is left of the log.
        """
        while not self.intake.has_room():
            if self.full:
                if little and self.intake.has_little_room():
                    return
                raise StoreFull("the store's disk is full, and so is the intake log")
            self.room_wanted.set()
            async with self.room:
                if not self.intake.has_room() and not self.full:
                    await self.room.wait()

    async def sync_backing(self, fd: int) -> None:
        """fsync the backing file too, for volumes with `fsync = "both"`."""
        await trio.to_thread.run_sync(os.fsync, fd)

    async def wait_indexed(self, lsn: Lsn) -> None:
        """Return when the journal holds every op up to `lsn`."""
        await self.supervisor.wait_indexed(lsn, self.publish)

    def publish(self) -> None:
        """Tell the indexer how far it may go: between requests every op is applied or aborted."""
        self.page.appended_lsn = self.intake.lsn
        self.page.applied_lsn = self.intake.lsn
        if self.serving:
            self.page.alive_ns = time.time_ns()
