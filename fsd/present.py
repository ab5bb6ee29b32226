"""The live tree as what the past in its mount belongs to (`fsd/snapshots.py`). Loop's thread."""

from __future__ import annotations

import trio

from fsd.session import Session
from fsd.snapshots import Ownership
from store.errors import NotLogging
from store.journal import NotSeeded
from store.types import NodeId
from timetravel.moment import AtLsn, AtTime, Moment
from timetravel.standing import BarrierSettings


class LivePresent:
    """The `Present` of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.journal = session.journal
        config = session.store.config
        self.settings = BarrierSettings(config.point_limit_s, config.quiet_s)

    async def ownership(self, directory: NodeId) -> Ownership | None:
        """See `Present`."""
        node = self._session.nodes.by_id.get(directory)
        if node is None:
            return None
        status = self._session.nodes.stat(node)
        return Ownership(status.st_mode, status.st_uid, status.st_gid)

    async def path_of(self, directory: NodeId) -> bytes:
        """See `Present`."""
        live = self._session.nodes.by_id.get(directory)
        return self._session.nodes.path_of(live) if live is not None else b""

    async def catch_up(self, moment: Moment | None) -> None:
        """See `Present`."""
        session = self._session
        if isinstance(moment, AtLsn) and moment.lsn <= session.page.indexed_lsn:
            return
        if isinstance(moment, AtTime):
            newest = await trio.to_thread.run_sync(session.journal.last)
            # What fell quiet by then is known for sure only so much later.
            if newest is not None and moment.time_ns < newest.time_ns - self.settings.quiet_ns:
                return
        # If the store is full, what it has got is better than to wait for a person to make room.
        await session.wait_indexed_if_possible(session.intake.lsn)

    async def demand(self, missing: NotSeeded) -> None:
        """See `Present`: the seeder brings it, and the index takes it up."""
        session = self._session
        try:
            await session.seeder.demand(missing)
        except OSError:
            # It is gone; then it was logged before it went, and the view only looked too early.
            await session.wait_indexed(session.intake.lsn)
            if not session.names.holds(missing):
                raise
        else:
            if not await session.wait_indexed_if_possible(session.intake.lsn):
                raise NotLogging("the journal can't take anything up at the moment")
