"""Finding the first bad moment: the search itself, and the points at which all groups are clean."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from store.barrier_state import Group
from store.index_rows import Point
from store.types import Lsn, NodeId, TimeNs
from timetravel.bisect import common_points, first_bad, lsns_of


@given(st.lists(st.booleans(), max_size=200))
def test_the_two_found_are_neighbours_one_good_and_one_bad(between: list[bool]) -> None:
    states = [True, *between, False]
    moments = [number * 3 + 1 for number in range(len(states))]
    asked: list[int] = []

    def is_good(moment: int) -> bool:
        asked.append(moment)
        return states[moments.index(moment)]

    good, bad = first_bad(moments, is_good)
    assert moments.index(bad) - moments.index(good) == 1
    assert states[moments.index(good)]
    assert not states[moments.index(bad)]
    assert len(asked) <= math.ceil(math.log2(len(moments)))


@given(st.integers(0, 60), st.integers(1, 60))
def test_a_single_change_is_found(good_ones: int, bad_ones: int) -> None:
    moments = range(good_ones + bad_ones + 1)
    assert first_bad(moments, lambda moment: moment <= good_ones) == (good_ones, good_ones + 1)


def group(number: int, first: int, merged_into: int = 0, merged_at: int = 0) -> Group:
    return Group(
        Lsn(number),
        (NodeId(number),),
        (),
        Lsn(first),
        Lsn(0),
        TimeNs(0),
        Lsn(0),
        Lsn(merged_into),
        Lsn(merged_at),
        "",
    )


def point(lsn: int, of: int, until: int) -> Point:
    return Point(Lsn(lsn), TimeNs(lsn), "sync", Lsn(of), "", "", Lsn(until))


def test_common_points_are_those_at_which_no_other_group_is_open() -> None:
    groups = [group(1, 1), group(2, 5)]
    found = [
        point(3, 1, 10),  # the other group is not there yet
        point(7, 2, 11),  # the first one has not changed since
        point(12, 1, 14),  # the second one is open
        point(13, 2, 0),
        point(20, 1, 0),
    ]
    assert [p.lsn for p in common_points(found, groups)] == [3, 7, 13, 20]


def test_a_mark_is_common_and_a_group_that_was_merged_is_no_hindrance() -> None:
    groups = [group(1, 1), group(2, 2, merged_into=1, merged_at=6)]
    mark = Point(Lsn(4), TimeNs(4), "mark", Lsn(0), "set by name", "m", Lsn(0))
    found = [point(3, 1, 5), mark, point(8, 1, 0)]
    assert [p.lsn for p in common_points(found, groups)] == [4, 8]


def test_the_moments_are_strictly_between_and_each_is_there_once() -> None:
    found = [point(lsn, 1, 0) for lsn in (1, 2, 2, 3, 5)]
    assert list(lsns_of(found, Lsn(1), Lsn(5))) == [2, 3]
