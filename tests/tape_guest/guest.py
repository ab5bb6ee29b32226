"""What runs inside the test machine (`scripts/testvm`) with a tape library.

    python -m tests.tape_guest.guest PART... [--short]

`SHARE/PART.result` says "passed", or what is wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from console.tape_calibrate import calibrate as measure
from tape.errors import BadCartridge, TapeError
from tape.library import create_real, open_library
from tape.mtx_changer import MtxChanger
from tests.hardware.own_library import SHIPPED_SCRIPT
from tests.tape_guest.vault import Failed, Life, live
from tests.volume import SOURCE

SHARE = Path("/run/testvm")
PARTS = ("suites", "calibrate", "vault")
SHORT_PARTS = ("suites", "vault")
DISK = "/dev/vda"
CARTRIDGE_MB = 2


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


def calibrate(devices: Devices) -> str:
    """Measure a drive with a blank cartridge, beside `dd`; one with data on it is left alone."""
    home = Path("/tmp/library")
    create_real(home, changer=devices.changer, drives=devices.drives)
    measure(home, "CDP002L8", 0, f"{CARTRIDGE_MB // 2}M", as_json=False)
    with open_library(home, "dd") as library:
        library.changer.load(2, 0)
        node = devices.drives[0]
        words = ["dd", "if=/dev/urandom", f"of={node}", "bs=256k", f"count={CARTRIDGE_MB * 2}"]
        subprocess.run([*words, "iflag=fullblock"], check=True)
        drive = library.drives[0]
        drive.open()
        drive.to_file(1)
        drive.close()
        library.changer.unload(0, 2)
    try:
        measure(home, "CDP002L8", 0, "1M", as_json=False)
    except BadCartridge:
        return "passed"
    return "a cartridge with data on it was overwritten"


def vault(devices: Devices) -> str:
    """A volume's life; the cartridge that the suites have written on is foreign to it."""
    blank(devices, 2)
    subprocess.run(["modprobe", "-a", "virtio_blk", "ext4", "fuse"], check=True)
    place = Path("/mnt/machine")
    place.mkdir()
    subprocess.run(["mount", DISK, place], check=True)
    live(Life(place, devices.changer, devices.drives, CARTRIDGE_MB << 20), "--short" in sys.argv)
    return "passed"


def blank(devices: Devices, *slots: int) -> None:
    """Make cartridges as good as blank."""
    changer = MtxChanger(str(SHIPPED_SCRIPT), devices.changer, devices.drives)
    for slot in slots:
        changer.load(slot, 0)
        subprocess.run(["mt", "-f", devices.drives[0], "rewind"], check=True)
        subprocess.run(["mt", "-f", devices.drives[0], "weof"], check=True)
        changer.unload(0, slot)


def main(arguments: list[str]) -> None:
    """See the module."""
    devices = start_library()
    for part in (word for word in arguments if word != "--short"):
        try:
            result = {"suites": suites, "calibrate": calibrate, "vault": vault}[part](devices)
        except (AssertionError, Failed, TapeError, OSError, subprocess.CalledProcessError):
            result = traceback.format_exc()
        temporary = SHARE / f"{part}.part"
        temporary.write_text(result)
        temporary.rename(SHARE / f"{part}.result")


if __name__ == "__main__":
    main(sys.argv[1:])
