"""Let real programs work on a mount, and judge every transaction point that cdpfs finds.

    python -m tests.transactions [--program NAME ...] [--transactions N] [--points N] [--cuts N]

Prints a row for each program, and what was wrong. The exit code is 1 if a requirement is missed.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time

from tests.transactions.evaluate import Verdict, judge
from tests.transactions.programs import JUDGED, PROGRAMS
from tests.transactions.recording import recorded
from tests.transactions.report import HEAD, excerpts, row
from tests.transactions.requirements import shortcomings


def main() -> int:
    """Judge the programs one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--program", action="append", choices=JUDGED)
    parser.add_argument("--transactions", type=int, default=1000, metavar="N")
    parser.add_argument("--points", type=int, default=1000, metavar="N", help="to open at most")
    parser.add_argument("--cuts", type=int, default=300, metavar="N", help="random LSNs to open")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), metavar="S")
    parser.add_argument("--oracle", action="store_true", help="points by the client's record")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    print(f"| {' | '.join(HEAD)} | seconds |\n|{' --- |' * (len(HEAD) + 1)}", flush=True)
    failed = False
    for name in options.program or JUDGED:
        began = time.monotonic()
        verdict = run(name, options)
        print(f"| {' | '.join(row(verdict))} | {time.monotonic() - began:.0f} |", flush=True)
        for complaint in (*shortcomings(verdict), *excerpts(verdict)):
            print(f"    {complaint}", flush=True)
        failed = failed or bool(shortcomings(verdict))
    return 1 if failed else 0


def run(name: str, options: argparse.Namespace) -> Verdict:
    """Record one program and judge its points."""
    chance = random.Random(options.seed)
    with recorded(PROGRAMS[name](), options.transactions, options.seed) as recording:
        points = recording.oracle_points() if options.oracle else recording.points()
        return judge(recording, points, options.points, options.cuts, chance)


if __name__ == "__main__":
    sys.exit(main())
