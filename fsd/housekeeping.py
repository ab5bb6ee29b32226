"""What goes on behind the requests: times, flushes, checkpoints, ring files.

Duty: tell the indexer what it may take, make the log durable once a second, write deferred mtimes
to the backing tree, put the backing tree on disk and note it (CHECKPOINT), and have the next ring
file ready before the current one is full. Loop's thread; what blocks runs in worker threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import time

import trio

from fsd.gap import GapKeeper
from fsd.nodes import Node
from fsd.session import Session
from store.errors import StoreError
from store.format import Kind
from store.types import Lsn

log = logging.getLogger(__name__)

PUBLISH_S = 0.02
FLUSH_S = 1.0
"""After so long at most a write is safe from a power cut without any fsync."""
CHECKPOINT_S = 30.0
TIMES_SLICE = 64
STILL_S = 60.0
"""Writers wait so long for an indexer that gets no further; then it counts as stuck for good."""

_libc = ctypes.CDLL(None, use_errno=True)


class Housekeeper:
    """The periodic tasks of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._no_space = False
        self._progress = (0, 0.0)
        """How far the index was, and since when."""
        self._boot = session.boot

    async def run(self) -> None:
        """Run all of them until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._publish)
            nursery.start_soon(self._flush)
            nursery.start_soon(self._keep_room)
            nursery.start_soon(self._checkpoints)
            nursery.start_soon(GapKeeper(self._session, self._put_tree_on_disk).run)

    async def _publish(self) -> None:
        session = self._session
        while True:
            before = time.monotonic_ns()
            await trio.sleep(PUBLISH_S)
            late = time.monotonic_ns() - before - int(PUBLISH_S * 1e9)
            session.worst_loop_delay_ns = max(session.worst_loop_delay_ns, late)
            session.publish()

    async def _flush(self) -> None:
        session = self._session
        while True:
            await trio.sleep(FLUSH_S)
            await self.apply_times()
            session.adopter.purge()
            late = session.intake.durable_lsn < session.intake.lsn
            if late and not session.protection.is_suspended():
                try:
                    await session.flusher.durable(session.intake.lsn)
                except StoreError as error:
                    session.protection.suspend(error)

    async def apply_times(self) -> None:
        """Write the deferred mtimes of all nodes to the backing tree."""
        session = self._session
        for count, node in enumerate(tuple(session.capture.touched.values())):
            if session.capture.touched.get(node.id) is not node:
                continue  # seen to while others ran
            try:
                if not node.touched_ns or self._is_removed(node):
                    session.capture.touched.pop(node.id, None)
                    node.touched_ns = 0
                else:
                    session.capture.apply_times(node)
            except OSError as error:
                log.info("mtime of node %d: %s", node.id, error)
            session.nodes.drop_if_unused(node)
            if count % TIMES_SLICE == TIMES_SLICE - 1:
                await trio.lowlevel.checkpoint()

    def _is_removed(self, node: Node) -> bool:
        """Will nobody see its times? The name in memory can be gone while a hard link is left."""
        if node.linked or node.uses:
            return False
        return not self._session.nodes.stat(node).st_nlink

    async def _checkpoints(self) -> None:
        session = self._session
        while True:
            await trio.sleep(CHECKPOINT_S)
            if session.checkpointed < session.intake.lsn - 1:
                await self.checkpoint()

    async def checkpoint(self) -> None:
        """Put the backing tree on disk as of now, and say so in the log."""
        session = self._session
        # Before the times: an op that comes while they are written still lacks its own.
        upto = session.intake.lsn
        await self.apply_times()
        # The log first: what reaches the disk by our own doing should not be ahead of it. Should
        # the store fail, others see to that.
        with contextlib.suppress(OSError, StoreError):
            await session.flusher.durable(session.intake.lsn)
            await trio.to_thread.run_sync(session.page.flush)
        try:
            await trio.to_thread.run_sync(syncfs, session.root_fd)
        except OSError as error:
            log.error("the backing tree can't be synced: %s", error)
            return
        if session.intake.has_room():
            try:
                said = {"boot": self._boot, "time_ns": time.time_ns()}
                session.intake.append(Kind.CHECKPOINT, 0, upto, json.dumps(said).encode())
            except StoreError as error:
                session.protection.suspend(error)
                return
        session.checkpointed = Lsn(max(session.checkpointed, upto))

    async def _put_tree_on_disk(self) -> None:
        """What was logged so far is in the backing tree, on disk. OSError."""
        await self.apply_times()
        self._session.publish()
        await trio.to_thread.run_sync(syncfs, self._session.root_fd)
        self._session.checkpointed = self._session.intake.lsn

    async def _keep_room(self) -> None:
        """Have a ring file ready to go on in; wake those who wait for room."""
        session = self._session
        intake = session.intake
        while True:
            if intake.needs_next:
                await self._prepare_next()
            self._note_fullness()
            if intake.has_room() or session.full:
                async with session.room:
                    session.room.notify_all()
            session.room_wanted = trio.Event()
            with trio.move_on_after(0.25 if not intake.needs_next else 0.02):
                await session.room_wanted.wait()

    def _note_fullness(self) -> None:
        """Writers wait for a slow indexer, but not for a person to make space."""
        session = self._session
        if session.protection.is_suspended():
            session.full = False
            return
        stuck = bool(session.page.indexer_trouble) or self._no_space or self._stands_still()
        full = session.intake.needs_next and not session.intake.has_room() and stuck
        if full != session.full:
            log.log(
                logging.WARNING if full else logging.INFO,
                "the store's disk is full: writes are refused from now on"
                if full
                else "there is room in the store again: writes go on",
            )
        session.full = full

    def _stands_still(self) -> bool:
        """Has an indexer that there is work for got no further for long?"""
        indexed, now = self._session.page.indexed_lsn, time.monotonic()
        if indexed != self._progress[0] or self._session.intake.has_room():
            self._progress = indexed, now
        return now - self._progress[1] > STILL_S

    async def _prepare_next(self) -> None:
        session = self._session
        safe = Lsn(min(session.page.indexed_lsn, session.checkpointed))
        try:
            if await trio.to_thread.run_sync(session.intake.prepare_next, safe):
                self._no_space = False
                return
        except (OSError, StoreError) as error:
            if not self._no_space:
                log.warning("no new ring file: %s", error)
            self._no_space = True
            await trio.sleep(0.5)
            return
        # All files hold ops that somebody still needs: hurry both of them up.
        session.publish()
        session.supervisor.poke()
        if session.checkpointed < session.page.indexed_lsn:
            await self.checkpoint()


def syncfs(fd: int) -> None:
    """syncfs(2): everything of this file system is on disk when it returns."""
    if _libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
