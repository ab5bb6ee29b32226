"""A part of a full, as restoring wants the past: what some of its archives hold of one path.

Duty: the names and attributes at and below a path, and their content in files of a scratch folder,
from the archives of the full that hold them. Nothing else of the set is read. One thread, and one
that reads content. It knows of no drive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from store import durable
from store.journal import NodeState
from store.types import ROOT, Lsn, NodeId
from tape.archive_reader import ArchiveReader, Member
from timetravel.errors import NoSuchNode, NoSuchPath

_Area = tuple[int, int]


class PartView:
    """Implements `timetravel.readable.Readable` for one path of a full at `lsn`."""

    def __init__(self, folder: Path, lsn: Lsn) -> None:
        self._folder = folder
        self.lsn = lsn
        self._states: dict[NodeId, NodeState] = {}
        self._names: dict[NodeId, dict[bytes, NodeId]] = {}
        self._xattrs: dict[NodeId, dict[bytes, bytes]] = {}
        self._areas: dict[NodeId, list[_Area]] = {}
        self._links: dict[bytes, NodeId] = {}
        """Of further hard links whose node has not come yet: the path of its first name."""
        self._by_path: dict[bytes, NodeId] = {}

    def take(self, archive: ArchiveReader, wanted: bytes) -> None:
        """What an archive has at and below a path, and the directories above it. BadArchive."""
        for member in archive.members():
            if member.kind == "entry" and _concerns(member.path, wanted):
                self._entry(member)

    def missing(self) -> list[bytes]:
        """Paths that are to be taken too: what is wanted has hard links to them."""
        return [path for path, node in self._links.items() if node not in self._states]

    def _entry(self, member: Member) -> None:
        header, note = member.header, member.header.note
        assert note is not None
        node = NodeId(note.node)
        if note.part == 0:
            self._name(member.path, node)
        if header.link is not None:
            self._links[header.link.partition(b"/")[2]] = node
            return
        facts = header.facts
        size = note.file_bytes if note.parts > 1 else member.size_bytes
        self._states[node] = NodeState(
            node,
            facts.mode,
            facts.uid,
            facts.gid,
            facts.rdev,
            size if stat.S_ISREG(facts.mode) else 0,
            facts.atime_ns,
            facts.mtime_ns,
            facts.ctime_ns,
            1 if stat.S_ISDIR(facts.mode) else note.links,
            facts.target,
            0,
            self.lsn,
            0,
        )
        self._xattrs[node] = dict(facts.xattrs)
        if stat.S_ISREG(facts.mode):
            self._content(node, note.offset, member)

    def _name(self, path: bytes, node: NodeId) -> None:
        self._by_path[path] = node
        if path:
            above, _, name = path.rpartition(b"/")
            self._names.setdefault(self._by_path[above], {})[name] = node

    def _content(self, node: NodeId, offset: int, member: Member) -> None:
        areas = self._areas.setdefault(node, [])
        path = self._file(node)
        fd = durable.open_file(path) if path.exists() else durable.create_file(path)
        try:
            for at, data in member.pieces():
                durable.pwrite_all(fd, data, offset + at)
                areas.append((offset + at, offset + at + len(data)))
        finally:
            durable.close_file(fd)

    def _file(self, node: NodeId) -> Path:
        return self._folder / f"{node:x}"

    # --- Readable -------------------------------------------------------------------------------

    def root(self) -> NodeState:
        """See `Readable`."""
        return self.state(ROOT)

    def state(self, node: NodeId) -> NodeState:
        """See `Readable`."""
        found = self._states.get(node)
        if found is None:
            raise NoSuchNode(node, self.lsn)
        return found

    def lookup(self, directory: NodeId, name: bytes) -> NodeState | None:
        """See `Readable`."""
        node = self._names.get(directory, {}).get(name)
        return None if node is None else self._states.get(node)

    def listing(self, directory: NodeId) -> list[tuple[bytes, NodeState]]:
        """See `Readable`."""
        names = self._names.get(directory, {})
        return [(name, self.state(names[name])) for name in sorted(names)]

    def find(self, path: bytes) -> NodeState | None:
        """See `Readable`."""
        node = self._by_path.get(path)
        return None if node is None else self._states.get(node)

    def walk(self, path: bytes) -> NodeState:
        """See `Readable`."""
        found = self.find(path)
        if found is None:
            raise NoSuchPath(path, f"@lsn:{self.lsn}, in the full of the set")
        return found

    def xattrs(self, node: NodeId) -> dict[bytes, bytes]:
        """See `Readable`."""
        return self._xattrs.get(node, {})

    def read(self, node: NodeId, start: int, size: int) -> bytes:
        """See `Readable`."""
        left = max(min(size, self.state(node).size_bytes - start), 0)
        if not left:
            return b""
        fd = durable.open_file(self._file(node), os.O_RDONLY)
        try:
            # A hole at the end is not in the file.
            return os.pread(fd, left, start).ljust(left, b"\0")
        finally:
            durable.close_file(fd)

    def data_areas(self, node: NodeId) -> Iterator[_Area]:
        """See `Readable`."""
        yield from sorted(self._areas.get(node, []))

    def expecting(self, files: Iterable[tuple[NodeId, int]]) -> AbstractContextManager[object]:
        """See `Readable`."""
        return nullcontext()


def _concerns(path: bytes, wanted: bytes) -> bool:
    """Is it at or below what is wanted, or on the way there?"""
    if not wanted or not path:
        return True
    inside = path == wanted or path.startswith(wanted + b"/")
    return inside or wanted.startswith(path + b"/")
