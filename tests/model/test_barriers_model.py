"""Barrier inference under arbitrary ops: it never fails, and what it says holds together."""

from __future__ import annotations

import itertools
import os
import random
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from store.format import Flag, Kind
from store.index_rows import Point
from tests.unit.program_log import ProgramLog

STEPS = int(os.environ.get("CDPFS_MODEL_STEPS", "300"))
NAMES = ("a", "b", "c", "app.db", "app.db-journal", "x.1", "x.2", "t.lock")
FOLDERS = ("", "one/", "two/")


class Play:
    """Random programs at work in a few directories."""

    def __init__(self, chance: random.Random, log: ProgramLog | None = None) -> None:
        self.log = ProgramLog() if log is None else log
        self.log.program(1000)
        self._chance = chance
        self._files: list[str] = []
        self._made = 0
        for folder in FOLDERS[1:]:
            self.log.mkdir(folder[:-1])

    def step(self) -> None:
        """One op, or a few."""
        chance, log = self._chance, self.log
        if chance.random() < 0.15:
            log.program(chance.randrange(1000, 1006), chance.choice((1, 900, 1000)))
        if chance.random() < 0.05:
            log.wait(chance.choice((0.01, 0.6, 2.5)))
        if not self._files or chance.random() < 0.12:
            self._create()
            return
        path = chance.choice(self._files)
        match chance.randrange(12):
            case 0 | 1 | 2:
                log.write(path, chance.choice((0, 0, 5, 4096)), chance.choice((b"x", bytes(28))))
            case 3 | 4 | 5:
                log.sync(path)
            case 6:
                log.close(path)
            case 7:
                log.truncate(path, chance.choice((0, 10)))
            case 8:
                self._files.remove(path)
                log.unlink(path)
            case 9:
                self._rename(path)
            case 10:
                self._link(path)
            case _:
                log.write(path, 0, b"y", Flag.SYNCHRONOUS)
        if chance.random() < 0.02:
            log.op(chance.choice((Kind.CLEAN, Kind.MOUNT, Kind.CHECKPOINT)), payload=b"{}")

    def _new_path(self) -> str:
        self._made += 1
        name = self._chance.choice((*NAMES, f"tmp{self._made}"))
        return self._chance.choice(FOLDERS) + name

    def _create(self) -> None:
        path = self._new_path()
        if path not in self._files:
            self.log.create(path)
            self._files.append(path)

    def _rename(self, path: str) -> None:
        new = self._new_path()
        if new != path:
            self.log.rename(path, new)
            self._files.remove(path)
            if new not in self._files:
                self._files.append(new)

    def _link(self, path: str) -> None:
        new = self._new_path()
        if new not in self._files:
            self.log.link(path, new)
            self._files.append(new)


def check(points: list[Point], last: int) -> None:
    """A group's points follow each other and end where its next change begins."""
    groups = defaultdict(list)
    for point in points:
        assert 0 < point.lsn <= last
        assert point.grade in ("sync", "transaction")
        assert point.until == 0 or point.lsn < point.until <= last
        groups[point.group].append(point)
    for of_group in groups.values():
        for before, after in itertools.pairwise(of_group):
            assert before.lsn < after.lsn
            assert before.until == 0 or before.until <= after.lsn


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 40))
def test_what_is_said_of_a_batch_stays_true_whatever_comes_behind_it(seed: int, often: int) -> None:
    play = Play(random.Random(seed))
    said: dict[tuple[int, int], Point] = {}
    last = 0
    for number in range(STEPS):
        play.step()
        if number % often:
            continue
        found = {(point.group, point.lsn): point for point in play.log.points()}
        for key, point in said.items():
            now = found.get(key)
            assert now is not None, f"{point} was taken back"
            assert now.until == point.until or now.until > last, f"{point} ended before it was read"
        said, last = found, len(play.log.ops)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32))
def test_any_ops_give_points_that_hold_together_and_do_not_depend_on_restarts(
    seed: int, restarts: int
) -> None:
    results = []
    for restart in (None, random.Random(restarts)):
        chance = random.Random(seed)
        play = Play(chance)
        for number in range(STEPS):
            play.step()
            if number % 11 == 0:
                play.log.commit(restart=restart is not None and restart.random() < 0.5)
        points = play.log.points()
        check(points, len(play.log.ops))
        results.append((points, play.log.rows.groups, play.log.rows.rows))
    assert results[0] == results[1]
