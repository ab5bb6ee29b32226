"""HTTP over a TCP stream whose real bytes a meter lets out: the throttle's place in the connection.

Duty: an httpcore network backend whose stream lies beneath TLS, so that what is counted and held
back is what goes on the wire: handshakes, records, headers and retransmissions included. Async
(trio). It knows nothing of what is sent.

How the limit is kept:
- A write goes in pieces, each when the meter lets it. What it is charged is an estimate: payload
  plus Ethernet, IP and TCP headers; TCP_INFO then tells what really went, and the difference is
  charged, so that retransmissions, acknowledgements and short segments count.
- What is handed over is soon what went out: TCP_NOTSENT_LOWAT keeps what waits in the kernel to a
  fifth of a second at the rate of the limit or of the line, whichever is less. (A small SO_SNDBUF
  would hold back what is in flight as well, and a long line would never be filled.)
- Time spent waiting for the meter counts for no time-out: a pause over the weekend breaks nothing.
"""

# The parameters called `timeout` are httpcore's.
# ruff: noqa: ASYNC109

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Final

import httpcore
import httpx
import trio

from replicator.meter import Meter
from replicator.tcp_info import header_bytes, read_tcp_info, wire_bytes

KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3
DEAD_LINE_MS = 60_000
"""A connection is given up when what was sent is not acknowledged for so long. A full queue before
a slow line may take ten seconds; a router that was started anew takes most of a minute."""

LONGEST_REPEAT_MS = 8_000
"""What is not acknowledged is sent again after so long at the most. Without this, a line that comes
back after a minute would stay silent for up to another one. Longer than a queue may delay."""
_TCP_RTO_MAX_MS = 44
"""linux/tcp.h, since Linux 6.15; unknown to Python's socket module."""

UNSENT_S = 0.2
MAX_UNSENT_BYTES = 256 << 10
CORRECT_S = 0.05
"""TCP_INFO is asked at most so often, and after each piece when pieces are rarer."""
HALF_OPEN_SEGMENTS = 2
"""Of opening and of closing a connection, which TCP_INFO does not live to tell."""
FIRST_MSS = 1448

CONNECT_S = 30.0
STALL_S = 60.0
ANSWER_S = 180.0
PATIENCE: Final = httpx.Timeout(ANSWER_S, connect=CONNECT_S, write=STALL_S, pool=None)
"""For clients of `transport`: connecting, one piece without progress, an answer. It counts from
when the meter has let things go. A line of 56 kbit/s before which another's queue is full answers
late, and a vault needs time to take a large shipment."""


class _MeteredTcp(trio.abc.Stream):
    """A TCP connection beneath TLS. One task sends at a time, one receives."""

    def __init__(self, stream: trio.SocketStream, meter: Meter) -> None:
        self._stream = stream
        self.connection = stream.socket
        self._meter = meter
        self._header_bytes = header_bytes(self.connection.family)
        self._mss = FIRST_MSS
        self._accounted_out = HALF_OPEN_SEGMENTS * self._header_bytes
        self._accounted_in = 0
        self._lowat_bytes = 0
        self._asked_at = -1.0
        self._closed = False
        self.patience_s = float("inf")
        """How long a piece, or the other end's bytes, may take."""
        _set_options(self.connection)
        self._correct()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything, as fast as the meter lets it."""
        view = memoryview(data)
        while view:
            size = self._piece_bytes()
            await self._send_piece(view[:size])
            view = view[size:]

    async def _send_piece(self, piece: memoryview) -> None:
        # What waits in the kernel goes first: what was let go would otherwise only wait there.
        with trio.fail_after(self.patience_s):
            await self._stream.wait_send_all_might_not_block()
        cost = wire_bytes(len(piece), self._mss, self._header_bytes)
        await self._meter.acquire(cost)
        self._accounted_out += cost
        with trio.fail_after(self.patience_s):
            await self._stream.send_all(piece)
        if trio.current_time() - self._asked_at >= CORRECT_S:
            self._correct()

    def _piece_bytes(self) -> int:
        """Payload of the next piece: whole segments, if it is more than one."""
        wire = self._meter.piece_bytes
        segments = wire // (self._mss + self._header_bytes)
        return segments * self._mss if segments else max(1, wire - self._header_bytes)

    def _correct(self) -> None:
        """Charge what really went; keep the kernel's queue short."""
        if self._closed:
            return
        self._asked_at = trio.current_time()
        info = read_tcp_info(self.connection)
        if info is None:
            return
        self._mss, self._header_bytes = info.mss, info.header_bytes
        out = info.wire_out_bytes + info.cost(info.unsent_bytes)
        self._meter.charge(out - self._accounted_out)
        self._accounted_out = out
        self._meter.received(info.wire_in_bytes - self._accounted_in)
        self._accounted_in = info.wire_in_bytes
        self._meter.carried(info.delivery_bytes_s * 8)
        self._keep_short(info.delivery_bytes_s)

    def _keep_short(self, delivery_bytes_s: int) -> None:
        rate = min(self._meter.rate_bps / 8, float(delivery_bytes_s or MAX_UNSENT_BYTES))
        wanted = int(min(MAX_UNSENT_BYTES, max(2 * self._mss, rate * UNSENT_S)))
        if wanted != self._lowat_bytes:
            self._lowat_bytes = wanted
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, wanted)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What came, at least one byte; b"" at its end."""
        with trio.fail_after(self.patience_s):
            data = await self._stream.receive_some(max_bytes)
        if trio.current_time() - self._asked_at >= CORRECT_S:
            self._correct()
        return data

    async def wait_send_all_might_not_block(self) -> None:
        """Until there is room in the kernel."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Hang up, and charge what that takes."""
        self._correct()
        if not self._closed:
            self._closed = True
            self._meter.charge(HALF_OPEN_SEGMENTS * self._header_bytes)
        await self._stream.aclose()


def _set_options(connection: trio.socket.SocketType) -> None:
    tcp = socket.IPPROTO_TCP
    connection.setsockopt(tcp, socket.TCP_NODELAY, 1)
    connection.setsockopt(tcp, socket.TCP_USER_TIMEOUT, DEAD_LINE_MS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(tcp, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connection.setsockopt(tcp, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    connection.setsockopt(tcp, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    with contextlib.suppress(OSError):  # an older kernel
        connection.setsockopt(tcp, _TCP_RTO_MAX_MS, LONGEST_REPEAT_MS)


class _Stream(httpcore.AsyncNetworkStream):
    """What httpcore sees: the TCP connection, or TLS on top of it."""

    def __init__(self, tcp: _MeteredTcp, tls: trio.SSLStream[_MeteredTcp] | None = None) -> None:
        self._tcp = tcp
        self._tls = tls

    @property
    def _top(self) -> trio.abc.Stream:
        return self._tcp if self._tls is None else self._tls

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At least one byte; b"" at the end."""
        self._tcp.patience_s = _patience(timeout)
        with _mapped(httpcore.ReadError, httpcore.ReadTimeout):
            return bytes(await self._top.receive_some(max_bytes))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of it; the time-out is for each piece, and begins when the piece may go."""
        if not buffer:
            return
        self._tcp.patience_s = _patience(timeout)
        with _mapped(httpcore.WriteError, httpcore.WriteTimeout):
            await self._top.send_all(buffer)

    async def aclose(self) -> None:
        """Hang up."""
        await self._top.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """TLS on top of what is metered."""
        tls = trio.SSLStream(
            self._tcp, ssl_context, server_hostname=server_hostname, https_compatible=True
        )
        self._tcp.patience_s = _patience(timeout)
        try:
            with _mapped(httpcore.ConnectError, httpcore.ConnectTimeout):
                await tls.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(self._tcp)
            raise
        return _Stream(self._tcp, tls)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks for: whether the other end has hung up, and what TLS agreed on."""
        if info == "is_readable":
            return self._tcp.connection.is_readable()
        if info == "socket":
            return self._tcp.connection
        if info == "server_addr":
            return self._tcp.connection.getpeername()
        if info == "client_addr":
            return self._tcp.connection.getsockname()
        # SSLStream passes on what it does not have to the object inside it (trio's documentation).
        return self._tls if info == "ssl_object" else None


class MeteredBackend(httpcore.AsyncNetworkBackend):
    """Makes the connections of a pool. They share a meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect, when the meter lets that go; IPv6 and IPv4, whichever answers."""
        await self._meter.acquire(HALF_OPEN_SEGMENTS * header_bytes(socket.AF_INET6))
        with (
            _mapped(httpcore.ConnectError, httpcore.ConnectTimeout),
            trio.fail_after(_patience(timeout)),
        ):
            stream = await trio.open_tcp_stream(host, port, local_address=local_address)
        for option in socket_options or ():
            stream.setsockopt(*option)
        return _Stream(_MeteredTcp(stream, self._meter))

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A line to another host is never one."""
        raise httpcore.ConnectError(f"{path}: a UNIX socket is no line to a vault")

    async def sleep(self, seconds: float) -> None:
        """Between attempts."""
        await trio.sleep(seconds)


def _patience(timeout: float | None) -> float:
    return float("inf") if timeout is None else timeout


@contextlib.contextmanager
def _mapped(broken: type[Exception], slow: type[Exception]) -> Iterator[None]:
    """trio's exceptions as httpcore's."""
    try:
        yield
    except trio.TooSlowError as error:
        raise slow("no progress") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise broken(str(error.__cause__ or error)) from error


class MeteredTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 for an httpx client; its connections are kept, and share a meter."""

    def __init__(self, meter: Meter, tls: ssl.SSLContext | None, connections: int) -> None:
        self._tls = tls
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=None,
            http1=True,
            http2=False,
            network_backend=MeteredBackend(meter),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the answer's body is still to be read."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = aiter(request.stream)
        url = request.url
        assert url.scheme != "https" or self._tls is not None
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=body,
            extensions=request.extensions,
        )
        try:
            with _as_httpx(request):
                answer = await self._pool.handle_async_request(asked)
        finally:
            # httpcore leaves a body that was not sent to its end to the garbage collector, and
            # trio warns of generators that end there.
            if isinstance(body, AsyncGenerator):
                await body.aclose()
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer, request),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._pool.aclose()

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, answer: httpcore.Response, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


@contextlib.contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """httpcore's exceptions as httpx's of the same name."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as error:
        kind = getattr(httpx, type(error).__name__)
        raise kind(str(error), request=request) from error


def transport(
    meter: Meter, tls: ssl.SSLContext | None = None, connections: int = 1
) -> MeteredTransport:
    """For `httpx.AsyncClient(transport=..., timeout=PATIENCE)`: everything goes through `meter`.

    `tls` is what proves the other end; None: there are no `https` addresses.
    """
    return MeteredTransport(meter, tls, connections)


__all__ = ["PATIENCE", "MeteredBackend", "MeteredTransport", "transport"]
