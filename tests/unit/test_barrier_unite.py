"""Two groups that turn out to be one may have more files between them than are told apart."""

from __future__ import annotations

from store.barrier_cycles import MAX_KEYS, united
from store.barrier_state import Rhythm


def rhythm(first: int, count: int) -> Rhythm:
    """As many fsyncs, each of another file."""
    return Rhythm(
        keys=[(1, b"%d" % number) for number in range(first, first + count)],
        events=list(range(count)),
        cleans=[True] * count,
        times_ns=list(range(first, first + count)),
        gaps_ns=[-1] * count,
        appends=[False] * count,
        fresh=[False] * count,
        actors=[1] * count,
    )


def test_too_many_files_together_are_forgotten_and_leave_the_parts_as_they_are() -> None:
    one, other = rhythm(1, MAX_KEYS - 2), rhythm(1000, 10)
    both = united(one, other)
    assert (both.keys, both.events, both.times_ns) == ([], [], [])
    assert (one, other) == (rhythm(1, MAX_KEYS - 2), rhythm(1000, 10))


def test_every_event_of_a_union_has_its_file() -> None:
    both = united(rhythm(1, MAX_KEYS - 10), rhythm(1000, 10))
    assert len(both.keys) == MAX_KEYS
    assert set(both.events) <= set(range(MAX_KEYS))
