"""Random trees onto archives, and back by plain tar and into a store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from store.baseline_state import collect_state
from store.journal import Journal
from store.types import Lsn
from tape.archive_reader import ArchiveReader
from tests.mount.fingerprint import assert_equal, fingerprint
from tests.unit.archives import full_archives, untar
from tests.unit.random_changes import RandomChanges
from tests.unit.recorded_tree import RecordedTree, capture_view
from tests.unit.test_rebuild import rebuilt, set_of
from timetravel.view import View

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")


@pytest.mark.parametrize("seed", range(12))
def test_random_trees_come_back(tmp_path: Path, seed: int) -> None:
    tree = RecordedTree(tmp_path)
    changes = RandomChanges(tree, seed)
    changes.run(120)
    base = tree.commit()
    wanted = fingerprint(Path(os.fsdecode(tree.root)))
    changes.run(60)
    end = tree.commit()
    view = View(tree.journal, base)
    fulls = [data for data, _ in full_archives(tree, view, 512 << 10, collect=collect_state)]
    logs = [
        data for data in set_of(tree, base, 16 << 20) if ArchiveReader([data]).head.kind == "log"
    ]
    untar(fulls, tmp_path / "out")
    assert_equal(fingerprint(tmp_path / "out" / tree.store.config.name), wanted)
    done = rebuilt([*fulls, *logs], tmp_path / "copy")
    with Journal(done.store) as journal:
        for lsn in (base, Lsn((base + end) // 2), end):
            assert capture_view(View(journal, lsn)) == capture_view(View(tree.journal, lsn))
    tree.close()
