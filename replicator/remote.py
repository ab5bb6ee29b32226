"""A vault as its readers ask it: requests of `replicator.reading_wire`, each as one call.

Duty: HTTP. A broken or damaged answer is asked for again until it is whole, as long as `Patience`
says; then it is LinkDown. A refusal is believed when it comes twice, since a damaged request is
refused as well. Synchronous; any thread.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

import httpx
import msgspec
import zstandard
from blake3 import blake3

from replicator.errors import BadShipment, LinkDown, PastRefused, ReplicationError, VaultBusy
from replicator.link import mapped_error, refusal_error, tls_context
from replicator.reading_wire import (
    ASKED_HEADER,
    DIGEST_HEADER,
    FRAME,
    Digests,
    End,
    Range,
    VolumeMessage,
    Wanted,
    asked_digest,
)
from replicator.settings import LinkSettings, read_token
from replicator.wire import MAIN_LINE, PROTOCOL, PROTOCOL_HEADER


class Patience(NamedTuple):
    """How long an answer is waited for. A request is given up when it was tried for `again_s`, and
    at least `tries` times."""

    again_s: float = 60.0
    tries: int = 3
    """More than one, since an answer whose length was damaged ends in a silence, and that takes
    longer than `again_s`."""
    silence_s: float = 120.0
    """Without a byte from the vault, which may have to search for a while."""

    @property
    def at_first(self) -> Patience:
        """Of the first request: an address that is wrong is to be told soon."""
        return self._replace(again_s=min(self.again_s, 1.0), tries=1)


PATIENCE: Final = Patience()
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 8.0
CONNECT_S: Final = 20.0
MAX_CONNECTIONS: Final = 8

FIRST_SPEED_BYTES_S: Final = 4e6
"""What a line is taken for until something came over it."""
SPEED_SPAN_S: Final = 0.5
PACKING_BYTES_S: Final = 15e6
"""A line slower than this gains by compression. What is faster may be slow for want of a processor,
and compression would only make that worse."""
MIN_STEP_BYTES: Final = 32 << 10
STEP_S: Final = 4.0
"""One request for contents takes about so long at the most, so that little is lost with it."""

_Message = TypeVar("_Message")


class Damaged(Exception):
    """An answer is not what the vault sent, or not to what was asked. It is asked for again."""


@dataclass(frozen=True)
class Line:
    """A line of a volume at a vault."""

    uuid: str
    line: str = MAIN_LINE

    def url(self, what: str) -> str:
        """Where something of it is asked."""
        return f"/v1/volumes/{self.uuid}/{what}"


class Pace:
    """Lets bytes in at a rate, counted over all threads. `rate_bytes_s` 0: as fast as they come."""

    def __init__(self, rate_bytes_s: float) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._free_at_s = 0.0
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> None:
        """Return when so many bytes more may be read."""
        if not self._rate_bytes_s:
            return
        with self._lock:
            now_s = time.monotonic()
            begin_s = max(self._free_at_s, now_s)
            self._free_at_s = begin_s + size_bytes / self._rate_bytes_s
        time.sleep(max(begin_s - now_s, 0.0))


class Speed:
    """How fast bytes came lately. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since_s = time.monotonic()
        self._count_bytes = 0
        self._bytes_s = FIRST_SPEED_BYTES_S

    def came(self, size_bytes: int) -> None:
        """So many bytes have come."""
        with self._lock:
            self._count_bytes += size_bytes
            passed_s = time.monotonic() - self._since_s
            if passed_s >= SPEED_SPAN_S:
                self._bytes_s = self._count_bytes / passed_s
                self._since_s, self._count_bytes = time.monotonic(), 0

    @property
    def bytes_s(self) -> float:
        """Bytes per second over the last span in which some came."""
        return self._bytes_s


class RemoteVault:
    """The vault of `settings`. A context manager."""

    def __init__(
        self,
        settings: LinkSettings,
        rate_bytes_s: float = 0.0,
        patience: Patience = PATIENCE,
    ) -> None:
        self._url = settings.url.rstrip("/")
        self._pace = Pace(rate_bytes_s)
        self.speed = Speed()
        self._patience = patience
        self._gone = threading.Event()
        self._piece_bytes = 16 << 10 if rate_bytes_s else 1 << 20
        token = read_token(settings.token_file) if settings.token_file else ""
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=300)
        transport = httpx.HTTPTransport(verify=tls_context(settings), limits=limits)
        timeout = httpx.Timeout(patience.silence_s, connect=CONNECT_S, pool=None)
        self._client = httpx.Client(transport=transport, trust_env=False, timeout=timeout)
        self._client.headers = httpx.Headers(
            {PROTOCOL_HEADER: str(PROTOCOL), "accept-encoding": "identity"}
        )
        if token:
            self._client.headers["authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def give_up(self) -> None:
        """Try nothing again any more: whoever asked for it is gone."""
        self._gone.set()

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    # --- messages --------------------------------------------------------------------------------

    def volumes(self) -> list[VolumeMessage]:
        """What may be read."""
        where, at_first = "/v1/volumes", self._patience.at_first
        return self.message(where, {}, list[VolumeMessage], patience=at_first)

    def message(
        self,
        path: str,
        params: dict[str, Any],
        kind: type[_Message],
        body: bytes | None = None,
        patience: Patience | None = None,
    ) -> _Message:
        """One request; its answer as a message of `kind`."""

        def ask() -> _Message:
            message: _Message = self._decoded(self._whole(path, params, body), kind)
            return message

        return self._patiently(ask, patience)

    def lines(self, path: str, params: dict[str, Any], kind: Any) -> Iterator[Any]:
        """An answer of lines, each as it comes. When it breaks off it is asked for again, and goes
        on behind the lines that were given."""
        given = 0
        troubles = _Troubles(self._gone, self._patience)
        while True:
            count = 0
            try:
                for line in self._lines(path, params):
                    row = self._decoded(line, kind)
                    count += 1
                    if count > given:
                        given = count
                        troubles = _Troubles(self._gone, self._patience)
                        yield row
                return
            except (Damaged, ReplicationError) as error:
                troubles.met(error)

    def contents(self, line: Line, lsn: int, ranges: list[Range]) -> list[bytes]:
        """The bytes of many ranges; fewer of one that goes beyond its file's end."""
        step = max(int(self.speed.bytes_s * STEP_S), MIN_STEP_BYTES)
        if sum(part.size for part in ranges) <= step:
            return self._contents(line, lsn, ranges)
        # A slow line, which may break: little by little.
        found = []
        for part in ranges:
            pieces = []
            for start in range(part.start, part.start + part.size, step):
                size = min(step, part.start + part.size - start)
                pieces += self._contents(line, lsn, [Range(part.node, start, size)])
                if len(pieces[-1]) < size:
                    break
            found.append(b"".join(pieces))
        return found

    def _contents(self, line: Line, lsn: int, ranges: list[Range]) -> list[bytes]:
        body = msgspec.json.encode(Wanted(ranges))

        limit = sum(part.size + FRAME.size for part in ranges)

        def ask() -> list[bytes]:
            params = {"lsn": lsn, "line": line.line}
            return _split(self._whole(line.url("contents"), params, body, limit), ranges)

        return self._patiently(ask)

    def digests(self, line: Line, lsn: int, ranges: list[Range]) -> list[bytes]:
        """The blake3 digests of many ranges."""
        body = msgspec.json.encode(Wanted(ranges))
        params = {"lsn": lsn, "line": line.line}
        said = self.message(line.url("digests"), params, Digests, body)
        return [bytes.fromhex(digest) for digest in said.digests]

    # --- HTTP ------------------------------------------------------------------------------------

    def _patiently(self, ask: Callable[[], _Message], patience: Patience | None = None) -> _Message:
        troubles = _Troubles(self._gone, patience or self._patience)
        while True:
            try:
                return ask()
            except (Damaged, ReplicationError) as error:
                troubles.met(error)

    def _whole(
        self, path: str, params: dict[str, Any], body: bytes | None, unpacked_bytes: int = 0
    ) -> bytes:
        """A whole answer, its digest tested. Damaged, or any ReplicationError.

        With `unpacked_bytes`, the most that it can come to, it may come packed: on a line that is
        slower than packing.
        """
        packed = unpacked_bytes > 0 and self.speed.bytes_s < PACKING_BYTES_S
        response = self._send(path, params, body, {"accept-encoding": "zstd"} if packed else None)
        try:
            data = self._read(response)
        finally:
            response.close()
        if response.status_code not in (200, 206):
            raise refusal_error(response.status_code, data)
        self._check_asked(response, body)
        if response.headers.get("content-encoding") == "zstd":
            data = _unpacked(data, unpacked_bytes)
        if response.headers.get(DIGEST_HEADER) != blake3(data).hexdigest():
            raise Damaged("an answer does not match its digest")
        return data

    def _lines(self, path: str, params: dict[str, Any]) -> Iterator[bytes]:
        """The lines of an answer but the last one, which is tested. Only whole answers end."""
        response = self._send(path, params, None)
        try:
            if response.status_code != 200:
                raise refusal_error(response.status_code, self._read(response))
            self._check_asked(response, None)
            digest, rest, count = blake3(), b"", 0
            held: bytes | None = None
            for piece in self._pieces(response):
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    if held is not None:
                        digest.update(held + b"\n")
                        count += 1
                        yield held
                    held = line
            end = self._decoded(held or b"", End)
            if rest or end.lines != count or end.digest != digest.hexdigest():
                raise Damaged("an answer of lines was damaged on the way")
        finally:
            response.close()

    def _send(
        self,
        path: str,
        params: dict[str, Any],
        body: bytes | None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            request = self._client.build_request(
                "GET" if body is None else "POST",
                self._url + path,
                params=params,
                content=body,
                headers=headers,
            )
            return self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise mapped_error(error) from error
        except (ssl.SSLError, OSError) as error:
            raise LinkDown(f"the connection to the vault broke: {error}") from error

    def _read(self, response: httpx.Response) -> bytes:
        return b"".join(self._pieces(response))

    def _pieces(self, response: httpx.Response) -> Iterator[bytes]:
        try:
            for piece in response.iter_raw():
                self.speed.came(len(piece))
                self._pace.take(len(piece))
                yield piece
        except httpx.HTTPError as error:
            raise mapped_error(error) from error
        except (ssl.SSLError, OSError) as error:
            raise LinkDown(f"the connection to the vault broke: {error}") from error

    def _check_asked(self, response: httpx.Response, body: bytes | None) -> None:
        target = response.request.url.raw_path
        target = target if b"?" in target else target + b"?"
        if response.headers.get(ASKED_HEADER) != asked_digest(target, body or b""):
            raise Damaged("the answer is not to what was asked")

    def _decoded(self, data: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Damaged(f"what answers at {self._url} is no vault of this version") from error


class _Troubles:
    """What went wrong with one request so far."""

    def __init__(self, gone: threading.Event, patience: Patience) -> None:
        self._gone = gone
        self._patience = patience
        self._since_s = time.monotonic()
        self._tries = 0
        self._pause_s = FIRST_PAUSE_S
        self._refused: tuple[type[Exception], str] | None = None

    def met(self, error: Exception) -> None:
        """Return when it is to be tried again; raise when it is not.

        The pause has jitter, so that many readers do not come back at once.
        """
        if not isinstance(error, LinkDown | VaultBusy | Damaged):
            # By its kind, not its words: those of a moment to come tell the time, which moves on.
            refused = type(error), error.kind if isinstance(error, PastRefused) else ""
            if self._refused == refused:
                raise error
            self._refused = refused
            return
        self._tries += 1
        tried_s = time.monotonic() - self._since_s
        if tried_s > self._patience.again_s and self._tries >= self._patience.tries:
            if isinstance(error, Damaged):
                raise BadShipment(
                    f"{error}, again and again",
                    "the line or a program on it damages data: use TLS, or another line",
                ) from error
            raise error
        if self._gone.wait(self._pause_s * random.uniform(0.7, 1.3)):
            raise LinkDown("nobody waits for it any more") from error
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)


def _unpacked(data: bytes, limit_bytes: int) -> bytes:
    """Damaged when it is not packed, or comes to more than it can."""
    try:
        if not 0 <= zstandard.frame_content_size(data) <= limit_bytes:
            raise Damaged("an answer is larger than what was asked for")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged(f"an answer can't be unpacked: {error}") from error


def _split(data: bytes, ranges: list[Range]) -> list[bytes]:
    """The bytes of each range. Damaged when they are not what was asked for."""
    view = memoryview(data)
    found = []
    at = 0
    for part in ranges:
        if len(view) < at + FRAME.size:
            raise Damaged("an answer has fewer ranges than were asked for")
        (size,) = FRAME.unpack_from(view, at)
        at += FRAME.size
        if size > part.size or len(view) < at + size:
            raise Damaged("an answer has other ranges than were asked for")
        found.append(bytes(view[at : at + size]))
        at += size
    if at != len(view):
        raise Damaged("an answer has more than was asked for")
    return found
