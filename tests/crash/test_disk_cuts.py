"""The power goes at every sync of scripted workloads; `scripts/crash --kinds disk` does more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.disk_cuts import campaign


@pytest.mark.parametrize(("seed", "steps"), [(1, 25), (2, 25)])
def test_what_was_promised_survives_a_cut_at_any_sync(
    tmp_path: Path, seed: int, steps: int
) -> None:
    assert len(list(campaign(tmp_path, seed, steps))) > 60


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10, 16))
def test_what_was_promised_survives_a_cut_at_any_sync_of_long_runs(
    tmp_path: Path, seed: int
) -> None:
    assert len(list(campaign(tmp_path, seed, 90))) > 200
