"""Running a vault: the process of `cdpfs vault serve`.

Duty: lock the root, open the sockets, serve until a signal, close everything. It decides nothing
about requests. `run` blocks; it must have the main thread, for the signals.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import trio

from replicator.errors import BadSettings
from replicator.vault.app import Vault, build_app, build_metrics_app
from replicator.vault.limits import Limits
from replicator.vault.lines import clear_half_made
from replicator.vault.listener import Listener
from replicator.vault.root import VaultRoot
from replicator.vault.tls import ServerContext, TlsFiles

log = logging.getLogger(__name__)
BACKLOG: Final = 128


class Listen(NamedTuple):
    """Where to listen and how."""

    host: str
    port: int
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure_http: bool = False
    client_ca: str | None = None
    """Who signs the certificates of sites; None: sites come by token alone."""
    metrics: str | None = None
    """A loopback address that tells the metrics to whoever asks; None: a reader's token is needed.
    """

    @classmethod
    def parse(
        cls,
        address: str,
        tls_cert: str | None,
        tls_key: str | None,
        insecure_http: bool,
        client_ca: str | None = None,
        metrics: str | None = None,
    ) -> Listen:
        """From `HOST:PORT`, `[V6]:PORT` or `:PORT`; BadSettings for what makes no sense."""
        host, port = _host_and_port(address)
        if metrics is not None and _host_and_port(metrics)[0] not in LOOPBACK:
            raise BadSettings(
                f"metrics are told without a token on a loopback address only, not on {metrics}",
                "such as --metrics 127.0.0.1:9109; elsewhere /metrics wants a reader's token",
            )
        if bool(tls_cert) != bool(tls_key):
            raise BadSettings("TLS needs both files", "give --tls-cert and --tls-key")
        if tls_cert and insecure_http:
            raise BadSettings("TLS and plain HTTP exclude each other", "leave one of them away")
        if not tls_cert and not insecure_http:
            raise BadSettings(
                "the vault needs a certificate: tokens and data must not cross a network in clear",
                "give --tls-cert F and --tls-key F, or --insecure-http where the network is safe",
            )
        if client_ca and not tls_cert:
            raise BadSettings("certificates of sites need TLS", "give --tls-cert and --tls-key")
        return cls(host, port, tls_cert, tls_key, insecure_http, client_ca, metrics)

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "https" if self.tls_cert else "http"

    def context(self) -> ServerContext | None:
        """TLS, or None without. BadSettings when the files can't be used. Blocking."""
        if not self.tls_cert or not self.tls_key:
            return None
        client_ca = Path(self.client_ca) if self.client_ca else None
        return ServerContext(TlsFiles(Path(self.tls_cert), Path(self.tls_key), client_ca))


LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise BadSettings(f"{address} is no HOST:PORT", "such as 0.0.0.0:8443")
    return host.strip("[]"), int(port)


def run(
    root: VaultRoot,
    listen: Listen,
    ready: Callable[[str], None],
    limits: Limits | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP has TLS files read anew, which happens anyway when
    they change. `ready` is told the address, as a URL.

    StoreBusy when another process serves the root, Refused, BadSettings, OSError.
    """
    limits = limits or Limits()
    context = listen.context()
    root.lock()
    try:
        clear_half_made(root)
        sockets = open_sockets(listen)
        app = build_app(root, limits, require_tls=context is not None)
        listener = Listener(app, limits, context)  # type: ignore[arg-type]
        listeners = [(listener, sockets)]
        if listen.metrics is not None:
            told = Listen(*_host_and_port(listen.metrics), insecure_http=True)
            telling = Listener(build_metrics_app(app.state.vault), limits)  # type: ignore[arg-type]
            listeners.append((telling, open_sockets(told)))
        trio.run(_serve, listeners, app.state.vault, context, ready)
    finally:
        root.close()


async def _serve(
    listeners: list[tuple[Listener, list[socket.socket]]],
    vault: Vault,
    context: ServerContext | None,
    ready: Callable[[str], None],
) -> None:
    stop = trio.Event()
    expected = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
    with trio.open_signal_receiver(*expected) as signals:
        async with trio.open_nursery() as nursery:
            for listener, sockets in listeners:
                bound = [trio.SocketListener(trio.socket.from_stdlib_socket(s)) for s in sockets]
                await nursery.start(listener.serve, bound, stop)
            ready(url_of("https" if context is not None else "http", listeners[0][1][0]))
            async for number in signals:
                if number == signal.SIGHUP:
                    if context is not None:
                        context.reload()
                    continue
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
