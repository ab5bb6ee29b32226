"""A replica's newest state, as what a mount of it shows and its past belongs to.

Duty: the visible head of a store whose log comes from elsewhere, looked for again when somebody
asks and some time went by. Loop's thread; the journal is read in worker threads. It never writes.
"""

from __future__ import annotations

import errno
import logging
import time

import trio

from fsd.snapshots import Ownership
from store.errors import NotSeeded
from store.journal import Journal
from store.types import Lsn, NodeId
from store.volume import Store
from timetravel.errors import NoSuchNode
from timetravel.head import NO_HEAD, Head, HeadTracker
from timetravel.moment import Moment
from timetravel.standing import BarrierSettings
from timetravel.view import View

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""The head is looked for at most this often."""

MAX_NAMED_LACKS = 1_000
"""Nodes whose missing content the log names; the log is not to be filled by a `grep -r`."""


class Replica:
    """The `Present` of a store that is received from another site."""

    def __init__(self, store: Store) -> None:
        config = store.config
        self.store = store
        self.journal = Journal(store)
        self.settings = BarrierSettings(config.point_limit_s, config.quiet_s, live=False)
        self._tracker = HeadTracker(self.settings)
        self._looking = trio.Lock()
        self._looked_s = -LOOK_S
        self._lacking: set[NodeId] = set()

    def close(self) -> None:
        """Let go of the journal."""
        self.journal.close()

    async def head(self) -> Head:
        """How far the replica is shown at the moment; LSN 0: nothing has arrived."""
        async with self._looking:
            if time.monotonic() - self._looked_s >= LOOK_S:
                before = self._tracker.head
                head = await trio.to_thread.run_sync(self._look)
                self._looked_s = time.monotonic()
                if head.lsn != before.lsn and not head.is_barrier:
                    log.warning(
                        "nothing within %g s before LSN %d is between transactions of all groups; "
                        "LSN %d itself is shown, in the midst of one",
                        self.settings.limit_s, head.held_lsn, head.lsn,
                    )  # fmt: skip
        return self._tracker.head

    def _look(self) -> Head:
        with self.journal.snapshot() as snapshot:
            return self._tracker.advance(snapshot)

    async def ownership(self, directory: NodeId) -> Ownership | None:
        """See `Present`."""
        head = await self.head()
        return await trio.to_thread.run_sync(self._ownership, head.lsn, directory)

    def _ownership(self, lsn: Lsn, directory: NodeId) -> Ownership | None:
        if lsn == NO_HEAD.lsn:
            return None
        try:
            state = View(self.journal, lsn).state(directory)
        except NoSuchNode:
            return None
        return Ownership(state.mode, state.uid, state.gid)

    async def path_of(self, directory: NodeId) -> bytes:
        """See `Present`."""
        head = await self.head()
        return await trio.to_thread.run_sync(self._path_of, head.lsn, directory)

    def _path_of(self, lsn: Lsn, directory: NodeId) -> bytes:
        try:
            return View(self.journal, lsn).path_of(directory)
        except NoSuchNode:
            return b""

    async def catch_up(self, moment: Moment | None) -> None:
        """See `Present`: what has not arrived can't be waited for."""
        await trio.lowlevel.checkpoint()

    async def demand(self, missing: NotSeeded) -> None:
        """See `Present`: there is nowhere to get it from."""
        node = NodeId(missing.node)
        if node not in self._lacking and len(self._lacking) < MAX_NAMED_LACKS:
            self._lacking.add(node)
            log.error(
                "%s, since the initial backup had not come to it when the replica's log ended; it "
                "comes with what the site sends next",
                missing,
            )
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EIO, "not received yet")
