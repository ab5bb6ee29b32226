"""The client's process of a program under test.

python -m tests.transactions.client PROGRAM PLACE OUTSIDE RECORD COUNT SEED
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.transactions.program import transact
from tests.transactions.programs import PROGRAMS


def main(arguments: list[str]) -> None:
    """Do the transactions."""
    name, place, outside, record, count, seed = arguments
    program = PROGRAMS[name]()
    program.outside = Path(outside)
    transact(program, Path(place), Path(record), int(count), int(seed))


if __name__ == "__main__":
    main(sys.argv[1:])
