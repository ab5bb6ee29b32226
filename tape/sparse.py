"""Sparse files in archives: GNU's sparse format 1.0. Pure; any thread; no I/O.

Duty: the map of a member's data areas, to bytes and back; and where a large file is cut into parts.
The map is decimal lines (count, then offset and size of each area), filled up to a block; the data
of all areas follows. See "Sparse Formats" in the manual of GNU tar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from tape.errors import BadArchive
from tape.pax import BLOCK_BYTES, padding

MAX_AREAS: Final = 200_000
"""Of one member. A file with more is cut into parts."""

MIN_HOLE_BYTES: Final = 64 << 10
"""Holes smaller than this are written as zeros."""

AREA_MAP_BYTES: Final = 42
"""The most that an area takes in the map: two numbers of 20 digits, two line ends."""

_MAX_DIGITS: Final = 20

Area = tuple[int, int]
"""`[start, stop)` of a file."""


def joined(areas: Iterable[Area], start: int, stop: int) -> Iterator[Area]:
    """The areas within `[start, stop)`, those with small holes between them as one.

    So are small holes before the first one and behind the last. Areas begin and end at tar blocks,
    from which GNU tar reads each anew; `start` must be at one, and only `stop` may not be.
    """
    assert start % BLOCK_BYTES == 0
    open_start = open_stop = start
    for area_start, area_stop in areas:
        low = max(area_start // BLOCK_BYTES * BLOCK_BYTES, start)
        high = min(-(-area_stop // BLOCK_BYTES) * BLOCK_BYTES, stop)
        if low >= high:
            continue
        if low - open_stop >= MIN_HOLE_BYTES:
            if open_stop > open_start:
                yield open_start, open_stop
            open_start = low
        open_stop = high
    if open_stop > open_start:
        yield open_start, stop if stop - open_stop < MIN_HOLE_BYTES else open_stop


def cut_parts(areas: Iterable[Area], size_bytes: int, part_bytes: int) -> list[int]:
    """Where to cut a file so that each part, with its map, takes at most `part_bytes`.

    The first cut is 0 and the last one `size_bytes`; the others are at tar blocks, as the areas
    have to be. AssertionError when `part_bytes` is tiny.
    """
    assert part_bytes > 4 * BLOCK_BYTES
    room = part_bytes - 3 * BLOCK_BYTES
    cuts = [0]
    left, count = room, 0
    for start, stop in areas:
        while start < stop:
            take = min(stop - start, (left - AREA_MAP_BYTES) // BLOCK_BYTES * BLOCK_BYTES)
            if take <= 0 or count == MAX_AREAS:
                cuts.append(start)
                left, count = room, 0
                continue
            left -= take + AREA_MAP_BYTES
            count += 1
            start += take
    if cuts[-1] != size_bytes or size_bytes == 0:
        cuts.append(size_bytes)
    return cuts


def encode_map(areas: list[Area], start: int, stop: int) -> bytes:
    """The map of a member that holds `[start, stop)` of a file; offsets in it count from `start`.

    A hole at the end is told by an empty area there.
    """
    if not areas or areas[-1][1] != stop:
        areas = [*areas, (stop, stop)]
    numbers = [len(areas)]
    for area_start, area_stop in areas:
        numbers += [area_start - start, area_stop - area_start]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + padding(len(text))


def decode_map(read: Callable[[int], bytes], size_bytes: int) -> list[Area]:
    """The areas of a map, which is read block by block. BadArchive.

    `read` gives exactly so many bytes. Areas are in order, within `size_bytes`, and not empty.
    """
    numbers = _numbers(read)
    count = next(numbers)
    if count > MAX_AREAS + 1:
        raise BadArchive(f"a sparse map of {count} areas")
    areas: list[Area] = []
    last = 0
    for _ in range(count):
        start = next(numbers)
        stop = start + next(numbers)
        if not last <= start <= stop <= size_bytes:
            raise BadArchive("a sparse map that is not in order")
        if stop > start:
            areas.append((start, stop))
        last = stop
    return areas


def _numbers(read: Callable[[int], bytes]) -> Iterator[int]:
    """The lines: how many areas there are, and two for each."""
    rest, left = b"", 1
    counted = False
    while left:
        line, end, more = rest.partition(b"\n")
        if not end:
            if len(rest) > _MAX_DIGITS:
                raise BadArchive("a sparse map with something else than numbers")
            rest += read(BLOCK_BYTES)
            continue
        if not line.isdigit() or len(line) > _MAX_DIGITS:
            raise BadArchive("a sparse map with something else than numbers")
        rest, number = more, int(line)
        left = left - 1 if counted else 2 * number
        counted = True
        yield number
