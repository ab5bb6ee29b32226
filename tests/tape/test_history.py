"""The pretended site: its points are where cdpfs finds everything at rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.journal import Journal
from store.types import Lsn, TimeNs
from tests.tape.clock import DAY_S, NS_PER_S, Clock
from tests.tape.history import Site, assert_consistent, fingerprint
from timetravel.moment import AtTime
from timetravel.resolve import resolve
from timetravel.standing import BarrierSettings
from timetravel.view import View

START_NS = 1_767_225_600 * NS_PER_S


@pytest.mark.parametrize("seed", range(3))
def test_points_are_consistent_and_found(tmp_path: Path, seed: int) -> None:
    clock = Clock(START_NS)
    site = Site(tmp_path / "store", seed, clock, tree_bytes=200_000)
    site.work(300_000, START_NS + DAY_S * NS_PER_S, unfinished=True)
    site.close()
    assert len(site.points) > 20
    with Journal(site.store) as journal:
        prints = set()
        for point in site.points:
            view = View(journal, Lsn(point.lsn))
            assert_consistent(view)
            prints.add(fingerprint(view))
            found = resolve(
                journal,
                AtTime(TimeNs(point.time_ns)),
                now_ns=clock.now_ns() + DAY_S * NS_PER_S,
                settings=BarrierSettings(),
            )
            assert not found.mid_transaction
            assert fingerprint(View(journal, found.lsn)) == fingerprint(view)
        assert len(prints) > len(site.points) // 2
        end = View(journal, journal.indexed_lsn)
        with pytest.raises(AssertionError, match="under way"):
            assert_consistent(end)
