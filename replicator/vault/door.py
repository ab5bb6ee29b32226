"""Who comes in: every request passes here before anything of it is read.

Duty: an ASGI middleware that tests protocol, size, token and number of requests of a site; sets
`scope["state"]["site"]`; and turns whatever is raised behind it into a `wire.Refusal`, logged.
Async (trio). Nothing of a token gets into a log or an answer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

import msgspec
import trio

from replicator.errors import (
    BadRequest,
    BadToken,
    Refused,
    ReplicationError,
    TooLarge,
    TooManyRequests,
    TooSlow,
)
from replicator.vault.limits import Limits
from replicator.vault.refusals import EXPECTED, refusal_of, status_of
from replicator.vault.sites import Site, Sites, identify
from replicator.vault.tls import certificate
from replicator.wire import MAX_MESSAGE_BYTES, MAX_SHIPMENT_BYTES, PROTOCOL, PROTOCOL_HEADER

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_TARGET_BYTES: Final = 8 << 10
"""Of a request's path and query."""


class Guest(Protocol):
    """The connection that a request came on, as far as the door is concerned."""

    def trust(self) -> None:
        """A valid token was shown on it."""

    def begin(self) -> None:
        """A request's head has arrived."""

    def end(self) -> None:
        """The request is answered."""

    def refuse(self) -> None:
        """The answer is a refusal, after which the connection ends."""

    def hang_up(self) -> None:
        """End the connection now: there are bytes on it that nobody will read."""


guest: ContextVar[Guest | None] = ContextVar("guest", default=None)
"""Of the connection that the current task serves; None when there is no listener of ours."""

Observer = Callable[[Scope, int, int, Exception | None], None]
"""Told of every answer: the request's scope, the status (0: none went out), how many bytes of its
body were read, and what was raised."""


class Door:
    """The middleware. `require_tls`: what does not come over TLS is refused. `any_protocol`: paths
    that are also for clients which do not know the protocol, and so can't name its version."""

    def __init__(
        self,
        app: App,
        sites: Sites,
        limits: Limits,
        observe: Observer,
        require_tls: bool = False,
        any_protocol: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._sites = sites
        self._limits = limits
        self._observe = observe
        self._require_tls = require_tls
        self._any_protocol = any_protocol
        self._at_work: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, body = _Answer(send), _Body(receive, self._limits)
        connection = guest.get()
        if connection is not None:
            connection.begin()
        error: Exception | None = None
        try:
            await self._admit(scope, body, answer.send)
        except Disconnected as gone:
            error = gone
        except Exception as raised:  # noqa: BLE001 - the one place for all of them
            error = raised
            if connection is not None:
                connection.refuse()
            await self._refuse(scope, body, answer, raised)
        finally:
            if connection is not None:
                connection.end()
        self._observe(scope, answer.status, body.read_bytes, error)
        if not body.ended and connection is not None:
            connection.hang_up()

    async def _admit(self, scope: Scope, body: _Body, send: Send) -> None:
        check_request(scope, self._require_tls)
        state = scope.setdefault("state", {})
        site = await trio.to_thread.run_sync(
            identify, self._sites, token_of(scope), certificate.get()
        )
        state["site"] = site
        connection = guest.get()
        if connection is not None:
            connection.trust()
        if scope["path"] not in self._any_protocol:
            check_protocol(scope)
        body.allow(body_limit(scope))
        if self._at_work[site.name] >= self._limits.site_requests:
            raise TooManyRequests(f"{site.name} has {self._at_work[site.name]} requests at work")
        self._at_work[site.name] += 1
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._at_work[site.name] -= 1
            self._at_work += Counter()  # names without a request are dropped

    async def _refuse(self, scope: Scope, body: _Body, answer: _Answer, error: Exception) -> None:
        status, position = status_of(error), getattr(error, "position", None)
        _log_refusal(scope, status, error)
        if answer.status:
            raise error  # in the midst of an answer: all that is left is to hang up
        said = msgspec.json.encode(refusal_of(error, position))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(said)),
            # What follows on the connection may be the rest of a body that nobody wants.
            (b"connection", b"close"),
        ]
        if status in (429, 503, 507):
            headers.append((b"retry-after", b"10"))
        if status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="cdpfs vault"'))
        await answer.send({"type": "http.response.start", "status": status, "headers": headers})
        await answer.send({"type": "http.response.body", "body": said, "more_body": True})
        await body.discard()
        await answer.send({"type": "http.response.body", "body": b""})


class Disconnected(Exception):
    """The client went away in the midst of its body."""


class _Answer:
    """Sends, and remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def send(self, message: Message) -> None:
        """See the ASGI specification."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class _Body:
    """A request's body, bounded in size and in how long it may be silent."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._left = 0
        self.read_bytes = 0
        self.ended = False

    def allow(self, limit_bytes: int) -> None:
        """So long may it be; of none, nothing will be left."""
        self._left = limit_bytes
        self.ended = not limit_bytes

    async def receive(self) -> Message:
        """See the ASGI specification. TooSlow, TooLarge, Disconnected."""
        if self.ended:
            return await self._receive()  # the end of the connection
        try:
            with trio.fail_after(self._limits.silence_s):
                message = await self._receive()
        except trio.TooSlowError:
            raise TooSlow(f"no byte of the body came for {self._limits.silence_s:g} s") from None
        if message["type"] == "http.disconnect":
            self.ended = True
            raise Disconnected
        size = len(message.get("body", b""))
        self._left -= size
        self.read_bytes += size
        self.ended = not message.get("more_body", False)
        if self._left < 0:
            raise TooLarge("the body is longer than its headers say, or than it may be")
        return message

    async def discard(self) -> None:
        """Read what is still to come, for a while; see `Limits.linger_s`."""
        with trio.move_on_after(self._limits.linger_s):
            while not self.ended:
                message = await self._receive()
                self.ended = not message.get("more_body", False)


# --- what a request's head may say ---------------------------------------------------------------


def headers_of(scope: Scope, name: bytes) -> list[bytes]:
    """All values of a header, as they were sent."""
    return [value for key, value in scope["headers"] if key.lower() == name]


def check_request(scope: Scope, require_tls: bool) -> None:
    """Refused, TooLarge or BadRequest for a head that no client of ours sends."""
    if require_tls and scope["scheme"] != "https":
        raise Refused("this vault is reached over TLS only", "use an https:// address")
    if scope["http_version"] not in ("1.1", "1.0"):
        raise BadRequest(f"HTTP/{scope['http_version']} is not spoken here", "use HTTP/1.1")
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
        raise TooLarge("the request's path is too long")
    if headers_of(scope, b"transfer-encoding"):
        # One way only to say where a body ends: two are how requests are smuggled past proxies.
        raise BadRequest("a body has a Content-Length here, no Transfer-Encoding")
    for name in (b"content-length", b"authorization", b"content-range", b"host"):
        if len(headers_of(scope, name)) > 1:
            raise BadRequest(f"there is more than one {name.decode()} header")


def check_protocol(scope: Scope) -> None:
    """Refused for another version of the protocol, or none."""
    said = headers_of(scope, PROTOCOL_HEADER.encode())
    if said != [str(PROTOCOL).encode()]:
        named = said[0].decode("latin1")[:20] if said else "none"
        raise Refused(
            f"this vault speaks protocol {PROTOCOL}, the request {named}",
            "use a cdpfs of the same version at both ends",
        )


def token_of(scope: Scope) -> str | None:
    """The token of the request, None without one; BadToken for what is none."""
    values = headers_of(scope, b"authorization")
    if not values:
        return None
    scheme, _, token = values[0].decode("latin1").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise BadToken("the request has no token")
    return token.strip()


def body_limit(scope: Scope) -> int:
    """How long the body may be: as it says, within the bounds of its kind. TooLarge."""
    values = headers_of(scope, b"content-length")
    if values and not values[0].isdigit():
        raise BadRequest("Content-Length is no number")
    length = int(values[0][:19]) if values else 0
    most = MAX_SHIPMENT_BYTES if "/shipments/" in scope["path"] else MAX_MESSAGE_BYTES
    if length > most:
        raise TooLarge(f"the body may have {most} bytes, not {length}")
    return length


def _log_refusal(scope: Scope, status: int, error: Exception) -> None:
    known = isinstance(error, ReplicationError)
    level = logging.INFO if status in EXPECTED and known else logging.WARNING
    if status == 500:
        level = logging.ERROR
    unforeseen = error if not known and status == 500 else None
    site: Site | None = scope.get("state", {}).get("site")
    log.log(
        level,
        "refused with %d: %s %s from %s, site %s: %s: %s",
        status,
        scope["method"],
        printable(scope["path"]),
        peer_text(scope),
        site.name if site is not None else "-",
        type(error).__name__,
        printable(str(error)),
        exc_info=unforeseen,
    )


def peer_text(scope: Scope) -> str:
    """Where a request came from."""
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "-"


def printable(text: str, most: int = 200) -> str:
    """Text from outside for a log: on one line, nothing that moves a terminal's cursor."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:most])
    return shown + ("…" if len(text) > most else "")
