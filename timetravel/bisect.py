"""Finding the first bad moment: the moments to try, and the order in which to try them.

Duty: LSNs at which everything concerned is between transactions, and a binary search over them.
Pure but for what it is given; one thread. It does not know what "bad" is.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from store.barrier_state import Group
from store.index_rows import Point
from store.types import Lsn


def common_points(points: Iterable[Point], groups: Sequence[Group]) -> Iterator[Point]:
    """Those of `points` (in LSN order) at which every one of `groups` is clean; marks always.

    A group that has no point among them yet counts as being in the midst of something from its
    first op on.
    """
    events = [(group.first_lsn, group.id) for group in groups]
    events += [(group.merged_at, group.id) for group in groups if group.merged_into]
    heapq.heapify(events)
    merged = {group.id: group.merged_at for group in groups if group.merged_into}
    until: dict[Lsn, Lsn] = {}
    dirty: set[Lsn] = set()
    for point in points:
        while events and events[0][0] <= point.lsn:
            at, number = heapq.heappop(events)
            if number in merged and at >= merged[number]:
                dirty.discard(number)
            elif number not in until or until[number] == at:
                dirty.add(number)
        if not point.group:
            yield point
            continue
        dirty.discard(point.group)
        until[point.group] = point.until
        if point.until:
            heapq.heappush(events, (point.until, point.group))
        if not dirty:
            yield point


def lsns_of(points: Iterable[Point], start: Lsn, stop: Lsn) -> array[int]:
    """The LSNs of points strictly between two, each once, in order; 8 bytes for each."""
    found = array("Q")
    for point in points:
        if start < point.lsn < stop and (not found or found[-1] != point.lsn):
            found.append(point.lsn)
    return found


def first_bad(moments: Sequence[int], is_good: Callable[[int], bool]) -> tuple[int, int]:
    """(last good, first bad) of `moments`, the first of which is good and the last of which is bad.

    The two are neighbours, and the second is bad where the first is good, even if good and bad
    alternate. At most log2(len(moments)) questions, rounded up.
    """
    good, bad = 0, len(moments) - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(moments[middle]):
            good = middle
        else:
            bad = middle
    return moments[good], moments[bad]
