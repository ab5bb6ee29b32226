"""The lines that a serving vault has open, each with room for one sender.

Duty: that two connections never write one line at once, and that blocking work stays off the loop.
Async (trio). The newest connection wins: a sender whose line dropped comes back long before its
old connection is known to be dead here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

import trio

from replicator.errors import VaultBusy
from replicator.vault.limits import Limits
from replicator.vault.line import Line
from replicator.vault.root import VaultRoot, checked_line, checked_uuid
from replicator.wire import Position

MAX_FINISHED = 256
"""Shipments that are remembered after they were taken in."""

T = TypeVar("T")


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
        self._sender: trio.CancelScope | None = None
        """Of the newest request that sends; it may still be waiting for its turn."""

    async def position(self) -> Position:
        """Where the line stands. While a shipment comes in: as of its last piece."""
        return await self._do(lambda line: line.position())

    async def receive(
        self, shipment: str, total_bytes: int, start: int, pieces: AsyncIterator[bytes]
    ) -> Position:
        """Take in the bytes of a shipment from `start` on; where the line stands afterwards.

        The errors of `Line`; VaultBusy when a newer connection takes over.
        """
        if shipment in self._finished:
            async for _ in pieces:
                pass
            return await self.position()
        if self._sender is not None:
            self._sender.cancel()
        with trio.CancelScope() as scope:
            self._sender = scope
            try:
                async with self._turn:
                    return await self._receive(shipment, total_bytes, start, pieces)
            finally:
                if self._sender is scope:
                    self._sender = None
        raise VaultBusy("a newer connection of this site sends now", "this one is given up")

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
