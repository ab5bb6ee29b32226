"""Shipments on their way out: whole batches, kept over a restart, sized for the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.outgoing import LINE_S, MAX_RAW_BYTES, Outgoing, Sizer
from replicator.plan import Resume, Send, UpToDate
from replicator.vault.ingest import LineWriter
from replicator.wire import Partial, Position
from store.journal import Journal
from store.volume import Store
from tests.unit.shipping import all_batches, make_history, make_vault, same_history


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"))


@pytest.fixture
def journal(source: Store) -> Iterator[Journal]:
    with Journal(source) as opened:
        yield opened


def position(writer: LineWriter, partial: Partial | None = None) -> Position:
    next_lsn, digest = writer.position()
    return Position(
        line="main", next_lsn=next_lsn, digest=digest.hex(), visible_lsn=0, partial=partial
    )


def test_following_the_steps_makes_the_vault_hold_everything(
    source: Store, journal: Journal, tmp_path: Path
) -> None:
    _, replica = make_vault(tmp_path, source)
    writer = LineWriter.open(replica)
    outgoing = Outgoing(source, journal)
    while not isinstance(step := outgoing.next_step(position(writer)), UpToDate):
        assert isinstance(step, Send)
        ready = outgoing.build(step.first_lsn, 100_000)
        outgoing.keep(ready)
        writer.take(ready.data)
        outgoing.drop()
    writer.close()
    same_history(source, replica)


def test_a_restarted_sender_resumes_the_same_bytes(
    source: Store, journal: Journal, tmp_path: Path
) -> None:
    _, replica = make_vault(tmp_path, source)
    writer = LineWriter.open(replica)
    outgoing = Outgoing(source, journal)
    ready = outgoing.build(1, 100_000)
    outgoing.keep(ready)
    again = Outgoing(source, journal)
    partial = Partial(
        shipment=ready.kept.shipment, received_bytes=7, total_bytes=ready.kept.total_bytes
    )
    assert again.next_step(position(writer, partial)) == Resume(ready.kept.shipment, 7)
    assert again.current().data == ready.data
    writer.close()
    again.drop()
    assert Outgoing(source, journal).kept is None


def test_a_kept_shipment_that_is_damaged_is_made_again(source: Store, journal: Journal) -> None:
    outgoing = Outgoing(source, journal)
    outgoing.keep(outgoing.build(1, 1))
    (path,) = (source.root / "outgoing").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert Outgoing(source, journal).kept is None
    outgoing.drop()


def test_a_shipment_has_at_least_one_batch_and_ends_where_it_is_told(
    source: Store, journal: Journal
) -> None:
    batches = all_batches(source)
    outgoing = Outgoing(source, journal)
    smallest = outgoing.build(1, 0)
    assert smallest.kept.last_lsn == batches[0].ops[-1].lsn
    until = batches[2].ops[-1].lsn
    assert outgoing.build(1, MAX_RAW_BYTES, until).kept.last_lsn == until


def test_nothing_is_built_ahead_of_too_little(source: Store, journal: Journal) -> None:
    outgoing = Outgoing(source, journal)
    last = all_batches(source)[-1].ops[0].lsn
    assert outgoing.build_full(last, MAX_RAW_BYTES) is None
    assert outgoing.build_full(last, 1) is not None
    assert outgoing.build_full(all_batches(source)[-1].ops[-1].lsn + 1, 1) is None


def test_shipments_are_sized_to_seconds_of_the_line(source: Store, journal: Journal) -> None:
    sizer = Sizer()
    outgoing = Outgoing(source, journal)
    for _ in range(8):
        ready = outgoing.build(1, MAX_RAW_BYTES)
        sizer.learn(ready)
    ratio = len(ready.data) / ready.raw_bytes
    assert sizer.ratio == pytest.approx(ratio, rel=0.01)
    assert sizer.raw_bytes(56_000) * ratio * 8 / 56_000 == pytest.approx(LINE_S, rel=0.2)
    assert sizer.raw_bytes(1e12) == MAX_RAW_BYTES
