"""Reading a vault's volumes over HTTP: the routes of `replicator.reading_wire`.

Duty: from requests to `answers`, and from what they give to bytes. Async (trio); all that reads a
journal runs in worker threads, READERS at a time, so that taking shipments in goes on. Who asks is
what the door found out (`request.state.site`).
"""

from __future__ import annotations

import re
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import trio
import zstandard
from blake3 import blake3
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from replicator.errors import BadRequest, Refused
from replicator.reading_wire import (
    ASKED_HEADER,
    DIGEST_HEADER,
    MAX_CONTENTS_BYTES,
    NDJSON,
    End,
    Wanted,
    asked_digest,
    decode_path,
    state_message,
)
from replicator.vault import answers
from replicator.vault.root import VaultRoot, checked_line, checked_uuid
from replicator.vault.shelf import Book, Shelf
from replicator.vault.shipping import shipment_from
from replicator.vault.sites import Site
from replicator.wire import MAIN_LINE, MAX_MESSAGE_BYTES, Refusal
from store.errors import NeverCaptured, NotSeeded
from store.journal import NodeState
from store.types import ROOT, Lsn, NodeId
from timetravel.errors import MomentError, TimetravelError
from timetravel.grade import Grade
from timetravel.moment import BeforeLastWrite, parse_moment
from timetravel.resolve import PathSubject, resolve
from timetravel.standing import BarrierSettings
from timetravel.view import View

READERS: Final = 4
"""Threads that read journals for clients at the same time."""

CHUNK_BYTES: Final = 128 << 10
"""Of an answer of lines are made at once."""

PIECE_BYTES: Final = 1 << 20
"""Of a whole file that is sent are read at once."""

ZSTD_LEVEL: Final = 1
WORTH_PACKING: Final = 0.95
"""An answer is sent packed if it is smaller by this."""

MAX_DIGIT_CHARS: Final = 19
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_ZONES: Final = ("Etc/GMT+11", "Etc/GMT-14")
"""Two zones in which no local time is the same."""

T = TypeVar("T")
Handler = Callable[["Reading", Request], Awaitable[Response]]


class Span(NamedTuple):
    """Bytes `[start, stop)` of a file of `size`."""

    start: int
    stop: int
    size: int


class Reading:
    """What the routes work on."""

    def __init__(self, root: VaultRoot) -> None:
        self._shelf = Shelf(root)
        self._root = root
        self._threads = trio.CapacityLimiter(READERS)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """In a thread, when it is this one's turn."""
        return await trio.to_thread.run_sync(work, *args, limiter=self._threads)

    async def book(self, request: Request) -> Book:
        """The line that a request names, if who asks may read it."""
        uuid = checked_uuid(request.path_params["uuid"])
        line = checked_line(request.query_params.get("line", MAIN_LINE))
        site: Site = request.state.site
        volume = await self.run(self._root.volume, uuid)
        if not site.may_read(volume.site):
            raise Refused(f"volume {uuid} is not one of {site.name}")
        return await self.run(self._shelf.book, volume, line)

    # --- the routes ------------------------------------------------------------------------------

    async def volumes(self, request: Request) -> Response:
        """Those that who asks may read."""
        site: Site = request.state.site

        def found() -> list[Any]:
            every = (self._root.volume(uuid) for uuid in self._root.volumes())
            return [self._shelf.describe(volume) for volume in every if site.may_read(volume.site)]

        return message(await self.run(found))

    async def resolve(self, request: Request) -> Response:
        """What a moment comes to."""
        book = await self.book(request)
        return message(await self.run(self._resolve, book, dict(request.query_params)))

    def _resolve(self, book: Book, asked: dict[str, str]) -> Any:
        now_ns = time.time_ns()
        text = asked.get("moment", "")
        zone = asked.get("zone") or None
        if zone is None:
            zone = _any_zone(text, now_ns)
        moment = parse_moment(text, now_ns=now_ns, zone=zone)
        settings = book.settings
        if "limit_s" in asked:
            limit_s = _seconds(asked["limit_s"])
            settings = BarrierSettings(limit_s, settings.quiet_s, live=False)
        path = decode_path(asked.get("path", ""))
        node = None
        if isinstance(moment, BeforeLastWrite):
            node = book.view(book.journal.indexed_lsn).walk(path).node
        point = resolve(
            book.journal,
            moment,
            now_ns=now_ns,
            node=node,
            subject=PathSubject(book.view, path),
            settings=settings,
        )
        return answers.point_message(point, self._shelf.head(book))

    async def state(self, request: Request) -> Response:
        """Attributes of a node, by its number or by a path."""
        view = await self._view(request)
        if "path" in request.query_params:
            path = decode_path(request.query_params["path"])
            return message(state_message(await self.run(view.walk, path)))
        return message(state_message(await self.run(view.state, node_of(request))))

    async def entry(self, request: Request) -> Response:
        """A node by itself, its extended attributes among the rest."""
        view = await self._view(request)
        return message(await self.run(answers.entry, view, node_of(request)))

    async def tree(self, request: Request) -> Response:
        """A directory, or everything below it."""
        view = await self._view(request)
        node = node_of(request, ROOT)
        await self.run(view.entries, node)  # an answer that has begun can't be refused
        return self._lines(answers.tree(view, node, request.query_params.get("deep") == "1"))

    async def content(self, request: Request) -> Response:
        """Bytes of a file. Answers up to MAX_CONTENTS_BYTES have their digest."""
        view = await self._view(request)
        state = await self.run(file_state, view, node_of(request))
        headers = {"etag": f'"{view.lsn}-{state.node}"', "accept-ranges": "bytes"}
        span = span_of(request.headers.get("range"), state.size_bytes)
        if span is None:
            headers["content-range"] = f"bytes */{state.size_bytes}"
            return Response(status_code=416, headers=headers)
        partial = "range" in request.headers
        if partial:
            headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{span.size}"
        status, media = 206 if partial else 200, "application/octet-stream"
        if span.stop - span.start > MAX_CONTENTS_BYTES:
            headers["content-length"] = str(span.stop - span.start)
            body = self._pieces(view, state.node, span)
            return StreamingResponse(body, status, headers, media)
        data = await self.run(view.read, state.node, span.start, span.stop - span.start)
        headers[DIGEST_HEADER] = await self.run(_digest, data)
        return Response(data, status, headers, media)

    async def _pieces(self, view: View, node: NodeId, span: Span) -> AsyncIterator[bytes]:
        for start in range(span.start, span.stop, PIECE_BYTES):
            size = min(PIECE_BYTES, span.stop - start)
            yield await self.run(view.read, node, start, size)

    async def contents(self, request: Request) -> Response:
        """Many ranges of many files."""
        view, wanted = await self._view(request), await _wanted(request)
        packed = "zstd" in request.headers.get("accept-encoding", "")
        data, headers = await self.run(_contents, view, wanted, packed)
        return Response(data, 200, headers, "application/octet-stream")

    async def digests(self, request: Request) -> Response:
        """The digests of many ranges of many files."""
        view, wanted = await self._view(request), await _wanted(request)
        return message(await self.run(answers.digests, view, wanted))

    async def areas(self, request: Request) -> Response:
        """What of a file is no hole."""
        view, node = await self._view(request), node_of(request)
        await self.run(file_state, view, node)
        start = number(request, "start", 0)
        return message(await self.run(answers.areas, view, node, start))

    async def history(self, request: Request) -> Response:
        """The versions of a path."""
        book, path = await self.book(request), path_of(request)
        first, last = lsn_of(request, "since"), lsn_of(request, "until")
        rows = await self.run(answers.versions, book, path, first, last)
        return self._lines(iter(rows))

    async def points(self, request: Request) -> Response:
        """The recovery points of a path."""
        book, path = await self.book(request), path_of(request)
        first, last = lsn_of(request, "since"), lsn_of(request, "until")
        try:
            least = Grade.of(request.query_params.get("grade", "crash"))
        except ValueError as error:
            raise BadRequest(str(error)) from None
        rows = await self.run(
            answers.point_rows, book, path, first or Lsn(1), last, least, time.time_ns()
        )
        return self._lines(iter(rows))

    async def diff(self, request: Request) -> Response:
        """What changed below a path between two LSNs."""
        book, path = await self.book(request), path_of(request)
        first, last = number(request, "from_lsn"), number(request, "to_lsn")
        if first > last:
            raise BadRequest("from_lsn is later than to_lsn")
        old, new = await self.run(book.view, Lsn(first)), await self.run(book.view, Lsn(last))
        return self._lines(answers.changes(old, new, path))

    async def deleted(self, request: Request) -> Response:
        """What was deleted below a directory."""
        book, path = await self.book(request), path_of(request)
        head = await self.run(self._shelf.head, book)
        now = await self.run(book.view, lsn_of(request, "lsn") or head.lsn)
        pattern = request.query_params.get("name", "")
        since = lsn_of(request, "since") or Lsn(0)
        return self._lines(answers.deletions(now, path, pattern, since))

    async def companions(self, request: Request) -> Response:
        """The files that belong to a file, as of an LSN and as of the newest barrier."""
        book, view, path = await self.book(request), await self._view(request), path_of(request)
        head = await self.run(self._shelf.head, book)
        now = await self.run(book.view, max(head.lsn, view.lsn))
        found = await self.run(answers.companions, book, view, now, path, time.time_ns())
        return message(found)

    async def shipments(self, request: Request) -> Response:
        """A shipment that starts with the batch of an LSN, from byte `offset` of it on; 204 when
        nothing follows. The digest is that of all of it: the same one is made again."""
        book = await self.book(request)
        start = Lsn(number(request, "from"))
        last = None
        if request.query_params.get("up_to", "held") == "head":
            last = (await self.run(self._shelf.head, book)).lsn
        data = await self.run(shipment_from, book, start, last)
        if data is None:
            return Response(status_code=204)
        offset = number(request, "offset") if "offset" in request.query_params else 0
        headers = {DIGEST_HEADER: await self.run(_digest, data)}
        return Response(data[offset:], 200, headers, "application/octet-stream")

    # --- parts -----------------------------------------------------------------------------------

    async def _view(self, request: Request) -> View:
        book = await self.book(request)
        return await self.run(book.view, Lsn(number(request, "lsn")))

    def _lines(self, rows: Iterator[Any]) -> Response:
        """Rows as lines of JSON; what goes wrong in their midst is a line too."""
        return StreamingResponse(self._chunks(rows), media_type=NDJSON)

    async def _chunks(self, rows: Iterator[Any]) -> AsyncIterator[bytes]:
        digest, lines = blake3(), 0
        while chunk := await self.run(_chunk, rows):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            yield chunk
        yield msgspec.json.encode(End(lines=lines, digest=digest.hexdigest())) + b"\n"


def routes(root: VaultRoot) -> list[Route]:
    """The routes under which a vault's volumes are read."""
    reading = Reading(root)
    volume = "/v1/volumes/{uuid}"
    table: list[tuple[str, Handler, str]] = [
        ("/v1/volumes", Reading.volumes, "GET"),
        (f"{volume}/resolve", Reading.resolve, "GET"),
        (f"{volume}/state", Reading.state, "GET"),
        (f"{volume}/entry", Reading.entry, "GET"),
        (f"{volume}/tree", Reading.tree, "GET"),
        (f"{volume}/content", Reading.content, "GET"),
        (f"{volume}/contents", Reading.contents, "POST"),
        (f"{volume}/digests", Reading.digests, "POST"),
        (f"{volume}/areas", Reading.areas, "GET"),
        (f"{volume}/history", Reading.history, "GET"),
        (f"{volume}/points", Reading.points, "GET"),
        (f"{volume}/diff", Reading.diff, "GET"),
        (f"{volume}/deleted", Reading.deleted, "GET"),
        (f"{volume}/companions", Reading.companions, "GET"),
        (f"{volume}/shipments", Reading.shipments, "GET"),
    ]
    return [
        Route(path, _answering(reading, handler), methods=[method])
        for path, handler, method in table
    ]


def _answering(reading: Reading, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The handler as a route has it: what the past refuses is an answer like any other."""

    async def answer(request: Request) -> Response:
        try:
            response = await handler(reading, request)
        except (TimetravelError, NotSeeded, NeverCaptured) as error:
            said = answers.failure(error)
            refusal = Refusal(kind=said.kind, message=said.message, hint=said.hint)
            response = message(refusal, 400 if isinstance(error, MomentError) else 404)
        target = request.scope["raw_path"] + b"?" + request.scope["query_string"]
        response.headers[ASKED_HEADER] = asked_digest(target, await request.body())
        return response

    return answer


def message(body: Any, status: int = 200) -> Response:
    """A message as an answer."""
    data = msgspec.json.encode(body)
    headers = {DIGEST_HEADER: blake3(data).hexdigest()}
    return Response(data, status, headers, "application/json")


def number(request: Request, name: str, default: int | None = None) -> int:
    """A number in the query; BadRequest when it is missing or none."""
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit() or len(text) > MAX_DIGIT_CHARS:
        raise BadRequest(f"the request needs a number as {name}")
    value = int(text)
    if value >= 1 << 63:
        raise BadRequest(f"{name} is too large")
    return value


def lsn_of(request: Request, name: str) -> Lsn | None:
    """An LSN in the query; None when it is not there."""
    return Lsn(number(request, name)) if name in request.query_params else None


def node_of(request: Request, default: int | None = None) -> NodeId:
    """The node in the query."""
    return NodeId(number(request, "node", default))


def path_of(request: Request) -> bytes:
    """The path in the query; the volume's root if there is none."""
    return decode_path(request.query_params.get("path", ""))


def span_of(header: str | None, size: int) -> Span | None:
    """What a `Range` header asks for; None when there are no such bytes. BadRequest.

    RFC 9110, section 14. One range; several are for `contents`.
    """
    if header is None:
        return Span(0, size, size)
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        raise BadRequest("a range is bytes=FIRST-LAST, one at a time")
    if not found[1]:
        start, stop = max(size - int(found[2]), 0), size
    else:
        start = int(found[1])
        stop = min(int(found[2]) + 1, size) if found[2] else size
        if found[2] and int(found[2]) < start:
            raise BadRequest("a range ends after it begins")
    return Span(start, stop, size) if start < stop else None


def file_state(view: View, node: NodeId) -> NodeState:
    """Attributes of a regular file; BadRequest for anything else. NoSuchNode."""

    state = view.state(node)
    if not stat.S_ISREG(state.mode):
        raise BadRequest(f"node {node} is no regular file")
    return state


def _any_zone(text: str, now_ns: int) -> str:
    """A zone for a moment that means the same everywhere; BadRequest for any other."""
    one, other = (parse_moment(text, now_ns=now_ns, zone=zone) for zone in _ZONES)
    if (one, one.note) != (other, other.note):
        raise BadRequest(
            f"{text!r} means another moment in each time zone",
            "name yours, such as zone=Europe/Vienna, or give the time with its offset",
        )
    return _ZONES[0]


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e9:
        raise BadRequest("limit_s is a number of seconds")
    return value


async def _wanted(request: Request) -> Wanted:
    body = await request.body()
    if len(body) > MAX_MESSAGE_BYTES:
        raise BadRequest("the request's body is too large")
    try:
        return msgspec.json.decode(body, type=Wanted)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"these are no ranges: {error}") from error


def _contents(view: View, wanted: Wanted, packed: bool) -> tuple[bytes, dict[str, str]]:
    """The body, compressed if that is wanted and worth it, and its headers."""
    data = answers.contents(view, wanted)
    headers = {DIGEST_HEADER: _digest(data)}
    if packed:
        small = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data)
        if len(small) < len(data) * WORTH_PACKING:
            return small, {**headers, "content-encoding": "zstd"}
    return data, headers


def _digest(data: bytes) -> str:
    return blake3(data).hexdigest()


def _chunk(rows: Iterator[Any]) -> bytes:
    """The next lines, CHUNK_BYTES or a little more; empty at the end."""
    parts: list[bytes] = []
    size = 0
    encode = msgspec.json.encode
    while size < CHUNK_BYTES:
        try:
            row = next(rows)
        except StopIteration:
            break
        except (TimetravelError, NotSeeded, NeverCaptured) as error:
            row = answers.failure(error)
        parts.append(encode(row))
        size += len(parts[-1]) + 1
    parts.append(b"")
    return b"\n".join(parts)
