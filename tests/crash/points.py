"""Every place inside one deed at which the daemon can die, one after the other.

A bench has a volume with a tree that is not seeded yet and its shadow. For each place: prepare,
note the tree and its LSN, do the deed with the death appointed, mount again, and check that the
deed has happened or has not, that the journal says the same, and that the moment before is still
as it was noted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from store.journal import Journal
from store.ring import make_ring_file
from store.types import Lsn
from tests.crash import copies
from tests.crash.copies import Copy, differences
from tests.crash.deeds import Deed
from tests.crash.victim import Victim
from tests.crash.writer import DEATH
from timetravel.view import View

MAX_PLACES = 40
"""More changes than any one deed makes."""

STALLED = 1
"""Bytes per second: after the first chunk the initial backup stands still."""

Scene = Callable[[int], tuple[list[Deed], Deed]]
"""Given the number of the attempt: what to prepare, and the deed during which death comes."""


class Bench:
    """One volume to die on. `deaths` counts."""

    def __init__(self, base: Path, furnish: Callable[[Path], None]) -> None:
        self._arm = base / "armed"
        self._shadow = base / "shadow"
        self.volume = Victim(base, at=True, seed_rate_bytes_s=STALLED)
        for number in range(self.volume.store.config.ring_files):
            make_ring_file(self.volume.store, number)  # no place to die at is of interest in there
        furnish(self.volume.backing)
        self._shadow.mkdir()
        furnish(self._shadow)
        self.deaths = 0

    def close(self) -> None:
        """Leave nothing behind."""
        self.volume.close()

    def try_every_place(self, scene: Scene, torn: bool = False) -> None:
        """Die at each place of the scene's deed in turn, until the deed survives."""
        for place in range(MAX_PLACES):
            self._mount(place, torn)
            if self._survives(*scene(place)):
                self._end_session()
                return
        raise AssertionError(f"no end after {MAX_PLACES} places")

    def _mount(self, place: int, torn: bool = False, armed: bool = False) -> bool:
        """Mount with the death appointed, for the start itself or for later; False if it came."""
        self._arm.unlink(missing_ok=True)
        if armed:
            self._arm.touch()
        environment = {
            **os.environ,
            "DOOM_ARM": str(self._arm),
            "DOOM_AT": str(place),
            "DOOM_TORN": "1" if torn else "",
        }
        self.volume.start("-m", "tests.crash.doomed", environment=environment)
        answer = self.volume.wait_mounted()
        assert answer is not None
        self._arm.unlink(missing_ok=True)
        if not answer or (armed and not self._lives()):
            assert self.volume.process is not None
            assert self.volume.process.wait() == -9, self.volume.log_text()
            self.volume.clear()
            return False
        assert answer.get("ok"), (answer, self.volume.log_text())
        return True

    def _survives(self, preparation: list[Deed], deed: Deed) -> bool:
        for step in preparation:
            step.do(str(self.volume.tree))
            step.do(str(self._shadow))
        before, lsn = copies.of_tree(self.volume.tree), Lsn(self.volume.sync())
        done = False
        self._arm.touch()
        try:
            deed.do(str(self.volume.tree))
        except OSError as error:
            if error.errno not in DEATH:
                raise
        else:
            done = True
            deed.do(str(self._shadow))
            self._arm.unlink(missing_ok=True)
            if self._lives():
                self._check(None, before, lsn)
                return True
        self.deaths += 1
        self._bury()
        self._recover_dying()
        self._check(None if done else deed, before, lsn)
        self._end_session()
        return False

    def _lives(self) -> bool:
        """Did the daemon outlive what comes after the deed, such as the release of the file?"""
        try:
            self.volume.sync()
        except (OSError, AssertionError):
            return False
        return True

    def _bury(self) -> None:
        assert self.volume.process is not None
        assert self.volume.process.wait() == -9, self.volume.log_text()
        self.volume.process = None
        self.volume.clear()

    def _recover_dying(self) -> None:
        """Die at each change of the recovery as well, before it is let through."""
        place = 0
        while not self._mount(place, armed=True):
            self.deaths += 1
            place += 1
            assert place < MAX_PLACES

    def _end_session(self) -> None:
        self.volume.kill_daemon()
        self.volume.clear()

    # --- what must hold ---------------------------------------------------------------------

    def _check(self, deed: Deed | None, before: Copy, lsn: Lsn) -> None:
        live = copies.of_tree(self.volume.tree)
        wrong = self._unlike_shadow(live)
        if wrong and deed is not None:
            deed.do(str(self._shadow))
            wrong = self._unlike_shadow(live)
        newest = Lsn(self.volume.sync())
        wrong += [f"newest view, {line}" for line in differences(self._past(newest), live)]
        wrong += [f"before the deed, {line}" for line in differences(self._past(lsn), before)]
        log = self.volume.log_text()
        wrong += [line for line in log.splitlines() if "external changes found" in line]
        assert not wrong, "\n".join([f"death {self.deaths} in {deed}", *wrong, log[-3000:]])

    def _unlike_shadow(self, live: Copy) -> list[str]:
        return differences(live, copies.of_tree(self._shadow), times=False)

    def _past(self, lsn: Lsn) -> Copy:
        with Journal(self.volume.store) as journal:
            return copies.of_view(View(journal, lsn, self.volume.demand))
