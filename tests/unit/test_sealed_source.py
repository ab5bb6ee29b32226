"""Sealed volumes fetched from a vault: over HTTP and from its folder, opened with the key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from replicator.errors import LinkDown, Refused, UnknownVolume
from replicator.outgoing import Outgoing
from replicator.plan import Send, UpToDate
from replicator.recover import JournalSource, recover
from replicator.sealed_source import MAX_FAILURES, SealedFolder, SealedLink, SealedSource
from replicator.sealer import Sealer
from replicator.settings import LinkSettings
from replicator.vault.app import used_bytes
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.vault.sealed_files import list_files
from replicator.wire import Description
from store.errors import BadKeyFile, KeyMissing
from store.journal import Journal
from store.key_file import create_key_file, read_key_file
from store.volume import Store
from tests.unit.shipping import make_history, same_history
from tests.unit.vault_server import VaultServer, refusal_in
from timetravel.recovery import Wish

SEALED = Description(name="branch", directory="/nowhere", created_ns=1, sealed=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "seal.key")
    return tmp_path / "seal.key"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VaultServer]:
    VaultRoot.create(tmp_path / "vault")
    with VaultServer(tmp_path / "vault") as running:
        yield running


@pytest.fixture
def link(server: VaultServer, source: Store, key: Path, tmp_path: Path) -> LinkSettings:
    """The settings of a site whose sealed volume is at the vault."""
    token = server.sites.add("branch", "site")
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    uuid = source.config.uuid
    with server.client(token) as site, Journal(source) as journal:
        assert site.describe(uuid, SEALED).status_code == 200
        outgoing = Outgoing(source, journal, Sealer(key, source.uuid))
        position = site.position(uuid)
        while not isinstance(step := outgoing.next_step(position), UpToDate):
            assert isinstance(step, Send)
            answer = site.ship(uuid, outgoing.build(step.first_lsn, 20_000).data)
            assert answer.status_code == 200, answer.text
            position = site.position(uuid)
    return LinkSettings(url=server.url, token_file=str(tmp_path / "token"))


def fetch(from_: JournalSource, source: Store, folder: Path) -> Store:
    store = Store.create(folder, source.config)
    writer = LineWriter.open(store)
    with contextlib.closing(writer):
        for _ in from_.feed(writer):
            pass
    return store


def test_a_sealed_volume_comes_back_over_http_with_its_key(
    link: LinkSettings, source: Store, key: Path, tmp_path: Path
) -> None:
    with SealedLink(link) as vault:
        opened = SealedSource(vault, "branch", "main", read_key_file(key))
        assert opened.held().description == SEALED
        same_history(source, fetch(opened, source, tmp_path / "opened"))


def test_a_sealed_volume_comes_back_from_a_disk(
    link: LinkSettings, server: VaultServer, source: Store, key: Path, tmp_path: Path
) -> None:
    opened = SealedSource(SealedFolder(server.root), source.config.uuid, "main", read_key_file(key))
    same_history(source, fetch(opened, source, tmp_path / "opened"))


def test_another_key_opens_nothing(
    link: LinkSettings, server: VaultServer, source: Store, tmp_path: Path
) -> None:
    ring = create_key_file(tmp_path / "other.key")
    with pytest.raises(KeyMissing, match="which the key file lacks"):
        fetch(
            SealedSource(SealedFolder(server.root), "branch", "main", ring), source, tmp_path / "o"
        )
    with pytest.raises(BadKeyFile):
        read_key_file(tmp_path / "no.key")


def test_names_that_are_none_are_told(link: LinkSettings, server: VaultServer, key: Path) -> None:
    ring = read_key_file(key)
    with pytest.raises(UnknownVolume, match="no sealed volume there"):
        SealedSource(SealedFolder(server.root), "nothing", "main", ring)
    with pytest.raises(UnknownVolume, match="no line x"):
        SealedSource(SealedFolder(server.root), "branch", "x", ring).held()


@pytest.mark.expects_warnings
def test_only_who_may_read_a_volume_gets_its_shipments(
    link: LinkSettings, server: VaultServer, source: Store
) -> None:
    uuid = source.config.uuid
    path = f"/v1/volumes/{uuid}/sealed"
    with server.client(server.sites.add("rome", "site")) as other:
        assert other.http.get("/v1/sealed").json() == []
        refusal_in(other.http.get(path, params={"from": 1}), 403)
    with server.client(server.sites.add("hq", "reader")) as reader:
        assert [v["uuid"] for v in reader.http.get("/v1/sealed").json()] == [uuid]
        assert reader.http.get(path, params={"from": 1}).status_code == 200
        for query in ({}, {"from": "x"}, {"from": -1}, {"from": 1, "offset": 1 << 40}):
            refusal_in(reader.http.get(path, params=query), 400)
        assert reader.http.get(path, params={"from": 1 << 40}).content == b""
        refusal_in(reader.http.get(path, params={"from": 1, "line": "../x"}), 400)


class Cutting(httpx.BaseTransport):
    """A line that breaks after so many bytes of each answer."""

    def __init__(self, limit: int) -> None:
        self._inner = httpx.HTTPTransport()
        self.limit = limit
        self.answers = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._inner.handle_request(request)
        if not request.url.path.endswith("/sealed") or "volumes" not in request.url.path:
            return answer
        self.answers += 1
        return httpx.Response(200, stream=_Cut(answer, self.limit))

    def close(self) -> None:
        self._inner.close()


class _Cut(httpx.SyncByteStream):
    def __init__(self, answer: httpx.Response, limit: int) -> None:
        self._answer, self._limit = answer, limit

    def __iter__(self) -> Iterator[bytes]:
        whole = b"".join(self._answer.iter_raw())
        yield whole[: self._limit]
        if len(whole) > self._limit:
            raise httpx.ReadError("cut")

    def close(self) -> None:
        self._answer.close()


def test_a_line_that_breaks_costs_no_byte_twice(
    link: LinkSettings, source: Store, key: Path, tmp_path: Path
) -> None:
    pauses: list[float] = []
    cutting = Cutting(50_000)
    with SealedLink(link, cutting, pauses.append) as vault:
        opened = SealedSource(vault, "branch", "main", read_key_file(key))
        same_history(source, fetch(opened, source, tmp_path / "opened"))
    assert cutting.answers > 10 and len(pauses) >= cutting.answers - 2


def test_a_line_that_stays_broken_is_given_up(link: LinkSettings, key: Path) -> None:
    pauses: list[float] = []
    cutting = Cutting(0)
    with SealedLink(link, cutting, pauses.append) as vault, pytest.raises(LinkDown):
        list(vault.shipments(vault.volumes()[0].uuid, "main", 1))
    assert cutting.answers == MAX_FAILURES


def test_sealed_shipments_count_for_the_quota(
    link: LinkSettings, server: VaultServer, source: Store
) -> None:
    listing = list_files(server.root.store(source.config.uuid))
    used = used_bytes(server.root, "branch")
    assert used == sum(file.size_bytes for file in listing.files) > 10_000
    assert used_bytes(server.root, "rome") == 0


@pytest.mark.expects_warnings
def test_a_revoked_token_is_refused(link: LinkSettings, server: VaultServer) -> None:
    server.sites.revoke("branch", everything=True)
    with SealedLink(link) as vault, pytest.raises(Refused):
        vault.volumes()


def test_a_whole_volume_is_recovered_from_sealed_shipments(
    link: LinkSettings, source: Store, key: Path, tmp_path: Path
) -> None:
    wish = Wish(str(tmp_path / "tree"), tmp_path / "store")
    with SealedLink(link) as vault:
        done = recover(SealedSource(vault, "branch", "main", read_key_file(key)), wish)
    assert done.ready and not done.missing
    same_history(source, done.store)
