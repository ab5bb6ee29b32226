"""The line to a vault: its requests, each as one call. Async (trio); one task at a time.

Duty: HTTP, and nothing about what is to be sent. Every foreign exception is mapped here: whatever
goes wrong is one of `replicator.errors`, `LinkDown` when trying again later can help. Nothing of
the token gets into a message.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec

import store.errors
import timetravel.errors
from replicator import errors
from replicator.errors import (
    BadRequest,
    BadSettings,
    LinkDown,
    PastRefused,
    Refused,
    ReplicationError,
    VaultBusy,
)
from replicator.sealed_wire import ShipmentEnds
from replicator.settings import LinkSettings, read_token
from replicator.wire import (
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    PROTOCOL_HEADER,
    Common,
    Description,
    Hello,
    Lines,
    Mark,
    Marks,
    NewLine,
    Position,
    Refusal,
)

PIECE_BYTES = 16 << 10
"""Of a shipment's bytes are handed over at a time; progress is told after each."""

CONNECT_S = 15.0
"""TCP asks after 1, 3, 7 and 15 seconds; a new try is sooner than its next ones."""

WRITE_S = 60.0
"""So long may one piece take once it may go; a line this slow is as good as down."""
ANSWER_S = 180.0
"""So long the vault may take for a whole shipment that it has received."""

_BY_STATUS: dict[int, type[ReplicationError]] = {
    400: BadRequest,
    401: Refused,
    403: Refused,
    404: Refused,
    413: BadRequest,
    422: BadRequest,
    426: Refused,
}
Message = TypeVar("Message")


class Link:
    """A connection, or several after each other, to the vault of `settings`. A context manager.

    `transport` carries the bytes; it is closed with the link.
    """

    def __init__(
        self, settings: LinkSettings, token: str, transport: httpx.AsyncBaseTransport
    ) -> None:
        self._url = settings.url.rstrip("/")
        # No more headers than are needed: on a slow line they would be a good part of it all.
        self._client = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S, write=WRITE_S, pool=None),
        )
        self._client.headers = httpx.Headers({PROTOCOL_HEADER: str(PROTOCOL)})
        if token:
            self._client.headers["Authorization"] = f"Bearer {token}"

    @classmethod
    def open(
        cls, settings: LinkSettings, transport: httpx.AsyncBaseTransport | None = None
    ) -> Link:
        """With the token of the settings; plain and without a limit when no transport is given.

        BadSettings. Blocking: it reads the token and the certificates.
        """
        if transport is None:
            transport = httpx.AsyncHTTPTransport(verify=tls_context(settings), limits=LIMITS)
        token = read_token(settings.token_file) if settings.token_file else ""
        return cls(settings, token, transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    # --- the messages ----------------------------------------------------------------------------

    async def hello(self) -> Hello:
        """How the vault introduces itself; Refused when it speaks another protocol."""
        said = await self._ask("GET", "/v1/hello", Hello)
        if said.protocol != PROTOCOL:
            raise Refused(
                f"the vault speaks protocol {said.protocol}, this cdpfs {PROTOCOL}",
                "use a cdpfs of the same version at both ends",
            )
        return said

    async def describe(self, uuid: bytes, description: Description) -> Position:
        """Have the vault keep the volume from now on; where it stands."""
        body = msgspec.json.encode(description)
        return await self._ask("PUT", f"/v1/volumes/{uuid.hex()}", Position, body)

    async def position(self, uuid: bytes, line: str) -> Position:
        """What the vault holds of a line."""
        return await self._ask("GET", f"/v1/volumes/{uuid.hex()}/position?line={line}", Position)

    async def common(self, uuid: bytes, line: str, marks: list[Mark]) -> Common:
        """Which of the marks is the newest that a line has as well."""
        body = msgspec.json.encode(Marks(marks=marks))
        return await self._ask("POST", f"/v1/volumes/{uuid.hex()}/common?line={line}", Common, body)

    async def sealed_ends(self, uuid: bytes, line: str, after: int, upto: int) -> ShipmentEnds:
        """Where some of the shipments of a sealed line end, of the LSNs in `(after, upto]`."""
        where = f"/v1/volumes/{uuid.hex()}/sealed/ends?line={line}&after={after}&upto={upto}"
        return await self._ask("GET", where, ShipmentEnds)

    async def lines(self, uuid: bytes) -> Lines:
        """Every line of the volume."""
        return await self._ask("GET", f"/v1/volumes/{uuid.hex()}/lines", Lines)

    async def new_line(self, uuid: bytes, wanted: NewLine) -> Position:
        """Have a line made; where it stands. VaultBusy while that goes on: ask again."""
        body = msgspec.json.encode(wanted)
        return await self._ask("POST", f"/v1/volumes/{uuid.hex()}/lines", Position, body)

    async def ship(
        self,
        uuid: bytes,
        line: str,
        shipment: str,
        data: bytes,
        start: int,
        progress: Callable[[int], None],
        after: str = "",
    ) -> Position:
        """Send a shipment's bytes from `start` on; what the vault holds afterwards.

        `progress` is told how many of all its bytes have gone out. `after`: the shipment that it
        follows, which is still being taken in. Gap or Forked when the vault expects something
        else: ask for its position then.
        """
        total = len(data)
        where = f"bytes {start}-{total - 1}/{total}" if start < total else f"bytes */{total}"
        body = _Pieces(data, start, progress)
        headers = {"Content-Range": where, "Content-Length": str(total - start)}
        path = f"/v1/volumes/{uuid.hex()}/shipments/{shipment}?line={line}"
        path += f"&after={after}" if after else ""
        return await self._ask("PUT", path, Position, body, headers)

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[Message],
        body: bytes | httpx.AsyncByteStream | None = None,
        headers: dict[str, str] | None = None,
    ) -> Message:
        """One request; its answer as a message of `kind`."""
        try:
            content = body if isinstance(body, bytes) else None
            request = self._client.build_request(
                method, self._url + path, content=content, headers=headers
            )
            if isinstance(body, httpx.AsyncByteStream):
                request.stream = body
            response = await self._client.send(request, stream=True)
            try:
                raw = await _read(response)
            finally:
                await response.aclose()
        except httpx.InvalidURL as error:
            raise BadSettings(f"the vault's address is not one: {error}") from error
        except httpx.HTTPError as error:
            raise mapped_error(error) from error
        except (ssl.SSLError, OSError) as error:
            raise LinkDown(f"the connection to the vault broke: {error}") from error
        if response.status_code not in (200, 202):
            raise refusal_error(response.status_code, raw)
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.MsgspecError as error:
            raise Refused(
                f"what answers at {self._url} is not a vault of this version: {error}"
            ) from error


class _Pieces(httpx.AsyncByteStream):
    """A shipment's bytes from `start` on, as a body.

    Not a generator: when the vault refuses in the midst, nobody would close it.
    """

    def __init__(self, data: bytes, start: int, progress: Callable[[int], None]) -> None:
        self._view = memoryview(data)
        self._handed = self._told = start
        self._progress = progress

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next piece. That it is asked for means that the one before has gone out."""
        if self._handed > self._told:
            self._told = self._handed
            self._progress(self._told)
        piece = bytes(self._view[self._handed : self._handed + PIECE_BYTES])
        if not piece:
            raise StopAsyncIteration
        self._handed += len(piece)
        return piece


CONNECTIONS = 2
"""One, and one for what goes out while the vault takes in what came before."""

LIMITS = httpx.Limits(
    max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=None
)


def blocking_client(
    settings: LinkSettings, transport: httpx.BaseTransport | None = None
) -> httpx.Client:
    """A client for whoever reads from a vault in order; over TLS unless `transport` is given.

    BadSettings. Blocking: it reads the token and the certificates.
    """
    headers = {PROTOCOL_HEADER: str(PROTOCOL)}
    if settings.token_file:
        headers["Authorization"] = f"Bearer {read_token(settings.token_file)}"
    return httpx.Client(
        headers=headers,
        trust_env=False,
        transport=transport or httpx.HTTPTransport(verify=tls_context(settings)),
        timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S, write=WRITE_S),
    )


def tls_context(settings: LinkSettings) -> ssl.SSLContext:
    """What proves the vault to us, and us to it. BadSettings. Blocking."""
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.client_cert:
            key = settings.client_key or settings.client_cert
            if os.stat(key).st_mode & 0o077:
                raise BadSettings(
                    f"others can read the key of the certificate, {key}", f"chmod 600 {key}"
                )
            # Without a password there would be a prompt, on a terminal that is not there.
            context.load_cert_chain(settings.client_cert, settings.client_key or None, password="")
    except (OSError, ssl.SSLError) as error:
        name = settings.client_cert or settings.ca
        raise BadSettings(f"the certificates can't be used ({name}): {error}") from error
    return context


async def _read(response: httpx.Response) -> bytes:
    """The whole body, which is a message."""
    length = response.headers.get("content-length", "0")
    raw = b""
    if length.isdigit() and int(length) <= MAX_MESSAGE_BYTES:
        async for piece in response.aiter_raw():
            raw += piece
            if len(raw) > MAX_MESSAGE_BYTES:
                break
        else:
            return raw
    raise Refused("what answers there is not a vault: its answer is too long")


_ALERTS = {
    "SSLV3_ALERT_BAD_CERTIFICATE": "it is not a valid one",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it was revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it can't be verified",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it is not meant for clients",
    "TLSV1_ALERT_UNKNOWN_CA": "it is not signed by the vault's client CA",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "there is none",
}
"""What TLS says of a client's certificate (RFC 8446, 6.2), by OpenSSL's names."""


_ANOTHER_NAME = "use a host name or address that is in the vault's certificate"
_UNKNOWN_AUTHORITY = "name the vault's certificate authority: --ca F"
_TRUST_HINTS = {
    18: _UNKNOWN_AUTHORITY,  # self-signed
    19: _UNKNOWN_AUTHORITY,  # self-signed, in the chain
    20: _UNKNOWN_AUTHORITY,  # no issuer to be found
    21: _UNKNOWN_AUTHORITY,  # no issuer of the first one
    62: _ANOTHER_NAME,
    64: _ANOTHER_NAME,
}
"""What to do about a vault's certificate, by OpenSSL's X509_V_ERR codes (x509_vfy.h)."""


def mapped_error(error: httpx.HTTPError) -> ReplicationError:
    """A failure of the transport; one of trust stays until a person acts."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused(
                f"the vault's certificate is not trusted: {cause.verify_message}",
                _TRUST_HINTS.get(cause.verify_code, "see --tls-cert at the vault, and --ca here"),
            )
        if isinstance(cause, ssl.SSLError) and (cause.reason or "") in _ALERTS:
            return Refused(
                f"the vault does not take this site's certificate: {_ALERTS[cause.reason]}",
                "renew --client-cert, or see --client-ca at the vault, and the vault's log",
            )
        if isinstance(cause, ReplicationError):
            return cause
        cause = cause.__cause__ or cause.__context__
    what = _root(error)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return LinkDown(f"the vault can't be reached: {what}")
    return LinkDown(f"the connection to the vault broke: {what}")


def _root(error: BaseException) -> str:
    """What the system said, if it is in the chain of causes; else what the library says."""
    seen: BaseException | None = error
    while seen is not None:
        while isinstance(seen, BaseExceptionGroup):
            seen = seen.exceptions[0]
        if isinstance(seen, ssl.SSLError) and seen.reason:
            # Its errno is OpenSSL's, not the system's.
            return f"TLS failed: {seen.reason.replace('_', ' ').lower()}"
        if isinstance(seen, OSError) and seen.strerror and seen.errno:
            return os.strerror(seen.errno) if seen.errno > 0 else seen.strerror
        seen = seen.__cause__ or seen.__context__
    return str(error) or type(error).__name__


def refusal_error(status: int, raw: bytes) -> ReplicationError:
    """The error that a refusal stands for: by its kind if it has one that we know."""
    fallback = VaultBusy if status >= 500 or status in (408, 429) else _BY_STATUS.get(status)
    try:
        said = msgspec.json.decode(raw, type=Refusal)
    except msgspec.MsgspecError:
        return (fallback or Refused)(f"the vault answers with status {status}")
    if any(hasattr(module, said.kind) for module in (store.errors, timetravel.errors)):
        return PastRefused(said.message, said.hint or None, said.kind)
    kind = getattr(errors, said.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, ReplicationError)):
        kind = fallback or Refused
    return kind(f"the vault refuses: {said.message}", said.hint or None)
