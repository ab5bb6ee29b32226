"""Connections to a vault: accepted, counted, timed, and handed to hypercorn.

Duty: bounds on connections, deadlines on strangers and on slow heads, TLS, and a clear answer to
who speaks plain HTTP where TLS is spoken. Async (trio). What a request says is none of its
business: that is h11's (which hypercorn feeds), and then the door's.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import msgspec
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

from replicator.vault import tls
from replicator.vault.door import guest
from replicator.vault.http1 import Http1Server
from replicator.vault.limits import Limits
from replicator.wire import Refusal

log = logging.getLogger(__name__)

LAST_WORD_S: Final = 2.0
"""So long the other end may take to read why it is refused."""

_TLS_HANDSHAKE: Final = b"\x16"
"""First byte of a TLS connection (RFC 8446, 5.1); no HTTP request begins with it."""

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Connection:
    """A stream as hypercorn uses it, with deadlines; and the `Guest` that the door knows.

    Unknown attributes are those of the stream: hypercorn tells TLS by them.
    """

    def __init__(self, stream: Stream, peer: str, limits: Limits, scope: trio.CancelScope) -> None:
        self._stream = stream
        self._limits = limits
        self._scope = scope
        self._asking = False
        """A request is at work; its body has deadlines of its own."""
        self._reading = False
        self._refused = False
        """Its last answer says why it ends, and has to arrive."""
        self._closing = False
        self._drained: trio.Event | None = None
        """Of what `aclose` throws away, while it does."""
        self.peer = peer
        self.place = place_of(peer)
        self.trusted = False
        self.requests = 0

    @property
    def ending(self) -> bool:
        """Is it ended by us, so that its end is no news?"""
        return self._closing or self._refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def trust(self) -> None:
        """See `door.Guest`."""
        self.trusted = True
        self._scope.deadline = float("inf")

    def begin(self) -> None:
        """See `door.Guest`."""
        self._asking = True
        self.requests += 1
        if self.trusted:
            self._scope.deadline = float("inf")

    def end(self) -> None:
        """See `door.Guest`."""
        self._asking = False

    def refuse(self) -> None:
        """See `door.Guest`."""
        self._refused = True

    def hang_up(self) -> None:
        """See `door.Guest`."""
        self._closing = True
        self._scope.cancel()

    async def receive_some(self, max_bytes: int) -> bytes:
        """Bytes of the stream. A head that has begun must end in time."""
        if self._drained is not None:
            await self._drained.wait()
            return b""
        self._reading = True
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
            while self._closing and data:
                data = bytes(await self._stream.receive_some(max_bytes))
        finally:
            self._reading = False
        if data and self.trusted and not self._asking and self._scope.deadline == float("inf"):
            self._scope.deadline = trio.current_time() + self._limits.head_s
        return data

    async def send_all(self, data: bytes) -> None:
        """Send to the stream; what h11 refuses by itself shows here only."""
        if not self._asking and data.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            status = data[9:12].decode("ascii", "replace")
            log.warning("refused with %s: no request of HTTP/1.1, from %s", status, self.peer)
            self._refused = True
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        """Of a plain stream: no more is to come. Another task may be sending; it fails then."""
        if isinstance(self._stream, trio.SocketStream):
            with suppress(OSError):
                self._stream.socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close; after a refusal in two steps.

        To close with bytes unread would be a reset, which takes the answer away on the way. So
        the other end is told first that there is no more to come, and until it has closed as well
        (or for LAST_WORD_S) what it sends is thrown away.
        """
        if self._refused and not self._closing:
            self._closing = True
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + LAST_WORD_S)
            found = self._stream
            bare = found.transport_stream if isinstance(found, trio.SSLStream) else found
            with suppress(OSError):
                bare.socket.shutdown(socket.SHUT_WR)
            if self._reading:
                return  # whoever reads comes to the end, and closes
            self._drained = trio.Event()
            try:
                while await self._stream.receive_some():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._drained.set()
        await self._stream.aclose()


class Listener:
    """Serves connections with an application until it is told to stop."""

    def __init__(
        self, app: ASGIFramework, limits: Limits, context: ssl.SSLContext | None = None
    ) -> None:
        self._app = ASGIWrapper(app)
        self._limits = limits
        self._tls = context
        self._config = _hypercorn_config(limits)
        self._worker = WorkerContext(None)
        self._connections: set[Connection] = set()
        self._count = 0
        self._places: Counter[str] = Counter()
        """All connections, by where they come from."""

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        stop: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until `stop` is set; then what is at work has `Limits.stop_s` to end."""
        async with trio.open_nursery() as handlers:
            async with trio.open_nursery() as accepting:
                await accepting.start(_serve_listeners, self._handle, listeners, handlers)
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            await self._worker.terminated.set()
            handlers.cancel_scope.deadline = trio.current_time() + self._limits.stop_s

    async def _handle(self, stream: trio.SocketStream) -> None:
        peer = _peer_of(stream)
        place = place_of(peer)
        self._count += 1
        self._places[place] += 1
        try:
            if self._too_many(place):
                log.warning("refused a connection from %s: there are %d", peer, self._count - 1)
                await stream.aclose()
                return
            await self._serve_in_time(stream, peer)
        finally:
            self._count -= 1
            self._places[place] -= 1
            self._places += Counter()  # places without a connection are dropped

    def _too_many(self, place: str) -> bool:
        """Is there no room for the connection from `place` that was just counted?"""
        trusted = [c.place for c in self._connections if c.trusted]
        return (
            self._count > self._limits.connections
            or self._count - len(trusted) > self._limits.strangers
            or self._places[place] - trusted.count(place) > self._limits.strangers_of_place
        )

    async def _serve_in_time(self, stream: trio.SocketStream, peer: str) -> None:
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + self._limits.stranger_s
            secured: Stream = stream
            if self._tls is not None:
                if await _first_byte(stream) != _TLS_HANDSHAKE:
                    await _refuse_plain(stream, peer)
                    return
                secured = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
            connection = Connection(secured, peer, self._limits, scope)
            guest.set(connection)
            self._connections.add(connection)
            try:
                # hypercorn needs no more of a stream than a connection has.
                await Http1Server(
                    self._app,
                    self._config,
                    self._worker,
                    ConnectionState({}),
                    connection,  # type: ignore[arg-type]
                )
                if tls.alert.get():
                    await _say_last(stream, tls.alert.get())
            except Exception:
                # One connection, whatever is sent on it, is not to end the others.
                log.exception("a connection from %s ended in a way that nobody foresaw", peer)
            finally:
                self._connections.discard(connection)
        if scope.cancelled_caught and not connection.ending:
            log.warning("gave up the connection of %s: it took too long to ask", peer)


async def _serve_listeners(
    handler: Callable[[trio.SocketStream], Awaitable[None]],
    listeners: list[trio.SocketListener],
    nursery: trio.Nursery,
    task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
) -> None:
    await trio.serve_listeners(handler, listeners, handler_nursery=nursery, task_status=task_status)


async def _first_byte(stream: trio.SocketStream) -> bytes:
    """What comes first, left where it is."""
    return await stream.socket.recv(1, trio.socket.MSG_PEEK)


async def _refuse_plain(stream: trio.SocketStream, peer: str) -> None:
    """Tell who speaks plain HTTP, in plain HTTP, that TLS is spoken here."""
    log.warning("refused with 426: plain HTTP where TLS is demanded, from %s", peer)
    body = msgspec.json.encode(
        Refusal(kind="Refused", message="TLS is spoken here", hint="use an https:// address")
    )
    head = (
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.2, HTTP/1.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    await _say_last(stream, head.encode() + body)


async def _say_last(stream: trio.SocketStream, last: bytes) -> None:
    """Send what ends a connection before it began, and wait a moment for it to arrive."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        await stream.send_all(last)
        await stream.send_eof()
        with trio.move_on_after(LAST_WORD_S):
            while await stream.receive_some():
                pass
    await stream.aclose()


def _peer_of(stream: trio.SocketStream) -> str:
    try:
        address = stream.socket.getpeername()
    except OSError:
        return "-"
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "-"


def place_of(peer: str) -> str:
    """Where a peer is, as far as one attacker can choose: its address, or its IPv6 network."""
    host = peer.rpartition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _hypercorn_config(limits: Limits) -> Config:
    config = Config()
    config.h11_max_incomplete_size = limits.head_bytes
    config.keep_alive_timeout = limits.idle_s
    config.keep_alive_max_requests = 1 << 62
    config.ssl_handshake_timeout = limits.handshake_s
    # Headers that nobody needs would be a good part of all bytes on a slow line.
    config.include_server_header = False
    config.include_date_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
