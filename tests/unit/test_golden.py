"""Golden segments of every format version open, or fail, exactly as stated here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from store import batch
from store.errors import DamagedError, StoreError, UnsupportedFormat
from store.journal import Journal
from store.ops import Op
from store.reindex import reindex
from store.scan import scan_segments
from store.types import ROOT, Lsn, NodeId
from store.verify import verify
from store.volume import Store, new_config
from tests.unit.golden.generate import FOLDER, NAME, TEXT, VOLUME, golden_ops, variants

SECOND_BATCH = 483
"""Where the second batch starts in the files of version 1."""


def store_with(root: Path, name: str) -> Store:
    """A store whose only segment is that golden file."""
    store = Store.create(root / "store", new_config("/nowhere", 1, uuid=VOLUME.hex()))
    shutil.copy(FOLDER / f"{name}.seg", store.segments_dir / NAME)
    return store


def decoded(store: Store) -> list[list[Op]]:
    found = []
    for scanned in scan_segments(store):
        _, ops = batch.decode_batch(scanned.data)
        found.append([op._replace(payload=bytes(op.payload)) for op in ops])
    return found


def test_the_whole_segment_decodes_to_its_ops(tmp_path: Path) -> None:
    store = store_with(tmp_path, "whole")
    assert decoded(store) == golden_ops()
    assert [scanned.offset for scanned in scan_segments(store)][1] == SECOND_BATCH


def test_the_whole_segment_makes_a_journal(tmp_path: Path) -> None:
    store = store_with(tmp_path, "whole")
    report = reindex(store)
    assert (report.batches, report.last_lsn, report.torn_bytes) == (2, 9, 0)
    assert verify(store).sound
    with Journal(store) as journal:
        end = Lsn(9)
        assert list(journal.children(ROOT, end)) == [(b"caf\xe9.txt", 2)]
        content = journal.read(NodeId(2), end, 0, 1 << 20)
        assert content[: len(TEXT)] == TEXT
        assert content[len(TEXT) : 4096] == bytes(4096 - len(TEXT))
        assert len(content) == 4996
        assert journal.xattrs(ROOT, end) == {b"user.a": b"b"}


FAILURES: dict[str, tuple[type[StoreError], str]] = {
    "flipped-bit-in-segment-header": (
        DamagedError,
        "the segment header does not match its checksum at byte 0, LSN 1",
    ),
    "flipped-bit-in-batch-header": (
        DamagedError,
        f"the batch header does not match its checksum at byte {SECOND_BATCH}, LSN 1 to 9",
    ),
    "flipped-bit-in-frame-directory": (
        DamagedError,
        f"the batch header does not match its checksum at byte {SECOND_BATCH}, LSN 1 to 9",
    ),
    "flipped-bit-in-metadata": (
        DamagedError,
        f"the op metadata does not match its checksum at byte {SECOND_BATCH}, LSN 5 to 9",
    ),
    "flipped-bit-in-frame": (
        DamagedError,
        f"a payload frame does not match its checksum at byte {SECOND_BATCH}, LSN 5 to 9",
    ),
    "truncated-in-frame": (DamagedError, "is cut short"),
    "truncated-in-batch-header": (
        DamagedError,
        f"30 bytes are too few for a batch header at byte {SECOND_BATCH}, LSN 1 to 9",
    ),
    "newer-segment-version": (UnsupportedFormat, f"{NAME}: format version 2 is newer than"),
    "unknown-segment-feature": (UnsupportedFormat, f"{NAME}: features 0x4 are not known"),
    "newer-batch-version": (
        UnsupportedFormat,
        f"{NAME}: at byte {SECOND_BATCH}: batch format version 2 is newer than 1",
    ),
    "unknown-batch-feature": (
        UnsupportedFormat,
        f"{NAME}: at byte {SECOND_BATCH}: batch features 0x4 are not known",
    ),
    "wrong-chain": (
        DamagedError,
        f"the batch does not follow from the one before it, at byte {SECOND_BATCH}, LSN 5 to 9",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_damaged_or_newer_segment_is_refused_as_stated(tmp_path: Path, name: str) -> None:
    kind, message = FAILURES[name]
    store = store_with(tmp_path, name)
    with pytest.raises(kind) as caught:
        reindex(store)
    assert type(caught.value) is kind
    assert message in str(caught.value)
    report = verify(store)
    assert any(found.path.endswith(NAME) for found in report.findings)


def test_every_golden_file_has_its_statement() -> None:
    files = {path.stem for path in FOLDER.glob("*.seg")}
    assert files == {"whole", *FAILURES} == set(variants())
