"""Whatever is killed, a reader at the vault never sees half a transaction (I-5).

scripts/test tests/transactions/test_replica.py                 a few samples of each program
scripts/test tests/transactions/test_replica.py -m nightly      200 and more, all in all
"""

from __future__ import annotations

import os

import pytest

from tests.transactions.programs import PROGRAMS
from tests.transactions.replica import replicated

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

NAMES = ("sqlite-delete", "sqlite-wal", "pair-data-first")
SERVER = "postgresql-1"
FEW, MANY, MANY_OF_SERVER = 3, 60, 30
SEED = 11


def _check(name: str, samples: int) -> None:
    with replicated(PROGRAMS[name]()) as replica:
        found = replica.sample(samples, SEED)
    assert found.wrong == [], found.row
    assert len(found.samples) >= samples
    assert found.heads > 1


@pytest.mark.parametrize("name", NAMES)
def test_the_head_of_a_replica_is_whole_whatever_is_killed(name: str) -> None:
    _check(name, FEW)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*NAMES, SERVER])
def test_many_heads_of_a_replica_are_whole_whatever_is_killed(name: str) -> None:
    _check(name, MANY_OF_SERVER if name == SERVER else MANY)
