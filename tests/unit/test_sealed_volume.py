"""A sealed volume all the way: sent, kept by a vault that can't read it, opened with the key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.effort import Effort
from replicator.errors import BadShipment
from replicator.outgoing import Outgoing
from replicator.plan import Fork, Resume, Send, UpToDate
from replicator.sealer import Sealer, comes_back
from replicator.sealing import is_sealed
from replicator.shipment import NothingHeld
from replicator.unsealing import Unsealer
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.vault.sealed import SealedLine
from replicator.vault.sealed_files import held_entries, read_shipment, sealed_dir
from replicator.wire import Partial, Position
from store.errors import BadKeyFile, KeyMissing
from store.journal import Journal
from store.key_file import create_key_file, read_key_file, rotate_key_file
from store.volume import Store
from tests.unit.shipping import BRANCH, all_batches, make_history, same_history, ship


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"))


@pytest.fixture
def journal(source: Store) -> Iterator[Journal]:
    with Journal(source) as opened:
        yield opened


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "seal.key"
    create_key_file(path)
    return path


@pytest.fixture
def replica(tmp_path: Path, source: Store) -> Store:
    """The line of a sealed volume at a vault."""
    root = VaultRoot.create(tmp_path / "vault")
    description = type(BRANCH)(name="b", directory="/b", created_ns=1, sealed=True)
    root.create_volume("branch", source.config.uuid, description)
    return root.store(source.config.uuid)


def position(line: SealedLine, partial: Partial | None = None) -> Position:
    next_lsn, digest = line.position()
    return Position(
        line="main", next_lsn=next_lsn, digest=digest.hex(), visible_lsn=0, partial=partial
    )


def send(outgoing: Outgoing, replica: Store, most: int = 1000, size: int = 20_000) -> int:
    """Follow the plan's steps; how many shipments were sent."""
    line = SealedLine.open(replica, few=6)
    sent = 0
    while sent < most:
        step = outgoing.next_step(position(line))
        if isinstance(step, UpToDate):
            break
        assert isinstance(step, Send)
        ready = outgoing.build(step.first_lsn, size)
        outgoing.keep(ready)
        line.take(ready.data)
        outgoing.drop()
        sent += 1
    line.close()
    return sent


def opened(key: Path, replica: Store, folder: Path, source: Store) -> Store:
    """A store with what the key makes of the replica."""
    store = Store.create(folder, source.config)
    writer = LineWriter.open(store)
    unsealer = Unsealer(read_key_file(key), writer, source.uuid)
    try:
        for entry in held_entries(replica):
            unsealer.take(read_shipment(entry))
    finally:
        writer.close()
    return store


def test_the_vault_keeps_what_only_the_key_opens(
    source: Store, journal: Journal, replica: Store, key: Path, tmp_path: Path
) -> None:
    outgoing = Outgoing(source, journal, Sealer(key, source.uuid))
    assert send(outgoing, replica) > 5
    same_history(source, opened(key, replica, tmp_path / "opened", source))
    kept = b"".join(path.read_bytes() for path in sealed_dir(replica).iterdir())
    for shipped in all_batches(source):
        assert shipped.digest not in kept
        assert not any(op.payload in kept for op in shipped.ops if len(op.payload) > 8)
    other = tmp_path / "other.key"
    create_key_file(other)
    with pytest.raises(KeyMissing):
        opened(other, replica, tmp_path / "nothing", source)


def test_keys_may_be_rotated_in_the_midst_of_it(
    source: Store, journal: Journal, replica: Store, key: Path, tmp_path: Path
) -> None:
    outgoing = Outgoing(source, journal, Sealer(key, source.uuid))
    send(outgoing, replica, 3)
    first = key.read_bytes()
    rotate_key_file(key)
    assert send(outgoing, replica) > 0
    same_history(source, opened(key, replica, tmp_path / "opened", source))
    used = {entry.header.key for entry in held_entries(replica)}
    assert used == {one.id for one in read_key_file(key).keys}
    key.write_bytes(first)
    with pytest.raises(KeyMissing):
        opened(key, replica, tmp_path / "half", source)


def test_opening_goes_on_where_it_was_cut(
    source: Store, journal: Journal, replica: Store, key: Path, tmp_path: Path
) -> None:
    send(Outgoing(source, journal, Sealer(key, source.uuid)), replica)
    entries = list(held_entries(replica))
    store = Store.create(tmp_path / "opened", source.config)
    for stop in range(len(entries) + 1):
        writer = LineWriter.open(store)
        unsealer = Unsealer(read_key_file(key), writer, source.uuid)
        for entry in list(held_entries(replica, unsealer.next_lsn))[: stop and 1]:
            unsealer.take(read_shipment(entry))
        writer.close()
    same_history(source, store)


def test_shipments_that_a_vault_leaves_out_or_reorders_are_noticed(
    source: Store, journal: Journal, replica: Store, key: Path, tmp_path: Path
) -> None:
    send(Outgoing(source, journal, Sealer(key, source.uuid)), replica)
    data = [read_shipment(entry) for entry in held_entries(replica)]
    for number, order in enumerate(([0, 2], [1, 0], [0, 1, 3, 2])):
        writer = LineWriter.open(Store.create(tmp_path / f"wrong{number}", source.config))
        unsealer = Unsealer(read_key_file(key), writer, source.uuid)
        with pytest.raises(BadShipment, match="not in its place"):
            for which in order:
                unsealer.take(data[which])
        writer.close()


def test_a_restarted_sender_resumes_the_same_sealed_bytes(
    source: Store, journal: Journal, replica: Store, key: Path
) -> None:
    outgoing = Outgoing(source, journal, Sealer(key, source.uuid))
    ready = outgoing.build(1, 20_000)
    outgoing.keep(ready)
    again = Outgoing(source, journal)
    again.use_sealer(Sealer(key, source.uuid))
    partial = Partial(
        shipment=ready.kept.shipment, received_bytes=9, total_bytes=ready.kept.total_bytes
    )
    line = SealedLine.open(replica)
    assert again.next_step(position(line, partial)) == Resume(ready.kept.shipment, 9)
    assert again.current().data == ready.data and is_sealed(ready.data)
    line.close()
    again.drop()


def test_what_was_kept_open_is_never_sent_when_it_has_to_be_sealed(
    source: Store, journal: Journal, key: Path
) -> None:
    outgoing = Outgoing(source, journal)
    outgoing.keep(outgoing.build(1, 20_000))
    outgoing.use_sealer(Sealer(key, source.uuid))
    assert outgoing.kept is None and not os.listdir(source.root / "outgoing")
    assert is_sealed(outgoing.build(1, 20_000).data)
    outgoing.keep(outgoing.build(1, 20_000))
    outgoing.use_sealer(None)
    assert outgoing.kept is None and not is_sealed(outgoing.build(1, 20_000).data)


def test_another_chain_secret_at_the_vault_is_another_history(
    source: Store, journal: Journal, replica: Store, key: Path, tmp_path: Path
) -> None:
    """Such as after a key file was lost and a new one made for the same volume."""
    send(Outgoing(source, journal, Sealer(key, source.uuid)), replica, 2)
    create_key_file(tmp_path / "new.key")
    outgoing = Outgoing(source, journal, Sealer(tmp_path / "new.key", source.uuid))
    line = SealedLine.open(replica)
    assert isinstance(outgoing.next_step(position(line)), Fork)
    line.close()


def test_without_its_key_file_nothing_is_built(source: Store, journal: Journal, key: Path) -> None:
    outgoing = Outgoing(source, journal, Sealer(key, source.uuid))
    outgoing.build(1, 1)
    key.unlink()
    with pytest.raises(BadKeyFile, match="can't be read"):
        outgoing.build(1, 1)


def test_what_would_not_come_back_is_told_before_it_is_sealed(
    source: Store, journal: Journal, key: Path
) -> None:
    """Nobody at the vault could tell."""
    batches = all_batches(source)[:3]
    plain = ship(source, batches, 0, 3)
    assert comes_back(plain, batches, NothingHeld())
    assert not comes_back(plain[:-1], batches, NothingHeld())
    assert not comes_back(plain, batches[:-1], NothingHeld())


@pytest.mark.parametrize("effort", list(Effort))
def test_references_to_earlier_content_are_found_by_a_journal_that_grows(
    source: Store, journal: Journal, replica: Store, key: Path, tmp_path: Path, effort: Effort
) -> None:
    outgoing = Outgoing(source, journal, Sealer(key, source.uuid))
    line = SealedLine.open(replica, few=6)
    while isinstance(step := outgoing.next_step(position(line)), Send):
        line.take(outgoing.build(step.first_lsn, 20_000, effort=effort).data)
    line.close()
    same_history(source, opened(key, replica, tmp_path / "opened", source))
