"""Golden ring files of every format version open, or fail, exactly as stated here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from store.errors import DamagedError, StoreError, UnsupportedFormat
from store.format import Kind
from store.intake import Intake
from store.ops import Created, Op
from store.ring import ring_path
from store.tail import IntakeTail
from store.types import Lsn
from store.volume import Store
from tests.unit.golden.generate import FOLDER
from tests.unit.golden.generate_ring import DATA, TIME_NS, store_at, variants


def store_with(root: Path, name: str) -> Store:
    """A store whose only ring file is that golden one."""
    store = store_at(root)
    shutil.copy(FOLDER / f"{name}.ring", ring_path(store, 0))
    return store


def open_intake(store: Store) -> Intake:
    return Intake.open(store, IntakeTail(store).end_of_log(), Lsn(0))


def ops_of(store: Store) -> list[Op]:
    tail = IntakeTail(store)
    tail.seek(Lsn(1))
    found = tail.read_ops(1 << 20, Lsn(100))
    tail.close()
    return found


def test_the_golden_files_are_what_this_version_writes(tmp_path: Path) -> None:
    for name, data in variants(tmp_path).items():
        assert (FOLDER / f"{name}.ring").read_bytes() == data, name


@pytest.mark.parametrize("name", ["whole", "whole-unsynced-unsaid"])
def test_the_whole_ring_reads_back(tmp_path: Path, name: str) -> None:
    ops = ops_of(store_with(tmp_path, name))
    assert [op.kind for op in ops] == [Kind.CREATE, Kind.WRITE, Kind.FSYNC]
    assert [op.time_ns for op in ops] == [TIME_NS, TIME_NS + 1000, TIME_NS + 2000]
    assert Created.decode(ops[0].payload).name == b"caf\xe9.txt!"
    assert (ops[1].node, ops[1].offset, ops[1].payload, ops[1].actor) == (2, 4096, DATA, 1)


def test_a_broken_last_record_is_cut(tmp_path: Path) -> None:
    store = store_with(tmp_path, "flipped-bit-in-last-record")
    intake = open_intake(store)
    assert intake.lsn == 2
    assert len(ops_of(store)) == 2


FAILURES: dict[str, tuple[type[StoreError], str]] = {
    "flipped-bit-in-ring-header": (DamagedError, "header does not match its checksum at byte 0"),
    "flipped-bit-in-first-record": (DamagedError, "the intake log is damaged: 0000.ring has LSN 2"),
    "flipped-bit-in-first-record-unsynced-unsaid": (
        DamagedError,
        "the intake log is damaged: 0000.ring has LSN 2",
    ),
    "newer-ring-version": (UnsupportedFormat, "0000.ring: format 2, features 0x0: too new"),
    "unknown-ring-feature": (UnsupportedFormat, "0000.ring: format 1, features 0x8000: too new"),
    "not-a-ring": (DamagedError, "not a ring file of the intake log at byte 0"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_ring_that_is_not_sound_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    kind, words = FAILURES[name]
    store = store_with(tmp_path, name)
    with pytest.raises(kind, match=words.replace("(", r"\(")):
        open_intake(store)
    assert ring_path(store, 0).read_bytes() == (FOLDER / f"{name}.ring").read_bytes()
