"""A volume is made anew from its replica: from a disk, over HTTP, cut short and gone on with."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import BadShipment, Refused, UnknownVolume
from replicator.recover import Held, JournalSource, recover
from replicator.recover_disk import VaultFolder
from replicator.recover_link import VaultUrl
from replicator.settings import LinkSettings
from replicator.vault.ingest import LineWriter
from replicator.vault.lines import make_line
from replicator.vault.root import VaultRoot
from store.errors import NoSuchVolume, NotEmpty, RecoveryUnfinished, StoreBusy, VolumeExists
from store.journal import Journal
from store.relocation import read_relocation, refuse_short, refuse_unfinished
from store.types import ROOT, Lsn
from store.volume import Store
from tests.unit.shipping import BRANCH, all_batches, make_history, same_history, shipments
from tests.unit.two_machines import TwoMachines, receive
from tests.unit.vault_server import VaultServer
from timetravel.recovery import Recovered, Wish


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """What the lost machine had."""
    return make_history(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def vault(origin: Store, tmp_path_factory: pytest.TempPathFactory) -> VaultRoot:
    """A vault that has all of it."""
    root = VaultRoot.create(tmp_path_factory.mktemp("at") / "vault")
    root.create_volume("branch", origin.config.uuid, BRANCH)
    writer = LineWriter.open(root.store(origin.config.uuid))
    for shipment in shipments(origin, 3):
        writer.take(shipment)
    writer.close()
    return root


class NewMachine:
    def __init__(self, folder: Path) -> None:
        self.directory, self.store_root = folder / "tree", folder / "store"

    def wish(self, at: str = "") -> Wish:
        return Wish(str(self.directory), self.store_root, at)

    def check(self, done: Recovered, origin: Store) -> None:
        """The same history, and the tree as of the LSN that was chosen."""
        assert done.ready and not done.missing
        same_history(origin, done.store)
        assert done.store.config.uuid == origin.config.uuid
        with Journal(origin) as journal, journal.snapshot() as snapshot:
            lsn, end = Lsn(done.note.lsn), snapshot.indexed_lsn
            expected = {
                name: snapshot.read(node, lsn, 0, 1 << 40)
                for name, node in snapshot.children(ROOT, lsn)
            }
        assert done.store.config.foreign_lsn == end
        tree = os.fsencode(self.directory)
        found = {name: Path(os.fsdecode(os.path.join(tree, name))) for name in os.listdir(tree)}
        assert {name: path.read_bytes() for name, path in found.items()} == expected


@pytest.fixture
def machine(tmp_path: Path) -> NewMachine:
    return NewMachine(tmp_path)


def test_a_volume_comes_back_from_a_vault_on_a_disk(
    vault: VaultRoot, origin: Store, machine: NewMachine
) -> None:
    done = recover(VaultFolder(vault, "branch", "main"), machine.wish())
    machine.check(done, origin)
    assert done.store.config.name == "branch"
    refuse_unfinished(done.store)


def test_a_moment_can_be_asked_for(vault: VaultRoot, origin: Store, machine: NewMachine) -> None:
    done = recover(VaultFolder(vault, origin.config.uuid, "main"), machine.wish("@lsn:100"))
    assert done.note.lsn == 100
    machine.check(done, origin)


class Killed(BaseException):
    """The process is gone."""


def test_a_recovery_that_is_cut_anywhere_goes_on_where_it_was(
    vault: VaultRoot, origin: Store, tmp_path: Path
) -> None:
    cut = 0
    while True:
        cut += 1
        machine, calls = NewMachine(tmp_path / f"cut {cut}"), 0
        machine.directory.mkdir(parents=True)

        def die(_stage: str, _done: int, _total: int, cut: int = cut) -> None:
            nonlocal calls
            calls += 1
            if calls == cut:
                raise Killed

        source = VaultFolder(vault, "branch", "main")
        try:
            recover(source, machine.wish(), die)
        except Killed:
            store = Store.open(machine.store_root)
            with pytest.raises(RecoveryUnfinished):
                refuse_unfinished(store)
                refuse_short(store, Lsn(0))
        else:
            break
        machine.check(recover(source, machine.wish()), origin)
    assert cut > 5


def test_what_a_power_cut_left_of_written_files_is_compared_and_mended(
    vault: VaultRoot, origin: Store, machine: NewMachine
) -> None:
    """They have their names, sizes and times, but their bytes never reached the disk."""

    def die(stage: str, done: int, total: int) -> None:
        if stage == "restoring" and done > total // 2:
            raise Killed

    source = VaultFolder(vault, "branch", "main")
    with pytest.raises(Killed):
        recover(source, machine.wish(), die)
    spoiled = 0
    for path in machine.directory.iterdir():
        if not path.name.startswith(".cdpfs"):
            times = path.stat()
            path.write_bytes(bytes(times.st_size))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            spoiled += 1
    assert spoiled
    (machine.directory / ".cdpfs-restore-1-1").write_bytes(b"half made")
    machine.check(recover(source, machine.wish()), origin)


def test_any_line_can_be_gone_on_with(tmp_path: Path, machine: NewMachine) -> None:
    machines = TwoMachines(tmp_path / "site")
    line = make_line(machines.root, machines.uuid, machines.wish())
    receive(machines.root.store(machines.uuid, line), machines.other, start=machines.shared)
    machines.root.close()
    root = VaultRoot.open(machines.root.path)
    machine.check(recover(VaultFolder(root, machines.uuid, line), machine.wish()), machines.other)


def test_a_finished_recovery_is_not_done_again(vault: VaultRoot, machine: NewMachine) -> None:
    source = VaultFolder(vault, "branch", "main")
    first = recover(source, machine.wish())
    again = recover(source, machine.wish())
    assert again.ready and again.point is None
    assert read_relocation(again.store) == first.note


def test_what_is_in_the_way_is_refused(
    vault: VaultRoot, tmp_path: Path, machine: NewMachine
) -> None:
    source = VaultFolder(vault, "branch", "main")
    machine.directory.mkdir()
    (machine.directory / "mine").write_text("mine")
    with pytest.raises(NotEmpty):
        recover(source, machine.wish())
    assert not machine.store_root.exists()
    (machine.directory / "mine").unlink()
    other = make_history(tmp_path / "other", rounds=1)
    with pytest.raises(VolumeExists, match="another volume"):
        recover(source, Wish(str(machine.directory), other.root))
    done = recover(source, machine.wish())
    with pytest.raises(RecoveryUnfinished, match="was begun with"):
        recover(source, machine.wish("@lsn:7"))
    with pytest.raises(RecoveryUnfinished, match="belongs to a recovery into"):
        recover(source, Wish(str(tmp_path / "elsewhere"), machine.store_root))
    (done.store.root / "relocation.json").unlink()  # as after the first mount
    with pytest.raises(VolumeExists, match="already"):
        recover(source, machine.wish())


def test_two_recoveries_at_once_are_refused(vault: VaultRoot, machine: NewMachine) -> None:
    source = VaultFolder(vault, "branch", "main")
    done = recover(source, machine.wish())
    lock = done.store.lock()
    with pytest.raises(StoreBusy):
        recover(source, machine.wish())
    os.close(lock)


def test_unknown_volumes_and_lines_are_refused_by_name(vault: VaultRoot) -> None:
    with pytest.raises(UnknownVolume, match="no volume"):
        VaultFolder(vault, "brunch", "main")
    with pytest.raises(UnknownVolume, match="no line"):
        VaultFolder(vault, "branch", "fork-1").held()


class Short:
    """A source that has less than it says."""

    name = "a damaged vault"

    def __init__(self, source: JournalSource) -> None:
        self._source = source

    def held(self) -> Held:
        return self._source.held()

    def feed(self, writer: LineWriter) -> Iterator[Lsn]:
        yield from ()


def test_a_replica_that_has_less_than_it_says_is_refused(
    vault: VaultRoot, machine: NewMachine
) -> None:
    with pytest.raises(BadShipment, match="ends at LSN 0"):
        recover(Short(VaultFolder(vault, "branch", "main")), machine.wish())
    assert not machine.directory.exists()


class Growing:
    """A source that is written to while it is read: the machine was not lost after all."""

    name = "a vault in use"

    def __init__(self, source: JournalSource, told: Held) -> None:
        self._source, self._told = source, told

    def held(self) -> Held:
        return self._told

    def feed(self, writer: LineWriter) -> Iterator[Lsn]:
        yield from self._source.feed(writer)


def test_a_replica_that_grows_meanwhile_is_taken_as_far_as_it_came(
    vault: VaultRoot, origin: Store, machine: NewMachine
) -> None:
    source = VaultFolder(vault, "branch", "main")
    batch = all_batches(origin)[2]
    told = source.held()._replace(next_lsn=Lsn(batch.ops[-1].lsn + 1), digest=batch.digest)
    machine.check(recover(Growing(source, told), machine.wish()), origin)


def test_a_replica_of_another_history_than_it_says_is_refused(
    vault: VaultRoot, origin: Store, machine: NewMachine
) -> None:
    source = VaultFolder(vault, "branch", "main")
    told = source.held()._replace(digest=b"1" * 32)
    with pytest.raises(BadShipment, match="does not have the batch"):
        recover(Growing(source, told), machine.wish())


def test_an_empty_replica_is_no_way_back(
    origin: Store, tmp_path: Path, machine: NewMachine
) -> None:
    root = VaultRoot.create(tmp_path / "vault")
    root.create_volume("branch", origin.config.uuid, BRANCH)
    with pytest.raises(NoSuchVolume, match="holds nothing"):
        recover(VaultFolder(root, "branch", "main"), machine.wish())


# --- over HTTP ------------------------------------------------------------------------------------


class CuttingProxy:
    """A line that breaks after every `limit` bytes from the vault, for the first `cuts` times."""

    def __init__(self, target: tuple[str, int], limit: int, cuts: int) -> None:
        self._target, self._limit, self._cuts = target, limit, cuts
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                site, _ = self._listener.accept()
            except OSError:
                break
            self.connections += 1
            limit = self._limit if self.connections <= self._cuts else 1 << 60
            threads.append(threading.Thread(target=self._carry_both, args=(site, limit)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _carry_both(self, site: socket.socket, limit: int) -> None:
        with site, socket.create_connection(self._target) as vault:
            up = threading.Thread(target=_carry, args=(site, vault, 1 << 60))
            up.start()
            _carry(vault, site, limit)
            up.join()


def _carry(one: socket.socket, other: socket.socket, most: int) -> None:
    """Until so many bytes have gone by, or one end has ended; then it ends for both."""
    with contextlib.suppress(OSError):
        while most > 0 and (data := one.recv(min(most, 1 << 16))):
            other.sendall(data)
            most -= len(data)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def served(origin: Store, tmp_path: Path) -> Iterator[VaultServer]:
    root = VaultRoot.create(tmp_path / "vault")
    root.create_volume("branch", origin.config.uuid, BRANCH)
    writer = LineWriter.open(root.store(origin.config.uuid))
    for shipment in shipments(origin, 3):
        writer.take(shipment)
    writer.close()
    with VaultServer(tmp_path / "vault") as server:
        yield server


def link_of(server: VaultServer, folder: Path, url: str = "", site: str = "branch") -> LinkSettings:
    token = folder / f"token of {site}"
    token.touch(0o600)
    token.write_text(server.sites.add(site, "site"))
    return LinkSettings(url=url or server.url, token_file=str(token))


@pytest.mark.expects_warnings
def test_a_volume_comes_back_over_a_line_that_keeps_breaking(
    origin: Store, served: VaultServer, tmp_path: Path, machine: NewMachine
) -> None:
    proxy = CuttingProxy(served.address, 60_000, cuts=12)
    try:
        link = link_of(served, tmp_path, proxy.url)
        with VaultUrl(link, "branch", sleep=lambda _: None) as source:
            done = recover(source, machine.wish())
    finally:
        proxy.close()
    machine.check(done, origin)
    assert proxy.connections > 12


@pytest.mark.expects_warnings  # refusals are logged
def test_the_vault_says_who_may_recover_what(
    served: VaultServer, tmp_path: Path, machine: NewMachine
) -> None:
    stranger = link_of(served, tmp_path, site="elsewhere")
    with VaultUrl(stranger, "branch") as source, pytest.raises(UnknownVolume):
        recover(source, machine.wish())
    link = link_of(served, tmp_path)
    with VaultUrl(link, "no such volume") as source, pytest.raises(UnknownVolume):
        source.held()
    link.line = "fork-1"
    with VaultUrl(link, "branch") as source, pytest.raises(UnknownVolume, match="no line"):
        source.held()
    Path(link.token_file).write_text("cdpfs_branch_" + "x" * 43)
    with VaultUrl(link, "branch") as source, pytest.raises(Refused):
        source.held()
    assert not machine.store_root.exists()
