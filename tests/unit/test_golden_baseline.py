"""Golden segments of a copy that begins at a baseline open, or fail, exactly as stated here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from store import batch
from store.batch import NO_DIGEST, encode_batch
from store.errors import DamagedError, RecoveryUnfinished, UnsupportedFormat
from store.format import FEATURE_BASELINE, Flag
from store.journal import Journal
from store.ops import begins_history
from store.reindex import reindex
from store.scan import scan_segments
from store.types import ROOT, Lsn, NodeId
from store.verify import verify
from store.volume import Store, new_config
from tests.unit.golden.generate import VOLUME
from tests.unit.golden.generate_baseline import BEGIN, CONTENT, FOLDER, WHO, nodes, site_ops
from timetravel.view import View

NAME = "0000000000000001-0000000000000016.seg"


def store_with(root: Path, name: str) -> Store:
    """A store whose only segment is that golden file."""
    store = Store.create(root / "store", new_config("/nowhere", 1, uuid=VOLUME.hex()))
    shutil.copy(FOLDER / f"{name}.seg", store.segments_dir / NAME)
    return store


def test_the_description_and_the_chain_of_the_site_are_in_the_batches(tmp_path: Path) -> None:
    store = store_with(tmp_path, "whole")
    found = [batch.decode_batch(scanned.data) for scanned in scan_segments(store)]
    (described, ops), (begins, begun), (following, last) = found
    assert described.describes_beginning and not described.begins_history
    assert [op.lsn for op in ops] == list(range(1, len(ops) + 1))
    assert all(op.flags & Flag.BASELINE for op in ops)
    assert begins.begins_history and begins_history(begun[0])
    assert begins.previous == described.digest and begins.first_lsn == BEGIN
    first, second = site_ops()
    assert begun[1:] == first[2:] and last == second
    site = encode_batch(first, NO_DIGEST).header.digest
    assert begins.digest == following.previous == site
    assert following.digest == encode_batch(second, site).header.digest
    assert [header.features for header, _ in found] == [FEATURE_BASELINE, FEATURE_BASELINE, 0]


def test_a_golden_copy_makes_a_journal(tmp_path: Path) -> None:
    store = store_with(tmp_path, "whole")
    reindex(store)
    assert verify(store).findings == []
    with Journal(store) as journal:
        view = View(journal, BEGIN)
        assert dict(view.entries(ROOT)) == {b"b": 2, b"d": 3, b"link": 4}
        assert dict(view.entries(NodeId(3))) == {b"a": 2}
        for node, adopted in nodes():
            state = view.state(node)
            assert (state.mode, state.uid, state.gid, state.links, state.target) == (
                (adopted.mode, adopted.uid, adopted.gid, adopted.links, adopted.target)
            )
            assert (state.atime_ns, state.mtime_ns, state.ctime_ns) == (
                (adopted.atime_ns, adopted.mtime_ns, adopted.ctime_ns)
            )
            assert tuple(view.xattrs(node).items()) == adopted.xattrs
        assert view.read(NodeId(2), 990, 200) == bytes(10) + CONTENT + bytes(190 - len(CONTENT))
        assert list(view.data_areas(NodeId(2))) == [(1000, 1000 + len(CONTENT))]
        assert View(journal, Lsn(22)).read(NodeId(2), 0, 5) == b"after"
        with journal.snapshot() as snapshot:
            assert snapshot.actor(Lsn(12)) == WHO.encode()
            assert snapshot.max_node() == 9


FAILURES = {
    "flipped-bit-in-description": "does not match its checksum",
    "flipped-bit-in-content-digest": "the batch header does not match its checksum",
    "description-missing": "LSN 1 should come before this batch",
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_damaged_copy_is_refused_as_stated(tmp_path: Path, name: str) -> None:
    store = store_with(tmp_path, name)
    with pytest.raises(DamagedError, match=FAILURES[name]):
        reindex(store)
    assert not verify(store).sound


def test_a_description_without_history_is_no_journal(tmp_path: Path) -> None:
    store = store_with(tmp_path, "description-alone")
    reindex(store)
    with Journal(store) as journal, pytest.raises(RecoveryUnfinished):
        journal.first()


def test_an_older_reader_refuses_the_feature_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with(tmp_path, "whole")
    monkeypatch.setattr(batch, "KNOWN_FEATURES", batch.KNOWN_FEATURES & ~FEATURE_BASELINE)
    with pytest.raises(UnsupportedFormat, match="batch features 0x8 are not known"):
        reindex(store)
