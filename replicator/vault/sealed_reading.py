"""Sealed volumes over HTTP, as they are: for whoever has the key. See `replicator.sealed_wire`.

Duty: routes, and from files to answers. Async (trio); files are read in threads. Who asks is what
the door found out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Final

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from replicator.errors import BadRequest, Refused
from replicator.sealed_wire import (
    ANSWER_BYTES,
    MAX_ENDS,
    SealedLineState,
    SealedVolume,
    ShipmentEnds,
)
from replicator.vault.root import VaultRoot, Volume, checked_line, checked_uuid
from replicator.vault.sealed_files import ends_between, held_shipments, last_entry, list_files
from replicator.vault.sites import Site
from replicator.wire import MAIN_LINE
from store.batch import NO_DIGEST
from store.volume import Store

READERS: Final = 2
"""Threads that read for clients at the same time."""


class SealedReading:
    """What the routes work on."""

    def __init__(self, root: VaultRoot) -> None:
        self._root = root
        self._threads = trio.CapacityLimiter(READERS)

    async def volumes(self, request: Request) -> Response:
        """The sealed volumes that who asks may read."""
        site: Site = request.state.site

        def found() -> list[SealedVolume]:
            every = (self._root.volume(uuid) for uuid in self._root.volumes())
            return [
                describe(self._root, volume)
                for volume in every
                if volume.description.sealed and site.may_read(volume.site)
            ]

        answer = await trio.to_thread.run_sync(found, limiter=self._threads)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    async def shipments(self, request: Request) -> Response:
        """Shipments from an LSN on."""
        start, offset = _number(request, "from"), _number(request, "offset", 0)
        store = await self._store(request)
        # The first piece is read before the answer begins: what is wrong with it can be told.
        pieces = held_shipments(store, start)
        first = await self._next(pieces)
        if first is not None and offset > len(first):
            raise BadRequest(f"the shipment of LSN {start} has {len(first)} bytes, not {offset}")
        body = self._body(pieces, first, offset)
        return StreamingResponse(body, media_type="application/octet-stream")

    async def ends(self, request: Request) -> Response:
        """Where shipments end."""
        after, upto = _number(request, "after"), _number(request, "upto")
        store = await self._store(request)
        found = await trio.to_thread.run_sync(
            ends_between, store, after, upto, MAX_ENDS, limiter=self._threads
        )
        answer = ShipmentEnds(ends=[int(lsn) for lsn in found])
        return Response(msgspec.json.encode(answer), media_type="application/json")

    async def _store(self, request: Request) -> Store:
        """The line that a request names, if it is sealed and who asks may read it."""
        uuid = checked_uuid(request.path_params["uuid"])
        line = checked_line(request.query_params.get("line", MAIN_LINE))
        site: Site = request.state.site
        volume = await trio.to_thread.run_sync(self._root.volume, uuid)
        if not site.may_read(volume.site):
            raise Refused(f"volume {uuid} is not one of {site.name}")
        if not volume.description.sealed:
            raise BadRequest(
                f"volume {uuid} is not sealed", "read it as it is: cdpfs restore --from"
            )
        return await trio.to_thread.run_sync(self._root.store, uuid, line)

    async def _body(
        self, pieces: Iterator[bytes], piece: bytes | None, offset: int
    ) -> AsyncIterator[bytes]:
        sent = 0
        while piece is not None:
            yield piece[offset:]
            sent += len(piece) - offset
            if sent >= ANSWER_BYTES:
                return
            offset = 0
            piece = await self._next(pieces)

    async def _next(self, pieces: Iterator[bytes]) -> bytes | None:
        step = partial(next, pieces, None)
        return await trio.to_thread.run_sync(step, limiter=self._threads)


def describe(root: VaultRoot, volume: Volume) -> SealedVolume:
    """A sealed volume and where its lines end. Blocking. DamagedError."""
    lines = []
    for line in root.lines(volume.uuid):
        next_lsn, digest = end_of(root.store(volume.uuid, line))
        lines.append(SealedLineState(line=line, next_lsn=next_lsn, digest=digest.hex()))
    return SealedVolume(
        uuid=volume.uuid, site=volume.site, description=volume.description, lines=lines
    )


def end_of(store: Store) -> tuple[int, bytes]:
    """The LSN that comes next in a sealed line, and the keyed digest before it. Blocking."""
    for _ in range(3):
        files = list_files(store).files
        if not files:
            return 1, NO_DIGEST
        try:
            last = last_entry(files[-1]).header
        except FileNotFoundError:
            continue  # it was packed meanwhile
        return last.last_lsn + 1, last.digest
    raise Refused("the line is written to too quickly", "try again")


def _number(request: Request, name: str, default: int | None = None) -> int:
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 19:
        raise BadRequest(f"the request needs a number as {name}")
    return int(text)


def routes(root: VaultRoot) -> list[Route]:
    """The routes under which sealed volumes are fetched."""
    reading = SealedReading(root)
    return [
        Route("/v1/sealed", reading.volumes),
        Route("/v1/volumes/{uuid}/sealed", reading.shipments),
        Route("/v1/volumes/{uuid}/sealed/ends", reading.ends),
    ]
