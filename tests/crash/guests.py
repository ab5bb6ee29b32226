"""Power cuts of a real kernel: a virtual machine works on a disk image, and its memory is lost.

One start of the machine gives several cuts: at random moments qemu is stopped for as long as it
takes to copy the image, and the copy is a disk as it was when the power went; at the last one qemu
is killed (-9), and the image itself is. A second start has all of them as its disks and recovers
one after the other. Stopping the process stops nothing inside of it in order: what it had not
handed over to the host is not in the copy.

Needs what `scripts/setup --vm` installs.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.volume import SOURCE

IMAGE_BYTES = 384 << 20
SYSTEMS = ("ext4", "xfs")
START_S = 400
"""A start of the machine, or a check of one cut, that takes longer has gone wrong."""

MOST_OF_ONE_START = 8
LEDGERS = ("bank", "client")


class Machine:
    """One start of the machine. `share` is the folder that it writes through to."""

    def __init__(self, share: Path, disks: list[Path], command: str) -> None:
        self.share = share
        share.mkdir()
        options = [word for disk in disks for word in ("-d", str(disk))]
        with (share / "run.log").open("wb") as log:
            self._process = subprocess.Popen(
                [SOURCE / "scripts" / "testvm" / "run", share, *options, command],
                cwd=SOURCE,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for(self, name: str) -> bool:
        """Wait for a file in the shared folder; False if the machine ends, or takes too long."""
        deadline = time.monotonic() + START_S
        while not (self.share / name).exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                return (self.share / name).exists()
            time.sleep(0.1)
        return True

    def wait(self) -> None:
        """Until it goes down by itself."""
        self._process.wait()

    def has_ended(self) -> bool:
        """Did it go down without being told to?"""
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        """Of qemu."""
        return int((self.share / "pid").read_text())

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It stands still inside."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Its memory is gone."""
        if self._process.poll() is None and (self.share / "pid").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def console(self) -> str:
        """The end of what it printed."""
        paths = (self.share / "run.log", self.share / "console.log")
        text = "".join(path.read_text(errors="replace") for path in paths if path.exists())
        return text.replace("\r", "")[-4000:]


def campaign(base: Path, seed: int, cuts: int, say: Callable[[str], None]) -> tuple[int, str]:
    """Make so many cuts in one start, and check them in another: (survived, what went wrong)."""
    rng = random.Random(seed)
    system = rng.choice(SYSTEMS)
    image = base / "image"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run([f"mkfs.{system}", "-q", image], check=True, stdout=subprocess.DEVNULL)
    say(f"a machine with {system}, {cuts} cuts")
    python = sys.executable
    command = f"{python} -m tests.crash.guest work {system} /dev/vda {seed}"
    machine = Machine(base / "work", [image], command)
    try:
        if not machine.wait_for("working"):
            return 0, f"the machine did not get to work:\n{machine.console()}"
        disks = [_cut(base, machine, image, number, rng) for number in range(cuts - 1)]
        time.sleep(rng.uniform(0.5, 6))
        told = _told(machine)
        if machine.has_ended():
            return 0, f"the machine ended by itself:\n{machine.console()}"
    except ProcessLookupError:
        return 0, f"the machine ended by itself:\n{machine.console()}"
    finally:
        machine.kill()
    disks.append((image, told))
    return _check(base, system, disks, say)


def _told(machine: Machine) -> dict[str, bytes]:
    """What the applications have been told is safe."""
    paths = {name: machine.share / f"{name}.ledger" for name in LEDGERS}
    return {name: path.read_bytes() if path.exists() else b"" for name, path in paths.items()}


def _cut(
    base: Path, machine: Machine, image: Path, number: int, rng: random.Random
) -> tuple[Path, dict[str, bytes]]:
    """The disk at a random moment, and what had been promised before it."""
    time.sleep(rng.uniform(0.5, 6))
    told = _told(machine)
    copy = base / f"cut{number}"
    with machine.stopped():
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, copy], check=True)
    return copy, told


def _check(
    base: Path, system: str, disks: list[tuple[Path, dict[str, bytes]]], say: Callable[[str], None]
) -> tuple[int, str]:
    names = [f"vd{chr(ord('a') + number)}" for number in range(len(disks))]
    places = " ".join(f"/dev/{name}" for name in names)
    command = f"{sys.executable} -m tests.crash.guest check {system} {places}"
    machine = Machine(base / "check", [disk for disk, _ in disks], command)
    for name, (_, told) in zip(names, disks, strict=True):
        for what, ledger in told.items():
            (machine.share / f"{name}.{what}").write_bytes(ledger)
    passed = 0
    try:
        for name, (disk, told) in zip(names, disks, strict=True):
            if not machine.wait_for(f"{name}.result"):
                return passed, f"{disk.name}: no answer\n{machine.console()}"
            words = (machine.share / f"{name}.result").read_text()
            if words != "passed":
                return passed, f"{disk.name}: {words}"
            passed += 1
            lines = sum(ledger.count(b"\n") for ledger in told.values())
            say(f"{disk.name} recovered, {lines} promises kept")
    finally:
        machine.kill()
        for disk, _ in disks:
            disk.unlink()
        shutil.rmtree(base / "work", ignore_errors=True)
    return passed, ""
