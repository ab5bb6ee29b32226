"""Into a gap in the log, and out of it again.

Duty: watch the store; when it fails, put what was logged on the backing disk and leave a note that
outlives us; when it answers again, log the gap and what the journal lacks. `fsd/protection.py` has
the states. Loop's thread.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable

import trio

from fsd.backing_note import BackingNote
from fsd.resync import Resync
from fsd.session import Session
from fsd.unlogged import Unlogged
from store.errors import StoreError, StoreFault, StoreFull
from store.format import FEATURE_GAPS, Kind
from store.ops import Gap
from store.types import Lsn

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""So often it is looked whether the store is there, and whether it answers again."""

ROOM_BYTES = 32 << 20
"""Free space without which logging does not begin again: it would end at once."""

ROUNDS = 3
"""Searches of the whole tree beside running applications, before they have to wait for one."""

MAX_UNLOGGED_NAMES = 1_000_000
"""Names that were changed in a gap are kept in memory: more are refused (some 200 MiB)."""


class GapKeeper:
    """The gaps of one session. `tree_on_disk` puts the backing tree on disk as it is."""

    def __init__(self, session: Session, tree_on_disk: Callable[[], Awaitable[None]]) -> None:
        self._session = session
        self._tree_on_disk = tree_on_disk
        self._protection = session.protection
        self._note = BackingNote(session.root_fd)

    async def run(self) -> None:
        """Watch over the store until cancelled."""
        protection = self._protection
        while True:
            if not protection.is_suspended():
                with trio.move_on_after(LOOK_S):
                    await protection.failed.wait()
                await self._look_for_store()
            if protection.state == "entering":
                await self._enter()
            elif protection.state == "doubtful":
                await self._try_to_leave()
                if protection.state == "doubtful":
                    await protection.move("refusing")
            if protection.is_suspended():
                await trio.sleep(LOOK_S)
                await self._look_at_bounds()
                await self._try_to_leave()

    async def _look_for_store(self) -> None:
        path = self._session.store.root / "volume.toml"
        try:
            await trio.to_thread.run_sync(os.stat, path, abandon_on_cancel=True)
        except OSError as error:
            number = error.errno or errno.EIO
            self._protection.suspend(StoreFault(f"the store is not there: {error}", number))

    async def _look_at_bounds(self) -> None:
        if self._session.names.unlogged > MAX_UNLOGGED_NAMES:
            log.error("too many names changed without being logged: changes are refused")
            await self._protection.move("refusing")

    # --- in -----------------------------------------------------------------------------------

    async def _enter(self) -> None:
        session, protection = self._session, self._protection
        session.names.pinned = True
        session.nodes.pinned = protection.unlogged.nodes
        try:
            await self._tree_on_disk()
            await trio.to_thread.run_sync(self._write_notes)
        except OSError as error:
            protection.cause = StoreFault(f"{protection.cause}; {error}", error.errno or errno.EIO)
            log.error("nothing would outlive a crash, so changes are refused: %s", error)
            await protection.move("refusing")
        else:
            log.warning("changes go on without being logged; they will be found later")
            await protection.move("unlogged")

    def _write_notes(self) -> None:
        """In the shared page and in the backing tree; one of them must come about. Blocking."""
        page, failures = self._session.page, []
        page.gap_ns = self._protection.since_ns
        for write in (page.flush, self._write_backing_note):
            try:
                write()
            except OSError as error:
                failures.append(error)
        if len(failures) == 2:
            raise failures[1]

    def _write_backing_note(self) -> None:
        self._note.write(self._protection.since_ns)

    # --- out ----------------------------------------------------------------------------------

    async def _try_to_leave(self) -> None:
        """Log again if the store is well; stay as it is otherwise."""
        try:
            if await self._is_well():
                await self._leave()
        except (StoreError, OSError) as error:
            log.info("the store does not answer yet: %s", error)

    async def _is_well(self) -> bool:
        """Is there room, is the journal complete, and does a new ring file take records?"""
        session, protection = self._session, self._protection
        intake = session.intake
        space = await trio.to_thread.run_sync(os.statvfs, session.store.root)
        full = space.f_bavail * space.f_frsize < ROOM_BYTES
        if full and isinstance(protection.cause, StoreFull):
            return False
        if protection.unaborted:
            with protection.logging():
                intake.append(Kind.ABORT, 0, protection.unaborted)
            protection.unaborted = Lsn(0)
        session.publish()
        session.supervisor.hurry()
        if session.page.indexed_lsn < intake.lsn or session.page.indexer_trouble:
            return False
        await session.flusher.idle()
        await trio.to_thread.run_sync(intake.start_anew, FEATURE_GAPS)
        return True

    async def _leave(self) -> None:
        """Log the gap and what the journal lacks, then everything."""
        session = self._session
        found = await self._resync()
        session.actors.forget()
        await session.flusher.durable(session.intake.lsn)
        await trio.to_thread.run_sync(self.forget)
        self._let_go()
        self._protection.show_intake()
        await self._protection.move("logged")
        log.info("changes are logged again; %d differences were found and logged", found)

    async def _resync(self) -> int:
        """Bring the journal up to the tree; on failure the state is what it was."""
        session, protection = self._session, self._protection
        lacking, back = protection.unlogged, protection.state
        found, rounds = 0, ROUNDS
        try:
            if back == "unlogged":
                self._log_gap()
            while lacking.everything and rounds and back == "unlogged":
                rounds -= 1
                protection.unlogged = Unlogged()
                session.nodes.pinned = protection.unlogged.nodes
                found += await self._search(lacking)
                lacking = protection.unlogged
            await protection.move("resync")
            await self._tree_on_disk()
            protection.unlogged = Unlogged()
            protection.show_append()
            return found + await self._search(lacking)
        except BaseException:
            protection.hide_intake()
            protection.unlogged.forget()
            await protection.move(back)
            raise

    def _log_gap(self) -> None:
        protection = self._protection
        gap = Gap(time.time_ns(), str(protection.cause))
        with protection.logging():
            self._session.intake.append(Kind.GAP, 0, protection.since_ns, gap.encode())

    async def _search(self, lacking: Unlogged) -> int:
        session = self._session
        await session.wait_indexed(session.intake.lsn)
        since_ns = self._protection.since_ns
        search = Resync(session, session.intake.lsn, since_ns, lacking, self._protection)
        await search.run()
        return search.found

    def _let_go(self) -> None:
        session = self._session
        held, session.nodes.pinned = session.nodes.pinned, ()
        session.names.unpin(session.intake.lsn)
        for node_id in held:
            node = session.nodes.by_id.get(node_id)
            if node is not None:
                session.nodes.drop_if_unused(node)

    def forget(self) -> None:
        """The gap is in the log, on disk: take the notes away. Blocking; OSError."""
        page = self._session.page
        page.gap_ns = 0
        page.flush()
        self._note.remove()
