"""Clients of a vault that take their time, come in crowds or speak in clear, TLS demanded."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from replicator.vault.limits import Limits
from replicator.vault.root import VaultRoot
from replicator.wire import shipment_id
from store.volume import Store
from tests.unit.shipping import BRANCH, make_history, same_history
from tests.unit.vault_scene import Scene, read_all, status_in
from tests.unit.vault_server import VaultServer

pytestmark = pytest.mark.expects_warnings


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"), rounds=4)


@pytest.fixture
def strict(tmp_path: Path, source: Store) -> Iterator[Scene]:
    """Little patience, little room."""
    VaultRoot.create(tmp_path / "vault")
    limits = Limits(
        connections=6,
        strangers=3,
        stranger_s=1.5,
        head_s=1.5,
        silence_s=1.0,
        site_requests=2,
        linger_s=0.2,
    )
    with VaultServer(tmp_path / "vault", limits) as server:
        yield Scene(server, source)


def test_who_says_nothing_is_sent_away(strict: Scene) -> None:
    with strict.server.connect() as silent, strict.server.connect() as slow:
        slow.sendall(b"GET /v1/hello HTTP/1.1\r\nX: ")
        assert read_all(silent) == b""
        assert status_in(read_all(slow)) in (0, 408)
    assert strict.unchanged()


def test_a_head_that_trickles_ends_with_its_connection(strict: Scene) -> None:
    """Known or not: each byte is in time, the whole is not."""
    hello = strict.head("GET /v1/hello HTTP/1.1")
    with strict.server.connect() as connection:
        connection.sendall(hello)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.settimeout(0.05)
        ended = False
        for byte in hello * 100:
            try:
                connection.sendall(bytes([byte]))
                ended = connection.recv(1 << 16) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
            if ended:
                break
        assert ended
    assert strict.unchanged()


def test_a_body_that_stops_is_given_up_and_what_came_of_it_counts(strict: Scene) -> None:
    data = strict.next
    line = f"PUT /v1/volumes/{strict.uuid}/shipments/{shipment_id(data)} HTTP/1.1"
    span = f"Content-Range: bytes 0-{len(data) - 1}/{len(data)}"
    with strict.server.connect() as connection:
        connection.sendall(strict.head(line, f"Content-Length: {len(data)}", span) + data[:1000])
        assert status_in(read_all(connection)) == 408
    with strict.client() as site:
        partial = site.position(strict.uuid).partial
        assert partial is not None
        assert partial.received_bytes == 1000
        assert site.ship(strict.uuid, data, 1000).status_code == 200
    same_history(strict.source, strict.server.root.store(strict.uuid))


def test_too_many_connections_are_sent_away_and_known_ones_stay(strict: Scene) -> None:
    with strict.client() as site:
        site.position(strict.uuid)
        strangers = [strict.server.connect() for _ in range(8)]
        refused = 0
        for stranger in strangers[3:]:
            refused += read_all(stranger) == b""
        assert refused >= 4
        assert site.position(strict.uuid).next_lsn > 1
        for stranger in strangers:
            stranger.close()
    assert strict.comes_in_again()
    assert strict.unchanged()


def test_a_site_has_only_so_many_requests_at_work(strict: Scene) -> None:
    data = strict.next
    line = f"PUT /v1/volumes/{strict.uuid} HTTP/1.1"
    hanging = [strict.server.connect() for _ in range(2)]
    for connection in hanging:
        connection.sendall(strict.head(line, f"Content-Length: {len(data)}") + b"{")
    with strict.client() as site:
        statuses = set()
        while 429 not in statuses:
            statuses.add(site.http.get("/v1/hello").status_code)
        assert statuses <= {200, 429}
    for connection in hanging:
        connection.close()
    with strict.client() as site:
        while site.http.get("/v1/hello").status_code == 429:
            pass
    assert strict.unchanged()


# --- TLS -----------------------------------------------------------------------------------------


def test_plain_http_where_tls_is_demanded_is_told_so(tmp_path: Path, source: Store) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    VaultRoot.create(tmp_path / "vault")
    with VaultServer(tmp_path / "vault", context=context) as server:
        token = server.sites.add("branch", "site")
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        with server.client(token, verify=trusting) as site:
            assert site.describe(source.config.uuid, BRANCH).status_code == 200
        with server.connect() as connection:
            connection.sendall(
                b"GET /v1/hello HTTP/1.1\r\nHost: v\r\n"
                b"Authorization: Bearer " + token.encode() + b"\r\n\r\n"
            )
            answer = read_all(connection)
        assert status_in(answer) == 426
        assert b"https://" in answer
        with server.connect() as connection:
            connection.sendall(b"\x16garbage" * 100)
            assert b"HTTP/" not in read_all(connection)
        with server.client(token, verify=trusting) as site:
            assert site.position(source.config.uuid).next_lsn == 1


def test_who_resets_at_once_is_nothing_that_nobody_foresaw(
    strict: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel does not know the name of the other end any more when it is asked for."""
    for _ in range(30):
        connection = strict.server.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    hello = strict.head("GET /v1/hello HTTP/1.1", "Connection: close")
    assert status_in(strict.raw(hello)) == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
