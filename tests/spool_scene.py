"""A volume, a virtual library, and the spooler between them, without processes.

The journal is made by `tests/unit/recorded_tree.py`, so that the directory there is the oracle for
what comes back from the cartridges.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from store.keys import KeyRing
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import Cartridge, State
from tape.library import Library, create_virtual, open_library
from tape.plan import NS_PER_S, Rest, Rules
from tape.robot import Hands, Robot
from tape.run import spool
from tape.scan import Scan, scan_library
from tape.work import Work
from tests.unit.recorded_tree import RecordedTree

BLOCK_BYTES = 16 << 10
CAPACITY_BYTES = 8 << 20
ARCHIVE_BYTES = 2 << 20


class Scene:
    """A recorded tree and a library for it, below `base`."""

    def __init__(self, base: Path, *, capacity_bytes: int = CAPACITY_BYTES, **library: int) -> None:
        base.mkdir(exist_ok=True)
        self.tree = RecordedTree(base)
        self.home = base / "library"
        self.now_ns: Callable[[], int] = time.time_ns
        self.min_scratch = 0
        self.keep_ns = 30 * 86400 * NS_PER_S
        self.ring: KeyRing | None = None
        create_virtual(self.home, capacity_bytes=capacity_bytes, block_bytes=BLOCK_BYTES, **library)
        CatalogueFile.create(self.home / "catalogue").close()

    def close(self) -> None:
        """Give the files back."""
        self.tree.close()

    def rules(self, pool: str = "onsite", **changes: int) -> Rules:
        """Of a pool that begins with everything at once."""
        rules = Rules(pool, self.tree.store.config.uuid, 1, 0, 0)
        return rules._replace(**changes)

    def spool(
        self,
        *rules: Rules,
        goal: bool = True,
        cut: Callable[[str], None] = lambda step: None,
        wrap: Callable[[Library], Library] = lambda library: library,
    ) -> dict[str, Rest]:
        """Bring everything committed onto cartridges; raises what kept a pool from it."""
        chosen = rules or (self.rules(),)
        last = self.tree.journal.indexed_lsn
        with (
            open_library(self.home, "a test") as library,
            CatalogueFile.open(library.catalogue) as catalogue,
        ):
            work = Work(
                self.tree.store,
                self.tree.journal,
                wrap(library),
                catalogue,
                ARCHIVE_BYTES,
                self.min_scratch,
                self.ring,
                now_ns=self.now_ns,
                cut=cut,
            )
            goals = {each.pool: last if goal else None for each in chosen}
            keep_ns = {each.pool: self.keep_ns for each in chosen}
            found = spool(work, chosen, goals, keep_ns)
        rests = {}
        for pool, outcome in found.items():
            if isinstance(outcome, BaseException):
                raise outcome
            rests[pool] = outcome
        return rests

    def scan(self) -> Scan:
        """Read every cartridge, and put what was found in the place of the books."""
        with open_library(self.home, "a test") as library:
            robot = robot_of(library, self.now_ns)
            found = scan_library(robot, library, self.now_ns(), lambda text: None)
            CatalogueFile.replace(library.catalogue, found.state).close()
        return found

    def state(self) -> State:
        """What is on the books."""
        with CatalogueFile.open(self.home / "catalogue") as catalogue:
            return catalogue.state

    def digest(self, cartridge: Cartridge, file: int) -> str:
        """Of a file as it lies in a cartridge's folder."""
        path = self.home / "cartridges" / cartridge.barcode / f"{file:06d}"
        return blake3(path.read_bytes()).hexdigest()


def robot_of(library: Library, now_ns: Callable[[], int]) -> Robot:
    """A robot that writes down nothing and waits for nothing."""
    return Robot(
        Hands(library.changer, library.drives, lambda event: None, now_ns, lambda seconds: None)
    )


def fill(scene: Scene, count: int, seed: int) -> None:
    """So many new files, a batch each; those of another seed are others."""
    noise = random.Random(seed)
    for number in range(count):
        scene.tree.write(b"%d-%d" % (seed, number), noise.randbytes(700_000))
        scene.tree.commit()
