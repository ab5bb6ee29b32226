"""A store and a library, and runs of the spooler between them that meet what a test wants.

`Spooling` opens everything anew for each run, as a process does; a run that is killed leaves what a
killed process leaves. Two pools: one that stays, one whose cartridges go out each Friday.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from store.errors import StoreError
from store.journal import Journal
from store.volume import Store
from tape.catalogue import Attached
from tape.catalogue_file import CatalogueFile
from tape.errors import TapeError
from tape.library import Library, create_virtual, open_library
from tape.plan import Rest
from tape.rules import rules_of
from tape.run import spool
from tape.settings import PoolSettings, RotateSettings, StartSettings, TapeSettings
from tape.work import Work
from tests.tape.clock import Clock
from tests.tape.faults import FaultyChanger, FaultyDrive, Killed, Steps, lose_buffer

CAPACITY_BYTES = 2 << 20
BLOCK_BYTES = 8 << 10
ONSITE_KEEP_DAYS, OFFSITE_KEEP_DAYS = 28, 21
Outcome = Rest | TapeError | StoreError | OSError


@dataclass
class Run:
    """What a run meets: faults are set in its drives and its changer before it begins."""

    drives: tuple[FaultyDrive, ...]
    changer: FaultyChanger
    library: Library


@dataclass
class Spooling:
    """The volume `store` and the library in `home`."""

    store: Store
    home: Path
    clock: Clock
    settings: TapeSettings = field(init=False)

    def __post_init__(self) -> None:
        self.settings = TapeSettings(
            library=str(self.home),
            start=StartSettings(staged_bytes=1 << 16, age_s=1),
            pools=[
                PoolSettings(name="onsite", keep_days=ONSITE_KEEP_DAYS, full_every_days=7),
                PoolSettings(
                    name="offsite",
                    keep_days=OFFSITE_KEEP_DAYS,
                    full_every_days=7,
                    rotate=RotateSettings(days="fri", time="18:00", place="the bank"),
                ),
            ],
        )

    def create(self, slots: int = 20, doors: int = 6) -> None:
        """Make the library, and attach the volume to it."""
        create_virtual(
            self.home,
            capacity_bytes=CAPACITY_BYTES,
            block_bytes=BLOCK_BYTES,
            early_warning_bytes=8 * BLOCK_BYTES,
            slots=slots,
            drives=2,
            doors=doors,
        )
        with CatalogueFile.create(self.home / "catalogue") as catalogue:
            catalogue.append(
                Attached(
                    time_ns=self.clock.now_ns(),
                    volume_uuid=self.store.config.uuid,
                    volume_name="books",
                    directory="/srv/books",
                    keep_ns={pool.name: pool.keep_ns for pool in self.settings.pools},
                )
            )

    def run(
        self,
        arm: Callable[[Run], None] = lambda run: None,
        steps: Steps | None = None,
        power_lost: bool = True,
    ) -> dict[str, Outcome]:
        """One run: why each pool rests, or what kept it from its work; {} when it was killed.

        `power_lost`: a kill takes what had no filemark; else st(4) ends the file, as it does when
        the process goes and the machine stays.
        """
        steps = steps or Steps()
        with open_library(self.home, "the spooler") as library:
            assert library.virtual is not None
            inner = library.virtual.drives
            drives = tuple(FaultyDrive(d, steps=steps, now_ns=self.clock.now_ns) for d in inner)
            changer = FaultyChanger(library.changer, steps=steps)
            arm(Run(drives, changer, library))
            try:
                return self._spool(replace(library, drives=drives, changer=changer), steps)
            except Killed:
                if power_lost:
                    for drive in inner:
                        lose_buffer(drive)
                return {}

    def _spool(self, library: Library, steps: Steps) -> dict[str, Outcome]:
        with (
            CatalogueFile.open(library.catalogue) as catalogue,
            Journal(self.store) as journal,
        ):
            doors = sum(not door.full for door in library.changer.inventory().doors)
            uuid = self.store.config.uuid
            rules = rules_of(self.settings, uuid, self.clock.now_ns(), doors)
            keep_ns = {pool.name: pool.keep_ns for pool in self.settings.pools}
            return dict(spool(self.work(library, catalogue, journal, steps), rules, {}, keep_ns))

    def work(
        self, library: Library, catalogue: CatalogueFile, journal: Journal, steps: Steps
    ) -> Work:
        """What a run works with."""
        return Work(
            self.store,
            journal,
            library,
            catalogue,
            self.settings.archive_bytes_for(CAPACITY_BYTES),
            now_ns=self.clock.now_ns,
            sleep=self.clock.pause,
            cut=steps.step,
        )


def all_rest(outcome: dict[str, Outcome]) -> bool:
    """Did every pool have its work done?"""
    return bool(outcome) and all(isinstance(each, Rest) for each in outcome.values())
