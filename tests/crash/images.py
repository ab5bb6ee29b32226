"""Power cuts of a whole machine: tree and store on images of real file systems, snapshotted.

The images lie on btrfs, in a subvolume, and are mounted through loop devices. A snapshot of the
subvolume is what a disk with a write cache holds when the power goes: what was flushed, and some
of what was not; both images of a volume at one moment. The page cache of the file systems inside
is not in it. The copies are mounted and recovered beside the volume, which goes on working.

Needs root, loop devices, btrfs, and ext4 or xfs.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fsd.housekeeping import syncfs
from store.volume import Store
from tests.crash import bank, client
from tests.crash.aftermath import Aftermath
from tests.crash.campaign import Failed, furnish
from tests.crash.victim import Victim
from tests.volume import SOURCE

POOL_BYTES = 12 << 30
IMAGE_BYTES = 400 << 20
WRITERS = 2
SYSTEMS = ("ext4", "xfs")


def run(*command: object) -> None:
    """A program that must succeed."""
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def can_run() -> bool:
    """Has this machine what image cuts need?"""
    known = Path("/proc/filesystems").read_text().split()
    tools = ("mkfs.btrfs", "mkfs.ext4", "mkfs.xfs", "btrfs")
    have = all(shutil.which(tool) for tool in tools) and {"btrfs", *SYSTEMS} <= set(known)
    return have and os.geteuid() == 0 and Path("/dev/loop-control").exists()


class Pool:
    """The btrfs that holds the images. `live` is the subvolume that is snapshotted."""

    def __init__(self, base: Path) -> None:
        self._image = base / "pool.img"
        self._mounted = base / "pool"
        with self._image.open("wb") as file:
            file.truncate(POOL_BYTES)
        run("mkfs.btrfs", "-q", self._image)
        self._mounted.mkdir()
        run("mount", "-o", "loop", self._image, self._mounted)
        self.live = self._mounted / "live"
        run("btrfs", "subvolume", "create", self.live)

    def cut(self, name: str) -> Path:
        """A snapshot of everything, at this moment."""
        place = self._mounted / name
        run("btrfs", "subvolume", "snapshot", self.live, place)
        return place

    def drop(self, place: Path) -> None:
        """Remove a snapshot."""
        run("btrfs", "subvolume", "delete", place)

    def close(self) -> None:
        """Take it away."""
        run("umount", self._mounted)
        self._image.unlink()


class Disks:
    """One or two images, mounted; `base` below has `tree` and `store` as a volume wants them."""

    def __init__(self, folder: Path, base: Path, system: str) -> None:
        self._folder = folder
        self._system = system
        self.base = base
        self._mounts: list[Path] = []

    @staticmethod
    def make(folder: Path, system: str, count: int) -> None:
        """New images in the folder."""
        for number in range(count):
            image = folder / f"{number}.img"
            with image.open("wb") as file:
                file.truncate(IMAGE_BYTES)
            run(f"mkfs.{system}", "-q", image)

    def mount(self) -> None:
        """Attach them, in their own places and as the two folders of a volume."""
        options = "loop,nouuid" if self._system == "xfs" else "loop"
        images = sorted(self._folder.glob("*.img"))
        places = []
        for image in images:
            place = self.base / f"disk{image.stem}"
            place.mkdir(parents=True, exist_ok=True)
            self._attach("-o", options, image, place)
            places.append(place)
        for name, place in (("tree", places[0]), ("store", places[-1])):
            (place / name).mkdir(exist_ok=True)
            (self.base / name).mkdir(exist_ok=True)
            self._attach("--bind", place / name, self.base / name)

    def _attach(self, *arguments: object) -> None:
        run("mount", *arguments)
        self._mounts.append(Path(str(arguments[-1])))

    def sync(self) -> None:
        """What somebody's sync(1) would do."""
        fd = os.open(self.base / "disk0", os.O_RDONLY | os.O_DIRECTORY)
        try:
            syncfs(fd)
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Detach them."""
        while self._mounts:
            place = self._mounts[-1]
            deadline = time.monotonic() + 60
            while subprocess.run(["umount", place], stderr=subprocess.DEVNULL).returncode:
                if time.monotonic() > deadline:
                    raise Failed(f"{place} stays busy")
                time.sleep(0.05)  # the kernel lets go of a dead FUSE mount in its own time
            self._mounts.pop()


@dataclass
class Cut:
    """One snapshot, and what the applications had been told before it."""

    place: Path
    ledgers: dict[str, bytes]


class ImageCampaign:
    """One volume at work, cut several times."""

    def __init__(
        self, base: Path, pool: Pool, rng: random.Random, say: Callable[[str], None]
    ) -> None:
        self._base = base
        self._pool = pool
        self._random = rng
        self._say = say
        self.passed = 0
        self._system = rng.choice(SYSTEMS)
        self._count = rng.choice((1, 2))
        self._settings = {
            "ring_files": rng.choice((3, 4)),
            "ring_file_bytes": 8 << 20,
            "seed_rate_bytes_s": rng.choice((0, 1 << 20)),
        }
        self._disks = Disks(pool.live, base / "machine", self._system)
        self._again: Disks | None = None
        self._victims: list[Victim] = []
        self._applications: list[subprocess.Popen[bytes]] = []
        self._shadow = base / "shadow"
        self._mode = rng.choice(bank.MODES)

    def run(self, cuts: int) -> None:
        """Work, cut so many times, and check each one; Failed."""
        self._say(f"{self._count} image(s) of {self._system}, {self._settings}, bank {self._mode}")
        Disks.make(self._pool.live, self._system, self._count)
        self._disks.mount()
        volume = Victim(self._disks.base, **self._settings)
        self._victims.append(volume)
        self._furnish(volume.backing)
        if self._random.random() < 0.5:
            self._disks.sync()
        volume.mount()
        self._start_applications(volume.tree)
        made = [self._cut(number) for number in range(cuts)]
        self._end_applications()
        volume.close()
        self._disks.unmount()
        for cut in made:
            self._check(cut)
            self._pool.drop(cut.place)
            self.passed += 1

    def close(self) -> None:
        """Leave neither a mount nor a process behind."""
        for process in self._applications:
            process.kill()
            process.communicate()
        for victim in self._victims:
            victim.kill_indexer()
            if victim.process is not None:
                victim.kill_daemon()
            victim.clear()
        if self._again is not None:
            self._again.unmount()
        self._disks.unmount()

    # --- at work ------------------------------------------------------------------------------

    def _furnish(self, tree: Path) -> None:
        for number in range(WRITERS):
            furnish(tree / f"w{number}", self._random)
        (tree / "bank").mkdir()
        bank.make(tree / "bank" / "bank.db", self._mode)
        client.make(tree / "client")
        subprocess.run(["cp", "-a", tree, self._shadow], check=True)

    def _start_applications(self, tree: Path) -> None:
        for number in range(WRITERS):
            top = f"w{number}"
            self._start("writer", tree, self._shadow, top, self._base / f"{top}.ledger")
        self._start("bank", tree / "bank" / "bank.db", self._base / "bank.ledger")
        self._start("client", tree / "client", self._base / "client.ledger")
        for process in self._applications:
            assert process.stdout is not None
            process.stdout.read(1)

    def _start(self, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", f"tests.crash.{module}", *map(str, arguments)]
        seed = str(self._random.randrange(1 << 32))
        self._applications.append(
            subprocess.Popen([*command, seed], cwd=SOURCE, stdout=subprocess.PIPE)
        )

    def _end_applications(self) -> None:
        for process in self._applications:
            process.send_signal(signal.SIGTERM)
        for process in self._applications:
            process.communicate()
        codes = [process.returncode for process in self._applications]
        self._applications.clear()
        if any(codes):
            raise Failed(f"the applications ended with {codes}")

    def _cut(self, number: int) -> Cut:
        """Let them work for a while, and take the power away, maybe in the middle of a sync."""
        time.sleep(self._random.uniform(0.1, 2.5))
        if self._random.random() < 0.3:
            self._disks.sync()
            time.sleep(self._random.uniform(0, 0.3))
        ledgers = {
            name: self._ledger(name).read_bytes() if self._ledger(name).exists() else b""
            for name in ("bank", "client")
        }
        return Cut(self._pool.cut(f"cut{number}"), ledgers)

    def _ledger(self, name: str) -> Path:
        return self._base / f"{name}.ledger"

    # --- what must hold -----------------------------------------------------------------------

    def _check(self, cut: Cut) -> None:
        """Recover from the snapshot, and check what an application and the journal say."""
        disks = self._again = Disks(cut.place, self._base / cut.place.name, self._system)
        disks.mount()
        volume = self._reopen(disks.base)
        self._victims.append(volume)
        aftermath = Aftermath(volume, cut.ledgers)
        if self._random.random() < 0.4:
            aftermath.kill_while_it_starts(self._random.uniform(0.2, 1.5))
        aftermath.recover()
        # The file systems are mounted anew: that counts as another power cut.
        disks.unmount()
        disks.mount()
        aftermath.recover_again()
        self._victims.pop()
        disks.unmount()
        self._again = None
        self._say(f"{cut.place.name} recovered")

    def _reopen(self, base: Path) -> Victim:
        """The volume of the copy, whose paths are others."""
        store = Store.open(base / "store")
        store.config.directory = str(base / "tree")
        store.save_config()
        return Victim.of(base, store)


def campaign(
    base: Path, seed: int, cuts: int, say: Callable[[str], None]
) -> tuple[int, Failed | None]:
    """Make so many cuts of one volume; returns how many were survived, and what went wrong."""
    rng = random.Random(seed)
    pool = Pool(base)
    made = ImageCampaign(base, pool, rng, say)
    failure = None
    try:
        made.run(cuts)
    except Failed as error:
        failure = error
    finally:
        made.close()
        with contextlib.suppress(subprocess.CalledProcessError):
            pool.close()
    return made.passed, failure
