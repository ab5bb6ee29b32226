"""The client's process of a program under test.

python -m tests.transactions.client PROGRAM PLACE OUTSIDE RECORD COUNT SEED CLIENT
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.transactions.program import transact
from tests.transactions.programs import PROGRAMS


def main(arguments: list[str]) -> None:
    """Do the transactions."""
    name, place, outside, record, *numbers = arguments
    program = PROGRAMS[name]()
    program.outside = Path(outside)
    count, seed, client = map(int, numbers)
    transact(program, Path(place), Path(record), count, seed, client)


if __name__ == "__main__":
    main(sys.argv[1:])
