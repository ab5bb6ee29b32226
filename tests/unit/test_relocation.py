"""The store of a volume that came from another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.errors import RecoveryUnfinished, StoreError
from store.format import Kind
from store.indexer import Indexer
from store.journal import Journal
from store.ops import Adopted
from store.relocation import (
    Relocation,
    read_relocation,
    refuse_short,
    refuse_unfinished,
    remove_relocation,
    write_relocation,
)
from store.types import ROOT, Lsn, NodeId
from store.volume import Store
from tests.unit.journal_workload import Workload, make_store

NOTE = Relocation(stage="restoring", source="a vault", line="main", lsn=7)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def _adopted(name: bytes, inode: int) -> bytes:
    return Adopted(ROOT, name, 0o100644, 0, 0, 0, 4, 1, 1, 1, inode, 2).encode()


def test_inode_numbers_of_another_machine_lead_to_no_node(store: Store) -> None:
    workload = Workload(store)
    workload.log(Kind.ADOPT, NodeId(50), 1, _adopted(b"old", 77))
    workload.log(Kind.BASE, NodeId(50), 0, b"base")
    end = workload.publish()
    since = workload.log(Kind.MOUNT, 0, 0, b"{}")
    workload.log(Kind.ADOPT, NodeId(51), since, _adopted(b"new", 78))
    last = workload.publish()
    indexer = Indexer(store)
    indexer.step(0, everything=True)
    indexer.close()
    with Journal(store) as journal:
        assert journal.node_by_inode(77) == 50
        before = journal.state(NodeId(50), last)
        assert before is not None and before.inode == 77
    store.config.foreign_lsn = end
    with Journal(store) as journal:
        assert journal.node_by_inode(77) is None
        assert journal.node_by_inode(78) == 51
        assert journal.state(NodeId(50), last) == before._replace(inode=0)
        assert journal.state(NodeId(50), end) == before._replace(inode=0)
        after = journal.state(NodeId(51), last)
        assert after is not None and after.inode == 78
        # What is lacking of its content is still told.
        assert journal.read(NodeId(50), last, 0, 4) == b"base"
        with pytest.raises(StoreError):
            journal.read(NodeId(51), last, 0, 4)


def test_a_store_is_of_no_use_before_its_recovery_is_finished(store: Store) -> None:
    refuse_unfinished(store)
    write_relocation(store, NOTE)
    assert read_relocation(store) == NOTE
    with pytest.raises(RecoveryUnfinished):
        refuse_unfinished(store)
    remove_relocation(store)
    assert read_relocation(store) is None
    refuse_unfinished(store)


def test_a_journal_that_is_shorter_than_what_was_recovered_is_refused(store: Store) -> None:
    refuse_short(store, Lsn(0))
    store.config.foreign_lsn = 101
    refuse_short(store, Lsn(101))
    with pytest.raises(RecoveryUnfinished):
        refuse_short(store, Lsn(100))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"stage":"begun"}', b"\xff"])
def test_a_damaged_note_is_told_and_not_passed_over(store: Store, text: bytes) -> None:
    (store.root / "relocation.json").write_bytes(text)
    with pytest.raises(StoreError, match="can't be read"):
        read_relocation(store)
