"""Which archives of a full hold a path: found by looking at the beginnings of a few.

A full is the tree in one order: a directory before what is in it, names sorted, depth first. Each
archive begins with the directories that lead to its first entry, so its first blocks say where it
stands in that order, and the archives of a path are found by halving. Pure but for what `first_of`
reads.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tape.archive_reader import ArchiveReader
from tape.catalogue_state import Archive


class First(NamedTuple):
    """The first entry of an archive behind the directories that lead to it."""

    path: bytes
    part: int
    """Of a file in parts: which of them."""


def first_entry(archive: ArchiveReader) -> First | None:
    """Read so much of an archive of a full; None when it has no entry. BadArchive."""
    way: bytes | None = None
    for member in archive.members():
        if member.kind != "entry":
            break
        note, facts = member.header.note, member.header.facts
        assert note is not None
        is_directory = stat.S_ISDIR(facts.mode) and member.header.link is None
        if is_directory and (way is None or member.path.rpartition(b"/")[0] == way):
            way = member.path
            continue
        return First(member.path, note.part)
    return None if way is None else First(way, 0)


def locate(
    fulls: Sequence[Archive], path: bytes, first_of: Callable[[Archive], First | None]
) -> Sequence[Archive]:
    """The archives, of a full's in their order, that hold a path and what is below it."""
    known: dict[int, First | None] = {}

    def first(number: int) -> First | None:
        if number not in known:
            known[number] = first_of(fulls[number])
        return known[number]

    def begins_by(number: int) -> bool:
        """Does the archive begin at the path, inside it, or before it?"""
        found = first(number)
        if found is None:
            return False
        return _place(found.path) <= _place(path) or _is_inside(found.path, path)

    def begins_before(number: int) -> bool:
        """Does everything of the path lie in this archive or behind it?"""
        found = first(number)
        if found is None:
            return False
        if found.path == path:
            return found.part == 0
        return _place(found.path) < _place(path)

    last = _last_that(begins_by, len(fulls))
    start = _last_that(begins_before, last + 1)
    return fulls[start : last + 1]


def _last_that(holds: Callable[[int], bool], count: int) -> int:
    """The last number below `count` of which it holds, as it does of all before; 0 always does."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def _place(path: bytes) -> tuple[bytes, ...]:
    """Paths in this order are in the order of the walk."""
    return tuple(path.split(b"/")) if path else ()


def _is_inside(path: bytes, folder: bytes) -> bool:
    return not folder or path.startswith(folder + b"/")
