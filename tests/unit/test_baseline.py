"""A copy of a volume whose history begins in its midst: read, and gone on with at a vault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import BadShipment
from replicator.outgoing import Outgoing
from replicator.plan import Lost, Send, UpToDate
from replicator.shipment import ShippedBatch
from replicator.vault.ingest import LineWriter
from replicator.wire import Position
from store import baseline_state
from store.baseline import BaselineWriter
from store.baseline_state import collect_state
from store.batch import NO_DIGEST, encode_batch
from store.errors import (
    NeverCaptured,
    StoreError,
)
from store.format import Flag, Kind
from store.index_rows import BatchPlace
from store.journal import Journal
from store.reindex import reindex
from store.types import NO_NODE, ROOT, Lsn, NodeId
from store.verify import verify
from store.volume import Store
from tests.model.baseline_copy import batches_from, copy_from, describe, new_copy
from tests.model.tree_walk import walk_tree
from tests.unit.baseline_site import Site, directory, file, made_site
from tests.unit.held_ops import make_op
from tests.unit.recorded_tree import RecordedTree, capture_view
from tests.unit.shipping import make_history, make_vault, same_history
from timetravel.deleted import search_deleted
from timetravel.errors import MomentBeforeProtection
from timetravel.history import Event, history
from timetravel.moment import parse_moment
from timetravel.points import points
from timetravel.rebuild import KnownView
from timetravel.resolve import resolve
from timetravel.view import View


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with made_site(tmp_path) as made:
        yield made


# --- what the copy is ----------------------------------------------------------------------------


def test_a_copy_has_the_tree_and_what_came_after(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    with Journal(copy) as journal:
        assert capture_view(View(journal, site.lsn)) == site.then
        assert capture_view(View(journal, site.tree.lsn)) == site.tree.capture()
        nodes = {found.path: found.node for found in walk_tree(View(journal, site.tree.lsn))}
    assert nodes == {
        found.path: found.node for found in walk_tree(View(site.tree.journal, site.tree.lsn))
    }


def test_the_chain_of_digests_goes_on(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    with (
        Journal(copy) as journal,
        journal.snapshot() as there,
        site.tree.journal.snapshot() as here,
    ):
        ours, theirs = list(here.batches(site.lsn)), list(there.batches(Lsn(1)))
        assert [place.digest for place in theirs] == [place.digest for place in ours]
        assert theirs[0].first_lsn == site.lsn


def test_the_index_can_be_made_anew_and_the_store_is_sound(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    assert verify(copy).findings == []
    reindex(copy)
    assert verify(copy).findings == []
    with Journal(copy) as journal:
        assert capture_view(View(journal, site.lsn)) == site.then


def test_moments_before_the_beginning_are_refused(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    now_ns = site.tree.clock_ns + 1
    with Journal(copy) as journal:
        for text in ("@lsn:3", f"@lsn:{site.lsn - 1}", "@1970-01-02T00:00:00Z"):
            moment = parse_moment(text, now_ns=now_ns, zone=None)
            with pytest.raises(MomentBeforeProtection, match="the history of this copy begins at"):
                resolve(journal, moment, now_ns=now_ns)
        moment = parse_moment(f"@lsn:{site.lsn}", now_ns=now_ns, zone=None)
        assert resolve(journal, moment, now_ns=now_ns).lsn == site.lsn


def test_the_description_is_no_history(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    with Journal(copy) as journal:
        first = journal.first()
        assert first is not None and first.lsn == site.lsn
        assert [op.lsn for op in journal.ops(Lsn(1), Lsn(1 << 40))] == list(
            range(site.lsn, site.tree.lsn + 1)
        )
        assert journal.op(Lsn(1)) is None
        assert all(point.lsn >= site.lsn for point in points(journal))
        assert [name for name, _, _ in journal.marks()] == ["here"]
        assert journal.stats()["ops"] == site.tree.lsn - site.lsn + 1
        assert journal.stats()["first_time_ns"] == first.time_ns


def test_history_says_who_and_where_it_begins(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    with Journal(copy) as journal:
        found = list(history(journal, b"d/f"))
        assert found[0].events == (Event.BASELINE,)
        assert [version.actor.command for version in found[1:] if version.actor] == [
            b"before",
            b"behind",
        ]
        assert found[1].events == (Event.WRITTEN,)
        dead = list(search_deleted(View(journal, site.tree.lsn), b""))
        assert [each.path for each in dead] == [b"pipe"]


def test_a_copy_of_a_copy_is_one(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    later = Lsn(site.lsn + 2)
    second = copy_from(copy, later, tmp_path / "second")
    assert verify(second).findings == []
    with Journal(second) as journal:
        assert capture_view(View(journal, site.tree.lsn)) == site.tree.capture()
        assert next(iter(history(journal, b"d/f"))).first == later
    third = copy_from(copy, site.lsn, tmp_path / "third")
    with Journal(third) as journal:
        assert capture_view(View(journal, site.lsn)) == site.then
        assert [version.actor for version in history(journal, b"d/f")][1] is not None


def test_more_attributes_than_one_op_can_hold_are_kept(tmp_path: Path) -> None:
    tree = RecordedTree(tmp_path)
    values = {b"user.%d" % number: bytes([number]) * 60_000 for number in range(30)}
    tree.write(b"f", b"")
    for name, value in values.items():
        tree.log(Kind.SETXATTR, tree.node(b"f"), len(name), name + value)
    tree.commit()
    copy = copy_from(tree.store, tree.lsn, tmp_path / "copy")
    with Journal(copy) as journal:
        assert journal.xattrs(tree.node(b"f"), tree.lsn) == values
    tree.close()


# --- replication ---------------------------------------------------------------------------------


def position(writer: LineWriter) -> Position:
    next_lsn, digest = writer.position()
    return Position(
        line="main", next_lsn=next_lsn, digest=digest.hex(), visible_lsn=0, partial=None
    )


def within(site: Store, place: BatchPlace) -> Lsn:
    """An LSN in the midst of a batch at which something happened."""
    with Journal(site) as journal:
        ops = journal.ops(Lsn(place.first_lsn + 1), place.last_lsn)
        return next(op.lsn for op in ops if not op.aborted)


def test_a_copy_goes_on_at_a_vault_that_has_what_lies_before(tmp_path: Path) -> None:
    site = make_history(tmp_path / "site")
    with Journal(site) as journal, journal.snapshot() as snapshot:
        places = list(snapshot.batches(Lsn(1)))
    middle = places[len(places) // 2]
    copy = copy_from(site, within(site, middle), tmp_path / "copy")
    _, replica = make_vault(tmp_path, site)
    writer = LineWriter.open(replica)
    with Journal(site) as journal:
        everything = Outgoing(site, journal)
        for place in places[: len(places) // 2 + 1]:
            writer.take(everything.build(place.first_lsn, 1).data)
    with Journal(copy) as journal:
        outgoing = Outgoing(copy, journal)
        while not isinstance(step := outgoing.next_step(position(writer)), UpToDate):
            assert isinstance(step, Send)
            ready = outgoing.build(step.first_lsn, 100_000)
            writer.take(ready.data)
    writer.close()
    same_history(site, replica)


def test_a_vault_that_lacks_what_lies_before_is_told_so(tmp_path: Path) -> None:
    site = make_history(tmp_path / "site")
    with Journal(site) as journal, journal.snapshot() as snapshot:
        places = list(snapshot.batches(Lsn(1)))
    middle = places[len(places) // 2]
    lsn = within(site, middle)
    copy = copy_from(site, lsn, tmp_path / "copy")
    with Journal(copy) as journal:
        outgoing = Outgoing(copy, journal)
        for held in (0, middle.first_lsn - 1, lsn - 1, lsn, middle.last_lsn - 1):
            at = Position(
                line="main", next_lsn=held + 1, digest="00" * 32, visible_lsn=0, partial=None
            )
            assert outgoing.next_step(at) == Lost(held + 1, middle.last_lsn + 1)
        with pytest.raises(StoreError, match="the history of this copy begins at LSN"):
            outgoing.build(1, 1)


# --- points and marks ----------------------------------------------------------------------------


def test_points_begin_with_the_beginning(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    with Journal(copy) as journal:
        first, *rest = points(journal)
        assert (first.lsn, first.reason) == (site.lsn, "the history of this copy begins here")
        every = points(site.tree.journal)
        assert rest == [p for p in every if p.lsn > site.lsn or (p.lsn == site.lsn and p.group)]


def test_a_mark_at_the_beginning_is_kept(site: Site, tmp_path: Path) -> None:
    with site.tree.journal.snapshot() as snapshot:
        [(name, lsn, time_ns)] = snapshot.marks()
    copy = copy_from(site.store, lsn, tmp_path / "copy")
    second = copy_from(copy, lsn, tmp_path / "second")
    for store in (copy, second):
        reindex(store)
        with Journal(store) as journal:
            assert journal.marks() == [(name, lsn, time_ns)]
            moment = parse_moment(f"@mark:{name}", now_ns=site.tree.clock_ns, zone=None)
            assert resolve(journal, moment, now_ns=site.tree.clock_ns).lsn == lsn


def test_without_what_was_known_of_groups_points_are_inferred_anew(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_state, "MAX_STATE_BYTES", 100)
    with site.tree.journal.snapshot() as snapshot:
        assert collect_state(snapshot, site.lsn).end_lsn == 0
    copy = site.copy(tmp_path / "copy")
    assert verify(copy).findings == []
    with Journal(copy) as journal:
        assert [group.first_lsn for group in journal.groups()] >= [site.lsn]
        assert [version.actor for version in history(journal, b"d/f")][1] is not None


def test_content_that_was_never_captured_does_not_come_back_as_zeros(
    site: Site, tmp_path: Path
) -> None:
    copy = new_copy(site.store, tmp_path / "copy")
    view = View(site.tree.journal, site.lsn)
    with site.tree.journal.snapshot() as snapshot, BaselineWriter.open(copy) as writer:
        first = batches_from(snapshot, site.lsn)[0]
        writer.start(site.lsn, view.time_ns)
        writer.node(ROOT, directory(NO_NODE, b""))
        writer.node(NodeId(700), file(ROOT, b"part", 3 << 20), lost=True)
        writer.data(NodeId(700), 1 << 20, b"here")
        writer.finish(first)
    assert verify(copy).findings == []
    with Journal(copy) as journal:
        view = KnownView(journal, site.lsn)
        part = view.walk(b"part")
        assert view.read(part.node, 1 << 20, 6) == b"here\0\0"
        for start in (0, 2 << 20):
            with pytest.raises(NeverCaptured, match="is not in this copy"):
                view.read(part.node, start, 1)
        assert view.lacks_content(part)


def test_a_file_without_a_name_at_the_beginning_is_no_hindrance(tmp_path: Path) -> None:
    tree = RecordedTree(tmp_path)
    tree.write(b"open", b"content")
    tree.write(b"other", b"here")
    node = tree.node(b"open")
    tree.remove(b"open")
    tree.commit()
    begin = tree.lsn
    tree.log(Kind.WRITE, node, 3, b"more")
    tree.log(Kind.TRUNCATE, node, 1 << 21)
    tree.commit()
    tree.log(Kind.LINK, node, ROOT, b"back")
    tree.commit()
    copy = copy_from(tree.store, begin, tmp_path / "copy")
    assert verify(copy).findings == []
    with Journal(copy) as journal:
        assert [name for name, _ in View(journal, begin).entries(ROOT)] == [b"other"]
        view = View(journal, tree.lsn)
        assert view.walk(b"back").node == node
        with pytest.raises(NeverCaptured, match="no name where the copy begins"):
            view.read(node, 0, 8)
        assert view.read(view.walk(b"other").node, 0, 8) == b"here"
    tree.close()


@pytest.mark.parametrize("kind", [Kind.BASELINE, Kind.BASELINE_ROWS, Kind.ADOPT])
def test_a_vault_takes_no_beginning_of_a_copy_from_a_site(tmp_path: Path, kind: Kind) -> None:
    site = make_history(tmp_path / "site", rounds=1)
    _, replica = make_vault(tmp_path, site)
    flags = int(Flag.BASELINE) if kind is Kind.ADOPT else 0
    op = make_op(1, 1000, int(kind), flags, 1, 5, b"")
    encoded = encode_batch([op], NO_DIGEST)
    writer = LineWriter.open(replica)
    with pytest.raises(BadShipment):
        writer.add([ShippedBatch([op], encoded.header.digest)])
    assert writer.position()[0] == 1
    writer.close()


def test_where_a_copy_and_a_vault_part_is_found(tmp_path: Path) -> None:
    site = make_history(tmp_path / "site")
    with Journal(site) as journal, journal.snapshot() as snapshot:
        places = list(snapshot.batches(Lsn(1)))
        state = collect_state(snapshot, within(site, places[3])).data
        held = {place.last_lsn: place.digest for place in places}
        for count in (1, 2):
            copy = new_copy(site, tmp_path / f"copy-{count}")
            lsn = within(site, places[3])
            with BaselineWriter.open(copy) as writer:
                view = View(journal, lsn)
                writer.start(lsn, view.time_ns)
                describe(writer, view)
                first, *rest = batches_from(snapshot, lsn)[:count]
                writer.finish(first, state)
                for data in rest:
                    writer.append(data)
                writer.commit()
            with Journal(copy) as theirs:
                search = Outgoing(copy, theirs).common_search(places[-1].last_lsn)
                while marks := search.question():
                    common = [
                        mark.last_lsn for mark in marks if held.get(mark.last_lsn) == mark.digest
                    ]
                    search.answer(max(common, default=0))
                assert search.common is not None
                assert search.common.last_lsn == places[3 + count - 1].last_lsn
