"""What runs inside the test machine (`scripts/testvm`) with a tape library.

    python -m tests.tape_guest.guest PART... [--short]

`SHARE/PART.result` says "passed", or what is wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.volume import SOURCE

SHARE = Path("/run/testvm")
PARTS = ("suites",)
CARTRIDGE_MB = 8


class Devices(NamedTuple):
    """The nodes of the library."""

    changer: str
    drives: tuple[str, ...]


def start_library() -> Devices:
    """Two drives, a changer, cartridges CDP001L8 to CDP006L8."""
    found = subprocess.run(
        [SOURCE / "scripts" / "testvm" / "library"],
        env=os.environ | {"SIZE_MB": str(CARTRIDGE_MB)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = [line.split() for line in found.stdout.splitlines()]
    nodes = {kind: [path for what, path in lines if what == kind] for kind in ("changer", "drive")}
    return Devices(nodes["changer"][0], tuple(nodes["drive"]))


def suites(devices: Devices) -> str:
    """Run the suites of drives and changers as a person would against a library of their own."""
    settings = {
        "CDPFS_TAPE_CHANGER": devices.changer,
        "CDPFS_TAPE_DRIVES": ",".join(devices.drives),
        "CDPFS_TAPE_SCRATCH": "CDP001L8",
        "CDPFS_TAPE_CAPACITY": str(CARTRIDGE_MB << 20),
        "CDPFS_TAPE_ENDLESS": "1",
    }
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
    found = subprocess.run(
        [*words, "tests/hardware"],
        cwd=SOURCE,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(found.stdout, flush=True)
    # Skipped tests would pass as well, if the library were not found.
    ran = "skipped" not in found.stdout.splitlines()[-1].split(",")[0]
    return "passed" if found.returncode == 0 and ran else found.stdout[-20_000:]


def main(arguments: list[str]) -> None:
    """See the module."""
    devices = start_library()
    for part in (word for word in arguments if word != "--short"):
        result = {"suites": suites}[part](devices)
        temporary = SHARE / f"{part}.part"
        temporary.write_text(result)
        temporary.rename(SHARE / f"{part}.result")


if __name__ == "__main__":
    main(sys.argv[1:])
