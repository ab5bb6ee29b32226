"""The files that belong to a file: what its program needs beside it to make sense of it.

Duty: find a file's companions as of a moment and now, and say how they differ. Synchronous; one
thread. A companion is

- a file of the same consistency group that changed in the same transactions as the file itself
  (the group alone tells too little: an office program's documents share one), or
- what SQLite keeps beside a database, by its name: a leftover journal or log of another moment
  would be played into the restored file and ruin it, so these count even if nobody saw them.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from store.errors import NeverCaptured, NotSeeded
from store.journal import Group, Snapshot
from store.types import Lsn, NodeId
from timetravel.content import PIECE_BYTES, same_pieces
from timetravel.errors import NoSuchNode, NoSuchPath, NotADirectory
from timetravel.groups import Concern, GroupTable
from timetravel.place import joined
from timetravel.resolve import changes_back
from timetravel.view import NodeState, View

SQLITE_SUFFIXES: Final = (b"-journal", b"-wal")
SQLITE_SHARED_MEMORY: Final = b"-shm"
"""An index of the log that SQLite makes anew whenever nobody has the database open."""

MAX_TRANSACTIONS: Final = 8
"""Transactions of the file that are looked at, before the moment and before now."""
MAX_CHANGES: Final = 2_000
"""Changes of the file that are passed to find them."""

_HOT_HEADER_BYTES: Final = 8
_Name = tuple[NodeId, bytes]


@dataclass(frozen=True, slots=True)
class Companion:
    """A file that belongs to another. Paths are relative to the volume's root."""

    path: bytes
    then: NodeState | None
    """As of the moment; None: there was none."""
    now: NodeState | None
    """At present; None: there is none."""
    matters: bool
    """It held something at the moment that its partner is incomplete without."""
    differs: bool
    """It is not as it was then."""


def find_companions(
    view: View, now: View, path: bytes, *, now_ns: int, quiet_ns: int
) -> list[Companion]:
    """The companions of the file at `path`, by path. NoSuchPath if the view has no such file."""
    state = view.walk(path)
    if not stat.S_ISREG(state.mode):
        return []
    above, _slash, name = path.rpartition(b"/")
    directory = view.walk(above).node
    with now.journal.snapshot() as snapshot:
        table = GroupTable(snapshot, now_ns=now_ns, quiet_ns=quiet_ns)
        finder = _Finder(snapshot, table, view.lsn)
        names = finder.proven((directory, name), state.node, _node_now(now, path))
    names |= {(directory, name + suffix) for suffix in SQLITE_SUFFIXES}
    found = [_compare(view, now, place) for place in names]
    shared_memory = _compare(view, now, (directory, name + SQLITE_SHARED_MEMORY))
    kept = [companion for companion in found if companion is not None]
    if shared_memory is not None and kept:
        kept.append(shared_memory)
    return sorted(kept, key=lambda companion: companion.path)


def _node_now(now: View, path: bytes) -> NodeId | None:
    state = now.find(path)
    return None if state is None else state.node


class _Finder:
    """Which members of a file's groups changed in the same transactions as the file."""

    def __init__(self, snapshot: Snapshot, table: GroupTable, lsn: Lsn) -> None:
        self._snapshot = snapshot
        self._table = table
        self._lsn = lsn

    def proven(self, place: _Name, then: NodeId, now: NodeId | None) -> set[_Name]:
        """Their directories and names."""
        found: set[_Name] = set()
        for group in self._table.concerned(Concern(*place), self._lsn):
            candidates = {member for member in group.members if member != place}
            for node, last in ((then, self._lsn), (now, self._snapshot.indexed_lsn)):
                if node is None:
                    continue
                for start, stop, changes in self._transactions(group, node, last):
                    candidates -= found
                    found |= {
                        member
                        for member in candidates
                        if self._changed(member, start, stop, changes)
                    }
        return found

    def _transactions(
        self, group: Group, node: NodeId, last: Lsn
    ) -> Iterator[tuple[Lsn, Lsn, list[Lsn]]]:
        """The file's newest transactions up to `last`: LSNs `[start, stop)`, its changes there."""
        changes = list(islice(changes_back(self._snapshot, node, last), MAX_CHANGES))
        for _ in range(MAX_TRANSACTIONS):
            if not changes:
                return
            newest = changes[0]
            before = self._snapshot.point_before(group.id, Lsn(newest - 1))
            start = Lsn(before.lsn + 1 if before is not None else group.first_lsn)
            stop = self._end(group, newest)
            inside = [lsn for lsn in changes if lsn >= start]
            yield start, stop, inside or [newest]
            changes = [lsn for lsn in changes if lsn < min(start, newest)]

    def _end(self, group: Group, lsn: Lsn) -> Lsn:
        after = self._snapshot.points(lsn, Lsn(self._snapshot.indexed_lsn + 1), group=group.id)
        point = next(after, None)
        return Lsn((self._snapshot.indexed_lsn if point is None else point.lsn) + 1)

    def _changed(self, member: _Name, start: Lsn, stop: Lsn, changes: list[Lsn]) -> bool:
        """Whether what stood under a name changed in `[start, stop)`.

        A journal is made and removed within a transaction, so it is looked for while the file was
        being written.
        """
        for lsn in (changes[0], changes[-1], Lsn(stop - 1)):
            try:
                node = self._snapshot.child(*member, lsn)
            except NotSeeded:
                return False
            if node and next(self._snapshot.node_ops(node, start, stop), None) is not None:
                return True
        return False


def _compare(view: View, now: View, place: _Name) -> Companion | None:
    """A companion; None if nothing is or was under that name."""
    then, present = _look(view, place), _look(now, place)
    if then is None and present is None:
        return None
    path = _path(view, now, place)
    if path is None:
        return None
    if place[1].endswith(SQLITE_SHARED_MEMORY):
        return Companion(path, then, present, matters=False, differs=False)
    try:
        held = _holds_something(view, path, then)
        same = not held and not _holds_something(now, path, present)
        if then is not None and present is not None and not same:
            same = _same_content(view, now, then, present)
    except (NotSeeded, NeverCaptured):
        held, same = then is not None, False
    return Companion(path, then, present, matters=held, differs=not same)


def _look(view: View, place: _Name) -> NodeState | None:
    """The regular file under a name."""
    try:
        state = view.lookup(*place)
    except (NoSuchNode, NotADirectory, NotSeeded):
        # Not seeded, and nobody to ask for it: nothing that was written since protection began.
        return None
    return state if state is not None and stat.S_ISREG(state.mode) else None


def _path(view: View, now: View, place: _Name) -> bytes | None:
    for side in (view, now):
        try:
            return joined(side.path_of(place[0]), place[1])
        except (NoSuchNode, NoSuchPath):
            continue
    return None


def _holds_something(view: View, path: bytes, state: NodeState | None) -> bool:
    """Whether the file could matter: an empty one can't, nor a rollback journal that is retired."""
    if state is None or not state.size_bytes:
        return False
    if not path.endswith(SQLITE_SUFFIXES[0]):
        return True
    return any(view.read(state.node, 0, _HOT_HEADER_BYTES))


def _same_content(view: View, now: View, then: NodeState, present: NodeState) -> bool:
    if then.size_bytes != present.size_bytes:
        return False
    if then.node == present.node and present.changed <= view.lsn:
        return True
    for start in range(0, then.size_bytes, PIECE_BYTES):
        stop = min(start + PIECE_BYTES, then.size_bytes)
        if then.node == present.node and same_pieces(view, now, then.node, start, stop):
            continue
        if view.read(then.node, start, stop - start) != now.read(present.node, start, stop - start):
            return False
    return True
