"""What must hold on each day of the simulated year, by the cartridges themselves.

`Checks` knows the site's points and where each cartridge is; the catalogue is asked for nothing but
whether it tells the truth. A point is kept by a pool as long as it is younger than `keep_days`.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable
from pathlib import Path

from store.journal import Journal
from store.types import Lsn
from tape.archive_reader import ArchiveReader
from tape.catalogue_state import State
from tape.rebuild import Rebuild
from tests.tape.history import Point, Site, assert_consistent, fingerprint
from tests.tape.physical import Cartridges, FoundSet, pieces_of
from timetravel.view import View


class Checks:
    """For one site and its cartridges; `work` is a folder for stores that are rebuilt."""

    def __init__(self, site: Site, cartridges: Cartridges, work: Path) -> None:
        self._site = site
        self._cartridges = cartridges
        self._work = work
        self._rng = random.Random(1)
        self._prints: dict[int, str] = {}
        self.rebuilt = 0
        self.first_lsn = 0
        """Where the first set stands: what was before is on no cartridge."""

    def books_are_true(self, state: State) -> None:
        """Each archive that the catalogue counts on is there, byte for byte."""
        where = {label_id: code for code, label_id in self._cartridges.labels().items()}
        for cartridge in state.cartridges.values():
            if cartridge.recycled_ns or cartridge.retired_ns:
                continue
            for archive in cartridge.archives:
                found = self._cartridges.archive(where[cartridge.label_id], archive.file)
                assert archive.bad or (found is not None and found.digest == archive.digest), (
                    f"{cartridge.name}, file {archive.file} is not what the catalogue says"
                )

    def covers(self, sets: Iterable[FoundSet], first_ns: int, last_lsn: int, whose: str) -> int:
        """Every point since `first_ns` up to `last_lsn` is in one of the sets; how many.

        But for those of before the first set was begun.
        """
        wanted = [
            point
            for point in self._site.points
            if point.time_ns >= first_ns and self.first_lsn <= point.lsn <= last_lsn
        ]
        spans = [(each.base_lsn, each.last_lsn) for each in sets if each.last_lsn]
        for point in wanted:
            assert any(first <= point.lsn <= last for first, last in spans), (
                f"{whose}: LSN {point.lsn} is kept, and no set of {spans} gives it back"
            )
        return len(wanted)

    def restores(self, found: FoundSet, samples: int) -> None:
        """A store made from nothing but the set's archives is the site at each of its points."""
        inside = [point for point in self._site.points if found.holds(point.lsn)]
        root = self._work / f"rebuilt{self.rebuilt}"
        self.rebuilt += 1
        with Rebuild(root) as rebuild:
            for each in found.archives:
                rebuild.take(ArchiveReader(pieces_of(each.path)))
            store = rebuild.finish().store
        with Journal(store) as journal:
            assert journal.indexed_lsn == found.last_lsn
            # I-5: what a set ends at, when nobody names a moment.
            assert_consistent(View(journal, Lsn(found.barrier_lsn)))
            for point in self._some(inside, samples):
                view = View(journal, Lsn(point.lsn))
                assert_consistent(view)
                assert fingerprint(view) == self._print(point.lsn), f"LSN {point.lsn}"
        shutil.rmtree(root)

    def _some(self, points: list[Point], samples: int) -> list[Point]:
        """The first, the last, and some in between."""
        if len(points) <= samples:
            return points
        return [points[0], points[-1], *self._rng.sample(points[1:-1], max(0, samples - 2))]

    def _print(self, lsn: int) -> str:
        if lsn not in self._prints:
            with Journal(self._site.store) as journal:
                self._prints[lsn] = fingerprint(View(journal, Lsn(lsn)))
        return self._prints[lsn]
