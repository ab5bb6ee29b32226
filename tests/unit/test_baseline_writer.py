"""Making a copy whose history begins in the midst of a volume's, and damaged ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from store import baseline, batch, durable
from store.baseline import NOTE_NAME, BaselineWriter
from store.baseline_state import collect_state, decode_state
from store.batch import decode_header, encode_batch
from store.errors import (
    BaselineError,
    BaselineTooLong,
    DamagedError,
    IndexStale,
    RecoveryUnfinished,
    UnsupportedFormat,
    VolumeExists,
)
from store.format import FEATURE_FOLDED, FEATURE_GAPS, Flag, Kind
from store.journal import Journal
from store.reindex import reindex
from store.segment import list_segments
from store.types import NO_NODE, ROOT, Lsn, NodeId, TimeNs
from store.verify import verify
from store.volume import Store
from tests.model.baseline_copy import batches_from, new_copy
from tests.unit.baseline_site import Site, described, directory, file, made_site
from tests.unit.recorded_tree import RecordedTree, capture_view
from timetravel.view import View


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with made_site(tmp_path) as made:
        yield made


# --- how it is made ------------------------------------------------------------------------------


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
    for row in copy.index_dir.iterdir():
        row.unlink()
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
def test_a_description_that_is_no_tree_is_refused(
    site: Site, tmp_path: Path, wrong: Callable[[BaselineWriter], None]
) -> None:
    copy = new_copy(site.store, tmp_path / "copy")
    view = View(site.tree.journal, site.lsn)
    with BaselineWriter.open(copy) as writer:
        writer.start(site.lsn, view.time_ns)
        with site.tree.journal.snapshot() as snapshot:
            first, *_ = batches_from(snapshot, site.lsn)
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
            first, *_ = batches_from(snapshot, site.lsn)
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


# --- cut anywhere ---------------------------------------------------------------------------------


class CutError(Exception):
    """The process ends here."""


CUTS = ("create_file", "fdatasync", "fsync_dir", "commit", "unlink", "drop_tree", "make_dir",
        "rename", "write_file_atomically", "pwrite_all")  # fmt: skip


def test_a_copy_that_is_cut_at_any_step_can_be_made_anew_or_gone_on_with(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "BATCH_OPS", 3)
    left = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                raise CutError
            return function(*args)

        return call

    for name in CUTS:
        monkeypatch.setattr(durable, name, counted(getattr(durable, name)))
    begun_before_the_end = 0
    for step in range(1, 1000):
        left = 0
        copy = new_copy(site.store, tmp_path / f"copy-{step}")
        left = step
        try:
            go_on(site, copy)
        except CutError:
            left = 0
            begun_before_the_end += go_on(site, copy)
        else:
            break
        assert verify(copy).findings == [], step
        with Journal(copy) as journal:
            assert capture_view(View(journal, site.lsn)) == site.then
            assert capture_view(View(journal, site.tree.lsn)) == site.tree.capture()
        shutil.rmtree(copy.root)
    assert step > 20
    assert 0 < begun_before_the_end < step - 1


def go_on(site: Site, copy: Store) -> bool:
    """Make a copy, from where an earlier run ended; whether that one had begun."""
    with BaselineWriter.open(copy, segment_bytes=700) as writer:
        begun = writer.begun
        if not begun:
            first, *_ = described(site, writer)
            writer.finish(first)
        with site.tree.journal.snapshot() as snapshot:
            for place in snapshot.batches(writer.position()[0]):
                writer.append(snapshot.batch_bytes(place))
        writer.commit()
    return begun
