"""A site and its library, day by day: work, spooling with faults, people, and what must hold.

`Year` moves one clock through the days. Each night the spooler has its runs, with whatever goes
wrong in them; cartridges of the off-site pool go out and come back. After each day `Checks`
looks at the cartridges themselves: the catalogue is never asked whether something is there.

A point is *kept* by a pool as long as it is younger than the pool's `keep_days`; what is older may
be there as well.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from store.journal import Journal
from tape.catalogue_file import CatalogueFile, read_catalogue
from tape.catalogue_state import State
from tape.errors import NoScratch
from tape.librarian import Librarian
from tape.library import Library, open_library
from tape.reach import reach_of
from tape.run import robot_for
from tape.scan import scan_library
from tape.shopping import to_bring_back
from tape.virtual_places import PlacesFile
from tests.tape.checks import Checks
from tests.tape.clock import DAY_S, NS_PER_S, Clock
from tests.tape.faults import Steps, swap_slots, swap_stickers
from tests.tape.history import Site
from tests.tape.physical import Cartridges, FoundSet
from tests.tape.spooling import (
    CAPACITY_BYTES,
    OFFSITE_KEEP_DAYS,
    ONSITE_KEEP_DAYS,
    Outcome,
    Run,
    Spooling,
    all_rest,
)

TREE_BYTES = 500_000
CHANGES = (0.03, 0.08)
"""Of the capacity of a cartridge, each day."""
YEAR_START_NS = 1_772_665_200 * NS_PER_S
"""2026-03-05T00:00 in Berlin."""
HOUR_NS = 3600 * NS_PER_S
DAY_NS = DAY_S * NS_PER_S
TROUBLES = (
    "write_error",
    "deferred_error",
    "silent_loss",
    "warning",
    "end",
    "filemark_error",
    "filemark_end",
    "read_error",
    "dead_at_block",
    "dead drive",
    "jam",
    "jam for good",
    "late changer",
    "barcode unreadable",
    "first load",
    "cleaning",
    "slots mixed up",
    "stickers mixed up",
    "write-protected",
    "catalogue lost",
    "killed",
    "killed, the file ended",
)
MAX_RUNS = 40
"""A night's work that isn't done after so many kills and faults never will be."""


class Year:
    """The site below `base`; its troubles come from the seed. `fault_rate`: runs with a fault."""

    def __init__(self, base: Path, seed: int, start_ns: int, fault_rate: float) -> None:
        self.base = base
        self.home = base / "library"
        self.rng = random.Random(seed)
        self.clock = Clock(start_ns)
        self.fault_rate = fault_rate
        self.site = Site(base / "store", seed, self.clock, TREE_BYTES)
        self.faults: Counter[str] = Counter()
        """What was tried, for the report."""
        self.spooling = Spooling(self.site.store, self.home, self.clock)
        self.spooling.create()
        self.cartridges = Cartridges(self.home)
        self.checks = Checks(self.site, self.cartridges, base)
        self.outside: set[str] = set()
        """Stickers of the cartridges that were taken out."""
        self.returned = self.bought = 0
        """Cartridges."""
        self.outside_lsn = 0
        """Up to here the cartridges outside have everything that is kept."""

    def close(self) -> None:
        """Give the files back."""
        self.site.close()

    # --- a day ----------------------------------------------------------------------------------

    def day(self, check_stores: bool) -> None:
        """One day, from one midnight to the next, and what must hold at its end.

        `check_stores`: sets are restored, too, and the library is scanned from nothing.
        """
        start_ns = self.clock.now_ns()
        self.clock.go_to(start_ns + 6 * HOUR_NS)
        self.people()
        change = int(CAPACITY_BYTES * self.rng.uniform(*CHANGES))
        unfinished = self.rng.random() < 0.3
        self.site.work(change, start_ns + 22 * HOUR_NS, unfinished)
        self.clock.go_to(start_ns + 22 * HOUR_NS)
        self.night()
        self.check(check_stores)
        self.clock.go_to(start_ns + DAY_S * NS_PER_S)

    def night(self) -> None:
        """Runs of the spooler, until everything is on tape, whatever goes wrong on the way."""
        for turn in range(MAX_RUNS):
            trouble = ""
            if self.rng.random() < self.fault_rate and turn < MAX_RUNS // 2:
                trouble = self.rng.choice(TROUBLES)
                self.faults[trouble] += 1
            outcome = self._run(trouble)
            if all_rest(outcome) and not trouble:
                return
            if any(isinstance(each, NoScratch) for each in outcome.values()):
                self._new_cartridge()
            self.clock.pause(600)
        raise AssertionError(f"the night's work never ended: {outcome}")

    def _run(self, trouble: str) -> dict[str, Outcome]:
        """One run of the spooler; nothing when its process was killed in it."""
        when = self.rng.randrange(60)
        steps = Steps(when * 4 if trouble.startswith("killed") else -1)
        self._mix_up(trouble)
        try:
            return self.spooling.run(
                lambda run: self._arm(trouble, when, run), steps, trouble == "killed"
            )
        finally:
            if trouble == "write-protected":
                self._protect(False)

    def _mix_up(self, trouble: str) -> None:
        """What people and disks do to a library while nobody works with it."""
        inside = [code for code in PlacesFile(self.home, "CLN").read().slots if code[:1] == "A"]
        match trouble:
            case "slots mixed up":
                swap_slots(self.home, *self.rng.sample(range(1, 20), 2))
            case "stickers mixed up":
                swap_stickers(self.home, *self.rng.sample(inside, 2))
            case "write-protected":
                self._protect(True)
            case "catalogue lost":
                self._replace_catalogue()

    def _protect(self, protected: bool) -> None:
        """Somebody moves the tabs of some cartridges, or of all of them back."""
        with open_library(self.home, "people") as library:
            assert library.virtual is not None
            every = sorted(folder.name for folder in (self.home / "cartridges").iterdir())
            for barcode in self.rng.sample(every, 4) if protected else every:
                library.virtual.set_write_protected(barcode, protected)

    def _replace_catalogue(self) -> None:
        """It is gone, and made anew from the cartridges."""
        shutil.rmtree(self.home / "catalogue")
        state = self._scanned()
        CatalogueFile.replace(self.home / "catalogue", state)

    def _arm(self, trouble: str, when: int, run: Run) -> None:
        """Have a run meet its trouble."""
        faults = self.rng.choice(run.drives).faults
        match trouble:
            case "jam" | "jam for good":
                run.changer.faults.jam_at = when % 4
                run.changer.faults.jams = 1 if trouble == "jam" else 100
            case "late changer":
                run.changer.faults.late_at = when % 4
            case "barcode unreadable":
                run.changer.faults.unreadable.add(f"A{self.rng.randrange(1, 20):05d}L8")
            case "first load":
                faults.busy = "first load: calibrating"
                faults.busy_until_ns = self.clock.now_ns() + 2 * HOUR_NS
            case "cleaning":
                assert run.library.virtual is not None
                run.library.virtual.request_cleaning(self.rng.randrange(len(run.drives)))
            case "dead drive":
                faults.dead = True
            case _ if hasattr(faults, trouble):
                for drive in run.drives:
                    setattr(drive.faults, trouble, when % 2 if "mark" in trouble else when)
                    drive.faults.warned_block_lost = self.rng.random() < 0.5

    # --- people ---------------------------------------------------------------------------------

    def people(self) -> None:
        """What lies in the doors is taken away; what need not be away any longer comes back."""
        with self._librarian() as (library, librarian):
            self._take_away(library)
            sets = self._sets(self.outside, "offsite")
            self.outside_lsn = max([self.outside_lsn, *(each.last_lsn for each in sets)])
            librarian.take_inventory()
            stickers = {label_id: code for code, label_id in self.cartridges.labels().items()}
            for cartridge in to_bring_back(librarian.state, self.clock.now_ns()):
                there = library.changer.inventory()
                if all(door.full for door in there.doors):
                    break
                barcode = stickers[cartridge.label_id]
                assert library.virtual is not None
                library.virtual.insert(barcode)
                self.outside.remove(barcode)
                self.returned += 1
            self._take_in(librarian)

    def _take_away(self, library: Library) -> None:
        assert library.virtual is not None
        for door in library.changer.inventory().doors:
            if door.full:
                label = self.cartridges.label(door.barcode)
                assert label is not None and label.pool == "offsite", f"{door} is to stay here"
                library.virtual.take_out(door.number)
                self.outside.add(door.barcode)

    def _new_cartridge(self) -> None:
        """A person buys one, and throws those away that failed before anything was on them."""
        with self._librarian() as (library, librarian):
            assert library.virtual is not None
            self._take_away(library)
            file = PlacesFile(self.home, "CLN")
            places = file.read()
            stickers = {label_id: code for code, label_id in self.cartridges.labels().items()}
            for cartridge in librarian.state.cartridges.values():
                sticker = stickers.get(cartridge.label_id, "")
                if cartridge.closed_ns and not cartridge.archives and sticker in places.slots:
                    places.slots[places.slots.index(sticker)] = ""
            file.write(places)
            librarian.take_inventory()
            library.virtual.insert_blank()
            self._take_in(librarian)
            self.bought += 1

    def _take_in(self, librarian: Librarian) -> None:
        _, refused = librarian.take_in()
        assert not refused, refused

    @contextmanager
    def _librarian(self) -> Iterator[tuple[Library, Librarian]]:
        with (
            open_library(self.home, "people") as library,
            CatalogueFile.open(library.catalogue) as catalogue,
        ):
            clock = self.clock
            yield (
                library,
                Librarian(library, catalogue, now_ns=clock.now_ns, pause=clock.pause),
            )

    # --- what must hold -------------------------------------------------------------------------

    def check(self, stores: bool) -> None:
        """See the module."""
        state = read_catalogue(self.home / "catalogue")
        self.checks.books_are_true(state)
        now_ns, end = self.clock.now_ns(), self.site.points[-1].lsn
        inside = PlacesFile(self.home, "CLN").read().barcodes()
        onsite = self._sets(inside, "onsite")
        self.checks.first_lsn = self.checks.first_lsn or onsite[0].base_lsn
        self.checks.covers(onsite, now_ns - ONSITE_KEEP_DAYS * DAY_NS, end, "on-site")
        away_ns = now_ns - OFFSITE_KEEP_DAYS * DAY_NS
        offsite = self._sets([*inside, *self.outside], "offsite")
        self.checks.covers(offsite, away_ns, end, "both of the off-site pool")
        away = self._sets(self.outside, "offsite")
        self.checks.covers(away, away_ns, self.outside_lsn, "off-site alone")
        if stores:
            self._scan(onsite)
            for sets in (onsite, away):
                good = [each for each in sets if each.last_lsn]
                if good:
                    self.checks.restores(good[-1], 3)
                    self.checks.restores(self.rng.choice(good), 3)

    def _scan(self, onsite: list[FoundSet]) -> None:
        """The cartridges alone, without a catalogue, tell everything that they have."""
        state = self._scanned()
        reaches = {each.set_id: reach_of(state, each) for each in state.sets.values()}
        for found in onsite:
            reach = reaches[found.archives[0].head.set_id]
            if found.last_lsn:
                assert reach is not None
                assert (reach.base_lsn, reach.last_lsn) == (found.base_lsn, found.last_lsn)
            else:
                assert reach is None

    def _scanned(self) -> State:
        folder = self.base / "scanned"
        with (
            open_library(self.home, "a scan") as library,
            CatalogueFile.create(folder) as catalogue,
            Journal(self.site.store) as journal,
        ):
            work = self.spooling.work(library, catalogue, journal, Steps())
            robot = robot_for(work)
            state = scan_library(robot, library, self.clock.now_ns(), lambda text: None).state
            robot.put_all_away()
        shutil.rmtree(folder)
        return state

    def _sets(self, barcodes: Iterable[str], pool: str) -> list[FoundSet]:
        found = self.cartridges.sets(barcodes).values()
        return sorted((each for each in found if each.pool == pool), key=lambda s: s.base_lsn)
