"""What a vault tells a Prometheus server, and whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from replicator.vault.root import VaultRoot
from store.volume import Store
from tests.unit.shipping import BRANCH, all_batches, make_history, ship
from tests.unit.vault_server import SiteClient, VaultServer, refusal_in


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"), rounds=2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VaultServer]:
    VaultRoot.create(tmp_path / "vault")
    with VaultServer(tmp_path / "vault") as running:
        yield running


def values(client: SiteClient) -> dict[tuple[str, str], float]:
    """By name and the one label that tells series apart here."""
    del client.http.headers["cdpfs-protocol"]
    answer = client.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, sample.labels.get("status") or sample.labels.get("kind") or ""): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_a_reader_sees_how_the_lines_are_and_what_was_asked(
    server: VaultServer, source: Store
) -> None:
    uuid, batches = source.config.uuid, all_batches(source)
    with server.client(server.sites.add("branch", "site")) as site:
        site.describe(uuid, BRANCH)
        data = ship(source, batches, 0, len(batches))
        site.ship(uuid, data)
        assert site.http.get("/v1/nothing").status_code == 404
        position = site.position(uuid)
    with server.client(server.sites.add("hq", "reader")) as reader:
        found = values(reader)
    assert found[("cdpfs_vault_next_lsn", "")] == position.next_lsn
    assert found[("cdpfs_vault_visible_lsn", "")] == position.visible_lsn
    assert found[("cdpfs_vault_readable", "")] == 1
    assert 0 <= found[("cdpfs_vault_silent_seconds", "")] < 3600
    assert found[("cdpfs_vault_stored_bytes", "")] > 1000
    assert found[("cdpfs_vault_requests_total", "200")] == 3
    assert found[("cdpfs_vault_requests_total", "404")] == 1
    assert found[("cdpfs_vault_refusals_total", "NotHere")] == 1
    assert found[("cdpfs_vault_received_bytes_total", "")] >= len(data)


@pytest.mark.expects_warnings
def test_nobody_else_sees_them(server: VaultServer) -> None:
    with server.client(server.sites.add("branch", "site")) as site:
        refusal_in(site.http.get("/metrics"), 403)
        site.http.headers["Authorization"] = "Bearer none"
        refusal_in(site.http.get("/metrics"), 401)


def test_a_line_that_can_not_be_read_is_told(server: VaultServer) -> None:
    server.root.create_volume("branch", "ab" * 16, BRANCH)
    (server.root.store("ab" * 16).root / "volume.toml").write_text("damaged")
    with server.client(server.sites.add("hq", "reader")) as reader:
        assert values(reader)[("cdpfs_vault_readable", "")] == 0
