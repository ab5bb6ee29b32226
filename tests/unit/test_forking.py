"""Two machines send the history of one volume: nothing is mixed, nothing is lost, all is named."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from replicator.forking import parting_text, read_parting
from replicator.recover import recover
from replicator.report import Report
from replicator.running import Replicator
from replicator.sealed_source import SealedFolder, SealedSource
from replicator.settings import (
    LinkSettings,
    ReplicaSettings,
    SealSettings,
    load_settings,
    save_settings,
)
from replicator.status import read_status
from replicator.vault.lines import read_origin
from replicator.vault.root import VaultRoot
from replicator.wire import Common, Lines, Mark, Marks, NewLine, Position
from store.indexer import Indexer
from store.key_file import create_key_file
from store.verify import verify
from store.volume import Store
from tests.unit.journal_workload import Workload, make_store
from tests.unit.shipping import all_batches, go_on, same_history
from tests.unit.two_machines import TwoMachines
from tests.unit.vault_server import SiteClient, VaultServer, position_in, refusal_in
from timetravel.recovery import Wish


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VaultServer]:
    VaultRoot.create(tmp_path / "served")
    with VaultServer(tmp_path / "served") as running:
        yield running


@pytest.fixture
def token(server: VaultServer) -> str:
    return server.sites.add("branch", "site")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[TwoMachines]:
    made = TwoMachines(tmp_path / "site")
    yield made
    made.root.close()


class Sending:
    """Replicates stores to the vault, each until the vault has everything."""

    def __init__(self, server: VaultServer, token: str, folder: Path) -> None:
        self._server = server
        self._token = folder / "token"
        self._token.touch(0o600)
        self._token.write_text(token)

    def send(self, store: Store, key_file: str = "") -> None:
        if load_settings(store.root) is None:
            link = LinkSettings(url=self._server.url, token_file=str(self._token))
            seal = SealSettings(key_file=key_file)
            save_settings(store.root, ReplicaSettings(link=link, seal=seal))
        with contextlib.closing(Replicator(store)) as replicator:
            trio.run(replicator.run, -1, True)

    def replica(self, store: Store, line: str = "main") -> Store:
        return self._server.root.store(store.config.uuid, line)


@pytest.fixture
def sending(server: VaultServer, token: str, tmp_path: Path) -> Sending:
    return Sending(server, token, tmp_path)


@pytest.mark.expects_warnings  # both ends say that history parted
def test_the_machine_that_comes_second_gets_a_line_of_its_own(
    machines: TwoMachines, server: VaultServer, sending: Sending
) -> None:
    sending.send(machines.one)
    sending.send(machines.other)
    settings = load_settings(machines.other.root)
    assert settings is not None
    line, base = settings.link.line, machines.mark(machines.shared)
    assert line.startswith(f"fork-{base.lsn}-")
    same_history(machines.one, sending.replica(machines.one))
    same_history(machines.other, sending.replica(machines.other, line))
    origin = read_origin(sending.replica(machines.other, line))
    assert origin is not None and (origin.lsn, origin.digest) == (base.lsn, base.digest)
    status, parted = read_status(machines.other.root), read_parting(machines.other.root)
    assert status is not None and status.parted is not None
    assert status.parted == parted
    assert (parted.lsn, parted.kept, parted.line) == (base.lsn, "main", line)
    assert f"parted after LSN {base.lsn}" in parting_text(parted)
    # Neither of them asks again, and both go on where they are.
    sending.send(machines.one)
    sending.send(machines.other)
    assert server.root.lines(machines.uuid) == ["main", line]
    for name in ("main", line):
        assert verify(sending.replica(machines.one, name)).sound


@pytest.mark.expects_warnings
def test_what_another_machine_has_sent_is_never_told_as_ours(
    machines: TwoMachines, sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending.send(machines.one)
    told = []
    note = Report.acknowledged

    def noted(report: Report, position: Position) -> None:
        told.append(position.line)
        note(report, position)

    monkeypatch.setattr(Report, "acknowledged", noted)
    sending.send(machines.other)
    assert told and "main" not in told


@pytest.mark.expects_warnings
def test_sealed_histories_part_as_well_and_both_come_back_with_the_key(
    machines: TwoMachines, server: VaultServer, sending: Sending, tmp_path: Path
) -> None:
    key = str(tmp_path / "key")
    ring = create_key_file(Path(key))
    sending.send(machines.one, key)
    sending.send(machines.other, key)
    settings = load_settings(machines.other.root)
    assert settings is not None
    lines = server.root.lines(machines.uuid)
    assert lines == ["main", settings.link.line]
    for line, origin in zip(lines, (machines.one, machines.other), strict=True):
        source = SealedSource(SealedFolder(server.root), machines.uuid, line, ring)
        done = recover(source, Wish(str(tmp_path / line / "tree"), tmp_path / line / "store"))
        same_history(origin, done.store)


@pytest.mark.expects_warnings
def test_a_machine_whose_settings_were_put_back_finds_its_line_again(
    machines: TwoMachines, server: VaultServer, sending: Sending
) -> None:
    sending.send(machines.one)
    sending.send(machines.other)
    settings = load_settings(machines.other.root)
    assert settings is not None
    line, settings.link.line = settings.link.line, "main"
    save_settings(machines.other.root, settings)
    indexer = Indexer(machines.other)
    go_on(Workload.of(machines.other, 5), indexer, 2, 30)
    indexer.close()
    sending.send(machines.other)
    again = load_settings(machines.other.root)
    assert again is not None and again.link.line == line
    assert server.root.lines(machines.uuid) == ["main", line]
    same_history(machines.other, sending.replica(machines.other, line))


@pytest.mark.expects_warnings
def test_a_machine_that_fell_back_behind_the_vault_is_a_second_one(
    tmp_path: Path, server: VaultServer, sending: Sending
) -> None:
    """Its disk was put back from an image: it goes on where the vault has gone on otherwise."""
    tmp_path.joinpath("site").mkdir()
    store = make_store(tmp_path / "site")
    workload, indexer = Workload(store), Indexer(store)
    go_on(workload, indexer, 3, 40)
    indexer.close()
    image = Store.open(Path(shutil.copytree(store.root, tmp_path / "image")))
    shared = len(all_batches(store))
    back = Workload.of(image, 1)
    indexer = Indexer(store)
    go_on(workload, indexer, 3, 40)
    indexer.close()
    sending.send(store)
    sending.send(image)
    settings = load_settings(image.root)
    assert settings is not None and settings.link.line.startswith("fork-")
    indexer = Indexer(image)
    go_on(back, indexer, 2, 30)
    indexer.close()
    sending.send(image)
    same_history(image, sending.replica(image, settings.link.line))
    same_history(store, sending.replica(store))
    assert all_batches(image)[:shared] == all_batches(store)[:shared]


@pytest.mark.expects_warnings
def test_three_machines_have_three_lines(
    machines: TwoMachines, server: VaultServer, sending: Sending, tmp_path: Path
) -> None:
    third = Store.open(Path(shutil.copytree(machines.other.root, tmp_path / "third")))
    for store, seed in ((machines.other, 7), (third, 8)):
        indexer = Indexer(store)
        go_on(Workload.of(store, seed), indexer, 2, 30)
        indexer.close()
    lines = []
    for store in (machines.one, machines.other, third):
        sending.send(store)
        settings = load_settings(store.root)
        assert settings is not None
        lines.append(settings.link.line)
    assert sorted(lines) == sorted(server.root.lines(machines.uuid))
    for store, line in zip((machines.one, machines.other, third), lines, strict=True):
        same_history(store, sending.replica(store, line))


# --- the requests ---------------------------------------------------------------------------------


@pytest.fixture
def site(server: VaultServer, token: str) -> Iterator[SiteClient]:
    with server.client(token) as client:
        yield client


@pytest.mark.expects_warnings  # that history parted
def test_lines_are_made_and_listed_over_http(
    machines: TwoMachines, server: VaultServer, site: SiteClient, sending: Sending
) -> None:
    sending.send(machines.one)
    marks = [machines.mark(number) for number in (1, machines.shared, machines.shared + 1)]
    answer = site.http.post(
        f"/v1/volumes/{machines.uuid}/common", content=msgspec.json.encode(Marks(marks=marks))
    )
    assert msgspec.json.decode(answer.content, type=Common).lsn == marks[1].lsn
    body = msgspec.json.encode(machines.wish(name="fork-here"))
    made = position_in(site.http.post(f"/v1/volumes/{machines.uuid}/lines", content=body))
    assert (made.line, made.next_lsn, made.digest) == (
        "fork-here",
        marks[1].lsn + 1,
        marks[1].digest,
    )
    listed = site.http.get(f"/v1/volumes/{machines.uuid}/lines")
    lines = msgspec.json.decode(listed.content, type=Lines).lines
    assert [line.line for line in lines] == ["main", "fork-here"]
    assert site.position(machines.uuid, "fork-here") == made


@pytest.mark.expects_warnings  # refusals are logged
def test_lines_of_other_sites_and_impossible_ones_are_refused(
    machines: TwoMachines, server: VaultServer, site: SiteClient, sending: Sending
) -> None:
    sending.send(machines.one)
    path = f"/v1/volumes/{machines.uuid}"
    wish = machines.wish()
    with server.client(server.sites.add("elsewhere", "site")) as other:
        refusal_in(other.http.get(f"{path}/lines"), 403)
        refusal_in(other.http.post(f"{path}/common", content=b'{"marks":[]}'), 403)
        refusal_in(other.http.post(f"{path}/lines", content=msgspec.json.encode(wish)), 403)
    with server.client(server.sites.add("reader", "reader")) as reader:
        assert reader.http.get(f"{path}/lines").status_code == 200
        refusal_in(reader.http.post(f"{path}/lines", content=msgspec.json.encode(wish)), 403)
    unknown = NewLine(parent="main", lsn=1, digest="11" * 32, name="fork-1")
    bad_parent = NewLine(parent="no-such-line", lsn=wish.lsn, digest=wish.digest, name="x")
    for message, status in ((unknown, 403), (bad_parent, 404)):
        refusal_in(site.http.post(f"{path}/lines", content=msgspec.json.encode(message)), status)
    for body in (b"", b"{}", b'{"marks":[{"lsn":-1,"digest":""}]}', b"[" * 5000):
        refusal_in(site.http.post(f"{path}/common", content=body), 400)
    for name in ("../main", "main/../x", "A", "x" * 57, ""):
        raw = msgspec.json.encode(
            {"parent": "main", "lsn": wish.lsn, "digest": wish.digest, "name": name}
        )
        refusal_in(site.http.post(f"{path}/lines", content=raw), 400)
    many = [Mark(lsn=1, digest="00" * 32)] * 257
    body = msgspec.json.encode({"marks": many})
    refusal_in(site.http.post(f"{path}/common", content=body), 400)
    assert server.root.lines(machines.uuid) == ["main"]
