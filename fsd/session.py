"""One mounted session of a volume: the parts that work on it, put together.

Duty: hold what the handlers and the background tasks share. Loop's thread.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

import trio

from fsd.actors import Actors
from fsd.adopt import Adopter
from fsd.capture import Capture
from fsd.consumers import Consumers
from fsd.flusher import Flusher
from fsd.names import Names
from fsd.nodes import NodeTable
from fsd.protection import Protection
from fsd.seeding import Seeder
from fsd.supervisor import Supervisor
from store import durable
from store.errors import NotLogging, StoreFull
from store.intake import Intake
from store.journal import Journal
from store.statepage import StatePage
from store.types import Lsn
from store.volume import Store

_libc = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH = 0x1000
_STATX_MNT_ID, _STATX_MNT_ID_UNIQUE = 0x1000, 0x4000

ROOM_LOOK_S = 0.01
STUCK_LOOK_S = 0.2


def boot_of(root_fd: int, store: Path) -> str:
    """Since when the page caches of backing tree and store live: the boot, and both mounts.

    After another start of the machine, or when one of the two file systems has been mounted anew,
    what was not synced may be gone.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    store_fd = os.open(store, os.O_PATH | os.O_CLOEXEC)
    try:
        return f"{boot} {mount_number(root_fd)} {mount_number(store_fd)}"
    finally:
        os.close(store_fd)


def mount_number(fd: int) -> int:
    """The mount that a file is in: never used again (since Linux 6.8), else a small number.

    statx(2), with STATX_MNT_ID_UNIQUE or STATX_MNT_ID.
    """
    found = (ctypes.c_uint8 * 256)()
    for mask in (_STATX_MNT_ID_UNIQUE, _STATX_MNT_ID):
        failed = _libc.statx(fd, b"", _AT_EMPTY_PATH, mask, found)
        if not failed and int.from_bytes(bytes(found[:4]), sys.byteorder) & mask:
            return int.from_bytes(bytes(found[144:152]), sys.byteorder)
    return 0


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
        self.boot = boot_of(root_fd, store.root)
        self.nodes = NodeTable(root_fd)
        self.names = Names(journal, page)
        self.capture = Capture(intake, self.nodes, self.names)
        self.actors = Actors(intake)
        self.flusher = Flusher(intake)
        self.adopter = Adopter(intake, self.nodes, self.names)
        self.seeder = Seeder(
            intake,
            self.nodes,
            self.names,
            self.adopter,
            self.wait_for_log,
            self.flusher.durable,
        )
        self.consumers = Consumers(store.root)
        self.protection = Protection(intake, store.config.protect)
        self.capture.abort_lost = self.protection.give_up
        self.capture.in_doubt = self.protection.doubt
        self.checkpointed = Lsn(0)
        self.serving = False
        """Do applications reach the tree through us?"""
        self.full = False
        """Is the intake log full, with no space for the journal to take it up?"""
        self.worst_loop_delay_ns = 0
        self.room_wanted = trio.Event()
        self.room = trio.Condition()

    def has_room(self) -> bool:
        """May a request that was admitted append more, or change more without logging it?"""
        return self.intake.has_room() or self.protection.state == "unlogged"

    async def wait_for_room(self) -> None:
        """Return when a request may append to the log (back-pressure: the ring may be full)."""
        while not self.intake.has_room():
            self.room_wanted.set()
            async with self.room:
                if not self.intake.has_room():
                    await self.room.wait()

    async def wait_for_room_or_refuse(self, little: bool = False) -> None:
        """As `wait_for_room`, for requests: StoreFull when waiting is no use, the disk being full.

        `little`: for requests that change no content. They go on in what is left of the log; and
        where changes are refused altogether, they get as far as they need no log.
        """
        while not self.intake.has_room():
            if self.protection.is_suspended():
                await self.protection.admit(little)
                if self.protection.is_suspended():
                    return
                continue
            if self.full:
                if self.protection.policy == "availability":
                    self.protection.suspend(StoreFull("the store's disk is full"))
                    continue
                if little and self.intake.has_little_room():
                    return
                raise StoreFull("the store's disk is full, and so is the intake log")
            self.room_wanted.set()
            async with self.room:
                if not self.intake.has_room() and not self.full:
                    await self.room.wait()

    async def wait_for_log(self) -> None:
        """As `wait_for_room_or_refuse`, for what makes sense only if it is logged.

        NotLogging while changes go on without being logged.
        """
        await self.wait_for_room_or_refuse()
        if self.protection.is_suspended():
            raise NotLogging("changes are not being logged at the moment")

    async def wait_for_real_room(self) -> None:
        """As `wait_for_room`, for what brings the log up to date while the others wait."""
        while not self.protection.has_real_room():
            self.room_wanted.set()
            await trio.sleep(ROOM_LOOK_S)

    async def sync_backing(self, fd: int) -> None:
        """fsync the backing file too, for volumes with `fsync = "both"`."""
        await trio.to_thread.run_sync(durable.fsync_backing, fd)

    async def durable(self, fd: int, lsn: Lsn) -> None:
        """Return when every op up to `lsn` is on disk, or, when none is logged, the file `fd`."""
        if not self.protection.is_suspended():
            await self.flusher.durable(lsn)
        else:
            await self.sync_backing(fd)

    async def wait_indexed(self, lsn: Lsn) -> None:
        """Return when the journal holds every op up to `lsn`."""
        await self.supervisor.wait_indexed(lsn, self.publish)

    async def wait_indexed_if_possible(self, lsn: Lsn) -> bool:
        """As `wait_indexed`, but not for a store that has to be seen to; is it all there?"""
        while self.page.indexed_lsn < lsn:
            if self.page.indexer_trouble or self.protection.is_suspended():
                return False
            with trio.move_on_after(STUCK_LOOK_S):
                await self.wait_indexed(lsn)
        return not self.protection.is_suspended()

    def publish(self) -> None:
        """Tell the indexer how far it may go: between requests every op is applied or aborted."""
        self.page.appended_lsn = self.intake.lsn
        unaborted = self.protection.unaborted
        self.page.applied_lsn = unaborted - 1 if unaborted else self.intake.lsn
        if self.serving:
            self.page.alive_ns = time.time_ns()
