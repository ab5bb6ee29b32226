"""HTTP/1.1 alone on a connection, spoken by hypercorn's h11 protocol.

Duty: leave out what a vault has no use for. hypercorn lets a client change to HTTP/2 or to
websockets before anybody has looked at its token, and an exception there ends the whole server.
Async (trio).
"""

from __future__ import annotations

from math import inf
from typing import Any

import h11
import trio
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr


class _Http1(H11Protocol):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pass_on = self.send
        self.send = self._send_or_finish

    async def _send_or_finish(self, event: Event) -> None:
        """What h11 thinks of bytes behind a request must not cut short the answer to it."""
        answering = self.connection.our_state is h11.SEND_BODY
        if not (answering and isinstance(event, Closed)):
            await self._pass_on(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """No upgrade is taken up, as any server may (RFC 9110, 7.8)."""

    async def _create_stream(self, request: h11.Request) -> None:
        if not request.target.isascii():
            await self._send_error_response(400)
            await self.send(Closed())
            return
        await super()._create_stream(request)


class Http1Server(TCPServer):
    """Serves one connection, to its end."""

    _left = False
    """The other end will ask no more."""

    async def run(self) -> None:
        """As hypercorn's, but for the choice of protocol."""
        if not await self._shake_hands():
            return
        try:
            async with TaskGroup() as group:
                self._task_group = group
                self.protocol = self._speak()  # type: ignore[assignment]
                await self.idle_task.restart(group, self._idle_timeout)
                await self._read_data()
                # Else hypercorn keeps the connection for as long as one may be idle.
                self._left = True
                await self.idle_task.stop()
        except* OSError:
            pass  # Such as ENOTCONN for the names of a connection that was reset at once.
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        """As hypercorn's; but nobody is waited for who has left."""
        if not (self._left and isinstance(event, Updated)):
            await super().protocol_send(event)

    async def _shake_hands(self) -> bool:
        """Of TLS; False when it failed."""
        self._secure = hasattr(self.stream, "do_handshake")
        if self._secure:
            try:
                with trio.fail_after(self.config.ssl_handshake_timeout or inf):
                    await self.stream.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError):
                return False
        return True

    def _speak(self) -> _Http1:
        bare = self.stream.transport_stream if self._secure else self.stream
        found = bare.socket
        return _Http1(
            self.app,
            self.config,
            self.context,
            self._task_group,
            ConnectionState(self.state),
            self._secure,
            parse_socket_addr(found.family, found.getpeername()),
            parse_socket_addr(found.family, found.getsockname()),
            self.protocol_send,
        )
