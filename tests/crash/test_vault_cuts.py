"""A vault that is killed, or whose disk loses its power, at every step of taking shipments in."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from store import durable
from store.volume import Store, new_config
from tests.crash.vault_cuts import Site, campaign, check, open_line, send_all


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_answered_for_survives_a_cut_at_any_sync(tmp_path: Path, seed: int) -> None:
    assert len(list(campaign(tmp_path, seed, 5, share=0.4))) > 30


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10, 20))
def test_what_was_answered_for_survives_a_cut_at_any_sync_of_long_runs(
    tmp_path: Path, seed: int
) -> None:
    assert len(list(campaign(tmp_path, seed, 30, share=0.5))) > 200


class _KillingDisk(durable.Disk):
    """Kills its own process before a call of a given number."""

    def __init__(self, left: int) -> None:
        self._left = left

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("_"):
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return found


def _ingest_in_a_child(root: Path, site: Site, calls: int) -> int:
    """Send everything, killed before that many calls to the disk; the child's wait status."""
    pid = os.fork()
    if not pid:
        try:
            durable.disk = _KillingDisk(calls)
            with open_line(Store.open(root)) as line:
                send_all(line, site, random.Random(1))
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_a_vault_killed_before_any_call_to_its_disk_goes_on_where_it_was(tmp_path: Path) -> None:
    """Each run goes on with what the one before left, killed some calls later."""
    site = Site.make(tmp_path / "site", 3, 10)
    fresh = 0
    for step in (3, 8, 21):
        root = tmp_path / f"line{step}"
        Store.create(root, new_config("/nowhere", 1, uuid=site.store.config.uuid))
        kills = 0
        while os.WIFSIGNALED(_ingest_in_a_child(root, site, step + kills % 7)):
            kills += 1
            if kills > 40:
                break
        fresh += kills
        check(root, site, 0, random.Random(step))
    assert fresh > 40


def test_each_single_kill_is_survived(tmp_path: Path) -> None:
    site = Site.make(tmp_path / "site", 4, 3)
    calls = 0
    while True:
        root = tmp_path / f"line{calls}"
        Store.create(root, new_config("/nowhere", 1, uuid=site.store.config.uuid))
        killed = os.WIFSIGNALED(_ingest_in_a_child(root, site, calls))
        check(root, site, 0, random.Random(calls))
        if not killed:
            break
        calls += 1
    assert calls > 25
