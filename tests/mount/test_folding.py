"""A real database over a line that has fallen behind: its replica is folded, and says where."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from replicator.effort import Effort
from replicator.errors import BadShipment
from replicator.folded import NAME
from replicator.outgoing import Outgoing
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.wire import Description
from store.journal import FoldSpan, Journal
from store.reindex import reindex
from store.types import Lsn
from store.verify import verify
from store.volume import Store
from tests.volume import Volume
from timetravel.folds import fold_points
from timetravel.head import HeadTracker
from timetravel.history import Event, history
from timetravel.moment import AtLsn
from timetravel.resolve import resolve
from timetravel.standing import BarrierSettings
from timetravel.view import View

TRANSACTIONS = 120
SHIPMENT_BYTES = 1 << 20


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The journal of a volume with a database that was changed over and over."""
    volume = Volume(tmp_path_factory.mktemp("site"))
    try:
        volume.mount()
        with closing(sqlite3.connect(volume.tree / "bank.db", isolation_level=None)) as database:
            database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance, text)")
            rows = ((number, 0, f"account {number} " * 20) for number in range(200))
            database.executemany("INSERT INTO account VALUES (?, ?, ?)", rows)
            for number in range(TRANSACTIONS):
                database.execute(
                    "UPDATE account SET balance = balance + 1 WHERE id IN (1, ?)", (number,)
                )
            (volume.tree / "other").write_text("not touched by the database")
        volume.sync()
        volume.unmount()
        yield volume.store
    finally:
        volume.close()


def new_replica(base: Path, site: Store) -> Store:
    root = VaultRoot.create(base / "vault")
    about = Description(name="branch", directory="/nowhere", created_ns=1)
    root.create_volume("branch", site.config.uuid, about)
    return root.store(site.config.uuid)


def ship(site: Store, replica: Store, folding: bool = True) -> None:
    """Send what is missing. The sender is started anew for each shipment."""
    writer = LineWriter.open(replica)
    refused = False
    try:
        with Journal(site) as journal:
            while (first := writer.position()[0]) <= journal.indexed_lsn:
                outgoing = Outgoing(site, journal)
                outgoing.folding = folding
                effort = Effort.FAST if refused else Effort.BEST
                try:
                    writer.take(outgoing.build(first, SHIPMENT_BYTES, effort=effort).data)
                    refused = False
                except BadShipment:
                    assert not refused
                    refused = True
    finally:
        writer.close()


@pytest.fixture(scope="module")
def replica(site: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = new_replica(tmp_path_factory.mktemp("replica"), site)
    ship(site, made)
    return made


def folds_of(store: Store) -> list[FoldSpan]:
    with Journal(store) as journal, journal.snapshot() as snapshot:
        return list(snapshot.folds(Lsn(0)))


def states(store: Store, lsns: list[Lsn]) -> list[tuple[object, bytes]]:
    found: list[tuple[object, bytes]] = []
    with Journal(store) as journal, journal.snapshot() as snapshot:
        for lsn in lsns:
            for name in (b"bank.db", b"bank.db-journal", b"other"):
                state = View(journal, lsn).find(name)
                content = snapshot.read(state.node, lsn, 0, 1 << 40) if state else b""
                found.append((state, content))
    return found


def test_the_ends_of_folds_are_exactly_as_at_the_site(site: Store, replica: Store) -> None:
    folds = folds_of(replica)
    assert folds and sum(fold.points for fold in folds) > TRANSACTIONS // 2
    with Journal(site) as journal, journal.snapshot() as snapshot:
        ends = [place.last_lsn for place in snapshot.batches(Lsn(1))]
    exact = ends + [fold.until for fold in folds] + [Lsn(fold.first - 1) for fold in folds]
    assert states(replica, exact) == states(site, exact)


def test_the_replicas_points_are_points_of_the_site_or_ends_of_folds(
    site: Store, replica: Store
) -> None:
    ends = {fold.until for fold in folds_of(replica)}
    found = []
    for store in (site, replica):
        with Journal(store) as journal, journal.snapshot() as snapshot:
            found.append({(p.lsn, p.grade) for p in snapshot.points(Lsn(1), Lsn(1 << 60))})
    ours, theirs = found
    assert {lsn for lsn, _ in theirs - ours} <= ends
    assert any(lsn in ends and grade == "transaction" for lsn, grade in theirs)


def test_a_moment_inside_a_fold_goes_to_its_beginning_and_says_so(replica: Store) -> None:
    fold = folds_of(replica)[-1]
    with Journal(replica) as journal:
        last = journal.last()
        assert last is not None
        for lsn in (fold.first, Lsn(fold.until - 1)):
            point = resolve(journal, AtLsn(lsn), now_ns=last.time_ns)
            assert point.lsn == fold.first - 1
            assert "folded" in point.note and str(fold.points) in point.note
        assert resolve(journal, AtLsn(fold.until), now_ns=last.time_ns).lsn == fold.until


def test_points_and_history_state_what_was_left_out(replica: Store) -> None:
    folds = folds_of(replica)
    with Journal(replica) as journal:
        with journal.snapshot() as snapshot:
            listed = list(fold_points(snapshot, Lsn(1), Lsn(1 << 60)))
        assert [point.until for point in listed] == [fold.first for fold in folds]
        assert all("left out" in point.reason for point in listed)
        versions = list(history(journal, b"bank.db"))
        assert sum(version.ops.get("folded", 0) for version in versions) > 0
        assert any(Event.FOLDED in version.events for version in versions)


def test_readers_are_shown_as_much_as_at_the_site(site: Store, replica: Store) -> None:
    heads = []
    for store in (site, replica):
        with Journal(store) as journal, journal.snapshot() as snapshot:
            heads.append(HeadTracker(BarrierSettings()).advance(snapshot))
    assert heads[0] == heads[1]


def test_a_folded_journal_verifies_and_reindexes(replica: Store) -> None:
    assert not verify(replica).findings
    before = folds_of(replica)
    reindex(replica)
    assert folds_of(replica) == before
    assert not verify(replica).findings


def test_a_sender_that_forgot_what_it_folded_sends_plain_and_goes_on(
    site: Store, tmp_path: Path
) -> None:
    replica = new_replica(tmp_path, site)
    writer = LineWriter.open(replica)
    with Journal(site) as journal:
        outgoing = Outgoing(site, journal)
        outgoing.folding = True
        writer.take(outgoing.build(1, 3 * SHIPMENT_BYTES, effort=Effort.BEST).data)
    writer.close()
    (site.root / NAME).unlink()
    ship(site, replica, folding=False)
    with Journal(site) as journal:
        last = journal.indexed_lsn
    assert states(replica, [last]) == states(site, [last])
