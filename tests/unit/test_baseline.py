"""A copy of a volume whose history begins in its midst: made, read, refused, gone on with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from replicator.outgoing import Outgoing
from replicator.plan import Lost, Send, UpToDate
from replicator.vault.ingest import LineWriter
from replicator.wire import Position
from store import baseline, batch
from store.baseline import NOTE_NAME, BaselineWriter
from store.baseline_state import collect_state, decode_state
from store.batch import decode_header, encode_batch
from store.errors import (
    BaselineError,
    BaselineTooLong,
    DamagedError,
    IndexStale,
    RecoveryUnfinished,
    StoreError,
    UnsupportedFormat,
    VolumeExists,
)
from store.format import FEATURE_FOLDED, FEATURE_GAPS, Flag, Kind
from store.index_rows import BatchPlace
from store.journal import Journal
from store.ops import Adopted
from store.reindex import reindex
from store.segment import list_segments
from store.types import NO_NODE, ROOT, Lsn, NodeId, TimeNs
from store.verify import verify
from store.volume import Store
from tests.model.baseline_copy import batches_from, copy_from, describe, new_copy
from tests.unit.recorded_tree import Entry, RecordedTree, capture_view
from tests.unit.shipping import make_history, make_vault, same_history
from timetravel.deleted import search_deleted
from timetravel.errors import MomentBeforeProtection
from timetravel.history import Event, history
from timetravel.moment import parse_moment
from timetravel.points import points
from timetravel.resolve import resolve
from timetravel.view import View
from timetravel.walk import walk_tree


class Site(NamedTuple):
    """A volume with some history; a copy of it is to begin at `lsn`."""

    tree: RecordedTree
    lsn: Lsn
    then: dict[bytes, Entry]
    """The tree at `lsn`."""

    @property
    def store(self) -> Store:
        return self.tree.store

    def copy(self, root: Path) -> Store:
        return copy_from(self.store, self.lsn, root)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    tree = RecordedTree(tmp_path)
    tree.act_as(10, b"before")
    tree.mkdir(b"d")
    tree.write(b"d/f", b"a" * 3000)
    tree.write(b"sparse", b"end", 5 << 20)
    tree.link(b"d/f", b"twin")
    tree.symlink(b"d/f", b"pointer")
    tree.mkfifo(b"pipe")
    tree.setxattr(b"d/f", b"user.color", b"red")
    tree.write(b"gone", b"x")
    tree.remove(b"gone")
    for number in range(12):
        tree.write(b"log", b"line %d\n" % number, number * 8)
    tree.commit()
    lsn = tree.lsn
    then = tree.capture()
    tree.wait(10)
    tree.write(b"d/f", b"b" * 10, 100)
    tree.act_as(11, b"behind")
    tree.rename(b"twin", b"d/other")
    tree.commit()
    tree.mark("here")
    tree.remove(b"pipe")
    tree.commit()
    yield Site(tree, lsn, then)
    tree.close()


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


# --- how it is made ------------------------------------------------------------------------------


def described(site: Site, writer: BaselineWriter) -> list[bytes]:
    """The tree is described; the site's batches that follow."""
    view = View(site.tree.journal, site.lsn)
    writer.start(site.lsn, view.time_ns)
    describe(writer, view)
    with site.tree.journal.snapshot() as snapshot:
        return batches_from(site.store, snapshot, site.lsn)


def test_what_is_not_whole_counts_for_nothing_and_is_made_anew(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "BATCH_OPS", 3)
    copy = new_copy(site.store, tmp_path / "copy")
    with BaselineWriter.open(copy, segment_bytes=4096) as writer:
        described(site, writer)
        writer.commit()
    assert (copy.root / NOTE_NAME).exists()
    with Journal(copy) as journal, pytest.raises(RecoveryUnfinished):
        journal.first()
    with BaselineWriter.open(copy) as writer:
        assert not writer.begun
        first, *rest = described(site, writer)
        writer.finish(first)
        assert writer.begun
        for data in rest:
            writer.append(data)
    assert not (copy.root / NOTE_NAME).exists()
    with BaselineWriter.open(copy) as writer:
        assert writer.begun
        assert writer.position()[0] == decode_header(first).last_lsn + 1
        for data in rest:
            writer.append(data)
        writer.commit()
    assert verify(copy).findings == []
    with Journal(copy) as journal:
        assert capture_view(View(journal, site.tree.lsn)) == site.tree.capture()


def test_a_store_with_a_history_of_its_own_is_left_alone(site: Site) -> None:
    with pytest.raises(VolumeExists, match="has a history from its first op on"):
        BaselineWriter.open(site.store)


def test_a_copy_without_its_index_is_not_taken_for_a_new_store(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    for file in copy.index_dir.iterdir():
        file.unlink()
    with pytest.raises(IndexStale, match="has segments and no index"):
        BaselineWriter.open(copy)
    reindex(copy)
    with BaselineWriter.open(copy) as writer:
        assert writer.begun


def test_batches_that_do_not_follow_are_refused(site: Site, tmp_path: Path) -> None:
    copy = new_copy(site.store, tmp_path / "copy")
    with BaselineWriter.open(copy) as writer:
        first, second, third = described(site, writer)[:3]
        with pytest.raises(BaselineError, match=r"is not in the batch"):
            writer.finish(second)
        with pytest.raises(BaselineError, match="a batch is damaged"):
            writer.finish(first[:-1] + bytes([first[-1] ^ 1]))
        with pytest.raises(BaselineError, match="stated beside the tree is damaged"):
            writer.finish(first, b"no state")
        writer.finish(first)
        with pytest.raises(BaselineError, match="does not follow on what is here"):
            writer.append(third)
        header, ops = batch.decode_batch(second)
        other = encode_batch([ops[0]._replace(time_ns=TimeNs(ops[0].time_ns + 1)), *ops[1:]],
                             bytes(32))  # fmt: skip
        with pytest.raises(BaselineError, match="does not follow on what is here"):
            writer.append(other.data)
        assert header.previous == decode_header(first).digest
        writer.append(second)


def test_a_tree_that_takes_more_ops_than_there_were_is_refused(site: Site, tmp_path: Path) -> None:
    copy = new_copy(site.store, tmp_path / "copy")
    with BaselineWriter.open(copy) as writer:
        writer.start(Lsn(3), TimeNs(1000))
        writer.node(ROOT, directory(NO_NODE, b""))
        with pytest.raises(BaselineTooLong):
            writer.node(NodeId(2), directory(ROOT, b"d"))


def directory(parent: NodeId, name: bytes) -> Adopted:
    return Adopted(parent, name, 0o040755, 0, 0, 0, 0, 1, 1, 1, 0, 1)


def file(parent: NodeId, name: bytes, size: int = 0) -> Adopted:
    return Adopted(parent, name, 0o100644, 0, 0, 0, size, 1, 1, 1, 0, 1)


def no_root(writer: BaselineWriter) -> None:
    pass


def name_in_nothing(writer: BaselineWriter) -> None:
    writer.node(ROOT, directory(NO_NODE, b""))
    writer.node(NodeId(5), file(NodeId(4), b"f"))


def name_in_a_file(writer: BaselineWriter) -> None:
    writer.node(ROOT, directory(NO_NODE, b""))
    writer.node(NodeId(4), file(ROOT, b"f"))
    writer.node(NodeId(5), file(NodeId(4), b"f"))


def one_name_twice(writer: BaselineWriter) -> None:
    writer.node(ROOT, directory(NO_NODE, b""))
    writer.node(NodeId(4), file(ROOT, b"f"))
    writer.node(NodeId(5), file(ROOT, b"f"))


def one_node_twice(writer: BaselineWriter) -> None:
    writer.node(ROOT, directory(NO_NODE, b""))
    writer.node(NodeId(4), file(ROOT, b"f"))
    writer.node(NodeId(4), file(ROOT, b"g"))


def directory_with_two_names(writer: BaselineWriter) -> None:
    writer.node(ROOT, directory(NO_NODE, b""))
    writer.node(NodeId(4), directory(ROOT, b"f"))
    writer.name(NodeId(4), ROOT, b"g")


def content_behind_the_end(writer: BaselineWriter) -> None:
    writer.node(ROOT, directory(NO_NODE, b""))
    writer.node(NodeId(4), file(ROOT, b"f", 3))
    writer.data(NodeId(4), 0, b"four")


def content_of_nothing(writer: BaselineWriter) -> None:
    writer.node(ROOT, directory(NO_NODE, b""))
    writer.data(NodeId(4), 0, b"four")


WRONG = {
    no_root: "has no root",
    name_in_nothing: "there are names in node 4",
    name_in_a_file: "there are names in node 4",
    one_name_twice: "two nodes are called b'f'",
    one_node_twice: "node 4 is described twice",
    directory_with_two_names: "directory 4 has two names",
    content_behind_the_end: "node 4 has no content at 0",
    content_of_nothing: "node 4 is not known",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_description_that_is_no_tree_is_refused(site: Site, tmp_path: Path, wrong) -> None:  # type: ignore[no-untyped-def]
    copy = new_copy(site.store, tmp_path / "copy")
    view = View(site.tree.journal, site.lsn)
    with BaselineWriter.open(copy) as writer:
        writer.start(site.lsn, view.time_ns)
        with site.tree.journal.snapshot() as snapshot:
            first, *_ = batches_from(site.store, snapshot, site.lsn)
        wrong(writer)
        with pytest.raises(BaselineError, match=WRONG[wrong]):
            writer.finish(first)
    with BaselineWriter.open(copy) as writer:
        assert not writer.begun


def test_nodes_may_come_before_their_directories(site: Site, tmp_path: Path) -> None:
    copy = new_copy(site.store, tmp_path / "copy")
    view = View(site.tree.journal, site.lsn)
    with BaselineWriter.open(copy) as writer:
        writer.start(site.lsn, view.time_ns)
        writer.node(NodeId(500), file(NodeId(400), b"f", 3))
        writer.data(NodeId(500), 1, b"!")
        writer.node(NodeId(400), directory(ROOT, b"d"))
        writer.node(ROOT, directory(NO_NODE, b""))
        with site.tree.journal.snapshot() as snapshot:
            first, *_ = batches_from(site.store, snapshot, site.lsn)
        writer.finish(first)
    with Journal(copy) as journal:
        view = View(journal, site.lsn)
        assert view.read(view.walk(b"d/f").node, 0, 9) == b"\0!\0"


# --- damage, and those who do not know it ---------------------------------------------------------


def test_damage_in_the_description_is_found(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "copy")
    [segment] = list_segments(copy)
    with segment.path.open("r+b") as file:
        at = segment.path.read_bytes().index(b"CDPBATCH") + 400
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 4]))
    found = verify(copy)
    assert [finding.first_lsn for finding in found.findings if finding.path == str(segment.path)]
    with pytest.raises(DamagedError):
        reindex(copy)


def test_a_description_that_lost_a_batch_is_no_beginning(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "BATCH_OPS", 3)
    copy = site.copy(tmp_path / "copy")
    [segment] = list_segments(copy)
    data = segment.path.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(b"CDPBATCH", at)]
    segment.path.write_bytes(data[: starts[1]] + data[starts[2] :])
    assert not verify(copy).sound
    with pytest.raises(DamagedError, match="should come before this batch"):
        reindex(copy)


def test_who_does_not_know_such_copies_refuses_them_by_name(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = site.copy(tmp_path / "copy")
    monkeypatch.setattr(batch, "KNOWN_FEATURES", FEATURE_GAPS | FEATURE_FOLDED)
    with pytest.raises(UnsupportedFormat, match="batch features 0x8 are not known"):
        reindex(copy)


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


# --- the state beside the tree --------------------------------------------------------------------


def test_state_that_is_cut_or_changed_is_refused(site: Site) -> None:
    with site.tree.journal.snapshot() as snapshot:
        data = collect_state(snapshot, site.lsn).data
    assert decode_state(data).entries
    for stop in range(len(data)):
        try:
            decode_state(data[:stop])
        except ValueError:
            continue
        assert len(decode_state(data[:stop]).entries) < len(decode_state(data).entries)
    noise = os.urandom(64)
    for at in range(0, len(data), 7):
        broken = data[:at] + noise[:1] + data[at + 1 :]
        try:
            decode_state(broken)
        except ValueError:
            continue


def test_no_history_begins_at_an_op_that_never_happened(tmp_path: Path) -> None:
    tree = RecordedTree(tmp_path)
    tree.write(b"f", b"data")
    failed = tree.log(Kind.WRITE, tree.node(b"f"), 0, b"failed")
    tree.log(Kind.ABORT, NO_NODE, failed)
    tree.commit()
    with tree.journal.snapshot() as snapshot:
        for lsn in (failed, Lsn(tree.lsn + 1)):
            with pytest.raises(ValueError, match="no history can begin"):
                collect_state(snapshot, lsn)
    tree.close()


def test_ops_of_copies_are_no_ops_of_a_site(site: Site, tmp_path: Path) -> None:
    copy = new_copy(site.store, tmp_path / "copy")
    with BaselineWriter.open(copy) as writer:
        first, second, *_ = described(site, writer)
        writer.finish(first)
        header, ops = batch.decode_batch(second)
        strange = [ops[0]._replace(flags=int(Flag.BASELINE)), *ops[1:]]
        with pytest.raises(BaselineError):
            writer.append(encode_batch(strange, header.previous).data)
