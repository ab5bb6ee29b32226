"""Kill cdpfs and cut its power, many times and in many ways, and check what is left each time.

    scripts/crash [--short] [--kinds LIST] [--seed S] [--count KIND=N]...

    kill    kill -9 of the daemon, the indexer or both, at random moments under load
    disk    every sync of scripted workloads on a fault disk that drops, reorders and tears what
            was not synced; and trees that are ahead of the log and behind it in any mixture
    vault   every sync of a vault that takes shipments in, on the same disk
    image   snapshots of file system images (ext4, xfs) under load
    guest   a virtual machine whose memory is lost
    link    everything between a replicating volume and its vault, and both ends
    tape    a tape library day by day: faults of drives, cartridges, changer and people, kills; each
            day counts as one, and every kept point is restorable at its end

Prints the seed first and `N passed, N failed` last; one kill or cut with everything that was
checked after it counts as one. With the same seed the same things are tried, though a kill hits
whatever is going on at that moment.
"""

from __future__ import annotations

import argparse
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from tests.crash import disk_cuts, guests, images, tree_cuts, vault_cuts
from tests.crash.campaign import Campaign, Failed
from tests.crash.link_faults import LinkCampaign
from tests.tape.conftest import memory_folder
from tests.tape.year import YEAR_START_NS, Year

Survived = tuple[int, str]
"""How many kills or cuts were survived, and what went wrong, "" for nothing."""

Say = Callable[[str], None]

LONG = {"kill": 220, "disk": 900, "vault": 600, "image": 60, "guest": 56, "link": 520, "tape": 365}
SHORT = {"kill": 20, "disk": 80, "vault": 60, "image": 4, "guest": 2, "link": 40, "tape": 15}
OF_ONE_VOLUME = {
    "kill": 22,
    "disk": 300,
    "vault": 300,
    "image": 6,
    "guest": guests.MOST_OF_ONE_START,
    "link": 120,
    "tape": 365,
}
TREE_SHARE = 5
"""One in so many cuts of kind `disk` is one of the backing tree."""

SCRIPT_STEPS = 60
SHORT_SCRIPT_STEPS = 25
TAPE_FAULT_RATE = 0.15
"""Of the spooler's runs; each night has one more than go wrong."""
VAULT_ROUNDS = 12
"""Rounds of changes in the history that a vault is sent."""


def main() -> int:
    """Run campaigns until there were enough of each kind; the exit code is 1 if one failed."""
    options = _parse()
    wanted = dict(SHORT if options.short else LONG)
    wanted |= {kind: int(number) for kind, _, number in (c.partition("=") for c in options.count)}
    print(f"seed {options.seed}", flush=True)
    passed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for kind in options.kinds.split(","):
        began = time.monotonic()
        while passed[kind] + failed[kind] < wanted[kind]:
            left = wanted[kind] - passed[kind] - failed[kind]
            seed = options.seed + passed[kind] + failed[kind]
            survived, wrong = _run(kind, seed, min(left, OF_ONE_VOLUME[kind]), options)
            passed[kind] += survived
            failed[kind] += bool(wrong)
        took_s = time.monotonic() - began
        print(f"{kind}: {passed[kind]} passed, {failed[kind]} failed, {took_s:.0f} s", flush=True)
    print(f"{passed.total()} passed, {failed.total()} failed")
    return 1 if failed.total() else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/crash", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help=f"only {SHORT}")
    parser.add_argument("--kinds", default="", help=f"of {','.join(LONG)}; default: all")
    parser.add_argument("--count", action="append", default=[], metavar="KIND=N")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), metavar="S")
    parser.add_argument("--keep", action="store_true", help="leave a failed volume's folder")
    options = parser.parse_args()
    missing = "" if images.can_run() else "image cuts need root, loop devices, btrfs and xfs"
    if not options.kinds:
        options.kinds = ",".join(kind for kind in LONG if kind != "image" or not missing)
        if missing:
            print(f"left out: {missing}", flush=True)
    if not set(options.kinds.split(",")) <= set(LONG):
        parser.error(f"--kinds: any of {','.join(LONG)}")
    if "image" in options.kinds and missing:
        parser.error(f"{missing}; see --kinds")
    return options


def _run(kind: str, seed: int, count: int, options: argparse.Namespace) -> Survived:
    """One campaign in a folder of its own."""
    base = Path(tempfile.mkdtemp(prefix="cdpfs-crash-"))
    print(f"{kind} campaign {seed}: {count}", flush=True)
    survived, wrong = CAMPAIGNS[kind](base, seed, count, options.short)
    if wrong:
        print(f"FAILED after {survived}:\n{wrong}", flush=True)
    if wrong and options.keep:
        print(f"its folder is {base}")
    else:
        shutil.rmtree(base, ignore_errors=True)
    return survived, wrong


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def _kill(base: Path, seed: int, count: int, short: bool) -> Survived:
    return _campaign(Campaign(base, random.Random(seed), _say), count)


def _link(base: Path, seed: int, count: int, short: bool) -> Survived:
    return _campaign(LinkCampaign(base, random.Random(seed), _say), count)


def _campaign(campaign: Campaign, count: int) -> Survived:
    wrong = ""
    try:
        campaign.run(count)
    except (Failed, AssertionError) as error:
        log = campaign.volume.log_text().splitlines()[-40:]
        wrong = "\n".join([str(error), *(f"    {line}" for line in log)])
    finally:
        campaign.close()
    return max(campaign.kills - bool(wrong), 0), wrong


def _disk(base: Path, seed: int, count: int, short: bool) -> Survived:
    survived = 0
    of_tree = count // TREE_SHARE
    steps = SHORT_SCRIPT_STEPS if short else SCRIPT_STEPS
    kinds: Counter[str] = Counter()
    try:
        for name in islice(tree_cuts.campaign(base / "tree", seed, of_tree), of_tree):
            survived += 1
            kinds[name] += 1
        while survived < count:
            folder = base / f"disk{survived}"
            folder.mkdir()
            for name, _ in islice(
                disk_cuts.campaign(folder, seed + survived, steps, share=0.5), count - survived
            ):
                survived += 1
                kinds[name] += 1
    except AssertionError as error:
        return survived, str(error)
    _say(", ".join(f"{number} {name}" for name, number in sorted(kinds.items())))
    return survived, ""


def _vault(base: Path, seed: int, count: int, short: bool) -> Survived:
    survived = 0
    rounds = VAULT_ROUNDS // 2 if short else VAULT_ROUNDS
    kinds: Counter[str] = Counter()
    try:
        while survived < count:
            folder = base / f"vault{survived}"
            folder.mkdir()
            for name, _ in islice(
                vault_cuts.campaign(folder, seed + survived, rounds, share=0.5), count - survived
            ):
                survived += 1
                kinds[name] += 1
    except AssertionError as error:
        return survived, str(error)
    _say(", ".join(f"{number} {name}" for name, number in sorted(kinds.items())))
    return survived, ""


def _image(base: Path, seed: int, count: int, short: bool) -> Survived:
    survived, error = images.campaign(base, seed, count, _say)
    return survived, "" if error is None else str(error)


def _guest(base: Path, seed: int, count: int, short: bool) -> Survived:
    return guests.campaign(base, seed, count, _say)


def _tape(base: Path, seed: int, count: int, short: bool) -> Survived:
    with memory_folder() as folder:
        year, survived = Year(Path(folder), seed, YEAR_START_NS, TAPE_FAULT_RATE), 0
        try:
            while survived < count:
                year.day(check_stores=True)
                survived += 1
        except AssertionError as error:
            return survived, str(error)
        finally:
            year.close()
        _say(f"{len(year.site.points)} points, {year.checks.rebuilt} stores rebuilt")
        _say(", ".join(f"{number} {name}" for name, number in sorted(year.faults.items())))
    return survived, ""


CAMPAIGNS: dict[str, Callable[[Path, int, int, bool], Survived]] = {
    "kill": _kill,
    "disk": _disk,
    "vault": _vault,
    "image": _image,
    "guest": _guest,
    "link": _link,
    "tape": _tape,
}


if __name__ == "__main__":
    sys.exit(main())
