"""A copy that begins anywhere in a random history is what the whole history is, from there on."""

from __future__ import annotations

import random
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import settings

from store.errors import BaselineTooLong, NeverCaptured, NotSeeded
from store.format import CHUNK_BYTES, Kind
from store.journal import Journal, NodeState, Snapshot
from store.reindex import reindex
from store.types import Lsn, NodeId
from store.verify import verify
from tests.model.baseline_copy import copy_of
from tests.model.oracle_compare import REACH
from tests.model.test_index_model import IndexMachine
from tests.model.tree_walk import walk_tree
from timetravel.view import View

OF_THE_INDEX = {"generation", "changed", "inode"}
"""What of a node's state may be another number in the copy."""

LSNS_PER_COPY = 8


class BaselineMachine(IndexMachine):
    """The log grows by rules; now and then a copy is made and compared with the whole."""

    def _compare(self, randomness: random.Random) -> None:
        self._seed_all()
        self._index(randomness)
        self.writer.commit()
        history = self.log.history
        lsn = Lsn(randomness.randint(2, history.last_lsn))
        aborted = {op.offset for op in history.ops if op.kind == Kind.ABORT}
        if lsn in aborted or not self._is_whole(lsn):
            return
        root = Path(self.folder.name) / "copy"
        try:
            copy = copy_of(self.writer.store, self.journal, lsn, root)
        except BaselineTooLong:
            shutil.rmtree(root)
            return
        for _ in range(2):
            with (
                Journal(copy) as copied,
                copied.snapshot() as there,
                self.journal.snapshot() as here,
            ):
                self._compare_copy(here, there, lsn, randomness)
            assert verify(copy).findings == []
            reindex(copy)
        shutil.rmtree(root)

    def _seed_all(self) -> None:
        for _ in range(1000):
            nodes = self.log.history.newest.nodes.values()
            if any(node.missing for node in nodes):
                self.log.seed_chunk(0)
            elif not all(node.complete for node in nodes if node.links):
                for choice in range(len(self.log.nodes(stat.S_IFDIR))):
                    self.log.seed_dir(choice)
            else:
                break

    def _is_whole(self, lsn: Lsn) -> bool:
        view = View(self.journal, lsn)
        try:
            for found in walk_tree(view):
                if stat.S_ISREG(found.state.mode):
                    list(view.data_areas(found.node))
        except (NeverCaptured, NotSeeded):
            return False
        return True

    def _compare_copy(
        self, here: Snapshot, there: Snapshot, first: Lsn, randomness: random.Random
    ) -> None:
        last = self.log.history.last_lsn
        assert there.indexed_lsn == here.indexed_lsn == last
        assert list(there.ops(Lsn(first + 1), Lsn(last + 1))) == [
            op._replace(position=mine.position)
            for op, mine in zip(
                here.ops(Lsn(first + 1), Lsn(last + 1)),
                there.ops(Lsn(first + 1), Lsn(last + 1)),
                strict=True,
            )
        ]
        begin = there.first()
        assert begin is not None and begin.lsn == first
        assert [mark for mark in here.marks() if mark[1] > first] == there.marks()
        lsns = range(first, last + 1)
        chosen = randomness.sample(lsns, min(LSNS_PER_COPY, len(lsns)))
        for lsn in {first, *chosen, last}:
            self._compare_at(here, there, Lsn(lsn))

    def _compare_at(self, here: Snapshot, there: Snapshot, lsn: Lsn) -> None:
        for number, newest in self.log.history.newest.nodes.items():
            node = NodeId(number)
            state = here.state(node, lsn)
            assert known(there.state(node, lsn)) == known(state), (number, lsn)
            if state is None:
                continue
            assert there.xattrs(node, lsn) == here.xattrs(node, lsn)
            assert there.names(node, lsn) == here.names(node, lsn)
            if stat.S_ISDIR(newest.mode) and here.dir_complete(node):
                assert list(there.children(node, lsn)) == list(here.children(node, lsn))
                for name, _child in here.children(node, lsn):
                    assert there.child(node, name, lsn) == here.child(node, name, lsn)
            for place in (0, CHUNK_BYTES, 2 * CHUNK_BYTES, state.size_bytes):
                start, stop = max(place - REACH, 0), place + REACH
                try:
                    data = here.read(node, lsn, start, stop)
                except (NeverCaptured, NotSeeded) as error:
                    with pytest.raises(type(error)):
                        there.read(node, lsn, start, stop)
                else:
                    assert there.read(node, lsn, start, stop) == data, (number, lsn, place)


def known(state: NodeState | None) -> dict[str, object] | None:
    """What a state says of the node."""
    if state is None:
        return None
    return {name: value for name, value in state._asdict().items() if name not in OF_THE_INDEX}


TestBaseline = BaselineMachine.TestCase
if settings.get_current_profile_name() != "nightly":
    TestBaseline.settings = settings(max_examples=20, stateful_step_count=20)
