"""A spool that meets the end of the medium, a fault or its own end at any step that it has.

The run writes labels, a full and a log for two pools. For each position a copy of the site spools
until something happens there. Then the catalogue is true, no hold is ahead of what is on the
cartridges (I-7), and the runs that follow bring everything onto them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from store.holds import read_holds
from store.volume import Store
from tape.catalogue_file import read_catalogue
from tests.crash.fault_disk import INDEX_FILE, FaultDisk, Mode
from tests.tape.checks import Checks
from tests.tape.clock import DAY_S, NS_PER_S, Clock
from tests.tape.conftest import memory_folder
from tests.tape.faults import Steps
from tests.tape.history import Site
from tests.tape.physical import Cartridges, FoundSet
from tests.tape.spooling import Run, Spooling, all_rest

START_NS = 1_772_665_200 * NS_PER_S
MAX_RUNS = 4
STRIDE = 5
"""Of those positions that are not all tried in every test run; with `-m nightly` they are."""
BLOCK_FAULTS = (
    "warning",
    "warning, block lost",
    "end",
    "write_error",
    "deferred_error",
    "silent_loss",
    "dead_at_block",
)

pytestmark = pytest.mark.expects_warnings


@dataclass
class Prepared:
    """A site that has worked, and its library, before the first run."""

    base: Path
    site: Site
    blocks: int = 0
    """So many are written in a run that meets nothing."""
    steps: int = 0


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    with memory_folder() as folder:
        yield prepare(Path(folder) / "base")


def prepare(base: Path) -> Prepared:
    base.mkdir()
    site = Site(base / "store", 1, Clock(START_NS), tree_bytes=60_000)
    site.work(80_000, START_NS + DAY_S * NS_PER_S, unfinished=True)
    site.close()
    Spooling(site.store, base / "library", site.clock).create(slots=8, doors=2)
    found = Prepared(base, site)
    copy = Copy(found, base.parent / "dry")
    runs: list[Run] = []
    steps = Steps()
    assert all_rest(copy.spooling.run(runs.append, steps))
    found.blocks = sum(drive.faults.blocks for drive in runs[0].drives)
    found.steps = steps.count
    copy.drop()
    return found


class Copy:
    """A copy of what was prepared, to be spoiled."""

    def __init__(self, prepared: Prepared, folder: Path) -> None:
        """Unless something is in the folder already: what a power cut left."""
        if not folder.exists():
            shutil.copytree(prepared.base, folder)
        index = Path("store", "index", INDEX_FILE)
        if not (folder / index).exists():
            # The spooler only reads the index, which no notes of the disk are about.
            shutil.copy(prepared.base / index, folder / index)
        self.folder = folder
        self.site = prepared.site
        clock = Clock(prepared.site.clock.now_ns() + DAY_S * NS_PER_S)
        self.spooling = Spooling(Store.open(folder / "store"), folder / "library", clock)
        self.cartridges = Cartridges(folder / "library")
        self.checks = Checks(self.site, self.cartridges, folder)

    def drop(self) -> None:
        """It is needed no more."""
        shutil.rmtree(self.folder)

    def check(self) -> None:
        """What holds after anything: the catalogue is true, and no hold is ahead of the medium."""
        state = read_catalogue(self.folder / "library" / "catalogue")
        self.checks.books_are_true(state)
        holds = read_holds(self.folder / "store")
        for pool in ("onsite", "offsite"):
            there = [found for found in self.sets() if found.pool == pool]
            bases = [each.base_lsn for each in state.sets.values() if each.pool == pool]
            reached = [found.last_lsn for found in there]
            # It is placed before the first set is begun: from then on the log stays.
            assert not bases or holds[f"tape-{pool}"] <= max([*bases, *reached])

    def finish(self) -> None:
        """Runs that meet nothing bring everything onto cartridges, for both pools."""
        for _ in range(MAX_RUNS):
            if all_rest(self.spooling.run()):
                break
            self.spooling.clock.pause(600)
        else:
            raise AssertionError("the work is not done after so many runs")
        self.check()
        end = self.site.points[-1].lsn
        for pool in ("onsite", "offsite"):
            last = [found for found in self.sets() if found.pool == pool and found.last_lsn]
            assert last, f"nothing of {pool} can be restored"
            self.checks.first_lsn = min(found.base_lsn for found in last)
            self.checks.covers(last, 0, end, pool)
            assert last[-1].last_lsn >= end

    def sets(self) -> Iterable[FoundSet]:
        """What is on the cartridges."""
        folder = self.folder / "library" / "cartridges"
        return self.cartridges.sets(path.name for path in folder.iterdir()).values()


def set_fault(name: str, block: int) -> Callable[[Run], None]:
    """The fault comes at the n-th block of the run, in whichever drive writes it."""

    def arm(run: Run) -> None:
        faults = run.drives[0].faults
        for drive in run.drives:
            # One count for all: the run's n-th block.
            drive.faults = faults
        setattr(faults, name.partition(",")[0], block)
        faults.warned_block_lost = name.endswith("lost")

    return arm


def at_blocks(prepared: Prepared, folder: Path, fault: str, stride: int) -> None:
    assert prepared.blocks > 40
    for block in range(0, prepared.blocks, stride):
        copy = Copy(prepared, folder / str(block))
        copy.spooling.run(set_fault(fault, block))
        copy.check()
        copy.finish()
        copy.drop()


def at_steps(prepared: Prepared, folder: Path, power_lost: bool, stride: int) -> None:
    assert prepared.steps > 100
    for step in range(0, prepared.steps, stride):
        copy = Copy(prepared, folder / str(step))
        assert copy.spooling.run(steps=Steps(kill_at=step), power_lost=power_lost) == {}
        copy.check()
        copy.finish()
        copy.drop()


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_a_power_cut_before_any_sync_loses_nothing(
    prepared: Prepared, tmp_path: Path, mode: Mode
) -> None:
    """Lay down what the disk may hold before a sync of a run, and go on from there."""
    doomed = Copy(prepared, tmp_path / "doomed")
    with FaultDisk(doomed.folder) as disk:
        assert all_rest(doomed.spooling.run())
    rng, tried = random.Random(1), 0
    for _, lay_down in disk.cuts():
        there = tmp_path / str(tried)
        lay_down(there, mode, rng)
        copy = Copy(prepared, there)
        copy.check()
        copy.finish()
        copy.drop()
        tried += 1
    assert tried > 60


@pytest.mark.parametrize("fault", ["warning", "end"])
def test_the_end_of_the_medium_at_any_block_loses_nothing(
    prepared: Prepared, tmp_path: Path, fault: str
) -> None:
    at_blocks(prepared, tmp_path, fault, 1)


@pytest.mark.parametrize("fault", BLOCK_FAULTS)
def test_a_fault_at_a_block_loses_nothing(prepared: Prepared, tmp_path: Path, fault: str) -> None:
    at_blocks(prepared, tmp_path, fault, STRIDE)


@pytest.mark.parametrize("power_lost", [True, False], ids=["buffer lost", "file ended"])
def test_a_kill_before_a_step_loses_nothing(
    prepared: Prepared, tmp_path: Path, power_lost: bool
) -> None:
    at_steps(prepared, tmp_path, power_lost, STRIDE)


@pytest.mark.nightly
@pytest.mark.parametrize("fault", BLOCK_FAULTS)
def test_a_fault_at_any_block_loses_nothing(prepared: Prepared, tmp_path: Path, fault: str) -> None:
    at_blocks(prepared, tmp_path, fault, 1)


@pytest.mark.nightly
@pytest.mark.parametrize("power_lost", [True, False], ids=["buffer lost", "file ended"])
def test_a_kill_before_any_step_loses_nothing(
    prepared: Prepared, tmp_path: Path, power_lost: bool
) -> None:
    at_steps(prepared, tmp_path, power_lost, 1)
