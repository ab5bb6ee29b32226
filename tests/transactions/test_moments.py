"""`@time` of a folder in which two programs work that know nothing of each other.

Hardly any moment is between the transactions of both; cdpfs must find one that is, or say that
there is none.
"""

from __future__ import annotations

import random

from tests.transactions.copies import copy_of, scratch
from tests.transactions.programs import PROGRAMS
from tests.transactions.recording import Recording, recorded
from timetravel.moment import format_time

TRANSACTIONS = 60
TIMES = 25


def test_a_time_goes_to_where_both_databases_are_whole_by_themselves() -> None:
    with recorded(PROGRAMS["sqlite-neighbours"](), TRANSACTIONS, 3) as recording:
        chance = random.Random(3)
        begin, end = recording.commits[0].ack_ns, recording.commits[-1].ack_ns
        grades = [_grade_at(recording, chance.randrange(begin, end)) for _ in range(TIMES)]
    assert grades.count("transaction") >= TIMES // 2, grades


def _grade_at(recording: Recording, time_ns: int) -> str:
    """The grade of the moment; of a transaction point the databases alone are checked."""
    said = recording.said_of(f"@{format_time(time_ns)}")
    assert said["time_ns"] <= time_ns
    if said["grade"] == "transaction":
        files = recording.program.strict_files
        with scratch() as folder, copy_of(recording.past(said["lsn"]), files, folder) as copy:
            recording.program.check_strict(copy)
    return str(said["grade"])
