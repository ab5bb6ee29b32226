"""Kill cdpfs at random moments under load, many times, and check what is left each time.

    scripts/crash [--short] [--kills N] [--seed S]

Prints the seed first and `N passed, N failed` last; one kill with everything that was checked
after it counts as one. With the same seed the same things are tried, though a kill hits whatever
is going on at that moment.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.campaign import Campaign, Failed, remove

KILLS = 220
SHORT_KILLS = 20
KILLS_OF_A_VOLUME = 22


def main() -> int:
    """Run campaigns until there were enough kills; the exit code is 1 when something failed."""
    parser = argparse.ArgumentParser(prog="scripts/crash", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help=f"{SHORT_KILLS} kills only")
    parser.add_argument("--kills", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), metavar="S")
    parser.add_argument("--keep", action="store_true", help="leave a failed volume's folder")
    options = parser.parse_args()
    wanted = options.kills or (SHORT_KILLS if options.short else KILLS)
    print(f"seed {options.seed}", flush=True)
    passed = failed = 0
    began = time.monotonic()
    while passed + failed < wanted:
        seed = options.seed + failed + passed
        kills, error = run_campaign(seed, min(wanted - passed - failed, KILLS_OF_A_VOLUME), options)
        passed += kills
        failed += error
    print(f"{time.monotonic() - began:.0f} s")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def run_campaign(seed: int, kills: int, options: argparse.Namespace) -> tuple[int, int]:
    """(kills survived, failures) of one volume."""
    base = Path(tempfile.mkdtemp(prefix="cdpfs-crash-"))

    def say(line: str) -> None:
        print(f"  {line}", flush=True)

    print(f"campaign {seed}: {kills} kills", flush=True)
    campaign = Campaign(base, random.Random(seed), say)
    try:
        campaign.run(kills)
    except (Failed, AssertionError) as error:
        print(f"FAILED after kill {campaign.kills}:\n{error}", flush=True)
        print("".join(f"    {line}\n" for line in campaign.volume.log_text().splitlines()[-40:]))
        campaign.close()
        if options.keep:
            print(f"its folder is {base}")
        else:
            remove(base)
        return max(campaign.kills - 1, 0), 1
    campaign.close()
    remove(base)
    return campaign.kills, 0


if __name__ == "__main__":
    sys.exit(main())
