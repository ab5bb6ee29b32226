"""The members of a full: what of the tree becomes which headers and which content.

Duty: one thing of a view as one member, or as several where it is larger than an archive. What is
made does not depend on the archive that it gets into, so it can be made again. Nothing is written
here. Synchronous; one thread.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import Final, NamedTuple

from store.errors import NeverCaptured
from tape.areas import data_areas
from tape.errors import ArchiveTooLarge
from tape.pax import BLOCK_BYTES, Facts, Note, entry_header, link_header
from tape.sparse import (
    MAX_AREAS,
    MIN_HOLE_BYTES,
    Area,
    cut_parts,
    encode_map,
    joined,
)
from tape.tree_names import member_name, part_name, socket_name
from tape.tree_walk import FirstNames, Spot
from timetravel.content import PIECE_BYTES, nonzero_runs
from timetravel.view import NodeState, View

MIN_WHOLE_BYTES: Final = 128 << 10
"""Archives in which a file may not be as large as this are too small to be of use."""

_ONE_PIECE_BYTES: Final = MAX_AREAS * MIN_HOLE_BYTES
"""A file that is no larger can't have too many areas."""


class Member(NamedTuple):
    """A member, ready to be written: its headers, and the content to be read from the view."""

    headers: bytes
    areas: Sequence[Area] = ()
    small: bytes | None = None
    """All of the content, when it is a small file; the areas are those of it."""
    lost: bool = False
    """Some of the content was never captured."""

    @property
    def size_bytes(self) -> int:
        """Of the member in the archive."""
        data = sum(stop - start for start, stop in self.areas)
        return len(self.headers) + -(-data // BLOCK_BYTES) * BLOCK_BYTES


class _Cuts(NamedTuple):
    """Where a large file is cut: from 0 to its size."""

    node: int
    cuts: list[int]
    lost: bool
    """Some of the whole file was never captured."""


class MemberMaker:
    """Makes the members of a view below the folder `top`; none is larger than `whole_bytes`."""

    def __init__(self, view: View, top: bytes, whole_bytes: int) -> None:
        self._view = view
        self._top = top
        self._whole_bytes = whole_bytes
        self._firsts = FirstNames(view)
        self._cuts = _Cuts(0, [], False)
        """Of the large file that was asked for last."""

    def directory(self, path: bytes, state: NodeState) -> bytes:
        """The headers of a directory."""
        name = member_name(self._top, path)
        return self._headers(path, name, self._facts(state), Note(node=state.node))

    def parts(self, spot: Spot) -> int:
        """How many members the thing is."""
        first = self._first(spot)
        if first == spot.path and stat.S_ISREG(spot.state.mode):
            return len(self._cuts_of(first, spot.state)) - 1
        return 1

    def member(self, spot: Spot, part: int) -> Member:
        """A part of the thing, from 0."""
        state = spot.state
        if stat.S_ISDIR(state.mode):
            return Member(self.directory(spot.path, state))
        if stat.S_ISSOCK(state.mode):
            note = Note(node=state.node, links=state.links, socket=True, path=spot.path)
            name = socket_name(spot.cursor.directory, spot.cursor.entry)
            return Member(self._headers(spot.path, name, self._facts(state), note))
        first = self._first(spot)
        if first != spot.path:
            return Member(self._link(spot, first))
        if stat.S_ISREG(state.mode):
            return self._file(spot, part)
        note = Note(node=state.node, links=state.links)
        name = member_name(self._top, spot.path)
        return Member(self._headers(spot.path, name, self._facts(state), note))

    def _first(self, spot: Spot) -> bytes:
        state = spot.state
        if state.links == 1 or stat.S_ISDIR(state.mode):
            return spot.path
        return self._firsts.path(state)

    def _link(self, spot: Spot, first: bytes) -> bytes:
        """A further name; of a file in parts, the further name of its first part."""
        state = spot.state
        note = Note(node=state.node, links=state.links)
        name, link = member_name(self._top, spot.path), member_name(self._top, first)
        parts = len(self._cuts_of(first, state)) - 1 if stat.S_ISREG(state.mode) else 1
        if parts > 1:
            name = part_name(name, state.node, 0, parts)
            link = part_name(link, state.node, 0, parts)
            note = Note(node=state.node, links=state.links, path=spot.path)
        return link_header(name, link, self._facts(state, ()), note)

    def _file(self, spot: Spot, part: int) -> Member:
        state = spot.state
        cuts = self._cuts_of(spot.path, state)
        parts, start, stop = len(cuts) - 1, cuts[part], cuts[part + 1]
        areas, small, lost = self._content(state, start, stop)
        name = member_name(self._top, spot.path)
        note = Note(node=state.node, links=state.links, lost=lost)
        if parts > 1:
            lost = self._cuts.lost
            name = part_name(name, state.node, part, parts)
            note = Note(
                node=state.node,
                links=state.links,
                path=spot.path,
                part=part,
                parts=parts,
                offset=start,
                file_bytes=state.size_bytes,
                lost=lost,
            )
        facts = self._facts(state)
        if areas == [(start, stop)] or start == stop:
            return Member(
                self._headers(spot.path, name, facts, note, stop - start), areas, small, lost
            )
        sparse_map = encode_map(areas, start, stop)
        stored = len(sparse_map) + sum(area_stop - area for area, area_stop in areas)
        headers = self._headers(spot.path, name, facts, note, stored, stop - start)
        return Member(headers + sparse_map, areas, small, lost)

    def _content(
        self, state: NodeState, start: int, stop: int
    ) -> tuple[list[Area], bytes | None, bool]:
        """The areas of `[start, stop)`; the bytes of a small file; whether some were lost."""
        lost: list[int] = []
        if start == 0 and stop == state.size_bytes <= PIECE_BYTES:
            try:
                data = self._view.read(state.node, 0, stop) if stop else b""
            except NeverCaptured:
                lost.append(0)
            else:
                return list(nonzero_runs(data, 0)), data, False
        found = data_areas(self._view, state.node, start, stop, lambda at, _: lost.append(at))
        return list(joined(found, start, stop)), None, bool(lost)

    def _cuts_of(self, path: bytes, state: NodeState) -> list[int]:
        """Where the file under its first name is cut: from 0 to its size."""
        size = state.size_bytes
        if size < self._whole_bytes // 2 and size < _ONE_PIECE_BYTES:
            return [0, size]
        if self._cuts.node != state.node:
            note = Note(node=state.node, path=path, part=1, parts=2, file_bytes=1 << 62)
            name = part_name(member_name(self._top, path), state.node, 0, 9999)
            headers = self._headers(path, name, self._facts(state), note, 1 << 62, 1 << 62)
            room = self._whole_bytes - len(headers) - 2 * BLOCK_BYTES
            if room < MIN_WHOLE_BYTES // 4:
                raise too_large(path, self._whole_bytes)
            lost: list[int] = []
            found = data_areas(self._view, state.node, 0, size, lambda at, _: lost.append(at))
            cuts = cut_parts(joined(found, 0, size), size, room)
            self._cuts = _Cuts(state.node, cuts, bool(lost))
        return self._cuts.cuts

    def _headers(
        self,
        path: bytes,
        name: bytes,
        facts: Facts,
        note: Note,
        stored_bytes: int = 0,
        sparse_bytes: int | None = None,
    ) -> bytes:
        try:
            return entry_header(name, facts, note, stored_bytes, sparse_bytes)
        except ValueError as error:
            raise too_large(path, self._whole_bytes) from error

    def _facts(
        self, state: NodeState, xattrs: tuple[tuple[bytes, bytes], ...] | None = None
    ) -> Facts:
        if xattrs is None:
            xattrs = tuple(sorted(self._view.xattrs(state.node).items()))
        return Facts(
            state.mode,
            state.uid,
            state.gid,
            state.rdev,
            state.atime_ns,
            state.mtime_ns,
            state.ctime_ns,
            state.target,
            xattrs,
        )


def too_large(path: bytes, limit_bytes: int) -> ArchiveTooLarge:
    """The error for a thing that can't be cut and does not fit."""
    shown = path.decode("utf-8", "backslashreplace")
    return ArchiveTooLarge(
        f"{shown!r} does not fit into an archive, which may have {limit_bytes} bytes",
        "make the archives larger (archive_bytes), on larger cartridges",
    )
