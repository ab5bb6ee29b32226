"""One address alone does not keep all sites out of a vault."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from replicator.vault.limits import Limits
from replicator.vault.listener import place_of
from replicator.vault.root import VaultRoot
from replicator.wire import PROTOCOL, PROTOCOL_HEADER
from tests.unit.vault_server import VaultServer


@pytest.mark.parametrize(
    ("peer", "place"),
    [
        ("10.1.2.3:4", "10.1.2.3"),
        ("::ffff:10.1.2.3:4", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6:443", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1:443", "2001:db8:1:2::/64"),
        ("fe80::1%eth0:443", "fe80::/64"),
        ("-", ""),
    ],
)
def test_where_a_peer_is(peer: str, place: str) -> None:
    assert place_of(peer) == place


@pytest.mark.expects_warnings
def test_strangers_of_one_address_leave_room_for_others(tmp_path: Path) -> None:
    VaultRoot.create(tmp_path / "vault")
    limits = Limits(strangers=20, strangers_of_place=4)
    with VaultServer(tmp_path / "vault", limits) as server:
        token = server.sites.add("branch", "site")
        idle = [server.connect() for _ in range(12)]
        refused = sum(stranger.recv(1) == b"" for stranger in idle[4:])
        assert refused == 8
        headers = {PROTOCOL_HEADER: str(PROTOCOL), "Authorization": f"Bearer {token}"}
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=elsewhere, headers=headers) as site:
            assert site.get(server.url + "/v1/hello").status_code == 200
        for stranger in idle:
            stranger.close()
        with httpx.Client(headers=headers, trust_env=False) as site:
            assert _hello_when_there_is_room(site, server) == 200


def test_a_connection_that_was_closed_leaves_its_room_at_once(tmp_path: Path) -> None:
    VaultRoot.create(tmp_path / "vault")
    with VaultServer(tmp_path / "vault", Limits(connections=2)) as server:
        token = server.sites.add("branch", "site")
        headers = {PROTOCOL_HEADER: str(PROTOCOL), "Authorization": f"Bearer {token}"}
        for _ in range(8):
            with httpx.Client(headers=headers, trust_env=False) as site:
                assert _hello_when_there_is_room(site, server) == 200


def test_a_connection_on_which_no_more_will_be_asked_ends_with_its_answer(tmp_path: Path) -> None:
    VaultRoot.create(tmp_path / "vault")
    with VaultServer(tmp_path / "vault") as server:
        token = server.sites.add("branch", "site")
        head = f"GET /v1/hello HTTP/1.1\r\nHost: x\r\n{PROTOCOL_HEADER}: {PROTOCOL}\r\n"
        with server.connect() as connection:
            connection.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
            connection.shutdown(socket.SHUT_WR)
            said = b""
            while data := connection.recv(1 << 16):
                said += data
    assert said == b"" or said.startswith(b"HTTP/1.1 200")


def _hello_when_there_is_room(site: httpx.Client, server: VaultServer) -> int:
    while True:
        try:
            return site.get(server.url + "/v1/hello").status_code
        except (OSError, httpx.TransportError):
            continue  # the vault has not seen yet that the others went
