"""Shipments under way: one, and behind it the next while the vault takes the first one in.

Duty: keep a fast line busy. When a shipment's last byte has gone out, the vault decodes, checks and
syncs it; the next one, if it is built already, goes out meanwhile on a second connection, and says
behind which one it belongs. Async (trio); one task uses it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from replicator.errors import Forked, Gap, ReplicationError
from replicator.link import Link
from replicator.outgoing import Ready
from replicator.wire import Position

Following: TypeAlias = Callable[[Ready], Awaitable[Ready | None]]


class _Sending:
    """One shipment on its way; `done` when there is an answer, or none will come."""

    def __init__(self, ready: Ready) -> None:
        self.ready = ready
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.position: Position | None = None
        self.error: ReplicationError | None = None


class UnderWay:
    """What is being sent. `sent` is told how many bytes have gone out, `shipped` how long it took.

    `following` gives the shipment that comes next, as soon as it is built; None if there is too
    little for one, or it is not worth a second connection.
    """

    def __init__(
        self,
        uuid: bytes,
        sent: Callable[[int], None],
        shipped: Callable[[int, float], None],
        following: Following,
    ) -> None:
        self._uuid = uuid
        self._sent = sent
        self._shipped = shipped
        self._following = following
        self._next: _Sending | None = None
        self._answered_s = 0.0

    async def ship(
        self, nursery: trio.Nursery, link: Link, line: str, ready: Ready, start: int
    ) -> Position:
        """The vault's answer to a shipment; it is sent from `start` on, unless it is under way.

        The errors of `Link.ship`, and Gap where somebody else has just written.
        """
        sending, self._next = self._next, None
        if sending is None or sending.ready.kept != ready.kept or sending.done.is_set():
            await _end(sending)
            sending = _Sending(ready)
            nursery.start_soon(self._carry, nursery, sending, link, line, start, "")
        try:
            await sending.done.wait()
        except trio.Cancelled:
            sending.scope.cancel()
            raise
        self._answered_s = trio.current_time()
        if isinstance(sending.error, Forked):
            # Somebody else has just written there; the vault's position tells what to do.
            raise Gap(str(sending.error), sending.error.hint) from sending.error
        if sending.error is not None:
            raise sending.error
        assert sending.position is not None
        return sending.position

    async def drop(self) -> None:
        """What follows is not to be sent after all, or not on this connection."""
        sending, self._next = self._next, None
        await _end(sending)

    async def _carry(
        self,
        nursery: trio.Nursery,
        sending: _Sending,
        link: Link,
        line: str,
        start: int,
        after: str,
    ) -> None:
        ready = sending.ready
        total = len(ready.data)
        before, began_s = start, trio.current_time()

        def progress(at: int) -> None:
            nonlocal before
            self._sent(at - before)
            before = at
            if at == total:
                nursery.start_soon(self._follow, nursery, sending, link, line)

        try:
            with sending.scope:
                sending.position = await link.ship(
                    self._uuid, line, ready.kept.shipment, ready.data, start, progress, after
                )
                # Of one that followed: since the answer to the one before, which it shared the
                # line with.
                since_s = max(began_s, self._answered_s) if after else began_s
                self._shipped(total - start, trio.current_time() - since_s)
        except ReplicationError as error:
            sending.error = error
        finally:
            if sending.position is None and sending.error is None:
                sending.error = Gap("it was given up")
            sending.done.set()

    async def _follow(
        self, nursery: trio.Nursery, sending: _Sending, link: Link, line: str
    ) -> None:
        """Send what comes after `sending`, if that is still waiting for its answer then."""
        ready = await self._following(sending.ready)
        if ready is None or self._next is not None or sending.done.is_set():
            return
        self._next = _Sending(ready)
        after = sending.ready.kept.shipment
        nursery.start_soon(self._carry, nursery, self._next, link, line, 0, after)


async def _end(sending: _Sending | None) -> None:
    if sending is not None:
        sending.scope.cancel()
        with trio.CancelScope(shield=True):
            await sending.done.wait()
