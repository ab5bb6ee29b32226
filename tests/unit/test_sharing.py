"""One limit for several processes: by weight, among those with work, never more than the limit."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.sharing import Claim, Sharer, demand, shares

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = st.lists(
    st.builds(
        Claim,
        st.floats(0.01, 1000),
        st.just(0.0) | st.floats(1, 1e10) | st.just(float("inf")),
    ),
    max_size=12,
)


@given(limit=st.floats(0, 1e10), claims=CLAIMS)
def test_shares_are_the_limit_or_all_that_is_wanted(limit: float, claims: list[Claim]) -> None:
    given_bps = shares(limit, claims)
    wanted = sum(claim.wanted_bps for claim in claims)
    assert sum(given_bps) == pytest.approx(min(limit, wanted), rel=1e-6, abs=1e-6)
    for claim, share in zip(claims, given_bps, strict=True):
        assert 0 <= share <= claim.wanted_bps


@given(limit=st.floats(1, 1e10), claims=CLAIMS)
def test_nobody_who_wants_more_gets_less_by_weight_than_another(
    limit: float, claims: list[Claim]
) -> None:
    given_bps = shares(limit, claims)
    ratios = [share / claim.weight for claim, share in zip(claims, given_bps, strict=True)]
    for claim, share, ratio in zip(claims, given_bps, ratios, strict=True):
        if share < claim.wanted_bps * (1 - 1e-9):
            assert ratio >= max(ratios) * (1 - 1e-9)


def test_shares_are_by_weight_among_those_that_want() -> None:
    full = float("inf")
    assert shares(900, [Claim(1, full), Claim(2, full), Claim(5, 0)]) == [300, 600, 0]
    assert shares(900, [Claim(1, full), Claim(2, 100)]) == [800, 100]


def test_demand_grows_with_work_and_falls_with_its_end() -> None:
    assert demand(1e6, 0, waiting=True) == 1e6
    assert demand(1e6, 1e5, waiting=False) == 2e5
    assert demand(1e6, 9e5, waiting=False) == 1e6
    assert demand(1e6, 0, waiting=False) == 0


ACTOR = """
import sys
from pathlib import Path
from replicator.sharing import Claim, Sharer
sharer = Sharer(Path(sys.argv[1]))
for line in sys.stdin:
    limit, weight, wanted = map(float, line.split())
    print(sharer.look(limit, Claim(weight, wanted)), flush=True)
sharer.close()
"""


class Actor:
    """Another process that shares."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ACTOR, str(home)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def look(self, limit: float, weight: float, wanted: float) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{limit} {weight} {wanted}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        with self.process:  # closes the pipes, and waits
            self.process.kill()


@contextmanager
def actors(home: Path, count: int) -> Iterator[list[Actor]]:
    running = [Actor(home) for _ in range(count)]
    try:
        yield running
    finally:
        for actor in running:
            actor.end()


def test_a_share_moves_in_two_looks_and_is_never_in_two_hands(tmp_path: Path) -> None:
    with actors(tmp_path, 2) as (one, other):
        assert one.look(1000, 1, 1000) == 1000
        assert other.look(1000, 3, 1000) == 0  # the first one still uses all of it
        assert one.look(1000, 1, 1000) == 250
        assert other.look(1000, 3, 1000) == 750
        assert one.look(1000, 1, 0) == 0
        assert other.look(1000, 3, 1000) == 1000


def test_a_lower_limit_holds_at_once_for_each(tmp_path: Path) -> None:
    with actors(tmp_path, 2) as (one, other):
        one.look(1000, 1, 1000), other.look(1000, 1, 1000)
        one.look(1000, 1, 1000), other.look(1000, 1, 1000)
        assert one.look(100, 1, 1000) == 0  # the other one still uses 500
        assert other.look(100, 1, 1000) == 50
        assert one.look(100, 1, 1000) == 50


@pytest.mark.parametrize("way", ["killed", "stopped in order"])
def test_one_that_is_gone_is_forgotten(tmp_path: Path, way: str) -> None:
    with actors(tmp_path, 2) as (one, other):
        assert one.look(1000, 1, 1000) == 1000
        if way == "killed":
            one.process.send_signal(signal.SIGKILL)
        else:
            assert one.process.stdin is not None
            one.process.stdin.close()
        one.process.wait()
        assert other.look(1000, 1, 1000) == 1000


def test_one_that_hangs_keeps_what_it_used_and_no_more(tmp_path: Path) -> None:
    with actors(tmp_path, 2) as (one, other):
        one.look(1000, 1, 300)
        one.process.send_signal(signal.SIGSTOP)
        assert other.look(1000, 1, 1000) == 700


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "throttle.shared").write_bytes(os.urandom(5000))
    sharer = Sharer(tmp_path)
    try:
        assert sharer.look(1000, Claim(1, 1000)) == 1000
    finally:
        sharer.close()
