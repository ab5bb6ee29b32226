"""What runs inside the test machine (`scripts/testvm`): a volume at work, and its recovery.

    python -m tests.crash.guest work SYSTEM DISK SEED
    python -m tests.crash.guest check SYSTEM DISK...

`work` never ends: the machine loses its power. What the applications are told is safe goes to the
shared folder at once. `check` recovers what each disk holds, says how that went in the shared
folder, and ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

from store.volume import Store
from tests.crash import bank, client
from tests.crash.aftermath import Aftermath
from tests.crash.campaign import Failed
from tests.crash.victim import Victim
from tests.volume import SOURCE

SHARE = Path("/run/testvm")
PLACE = Path("/mnt/machine")
SHADOW = PLACE / "shadow"
TOP = "w0"


def mount(system: str, disk: str) -> None:
    """The disk to its place."""
    PLACE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", system, disk, PLACE], check=True)


def prepare(system: str) -> None:
    """The kernel's modules."""
    subprocess.run(["modprobe", "-a", "virtio_blk", system, "fuse"], check=True)


def work(system: str, disk: str, seed: int) -> None:
    """Make a volume on an empty disk, and have applications work in it for ever."""
    mount(system, disk)
    volume = Victim(PLACE, ring_files=3, ring_file_bytes=8 << 20)
    tree = volume.backing
    (tree / "bank").mkdir()
    bank.make(tree / "bank" / "bank.db", bank.MODES[seed % len(bank.MODES)])
    client.make(tree / "client")
    for place in (tree / TOP, SHADOW / TOP):
        place.mkdir(parents=True)
        for number in range(8):
            (place / f"old{number}").write_bytes(b"%d" % number * 3000)
    os.sync()
    volume.mount()
    commands = (
        ("bank", tree / "bank" / "bank.db", SHARE / "bank.ledger"),
        ("client", tree / "client", SHARE / "client.ledger"),
        ("writer", tree, SHADOW, TOP, "/run/writer.ledger"),
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"tests.crash.{name}", *map(str, arguments), str(seed)],
            cwd=SOURCE,
            stdout=subprocess.PIPE,
        )
        for name, *arguments in commands
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.read(1)
    (SHARE / "working").touch()
    while all(process.poll() is None for process in processes):
        time.sleep(0.5)
    sys.exit("an application ended")


def check(system: str, disks: list[str]) -> None:
    """Recover each disk, twice; `SHARE/DISK.result` says "passed", or what is wrong."""
    for disk in disks:
        name = Path(disk).name
        try:
            _check(system, disk, name)
        except (Failed, AssertionError, subprocess.CalledProcessError, OSError):
            words = traceback.format_exc()
        else:
            words = "passed"
        temporary = SHARE / f"{name}.part"
        temporary.write_text(words)
        temporary.rename(SHARE / f"{name}.result")
        while os.path.ismount(PLACE / "tree") or os.path.ismount(PLACE):
            subprocess.run(["fusermount3", "-uz", PLACE / "tree"], stderr=subprocess.DEVNULL)
            subprocess.run(["umount", "-l", PLACE], stderr=subprocess.DEVNULL)


def _check(system: str, disk: str, name: str) -> None:
    mount(system, disk)
    volume = Victim.of(PLACE, Store.open(PLACE / "store"))
    volume.log = Path(f"/run/{name}.log")
    ledgers = {what: (SHARE / f"{name}.{what}").read_bytes() for what in ("bank", "client")}
    aftermath = Aftermath(volume, ledgers)
    aftermath.recover()
    _unmount()
    mount(system, disk)
    aftermath.recover_again()
    _unmount()


def _unmount() -> None:
    """The kernel lets go of a dead FUSE mount in its own time."""
    while subprocess.run(["umount", PLACE], stderr=subprocess.DEVNULL).returncode:
        time.sleep(0.1)


def main(arguments: list[str]) -> None:
    """See the module."""
    what, system, disk, *more = arguments
    prepare(system)
    if what == "work":
        work(system, disk, int(more[0]))
    else:
        check(system, [disk, *more])


if __name__ == "__main__":
    main(sys.argv[1:])
