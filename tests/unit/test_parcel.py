"""Replicas by disk: an export is whole or goes on, and what is read from it is what was written."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import BadParcel
from replicator.outgoing import Outgoing
from replicator.parcel import Export, read_head, read_shipments
from replicator.vault.ingest import LineWriter
from replicator.wire import Position
from store.journal import Journal
from store.volume import Store
from tests.unit.shipping import BRANCH, all_batches, make_history, make_vault, same_history


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"))


@pytest.fixture
def outgoing(source: Store) -> Iterator[Outgoing]:
    with Journal(source) as journal:
        yield Outgoing(source, journal)


def export(source: Store, outgoing: Outgoing, path: Path, first: int = 1) -> bytes:
    last = all_batches(source)[-1].ops[-1].lsn
    Export(path, outgoing, source.uuid, BRANCH).run(first, last, lambda raw_bytes: None)
    return path.read_bytes()


def test_an_import_of_an_export_is_the_same_history(
    source: Store, outgoing: Outgoing, tmp_path: Path
) -> None:
    path = tmp_path / "export"
    export(source, outgoing, path)
    assert path.stat().st_mode & 0o077 == 0
    _, replica = make_vault(tmp_path, source)
    writer = LineWriter.open(replica)
    with path.open("rb") as file:
        head = read_head(file)
        assert (head.volume, head.first_lsn, head.description) == (source.uuid, 1, BRANCH)
        for found in read_shipments(file):
            if found.data:
                writer.take(found.data)
    writer.close()
    same_history(source, replica)


def test_an_export_begins_where_the_vault_stands(
    source: Store, outgoing: Outgoing, tmp_path: Path
) -> None:
    batches = all_batches(source)
    half = batches[: len(batches) // 2]
    position = Position(
        line="main",
        next_lsn=half[-1].ops[-1].lsn + 1,
        digest=half[-1].digest.hex(),
        visible_lsn=0,
    )
    step = outgoing.step_from(position)
    data = export(source, outgoing, tmp_path / "export", step[0])
    file = io.BytesIO(data)
    assert read_head(file).first_lsn == position.next_lsn
    assert next(iter(read_shipments(file))).first_lsn == position.next_lsn


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_an_interrupted_export_goes_on_and_is_the_same(
    source: Store, outgoing: Outgoing, tmp_path: Path, share: float
) -> None:
    whole = export(source, outgoing, tmp_path / "whole")
    (tmp_path / "again.part").write_bytes(whole[: int(len(whole) * share)])
    assert export(source, outgoing, tmp_path / "again") == whole
    assert not (tmp_path / "again.part").exists()


def test_damage_and_cuts_anywhere_are_noticed(
    source: Store, outgoing: Outgoing, tmp_path: Path
) -> None:
    whole = export(source, outgoing, tmp_path / "export")
    for at in {0, 9, 40, 80, len(whole) // 2, len(whole) - 1}:
        flipped = bytearray(whole)
        flipped[at] ^= 0x40
        for damaged in (bytes(flipped), whole[:at]):
            file = io.BytesIO(damaged)
            with pytest.raises(BadParcel):
                read_head(file)
                list(read_shipments(file))
