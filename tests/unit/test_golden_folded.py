"""Golden segments with a folded batch open, or fail, exactly as stated here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from store import batch
from store.batch import NO_DIGEST, encode_batch
from store.errors import DamagedError
from store.index_rows import FoldSpan
from store.journal import Journal
from store.reindex import reindex
from store.scan import scan_segments
from store.types import Lsn, NodeId
from store.verify import verify
from store.volume import Store, new_config
from tests.unit.golden.generate import VOLUME
from tests.unit.golden.generate_folded import FINAL, FOLDER, held_ops, site_ops

NAME = "0000000000000001-000000000000000b.seg"


def store_with(root: Path, name: str) -> Store:
    """A store whose only segment is that golden file."""
    store = Store.create(root / "store", new_config("/nowhere", 1, uuid=VOLUME.hex()))
    shutil.copy(FOLDER / f"{name}.seg", store.segments_dir / NAME)
    return store


def test_a_folded_segment_decodes_to_its_ops_and_keeps_the_chain_of_the_site(
    tmp_path: Path,
) -> None:
    store = store_with(tmp_path, "whole")
    previous = NO_DIGEST
    for scanned, here, there in zip(scan_segments(store), held_ops(), site_ops(), strict=True):
        header, ops = batch.decode_batch(scanned.data)
        assert ops == here
        previous = encode_batch(there, previous).header.digest
        assert header.digest == previous
        assert header.folded == (here != there)


def test_a_folded_segment_makes_a_journal_that_knows_what_was_left_out(tmp_path: Path) -> None:
    store = store_with(tmp_path, "whole")
    reindex(store)
    assert verify(store).sound
    with Journal(store) as journal, journal.snapshot() as snapshot:
        assert list(snapshot.folds(Lsn(0))) == [FoldSpan(Lsn(5), Lsn(9), 2, 2)]
        assert [lsn for lsn in range(12) if snapshot.fold_at(Lsn(lsn))] == [5, 6, 7, 8]
        assert snapshot.read(NodeId(2), Lsn(9), 0, 1 << 20) == FINAL
        assert snapshot.read(NodeId(2), Lsn(4), 0, 1 << 20) == b""


def test_a_damaged_digest_of_what_is_held_is_noticed(tmp_path: Path) -> None:
    store = store_with(tmp_path, "flipped-bit-in-content-digest")
    with pytest.raises(DamagedError, match="the batch header does not match its checksum"):
        reindex(store)
    assert not verify(store).sound
