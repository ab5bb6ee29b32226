"""What cartridges alone give back of databases under load keeps their invariants (I-5).

scripts/test tests/transactions/test_tape.py                 a few runs of the spooler
scripts/test tests/transactions/test_tape.py -m nightly      many
"""

from __future__ import annotations

import os

import pytest

from tests.transactions.programs import PROGRAMS
from tests.transactions.tape import on_tape

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

NAMES = ("sqlite-delete", "sqlite-wal", "postgresql-1")
FEW, MANY = 3, 25
SEED = 11


def _check(name: str, rounds: int) -> None:
    with on_tape(PROGRAMS[name]()) as tape:
        found = tape.sample(rounds, SEED)
    assert found.wrong == [], found.row
    assert found.barriers and found.kills, found.row


@pytest.mark.parametrize("name", NAMES)
def test_every_barrier_on_tape_is_whole(name: str) -> None:
    _check(name, FEW)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_many_barriers_on_tape_are_whole(name: str) -> None:
    _check(name, MANY)
