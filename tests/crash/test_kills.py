"""A short campaign of kills on every run; `scripts/crash` does hundreds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash.campaign import Campaign

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

KILLS = 6


@pytest.mark.parametrize("seed", [2, 7])
def test_nothing_is_lost_however_often_it_is_killed(tmp_path: Path, seed: int) -> None:
    campaign = Campaign(tmp_path, random.Random(seed), print)
    try:
        campaign.run(KILLS)
    finally:
        campaign.close()
    assert campaign.kills >= KILLS
