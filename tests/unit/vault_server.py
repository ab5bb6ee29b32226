"""A vault that listens, in a thread of the test's process, and a client for its messages."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import trio

from replicator.vault.app import build_app
from replicator.vault.limits import Limits
from replicator.vault.listener import Listener
from replicator.vault.root import VaultRoot
from replicator.vault.serve import Listen, open_sockets, url_of
from replicator.vault.sites import Sites
from replicator.wire import PROTOCOL, PROTOCOL_HEADER, Description, Position, Refusal, shipment_id


class VaultServer:
    """Serves a vault's folder until the block ends; `url` is where."""

    def __init__(
        self, path: Path, limits: Limits | None = None, context: ssl.SSLContext | None = None
    ) -> None:
        self.root = VaultRoot.open(path)
        self.sites = Sites(self.root.sites_dir)
        self._limits = limits or Limits()
        self._context = context
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self.root.lock()
        self._sockets = open_sockets(Listen("127.0.0.1", 0, insecure_http=True))
        self.url = url_of("https" if self._context else "http", self._sockets[0])
        self.address: tuple[str, int] = self._sockets[0].getsockname()
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End, as on SIGTERM. Twice is fine."""
        if self._thread.is_alive():
            trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join()
        self.root.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as failure:  # noqa: BLE001 - told at the end of the block
            self._failure = failure
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
        app = build_app(self.root, self._limits, require_tls=self._context is not None)
        listener = Listener(app, self._limits, self._context)  # type: ignore[arg-type]
        listeners = [
            trio.SocketListener(trio.socket.from_stdlib_socket(found)) for found in self._sockets
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(listener.serve, listeners, self._stop)
            self._started.set()
        await app.state.vault.desks.close()

    def client(self, token: str, **options: Any) -> SiteClient:
        """A site, or reader, with that token."""
        return SiteClient(self.url, token, **options)

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(self.address, timeout=60)


class SiteClient:
    """What a site sends, one request at a time."""

    def __init__(self, url: str, token: str, **options: Any) -> None:
        headers = {PROTOCOL_HEADER: str(PROTOCOL), "Authorization": f"Bearer {token}"}
        self.http = httpx.Client(base_url=url, headers=headers, trust_env=False, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def describe(self, uuid: str, description: Description) -> httpx.Response:
        """The volume is to be kept."""
        return self.http.put(f"/v1/volumes/{uuid}", content=msgspec.json.encode(description))

    def position(self, uuid: str, line: str = "main") -> Position:
        """Where the vault stands."""
        return position_in(self.http.get(f"/v1/volumes/{uuid}/position", params={"line": line}))

    def ship(
        self,
        uuid: str,
        data: bytes,
        start: int = 0,
        stop: int | None = None,
        line: str = "main",
    ) -> httpx.Response:
        """Bytes of a shipment."""
        stop = len(data) if stop is None else stop
        span = f"{start}-{stop - 1}" if start < stop else "*"
        return self.http.put(
            f"/v1/volumes/{uuid}/shipments/{shipment_id(data)}",
            params={"line": line},
            headers={"Content-Range": f"bytes {span}/{len(data)}"},
            content=data[start:stop],
        )


def position_in(response: httpx.Response) -> Position:
    """The position that an answer has; the refusal is the message of the AssertionError."""
    assert response.status_code in (200, 202), response.text
    return msgspec.json.decode(response.content, type=Position)


def refusal_in(response: httpx.Response, status: int) -> Refusal:
    """The refusal that an answer has."""
    assert response.status_code == status, (response.status_code, response.text)
    return msgspec.json.decode(response.content, type=Refusal)
