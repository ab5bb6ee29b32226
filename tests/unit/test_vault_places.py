"""One address alone does not keep all sites out of a vault."""

from __future__ import annotations

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
            while True:
                try:
                    answer = site.get(server.url + "/v1/hello")
                    break
                except (OSError, httpx.TransportError):
                    continue  # the vault has not seen yet that the others went
            assert answer.status_code == 200
