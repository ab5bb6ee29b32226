"""The daemon's end of the control socket.

Duty: answer JSON lines on `control.sock` (protocol in docs/operations.md): status, sync, mark,
seed, seed_rate, replicate, umount. Only root and the daemon's own user are heard (peer
credentials). Loop's thread. An error in a call is an answer, never the end of the daemon.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeGuard

import trio

from fsd.errors import FsdError
from fsd.session import Session
from fsd.snapshots import Snapshots
from fsd.status import Meter, status_of
from fsd.unmount import unmount
from store.errors import NotSeeded, StoreError
from store.format import Kind
from store.types import Lsn, NodeId
from timetravel.errors import TimetravelError
from timetravel.moment import valid_mark_name

log = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
MAX_REQUEST_BYTES = 1 << 20
MAX_CONNECTIONS = 64
_CREDENTIALS = struct.Struct("3i")
Progress = Callable[[dict[str, Any]], Awaitable[None]]


class BadRequest(FsdError):
    """A request that is none."""

    hint = "use a `cdpfs` of the same version as the daemon"


class Control:
    """The server. `calls` maps a call's name to its method."""

    def __init__(self, session: Session, snapshots: Snapshots) -> None:
        self._session = session
        self._snapshots = snapshots
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._meter = Meter(session)
        self.calls: dict[str, Callable[[dict[str, Any], Progress], Awaitable[Any]]] = {
            "status": self._status,
            "sync": self._sync,
            "mark": self._mark,
            "seed": self._seed,
            "seed_rate": self._seed_rate,
            "replicate": self._replicate,
            "tape": self._tape,
            "umount": self._umount,
        }

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; started once callers can connect."""
        path = self._session.store.socket_path
        path.unlink(missing_ok=True)
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with listener:
            await self._bind(listener, os.fsencode(path))
            listener.listen(16)
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._meter.run)
                while True:
                    connection, _ = await listener.accept()
                    nursery.start_soon(self._serve, connection)

    async def _bind(self, listener: trio.socket.SocketType, path: bytes) -> None:
        """Bind through the folder's descriptor: socket paths are limited to 107 bytes."""
        folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await listener.bind(b"/proc/self/fd/%d/%b" % (folder, os.path.basename(path)))
            os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
        finally:
            os.close(folder)

    async def _serve(self, connection: trio.socket.SocketType) -> None:
        with connection:
            if not _is_allowed(connection):
                return
            async with self._limit:
                try:
                    await self._converse(trio.SocketStream(connection))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return  # the other end went away: its business

    async def _converse(self, stream: trio.SocketStream) -> None:
        received = b""
        while data := await stream.receive_some(1 << 16):
            received += data
            if len(received) > MAX_REQUEST_BYTES:
                words = BadRequest(f"a request has at most {MAX_REQUEST_BYTES} bytes")
                await _say(stream, {"ok": False, "error": _describe(words)})
                return
            while b"\n" in received:
                line, received = received.split(b"\n", 1)
                await self._answer(stream, line)

    async def _answer(self, stream: trio.SocketStream, line: bytes) -> None:
        async def progress(values: dict[str, Any]) -> None:
            await _say(stream, {"progress": values})

        try:
            result = await self._call(line, progress)
        except (FsdError, StoreError, TimetravelError, OSError) as error:
            await _say(stream, {"ok": False, "error": _describe(error)})
        except (trio.BrokenResourceError, trio.Cancelled):
            raise
        except Exception as error:
            log.exception("a control call failed")
            await _say(stream, {"ok": False, "error": _describe(error)})
        else:
            await _say(stream, {"ok": True, "result": result})

    async def _call(self, line: bytes, progress: Progress) -> Any:
        try:
            request = json.loads(line)
            name, args = request["call"], request.get("args") or {}
            version = request.get("v")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadRequest("the request is not understood") from None
        if version != PROTOCOL_VERSION:
            raise BadRequest(f"protocol version {version!r} is not known")
        call = self.calls.get(name) if isinstance(name, str) else None
        if call is None or not isinstance(args, dict):
            raise BadRequest(f"no such call: {name!r}")
        return await call(args, progress)

    # --- the calls ------------------------------------------------------------------------------

    async def _status(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        return status_of(self._session, self._meter)

    async def _sync(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Everything up to now is in the journal when it returns.

        `complete` is false when it is not, because the store is full or fails.
        """
        intake = self._session.intake
        lsn, time_ns = intake.lsn, intake.time_ns
        complete = await self._session.wait_indexed_if_possible(lsn)
        return {"lsn": lsn, "time_ns": time_ns, "complete": complete}

    async def _mark(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        name = valid_mark_name(str(args.get("name", "")))
        session = self._session
        await session.wait_for_log()
        lsn = session.intake.append(Kind.MARK, 0, 0, name.encode())
        time_ns = session.intake.time_ns
        await session.flusher.durable(lsn)
        await session.wait_indexed_if_possible(lsn)
        return {"lsn": lsn, "time_ns": time_ns, "name": name}

    async def _seed(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Bring base content into the journal: a node's, a name, a chunk, or a whole subtree."""
        node, region, name = args.get("node"), args.get("region"), args.get("name")
        if not _is_number(node) or not (region is None or _is_number(region)):
            raise BadRequest("seed needs a node, and a region that is a number if there is one")
        if args.get("subtree"):
            await self._session.seeder.seed_subtree(NodeId(node))
            await self._session.wait_indexed(self._session.intake.lsn)
        else:
            raw = os.fsencode(name) if isinstance(name, str) else None
            await self._snapshots.present.demand(NotSeeded(NodeId(node), raw, region))
        return {"lsn": self._session.intake.lsn}

    async def _seed_rate(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        rate = args.get("bytes_s")
        if not _is_number(rate):
            raise BadRequest("seed_rate needs bytes_s, 0 for no limit")
        self._session.seeder.rate_bytes_s = rate
        return {"bytes_s": rate}

    async def _replicate(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """The settings of replication were changed: look at them now."""
        replicator = self._session.consumers.replicator
        replicator.poke()
        return {"wanted": replicator.is_wanted()}

    async def _tape(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """The settings of the tape library were changed, or a copy is wanted: look at them now."""
        spooler = self._session.consumers.spooler
        spooler.poke()
        return {"wanted": spooler.is_wanted()}

    async def _umount(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        await unmount(self._session.store.config.mount_point)
        return {"time_ns": time.time_ns(), "lsn": Lsn(self._session.intake.lsn)}


async def _say(stream: trio.SocketStream, message: dict[str, Any]) -> None:
    await stream.send_all(json.dumps(message).encode() + b"\n")


def _is_number(value: object) -> TypeGuard[int]:
    """A whole number that fits where they are kept."""
    return type(value) is int and 0 <= value < 1 << 63


def _is_allowed(connection: trio.socket.SocketType) -> bool:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    assert isinstance(raw, bytes)
    uid = _CREDENTIALS.unpack(raw)[1]
    return uid in (0, os.geteuid())


def _describe(error: Exception) -> dict[str, Any]:
    found = {
        "kind": type(error).__name__,
        "message": str(error),
        "hint": getattr(error, "hint", "see log/fsd.log in the store"),
    }
    holders = getattr(error, "holders", None)
    return found if holders is None else {**found, "holders": holders}
