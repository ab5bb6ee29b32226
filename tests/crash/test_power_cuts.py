"""A few power cuts on every run; `scripts/crash` does hundreds, of more kinds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash import images, tree_cuts

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
