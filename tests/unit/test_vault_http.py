"""A vault over HTTP: what a site sends becomes the same history there, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from replicator.vault.root import VaultRoot
from replicator.wire import Description, Hello, shipment_id
from store.verify import verify
from store.volume import Store
from tests.unit.shipping import BRANCH, all_batches, make_history, same_history, ship, shipments
from tests.unit.vault_server import SiteClient, VaultServer, position_in, refusal_in


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VaultServer]:
    VaultRoot.create(tmp_path / "vault")
    with VaultServer(tmp_path / "vault") as running:
        yield running


@pytest.fixture
def site(server: VaultServer) -> Iterator[SiteClient]:
    with server.client(server.sites.add("branch", "site")) as client:
        yield client


def replica_of(server: VaultServer, source: Store) -> Store:
    return server.root.store(source.config.uuid)


def test_a_site_is_greeted_by_name(server: VaultServer, site: SiteClient) -> None:
    hello = msgspec.json.decode(site.http.get("/v1/hello").content, type=Hello)
    assert (hello.vault, hello.site, hello.protocol) == (server.root.id, "branch", 1)


def test_shipments_become_the_history_of_the_site(
    server: VaultServer, site: SiteClient, source: Store
) -> None:
    uuid = source.config.uuid
    assert position_in(site.describe(uuid, BRANCH)).next_lsn == 1
    batches = all_batches(source)
    for data in shipments(source, 2):
        assert site.ship(uuid, data).status_code == 200
    position = site.position(uuid)
    assert position.next_lsn == batches[-1].ops[-1].lsn + 1
    assert position.digest == batches[-1].digest.hex()
    assert 0 < position.visible_lsn < position.next_lsn
    same_history(source, replica_of(server, source))
    assert verify(replica_of(server, source)).sound


@pytest.mark.parametrize("cuts", [[1], [10, 20, 30], [100_000, 100_001]])
def test_a_shipment_in_pieces_is_resumed_at_the_byte(
    server: VaultServer, site: SiteClient, source: Store, cuts: list[int]
) -> None:
    uuid = source.config.uuid
    site.describe(uuid, BRANCH)
    (data,) = shipments(source, 1000)
    start = 0
    for cut in cuts:
        answer = site.ship(uuid, data, start, cut)
        assert answer.status_code == 202
        partial = position_in(answer).partial
        assert partial is not None
        assert (partial.shipment, partial.received_bytes) == (shipment_id(data), cut)
        start = cut
    assert site.ship(uuid, data, start).status_code == 200
    same_history(source, replica_of(server, source))


def test_bytes_of_a_broken_connection_count(
    server: VaultServer, site: SiteClient, source: Store
) -> None:
    """Sent until the vault has some of them, then cut: the next request goes on there."""
    uuid = source.config.uuid
    site.describe(uuid, BRANCH)
    (data,) = shipments(source, 1000)
    head = (
        f"PUT /v1/volumes/{uuid}/shipments/{shipment_id(data)} HTTP/1.1\r\nHost: v\r\n"
        f"Authorization: {site.http.headers['authorization']}\r\ncdpfs-protocol: 1\r\n"
        f"Content-Range: bytes 0-{len(data) - 1}/{len(data)}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with server.connect() as connection:
        connection.sendall(head.encode() + data[:200_000])
        while (partial := site.position(uuid).partial) is None or partial.received_bytes < 200_000:
            pass
    assert site.ship(uuid, data, 200_000).status_code == 200
    same_history(source, replica_of(server, source))


def test_what_was_received_survives_a_restart_of_the_vault(
    server: VaultServer, site: SiteClient, source: Store, tmp_path: Path
) -> None:
    uuid = source.config.uuid
    site.describe(uuid, BRANCH)
    (data,) = shipments(source, 1000)
    site.ship(uuid, data, 0, 77_777)
    server.stop()
    with VaultServer(tmp_path / "vault") as again:
        token = again.sites.rotate("branch")
        with again.client(token) as client:
            partial = client.position(uuid).partial
            assert partial is not None
            assert partial.received_bytes == 77_777
            assert client.ship(uuid, data, 77_777).status_code == 200
        same_history(source, again.root.store(uuid))


def test_a_wrong_start_is_answered_with_the_position(site: SiteClient, source: Store) -> None:
    uuid = source.config.uuid
    site.describe(uuid, BRANCH)
    (data,) = shipments(source, 1000)
    site.ship(uuid, data, 0, 1000)
    for start in (0, 999, 1001, len(data)):
        refusal = refusal_in(site.ship(uuid, data, start), 409)
        assert refusal.kind == "Gap"
        assert refusal.position is not None
        assert refusal.position.partial is not None
        assert refusal.position.partial.received_bytes == 1000


def test_gap_and_fork_are_answered_with_the_position(
    site: SiteClient, source: Store, tmp_path: Path
) -> None:
    uuid = source.config.uuid
    site.describe(uuid, BRANCH)
    batches = all_batches(source)
    site.ship(uuid, ship(source, batches, 0, 1))
    gap = refusal_in(site.ship(uuid, ship(source, batches, 2, 3)), 409)
    assert (gap.kind, gap.position) == ("Gap", site.position(uuid))
    other = make_history(tmp_path / "other", seed=1)
    others = all_batches(other)
    other.uuid = source.uuid
    fork = refusal_in(site.ship(uuid, ship(other, others, 0, 2)), 409)
    assert (fork.kind, fork.position) == ("Forked", site.position(uuid))


def test_a_newer_connection_takes_over_from_one_that_hangs(
    server: VaultServer, site: SiteClient, source: Store
) -> None:
    uuid = source.config.uuid
    site.describe(uuid, BRANCH)
    (data,) = shipments(source, 1000)
    head = (
        f"PUT /v1/volumes/{uuid}/shipments/{shipment_id(data)} HTTP/1.1\r\nHost: v\r\n"
        f"Authorization: {site.http.headers['authorization']}\r\ncdpfs-protocol: 1\r\n"
        f"Content-Range: bytes 0-{len(data) - 1}/{len(data)}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with server.connect() as hanging:
        hanging.sendall(head.encode() + data[:5000])
        while site.position(uuid).partial is None:
            pass
        start = site.position(uuid).partial
        assert start is not None
        assert site.ship(uuid, data, start.received_bytes).status_code == 200
        assert hanging.recv(100).startswith(b"HTTP/1.1 503")
    same_history(source, replica_of(server, source))


def test_an_old_shipment_once_more_costs_the_one_that_is_under_way_nothing(
    site: SiteClient, source: Store
) -> None:
    uuid = source.config.uuid
    site.describe(uuid, BRANCH)
    old, new, *_ = shipments(source, 2)
    site.ship(uuid, old)
    site.ship(uuid, new, 0, 1000)
    before = site.position(uuid)
    assert position_in(site.ship(uuid, old)) == site.position(uuid) == before
    assert site.ship(uuid, new, 1000).status_code == 200


def test_a_reader_sees_positions_and_sends_nothing(
    server: VaultServer, site: SiteClient, source: Store
) -> None:
    uuid = source.config.uuid
    site.describe(uuid, BRANCH)
    with server.client(server.sites.add("hq", "reader")) as reader:
        assert reader.position(uuid) == site.position(uuid)


def test_an_address_is_told_when_it_is_taken(server: VaultServer) -> None:
    from replicator.vault.serve import Listen, open_sockets

    with pytest.raises(OSError, match="in use"):
        open_sockets(Listen(*server.address, insecure_http=True))


def test_a_description_can_change(site: SiteClient, source: Store, server: VaultServer) -> None:
    uuid = source.config.uuid
    site.describe(uuid, BRANCH)
    renamed = Description(name="other", directory="/nowhere", created_ns=1)
    assert site.describe(uuid, renamed).status_code == 200
    assert server.root.volume(uuid).description == renamed
