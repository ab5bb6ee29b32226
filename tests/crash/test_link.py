"""A short campaign of faults of the link on every run; `scripts/crash` does hundreds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash.link_faults import LinkCampaign

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

FAULTS = 15


@pytest.mark.parametrize("seed", [5, 2011], ids=["clear", "tls"])
def test_the_replica_is_right_whatever_the_link_did(tmp_path: Path, seed: int) -> None:
    campaign = LinkCampaign(tmp_path, random.Random(seed), print)
    try:
        campaign.run(FAULTS)
    finally:
        campaign.close()
    assert campaign.kills >= FAULTS
