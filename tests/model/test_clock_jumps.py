"""A week in which the machine's clock jumps: history keeps its order, and times stay monotone."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from store.format import Kind
from store.indexer import Indexer
from store.intake import Intake
from store.journal import Journal
from store.statepage import StatePage
from store.tail import IntakeTail
from store.types import Lsn, TimeNs
from store.volume import Store, new_config
from timetravel.errors import TimetravelError
from timetravel.moment import AtTime, parse_moment
from timetravel.points import selection_for_listing
from timetravel.resolve import resolve

S = 10**9
HOUR, DAY = 3600 * S, 86_400 * S
START = 1_770_000_000 * S
CHECKPOINT = 30 * S

JUMPS = st.one_of(
    st.just(0),
    st.integers(-5 * S, 5 * S),  # steps of NTP
    st.sampled_from([-HOUR, HOUR]),  # somebody mistakes the zone
    st.integers(-3 * DAY, 3 * DAY),
)
PAUSES = st.integers(1, 12 * HOUR)
WEEK = st.lists(st.tuples(PAUSES, JUMPS, st.integers(1, 5)), min_size=1, max_size=30)
"""(time that passes, jump of the clock, ops after it)."""


@dataclass
class Clock:
    """The machine's: `true_ns` goes on, `off_ns` is by how much it is wrong."""

    true_ns: int = START
    off_ns: int = 0

    def __call__(self) -> int:
        return self.true_ns + self.off_ns


class Week:
    """A log that is written while the clock jumps."""

    def __init__(self, root: Path) -> None:
        config = new_config("/nowhere", 1, ring_files=3, ring_file_bytes=1 << 20)
        self.store = Store.create(root / "store", config)
        self.page = StatePage(self.store.state_path)
        self.clock = Clock()
        end = IntakeTail(self.store).end_of_log()
        self.intake = Intake.open(self.store, end, Lsn(0), self.clock)
        self.noted: list[tuple[int, Lsn]] = []
        """(what the clock said, LSN) of every note of the clock, in order."""
        self.said: list[int] = []
        self.note(Kind.MOUNT)

    def note(self, kind: Kind) -> None:
        """An op that tells what the clock says."""
        wall = self.clock()
        lsn = self.intake.append(kind, 0, 0, json.dumps({"time_ns": wall}).encode())
        self.noted.append((wall, lsn))
        self.said.append(wall)

    def live(self, pause: int, jump: int, ops: int) -> None:
        """Time passes, the clock jumps, some ops follow, and a checkpoint."""
        self.clock.true_ns += pause
        self.clock.off_ns += jump
        for _ in range(ops):
            self.intake.append(Kind.MARK, 0, 0, b"%d" % self.intake.lsn)
            self.said.append(self.clock())
            self.clock.true_ns += S
        self.note(Kind.CHECKPOINT)

    def index(self) -> None:
        """All of it."""
        self.page.appended_lsn = self.page.applied_lsn = self.intake.lsn
        indexer = Indexer(self.store)
        indexer.step(0, everything=True)
        indexer.close()

    def close(self) -> None:
        """Give everything back."""
        self.intake.close()
        self.page.close()


@given(WEEK, st.randoms(use_true_random=False))
def test_clock_jumps_never_reorder_history(
    week: list[tuple[int, int, int]], rng: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as root:
        lived = Week(Path(root))
        try:
            for pause, jump, ops in week:
                lived.live(pause, jump, ops)
            lived.index()
            with Journal(lived.store) as journal:
                check(lived, journal, rng)
        finally:
            lived.close()


def check(lived: Week, journal: Journal, rng: random.Random) -> None:
    """What must hold after any week."""
    ops = list(journal.ops(Lsn(1), Lsn(1 << 62)))
    assert [op.lsn for op in ops] == list(range(1, lived.intake.lsn + 1))
    assert all(one.time_ns < next_.time_ns for one, next_ in pairwise(ops))
    now = lived.clock()
    asked = [rng.choice(lived.said) + rng.choice((-1, 0, 1, 15 * S, -HOUR)) for _ in range(40)]
    asked += [op.time_ns for op in rng.sample(ops, min(len(ops), 10))]
    found = [(time_ns, journal.lsn_at_clock(time_ns)) for time_ns in sorted(asked)]
    assert all(one[1] <= next_[1] for one, next_ in pairwise(found)), found
    for time_ns, lsn in found:
        check_not_too_old(lived, time_ns, lsn)
        try:
            point = resolve(journal, AtTime(TimeNs(time_ns)), now_ns=now)
        except TimetravelError:
            assert time_ns > now or lsn == 0 or time_ns < START  # in the future, or too early
        else:
            assert point.lsn == lsn or time_ns == now
    for text in ("@now", "@-10m", "@yesterday", "@03:00"):
        try:
            resolve(journal, parse_moment(text, now_ns=now, zone="Europe/Berlin"), now_ns=now)
        except TimetravelError:
            assert text != "@now"
    for listed in selection_for_listing(journal, now):
        moment = parse_moment(listed.entry_name, now_ns=now, zone=None)
        assert resolve(journal, moment, now_ns=now).lsn == listed.lsn


def check_not_too_old(lived: Week, time_ns: int, lsn: Lsn) -> None:
    """What was noted at or before a time is in the state of that time."""
    for wall, noted in lived.noted:
        if wall <= time_ns:
            assert lsn >= noted or lived_time(lived, noted) <= wall + S, (time_ns, wall, noted, lsn)


def lived_time(lived: Week, lsn: Lsn) -> int:
    """The largest time that the clock had said up to an op: about what the log has for it."""
    return max(lived.said[:lsn])


def test_a_clock_that_was_far_ahead_leaves_the_time_after_it_findable(tmp_path: Path) -> None:
    lived = Week(tmp_path)
    lived.live(HOUR, 0, 3)
    before = lived.intake.lsn
    lived.live(HOUR, 3650 * DAY, 3)
    lived.live(60 * S, -3650 * DAY, 1)
    for _ in range(100):
        lived.live(60 * S, 0, 2)
    lived.index()
    now = lived.clock()
    with Journal(lived.store) as journal:
        for minutes in (1, 5, 30):
            point = resolve(journal, AtTime(TimeNs(now - minutes * 60 * S)), now_ns=now)
            behind = lived.intake.lsn - point.lsn
            assert 3 * minutes - 3 <= behind <= 3 * minutes + 3
        early = resolve(journal, AtTime(TimeNs(START + HOUR + HOUR // 2)), now_ns=now)
        assert early.lsn == before
    lived.close()
