"""Over HTTP: what two histories have in common, and a line of its own for the second one.

Duty: requests about `lines`. Async (trio); blocking work goes to threads. Who may ask what is the
application's to say: it hands in `own_volume`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replicator.errors import BadRequest
from replicator.vault.desk import Desks
from replicator.vault.lines import find_common, list_lines, make_line
from replicator.vault.root import VaultRoot, Volume, checked_uuid
from replicator.wire import MAIN_LINE, Common, Marks, NewLine

log = logging.getLogger(__name__)

OwnVolume = Callable[[Request, str, bool], Awaitable[Volume]]
"""The volume of a request, if its site may read or (True) write it."""

Message = TypeVar("Message")


class Parting:
    """The three requests."""

    def __init__(self, root: VaultRoot, desks: Desks, own_volume: OwnVolume) -> None:
        self._root = root
        self._desks = desks
        self._own_volume = own_volume

    async def lines(self, request: Request) -> Response:
        """Every line of a volume."""
        uuid = checked_uuid(request.path_params["uuid"])
        await self._own_volume(request, uuid, False)
        return _message(await trio.to_thread.run_sync(list_lines, self._root, uuid))

    async def common(self, request: Request) -> Response:
        """The newest of some marks that a line has."""
        uuid = checked_uuid(request.path_params["uuid"])
        await self._own_volume(request, uuid, False)
        marks = await _read(request, Marks)
        line = request.query_params.get("line", MAIN_LINE)
        return _message(await trio.to_thread.run_sync(self._find, uuid, line, marks))

    def _find(self, uuid: str, line: str, marks: Marks) -> Common:
        return find_common(self._root, uuid, line, marks.marks)

    async def make(self, request: Request) -> Response:
        """A line of its own. It may take long; who asks again meanwhile is told to wait."""
        uuid = checked_uuid(request.path_params["uuid"])
        volume = await self._own_volume(request, uuid, True)
        wanted = await _read(request, NewLine)
        name = await trio.to_thread.run_sync(make_line, self._root, uuid, wanted)
        log.warning(
            "site %s: the history of %s (%s) parts from line %s after LSN %d: line %s",
            volume.site,
            volume.description.name,
            uuid,
            wanted.parent,
            wanted.lsn,
            name,
        )
        return _message(await self._desks.desk(uuid, name).position())


async def _read(request: Request, kind: type[Message]) -> Message:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"this is no {kind.__name__}: {error}") from error


def _message(message: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")


def routes(root: VaultRoot, desks: Desks, own_volume: OwnVolume) -> list[Route]:
    """The routes, for the application."""
    parting = Parting(root, desks, own_volume)
    return [
        Route("/v1/volumes/{uuid}/lines", parting.lines, methods=["GET"]),
        Route("/v1/volumes/{uuid}/lines", parting.make, methods=["POST"]),
        Route("/v1/volumes/{uuid}/common", parting.common, methods=["POST"]),
    ]
