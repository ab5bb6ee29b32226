"""A few power cuts on every run; `scripts/crash` does hundreds, of more kinds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fsd.power_cut import PowerCut
from store.journal import Journal
from store.statepage import StatePage
from store.types import Lsn
from tests.crash import images, tree_cuts
from tests.crash.victim import Victim

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_tree_that_is_ahead_and_behind_becomes_what_the_journal_says(
    tmp_path: Path, seed: int
) -> None:
    assert len(list(tree_cuts.campaign(tmp_path, seed, 12))) == 12


@pytest.mark.skipif(not images.can_run(), reason="needs root, loop devices, btrfs and xfs")
def test_a_volume_survives_power_cuts_of_the_machine(tmp_path: Path) -> None:
    survived, error = images.campaign(tmp_path, 20, 2, print)
    assert (survived, error) == (2, None)


def _later(folder: Path) -> int:
    """A time that is behind us for the file system as well, whose clock ticks slowly."""
    now = time.time_ns()
    probe = folder / "probe"
    while True:
        probe.touch()
        if probe.stat().st_ctime_ns > now:
            return now
        probe.unlink()


@pytest.mark.parametrize("after_the_cut", [True, False])
def test_what_is_done_in_the_bare_directory_is_kept_only_if_it_came_after_the_cut(
    tmp_path: Path, after_the_cut: bool
) -> None:
    victim = Victim(tmp_path)
    try:
        victim.mount()
        for name in ("one", "two"):
            (victim.tree / name).write_text(f"{name} as it was")
        end = Lsn(victim.sync())
    finally:
        victim.kill_indexer()
        victim.kill_daemon()
        victim.clear()
    tree = victim.backing
    before_ns = _later(tmp_path)
    (tree / "one").write_text("another one")
    (tree / "two").unlink()
    (tree / "three").write_text("new")
    page = StatePage(victim.store.state_path)
    root_fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    _later(tmp_path / "store")
    with Journal(victim.store) as journal:
        recovery = PowerCut(journal, root_fd, end, page)
        recovery.run(Lsn(0), before_ns if after_the_cut else time.time_ns())
        recovery.finish()
    os.close(root_fd)
    page.close()
    found = {path.name: path.read_text() for path in tree.iterdir()}
    if after_the_cut:
        assert found == {"one": "another one", "three": "new"}
    else:
        assert found == {"one": "one as it was", "two": "two as it was"}
