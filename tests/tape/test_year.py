"""The simulated year, and a month of it for every test run.

Both begin on the 5th of March in Berlin, whose clocks go forward on the 29th, and back on the 25th
of October. What is tried is in `tests/tape/year.py`, what must hold in `tests/tape/checks.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from whenever import reset_system_tz

from tests.tape.year import TROUBLES, YEAR_START_NS, Year

pytestmark = pytest.mark.expects_warnings


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        reset_system_tz()
        yield
    time.tzset()
    reset_system_tz()


def run(base: Path, seed: int, days: int, fault_rate: float, check_every: int) -> Year:
    print(f"seed {seed}")
    year = Year(base, seed, YEAR_START_NS, fault_rate)
    for day in range(days):
        year.day(check_stores=day % check_every == check_every - 1)
    year.close()
    print(f"{len(year.site.points)} points, {year.returned} cartridges came back,")
    print(f"{year.bought} were bought, {year.checks.rebuilt} stores rebuilt; {year.faults}")
    return year


def test_every_kept_point_is_restorable_in_a_month_with_faults(tmp_path: Path) -> None:
    year = run(tmp_path, 1, days=30, fault_rate=0.3, check_every=5)
    assert len(year.outside) > 2
    assert year.checks.rebuilt > 10


def test_two_quiet_months_need_no_new_cartridge(tmp_path: Path) -> None:
    year = run(tmp_path, 2, days=60, fault_rate=0, check_every=20)
    assert year.returned > 3
    assert year.bought == 0


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
def test_every_kept_point_is_restorable_on_each_day_of_a_year(tmp_path: Path, seed: int) -> None:
    year = run(tmp_path, seed, days=365, fault_rate=0.15, check_every=1)
    assert year.returned > 40
    # Some kind may not come up in a year of one seed.
    assert len(year.faults) > len(TROUBLES) // 2
