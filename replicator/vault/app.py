"""The vault as an ASGI application: the messages of `replicator.wire`.

Duty: routes, and from requests to calls of `desk` and `root`. Async (trio); blocking work goes to
threads. `door` stands before it: whatever is raised here becomes a refusal there.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import msgspec
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replicator.errors import BadRequest, Forked, Gap, NotHere, QuotaUsedUp, Refused
from replicator.vault import parting, reading, sealed_reading
from replicator.vault.desk import Desk, Desks
from replicator.vault.door import Disconnected, Door, Scope, peer_text, printable
from replicator.vault.limits import Limits
from replicator.vault.metrics import CONTENT_TYPE, Metrics
from replicator.vault.root import VaultRoot, Volume, checked_uuid
from replicator.vault.sites import Site, Sites
from replicator.vault.survey import used_bytes
from replicator.wire import (
    MAIN_LINE,
    MAX_SHIPMENT_BYTES,
    PROTOCOL,
    Description,
    Hello,
    Position,
)

log = logging.getLogger(__name__)

METRICS_PATH: Final = "/metrics"

_RANGE = re.compile(r"bytes (?:([0-9]{1,12})-([0-9]{1,12})|\*)/([0-9]{1,12})")


class Range(NamedTuple):
    """What a `Content-Range` says: the bytes `[start, stop)` of `total`."""

    start: int
    stop: int
    total: int


class Vault:
    """What the routes work on."""

    def __init__(self, root: VaultRoot, limits: Limits) -> None:
        self.root = root
        self.sites = Sites(root.sites_dir)
        self.desks = Desks(root, limits)
        self.metrics = Metrics(root)
        self._creating = trio.Lock()

    async def hello(self, request: Request) -> Response:
        """Who the vault is, and who it takes the asking one for."""
        return _message(
            Hello(
                protocol=PROTOCOL,
                vault=self.root.id,
                site=site_of(request).name,
                time_ns=time.time_ns(),
                max_shipment_bytes=MAX_SHIPMENT_BYTES,
            )
        )

    def observe(self, scope: Scope, status: int, body_bytes: int, error: Exception | None) -> None:
        """Count a request; a line in the log if it was answered as it wished."""
        self.metrics.observe(status, body_bytes, error)
        if error is None:
            log.info(
                "%d: %s %s from %s, site %s",
                status,
                scope["method"],
                printable(scope["path"]),
                peer_text(scope),
                scope["state"]["site"].name if "site" in scope["state"] else "-",
            )
        elif isinstance(error, Disconnected):
            log.info("the connection of %s ended in the midst of a body", peer_text(scope))

    async def tell_metrics(self, request: Request) -> Response:
        """For a Prometheus server, with a reader's token or on a listener of its own."""
        site: Site | None = getattr(request.state, "site", None)
        if site is not None and site.may_write:
            raise Refused(f"{site.name} is no reader", "cdpfs vault add-reader NAME")
        text = await trio.to_thread.run_sync(self.metrics.text)
        return Response(text, media_type=CONTENT_TYPE)

    async def describe(self, request: Request) -> Response:
        """The volume is kept from now on."""
        site, uuid = site_of(request), checked_uuid(request.path_params["uuid"])
        if not site.may_write:
            raise Refused(f"{site.name} may read, and has no volumes of its own")
        try:
            description = msgspec.json.decode(await request.body(), type=Description)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequest(f"this describes no volume: {error}") from error
        async with self._creating:
            await trio.to_thread.run_sync(self.root.create_volume, site.name, uuid, description)
        return _message(await self.desks.desk(uuid, MAIN_LINE).position())

    async def position(self, request: Request) -> Response:
        """What is held of a line."""
        uuid = checked_uuid(request.path_params["uuid"])
        await self.own_volume(request, uuid)
        return _message(await (await self._desk(request, uuid)).position())

    async def ship(self, request: Request) -> Response:
        """Bytes of a shipment."""
        uuid = checked_uuid(request.path_params["uuid"])
        await self.own_volume(request, uuid, write=True)
        span = content_range(request)
        desk = await self._desk(request, uuid)
        await self._check_quota(site_of(request), span)
        shipment = request.path_params["shipment"]
        try:
            after = request.query_params.get("after", "")
            position = await desk.receive(shipment, span.total, span.start, _pieces(request), after)
        except (Gap, Forked) as error:
            error.position = await desk.position()
            raise
        complete = position.partial is None
        return _message(position, 200 if complete else 202)

    async def _desk(self, request: Request, uuid: str) -> Desk:
        """The desk of the line that a request names; UnknownVolume when there is none."""
        line = request.query_params.get("line", MAIN_LINE)
        await trio.to_thread.run_sync(self.root.store, uuid, line)
        return self.desks.desk(uuid, line)

    async def own_volume(self, request: Request, uuid: str, write: bool = False) -> Volume:
        """The volume, if the site may do this with it; UnknownVolume, Refused."""
        site = site_of(request)
        volume = await trio.to_thread.run_sync(self.root.volume, uuid)
        if write and not site.may_write:
            raise Refused(f"{site.name} may read, and write nothing")
        if volume.site != site.name and (write or not site.may_read(volume.site)):
            raise Refused(f"volume {uuid} is not one of {site.name}")
        return volume

    async def _check_quota(self, site: Site, span: Range) -> None:
        """QuotaUsedUp unless there is room for the shipment in what the site may take."""
        if not site.quota_bytes:
            return
        used = await trio.to_thread.run_sync(used_bytes, self.root, site.name)
        if used + span.total > site.quota_bytes:
            raise QuotaUsedUp(f"{site.name} may take {site.quota_bytes} bytes and has {used}")


def site_of(request: Request) -> Site:
    """Who asks, as the door found."""
    site: Site = request.state.site
    return site


def content_range(request: Request) -> Range:
    """Which bytes of a shipment a request has; BadRequest unless its length agrees."""
    found = _RANGE.fullmatch(request.headers.get("content-range", ""))
    if found is None:
        raise BadRequest("a shipment's bytes need a Content-Range, such as bytes 0-99/100")
    total = int(found[3])
    start, stop = (int(found[1]), int(found[2]) + 1) if found[1] else (total, total)
    if not start <= stop <= total or (found[1] and start == stop):
        raise BadRequest("the Content-Range is impossible")
    if request.headers.get("content-length", "0") != str(stop - start):
        raise BadRequest("Content-Range and Content-Length contradict each other")
    return Range(start, stop, total)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    async for piece in request.stream():
        if piece:
            yield piece


def _message(message: Hello | Position, status: int = 200) -> Response:
    return Response(msgspec.json.encode(message), status, media_type="application/json")


async def _not_here(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses, to be answered by the door."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        raise NotHere("there is nothing at this address")
    raise BadRequest(f"{printable(request.method)} can't be done here: {error.detail}")


def build_app(
    root: VaultRoot, limits: Limits | None = None, *, require_tls: bool = False
) -> Starlette:
    """The application for a vault, which the process must have locked.

    Its `state.vault` is the `Vault`; whoever runs the application closes the desks of it at last.
    `require_tls`: requests that did not come over TLS are refused.
    """
    limits = limits or Limits()
    vault = Vault(root, limits)
    routes = [
        Route("/v1/hello", vault.hello),
        Route(METRICS_PATH, vault.tell_metrics),
        Route("/v1/volumes/{uuid}", vault.describe, methods=["PUT"]),
        Route("/v1/volumes/{uuid}/position", vault.position),
        Route("/v1/volumes/{uuid}/shipments/{shipment}", vault.ship, methods=["PUT"]),
        *reading.routes(root),
        *parting.routes(root, vault.desks, vault.own_volume),
        *sealed_reading.routes(root),
    ]
    door = Middleware(
        Door,
        sites=vault.sites,
        limits=limits,
        observe=vault.observe,
        require_tls=require_tls,
        any_protocol=frozenset({METRICS_PATH}),
    )
    app = Starlette(routes=routes, middleware=[door], exception_handlers={HTTPException: _not_here})
    app.router.redirect_slashes = False
    app.state.vault = vault
    return app


def build_metrics_app(vault: Vault) -> Starlette:
    """The metrics alone, for whoever can connect: on a loopback address, say."""
    return Starlette(routes=[Route(METRICS_PATH, vault.tell_metrics)])
