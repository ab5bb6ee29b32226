"""What hostile clients of a vault are tested with: a vault in use, and how it was before."""

from __future__ import annotations

import contextlib
import socket

import httpx

from store.volume import Store
from tests.unit.shipping import BRANCH, all_batches, same_history, ship
from tests.unit.vault_server import SiteClient, VaultServer

OTHER = "ab" * 16
"""The volume of another site."""


class Scene:
    """A vault with a volume of `branch`, half replicated, and one of `rival`."""

    def __init__(self, server: VaultServer, source: Store) -> None:
        self.server = server
        self.source = source
        self.uuid = source.config.uuid
        self.token = server.sites.add("branch", "site")
        self.rival = server.sites.add("rival", "site")
        self.reader = server.sites.add("hq", "reader")
        batches = all_batches(source)
        self.next = ship(source, batches, 2, len(batches))
        with self.client() as site, self.client(self.rival) as other:
            site.describe(self.uuid, BRANCH)
            assert site.ship(self.uuid, ship(source, batches, 0, 2)).status_code == 200
            other.describe(OTHER, BRANCH)
            site.position(self.uuid), other.position(OTHER)
        self.before = self.files()

    def client(self, token: str | None = None) -> SiteClient:
        """A client, of `branch` if not said otherwise."""
        return self.server.client(self.token if token is None else token)

    def files(self) -> dict[str, bytes]:
        """Every file of the vault but LMDB's table of readers, which are no part of its state."""
        root = self.server.root.path
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.name != "lock.mdb"
        }

    def unchanged(self) -> bool:
        """Is everything as it was, and does it still work?"""
        same = self.files() == self.before
        with self.client() as site:
            assert site.ship(self.uuid, self.next).status_code == 200
        same_history(self.source, self.server.root.store(self.uuid))
        return same

    def comes_in_again(self) -> bool:
        """Ask until connections that were closed here are known to be there as well."""
        while True:
            with self.client() as site, contextlib.suppress(httpx.TransportError):
                return site.http.get("/v1/hello").status_code == 200

    def raw(self, request: bytes, ends: bool = False) -> bytes:
        """What is answered to these bytes, up to the end of the connection, which one side ends."""
        with self.server.connect() as connection:
            connection.sendall(request)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    def head(self, line: str, *headers: str) -> bytes:
        """A request's head with a good token."""
        lines = [line, "Host: v", f"Authorization: Bearer {self.token}", "cdpfs-protocol: 1"]
        return ("\r\n".join([*lines, *headers]) + "\r\n\r\n").encode("latin1")


def read_all(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        pass
    return found


def status_in(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
