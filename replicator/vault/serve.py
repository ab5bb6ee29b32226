"""Running a vault: the process of `cdpfs vault serve`.

Duty: lock the root, open the sockets, serve until a signal, close everything. It decides nothing
about requests. `run` blocks; it must have the main thread, for the signals.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from replicator.errors import BadSettings
from replicator.vault.app import Vault, build_app
from replicator.vault.limits import Limits
from replicator.vault.listener import Listener, tls_context
from replicator.vault.root import VaultRoot

log = logging.getLogger(__name__)
BACKLOG: Final = 128


class Listen(NamedTuple):
    """Where to listen and how."""

    host: str
    port: int
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure_http: bool = False

    @classmethod
    def parse(
        cls, address: str, tls_cert: str | None, tls_key: str | None, insecure_http: bool
    ) -> Listen:
        """From `HOST:PORT`, `[V6]:PORT` or `:PORT`; BadSettings for what makes no sense."""
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise BadSettings(f"{address} is no HOST:PORT", "such as 0.0.0.0:8443")
        if bool(tls_cert) != bool(tls_key):
            raise BadSettings("TLS needs both files", "give --tls-cert and --tls-key")
        if tls_cert and insecure_http:
            raise BadSettings("TLS and plain HTTP exclude each other", "leave one of them away")
        if not tls_cert and not insecure_http:
            raise BadSettings(
                "the vault needs a certificate: tokens and data must not cross a network in clear",
                "give --tls-cert F and --tls-key F, or --insecure-http where the network is safe",
            )
        return cls(host.strip("[]"), int(port), tls_cert, tls_key, insecure_http)

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "https" if self.tls_cert else "http"


def run(
    root: VaultRoot,
    listen: Listen,
    ready: Callable[[str], None],
    limits: Limits | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is told the address, as a URL.

    StoreBusy when another process serves the root, Refused, BadSettings, OSError.
    """
    limits = limits or Limits()
    context = None
    if listen.tls_cert and listen.tls_key:
        try:
            context = tls_context(listen.tls_cert, listen.tls_key)
        except (OSError, ValueError) as error:
            raise BadSettings(
                f"the certificate can't be used: {error}", "PEM files of a chain and its key"
            ) from error
    root.lock()
    try:
        sockets = open_sockets(listen)
        app = build_app(root, limits, require_tls=context is not None)
        listener = Listener(app, limits, context)  # type: ignore[arg-type]
        trio.run(_serve, listener, app.state.vault, sockets, listen.scheme, ready)
    finally:
        root.close()


async def _serve(
    listener: Listener,
    vault: Vault,
    sockets: list[socket.socket],
    scheme: str,
    ready: Callable[[str], None],
) -> None:
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(s)) for s in sockets]
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(listener.serve, listeners, stop)
            ready(url_of(scheme, sockets[0]))
            async for number in signals:
                log.info("stopping: %s", signal.Signals(number).name)
                break
            stop.set()
    await vault.desks.close()


def open_sockets(listen: Listen) -> list[socket.socket]:
    """Listening sockets for the address. OSError."""
    host = listen.host or None
    found = socket.getaddrinfo(host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    port = listen.port
    try:
        for family, kind, protocol, _, address in found if host else found[:2]:
            opened = socket.socket(family, kind, protocol)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind((address[0], port, *address[2:]))
            port = opened.getsockname()[1]  # with port 0: the same one for all families
            opened.listen(BACKLOG)
            opened.setblocking(False)
    except OSError:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def url_of(scheme: str, listening: socket.socket) -> str:
    """The address of a socket as a URL."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
