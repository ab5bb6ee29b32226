"""The lines that a serving vault has open, each with room for one sender.

Duty: that two connections never write one line at once, and that blocking work stays off the loop.
Async (trio). The newest connection wins: a sender whose line dropped comes back long before its
old connection is known to be dead here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple, TypeVar

import trio

from replicator.errors import Gap, VaultBusy
from replicator.vault.limits import Limits
from replicator.vault.line import Line
from replicator.vault.reading_ahead import read_ahead
from replicator.vault.root import VaultRoot, checked_line, checked_uuid
from replicator.wire import Position

MAX_FINISHED = 256
"""Shipments that are remembered after they were taken in."""

MAX_SENDERS = 3
"""Of one line, at the same time: what waits for its turn takes memory."""

COME_S = 10.0
"""A shipment that another one follows was sent before it; it can't be much later."""

T = TypeVar("T")


class _Sender(NamedTuple):
    """A request that sends: what, behind what, and how to end it."""

    shipment: str
    after: str
    scope: trio.CancelScope


class Desk:
    """One line. A sender holds `_turn`; each blocking step of anybody's holds `_step`."""

    def __init__(self, open_line: Callable[[], Line], ingests: trio.CapacityLimiter) -> None:
        self._open_line = open_line
        self._ingests = ingests
        self._turn = trio.Lock()
        self._step = trio.Lock()
        self._line: Line | None = None
        self._finished: deque[str] = deque(maxlen=MAX_FINISHED)
        """Shipments that became part of the journal. One that a line brings once more must cost
        neither what is half received of another one nor the connection that brings that."""
        self._senders: list[_Sender] = []
        """The requests that send: one has the turn; one that follows it may wait for it."""
        self._changed = trio.Event()

    async def position(self) -> Position:
        """Where the line stands. While a shipment comes in: as of its last piece."""
        return await self._do(lambda line: line.position())

    async def receive(
        self,
        shipment: str,
        total_bytes: int,
        start: int,
        pieces: AsyncIterator[bytes],
        after: str = "",
    ) -> Position:
        """Take in the bytes of a shipment from `start` on; where the line stands afterwards.

        `after`: the shipment that it follows, on another connection. That one is not disturbed,
        and what arrives until it is taken in waits in memory. The errors of `Line`; VaultBusy when
        a newer connection takes over; Gap when what it follows is not taken in.
        """
        if shipment in self._finished:
            async for _ in pieces:
                pass
            return await self.position()
        if after == shipment or (after and len(self._senders) >= MAX_SENDERS):
            raise VaultBusy("there are too many shipments on their way already")
        if not after:
            for sender in self._senders:
                if sender.after != shipment:
                    sender.scope.cancel()
        me = _Sender(shipment, after, trio.CancelScope())
        with me.scope:
            self._senders.append(me)
            self._tell()
            try:
                if not after:
                    return await self._take_turn(shipment, total_bytes, start, pieces)
                async with read_ahead(pieces) as waiting:
                    await self._wait_for(after)
                    return await self._take_turn(shipment, total_bytes, start, waiting)
            finally:
                self._senders.remove(me)
                self._tell()
        raise VaultBusy("a newer connection of this site sends now", "this one is given up")

    async def _take_turn(
        self, shipment: str, total_bytes: int, start: int, pieces: AsyncIterator[bytes]
    ) -> Position:
        async with self._turn:
            return await self._receive(shipment, total_bytes, start, pieces)

    async def _wait_for(self, shipment: str) -> None:
        """Until a shipment is taken in. Gap when it is given up, or does not come.

        What is half received of it must not be lost to one that would not fit without it.
        """
        with trio.move_on_after(COME_S):
            while shipment not in self._finished and not self._is_coming(shipment):
                await self._changed.wait()
        while self._is_coming(shipment):
            await self._changed.wait()
        if shipment not in self._finished:
            raise Gap("the shipment before this one was not taken in")

    def _is_coming(self, shipment: str) -> bool:
        return any(sender.shipment == shipment for sender in self._senders)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _receive(
        self, shipment: str, total_bytes: int, start: int, pieces: AsyncIterator[bytes]
    ) -> Position:
        await self._do(lambda line: line.begin(shipment, total_bytes, start))
        try:
            async for piece in pieces:
                if await self._append(piece):
                    await self._do(lambda line: line.save())
        finally:
            with trio.CancelScope(shield=True):
                await self._do(_pause)
        if not await self._do(lambda line: line.complete):
            return await self.position()
        async with self._ingests:
            # From here on the sender's line may drop: what is complete becomes part of the journal.
            position = await self._do(lambda line: line.finish())
        self._finished.append(shipment)
        return position

    async def _append(self, piece: bytes) -> bool:
        """To what has arrived, in memory; is it time to save?"""
        async with self._step:
            assert self._line is not None
            return self._line.append(piece)

    async def close(self) -> None:
        """Wait for the step that is at work, and let go of the files."""
        async with self._step:
            if self._line is not None:
                await trio.to_thread.run_sync(self._line.close)
                self._line = None

    async def _do(self, step: Callable[[Line], T]) -> T:
        """One blocking step, in a thread, which is waited for whatever happens."""
        async with self._step:
            return await trio.to_thread.run_sync(self._blocking, step)

    def _blocking(self, step: Callable[[Line], T]) -> T:
        if self._line is None:
            self._line = self._open_line()
        return step(self._line)


def _pause(line: Line) -> None:
    if not line.complete:
        line.pause()


class Desks:
    """Every line that somebody asked for. They stay open until the vault stops."""

    def __init__(self, root: VaultRoot, limits: Limits) -> None:
        self._root = root
        self._ingests = trio.CapacityLimiter(limits.ingests)
        self._desks: dict[tuple[str, str], Desk] = {}

    def desk(self, uuid: str, line: str) -> Desk:
        """The desk of a line; BadRequest for impossible names. The line is opened when used."""
        key = checked_uuid(uuid), checked_line(line)
        if key not in self._desks:
            self._desks[key] = Desk(partial(Line.open, self._root, *key), self._ingests)
        return self._desks[key]

    def forget(self, uuid: str, line: str) -> None:
        """Drop the desk of a line that turned out not to be there."""
        self._desks.pop((uuid, line), None)

    async def close(self) -> None:
        """Close all lines."""
        for desk in self._desks.values():
            await desk.close()
        self._desks.clear()
