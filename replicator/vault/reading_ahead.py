"""Taking in a body before it is its turn.

Duty: what arrives waits in memory, up to a bound, and comes out in order; so does whatever ended
it. Async (trio).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

MAX_WAITING_BYTES: Final = 16 << 20
"""Of one body; then its connection has to wait."""


class _Waiting:
    """The pieces that have arrived. An iterator for one task; another one fills it."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._arrived: deque[bytes] = deque()
        self._bytes = 0
        self._changed = trio.Event()
        self._ended = False
        self._error: Exception | None = None

    async def fill(self) -> None:
        """Take in pieces until there are no more."""
        try:
            async for piece in self._pieces:
                while self._bytes + len(piece) > MAX_WAITING_BYTES and self._arrived:
                    await self._wait()
                self._arrived.append(piece)
                self._bytes += len(piece)
                self._tell()
        except Exception as error:  # noqa: BLE001  (it is raised where the pieces are wanted)
            self._error = error
        self._ended = True
        self._tell()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next piece; what ended the body, after the last one."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._wait()
        piece = self._arrived.popleft()
        self._bytes -= len(piece)
        self._tell()
        return piece

    async def _wait(self) -> None:
        await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def read_ahead(pieces: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Within it, `pieces` are taken in whether anybody asks for them or not."""
    waiting = _Waiting(pieces)
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.fill)
        try:
            yield waiting
        except Exception as error:  # noqa: BLE001  (raised again, outside of the group)
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised
