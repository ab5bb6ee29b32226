"""Transaction points of real programs at work: nothing is broken at any, and none is missing.

scripts/test tests/transactions                 a short run and a sample of the points
scripts/test tests/transactions -m nightly      1,000 transactions of each program
"""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from tests.transactions.evaluate import Verdict, judge
from tests.transactions.programs import JUDGED, PROGRAMS
from tests.transactions.recording import recorded
from tests.transactions.report import excerpts
from tests.transactions.requirements import shortcomings

SERVERS = ("postgresql-1", "postgresql-4", "mariadb")
"""A copy of these takes a second or more to check."""


class Sizes(NamedTuple):
    """How much is done: transactions, points opened at the most, cuts."""

    transactions: int
    points: int
    cuts: int


CI = Sizes(100, 20, 25)
CI_SERVERS = Sizes(100, 6, 0)
NIGHTLY = Sizes(1000, 600, 300)
SEED = 5


def _judged(name: str, sizes: Sizes) -> Verdict:
    with recorded(PROGRAMS[name](), sizes.transactions, SEED) as recording:
        points = recording.points()
        return judge(recording, points, sizes.points, sizes.cuts, random.Random(SEED))


def _check(name: str, sizes: Sizes) -> None:
    verdict = _judged(name, sizes)
    assert shortcomings(verdict) == [], "\n".join(excerpts(verdict))


@pytest.mark.parametrize("name", JUDGED)
def test_each_point_is_a_boundary_with_all_that_was_acknowledged(name: str) -> None:
    _check(name, CI_SERVERS if name in SERVERS else CI)


@pytest.mark.nightly
@pytest.mark.parametrize("name", JUDGED)
def test_a_thousand_transactions_of_each_program(name: str) -> None:
    _check(name, NIGHTLY)
