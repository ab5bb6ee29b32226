"""What must hold on each day of the simulated year, by the cartridges themselves.

`Checks` knows the site's points and where each cartridge is; the catalogue is asked for nothing but
whether it tells the truth. A point is kept by a pool as long as it is younger than `keep_days`.
"""

from __future__ import annotations

from collections.abc import Iterable

from tape.catalogue_state import State
from tests.tape.history import Site
from tests.tape.physical import Cartridges, FoundSet


class Checks:
    """For one site and its cartridges."""

    def __init__(self, site: Site, cartridges: Cartridges) -> None:
        self._site = site
        self._cartridges = cartridges
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
