"""Consistency groups: which files belong together, kept in rows and read through a cache.

Duty: find or found the group of a file, unite groups that turn out to be one, keep the rows. The
rows are the truth, the cache may be dropped after any batch. Pure but for its `Rows`; one thread.

A group begins as the files of one directory written by one family of processes. Two become one

- when one family writes to a file of the other,
- when a family leaves files in one group unsynced while it syncs again and again in another one
  (a database's tables and its log),
- when it syncs files of both in one repeated order (data here, index there),
- when the settings say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Protocol

import msgspec

from store.barrier_cycles import united
from store.barrier_state import (
    MAX_MEMBERS,
    FamilyState,
    FileState,
    GroupState,
    MachineState,
    Place,
    decode_group_state,
    encode_group,
)
from store.format import key_lsn

LEFT_DIRTY = 8
"""So many fsyncs of a family elsewhere, while files here stay unsynced, make the two one group."""

ALTERNATIONS = 3
MAX_RECENT = 12
MAX_FILES = 256
"""Files that a group remembers from batch to batch, those written last."""

MAX_CACHED_GROUPS = 1024
MAX_JOURNALS = 16

MACHINE_KEY = b"m"
FAMILY_ROW, ACTOR_ROW = b"f", b"a"
_DIRECTORY, _NODE = b"d", b"n"

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class Rows(Protocol):
    """Where the rows are, and what the index knew when the batch began."""

    def get(self, key: bytes) -> bytes | None:
        """A row of inference's own."""

    def put(self, key: bytes, row: bytes) -> None:
        """Write one."""

    def remove(self, key: bytes) -> None:
        """Take one away."""

    def starting_with(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows by key."""

    def get_group(self, number: int) -> bytes | None:
        """The row of a group."""

    def put_group(self, number: int, row: bytes) -> None:
        """Write one."""

    def put_point(self, group: int, lsn: int, row: bytes | None) -> None:
        """Write a point; None: take it away."""

    def place_of(self, node: int) -> Place | None:
        """(directory, name) of a node as of the beginning of the batch; None if it has no name."""


class LiveGroup:
    """A group in memory."""

    __slots__ = ("any_synced", "files", "persisted", "state", "unfinished")

    def __init__(self, state: GroupState) -> None:
        self.state = state
        self.files = {file.node: file for file in state.files}
        self.unfinished: dict[int, FileState] = {}
        self.persisted = set(self.files)
        """Nodes whose rows name this group."""
        self.any_synced = any(file.synced for file in state.files)
        for file in state.files:
            self.count(file)

    def count(self, file: FileState) -> None:
        """Note whether somebody may still be at writing the file."""
        if file.dirty and not file.settled:
            self.unfinished[file.node] = file
        else:
            self.unfinished.pop(file.node, None)

    @property
    def clean(self) -> bool:
        """Nothing unsynced in what is synced here at all; where nothing ever is, nothing open."""
        if not self.any_synced:
            return not self.unfinished
        return not any(file.synced for file in self.unfinished.values())

    def remember_member(self, place: Place) -> None:
        """The file of this name takes part in the group's transactions."""
        _to_front(self.state.members, place, MAX_MEMBERS)

    def remember_journal(self, place: Place) -> None:
        """The file of this name is a journal."""
        _to_front(self.state.journals, place, MAX_JOURNALS)

    def drop(self, node: int) -> None:
        """The file matters no more."""
        self.files.pop(node, None)
        self.unfinished.pop(node, None)
        if node in self.state.hot:
            self.state.hot.remove(node)

    def settle(self) -> None:
        """Whatever is unsynced is complete as its writers see it."""
        for file in self.unfinished.values():
            file.settled = True
        self.unfinished.clear()

    def encode(self) -> bytes:
        """Its row. Files that tell nothing are left out."""
        kept = [file for file in self.files.values() if file.dirty or file.synced]
        kept.sort(key=lambda file: file.written)
        for file in kept[:-MAX_FILES]:
            self.drop(file.node)
        self.state.files = kept[-MAX_FILES:]
        self.files = {file.node: file for file in self.state.files}
        self.unfinished = {n: file for n, file in self.unfinished.items() if n in self.files}
        self.any_synced = any(file.synced for file in self.state.files)
        return encode_group(self.state)


class Groups:
    """All groups and families of a volume."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        row = rows.get(MACHINE_KEY)
        self.machine = MachineState() if row is None else _decode(row, type=MachineState)
        self._groups: dict[int, LiveGroup] = {}
        self._changed: dict[int, LiveGroup] = {}
        self._ids: dict[tuple[int, int], int] = {}
        self._families: dict[int, FamilyState] = {}
        self._changed_families: set[int] = set()
        self._actors: dict[int, int] = {0: 0}
        self.files: dict[int, tuple[FileState, LiveGroup]] = {}
        """By node, of the groups in memory; the hot path looks here first."""
        self.places: dict[int, Place] = {}
        """Names given in this batch, by node."""
        self.on_unite: Callable[[LiveGroup, LiveGroup, int], None] = _nobody_asks
        """Called when the first has taken the second in, at that LSN."""

    # --- rows ------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what has changed: the end of a batch."""
        for number, group in self._changed.items():
            for node in group.files:
                self.files.pop(node, None)
            self._rows.put_group(number, group.encode())
            for node in group.persisted - group.files.keys():
                self._rows.remove(_NODE + key_lsn(node))
        for number, group in self._changed.items():
            for file in group.files.values():
                self.files[file.node] = (file, group)
            for node in group.files.keys() - group.persisted:
                self._rows.put(_NODE + key_lsn(node), key_lsn(number))
            group.persisted = set(group.files)
        for number in self._changed_families:
            self._rows.put(FAMILY_ROW + key_lsn(number), _encode(self._families[number]))
        self._rows.put(MACHINE_KEY, _encode(self.machine))
        self._changed.clear()
        self._changed_families.clear()
        self.places.clear()
        if len(self._groups) > MAX_CACHED_GROUPS:
            self._groups.clear()
            self._ids.clear()
            self._families.clear()
            self._actors = {0: 0}
            self.files.clear()

    def touch(self, group: LiveGroup) -> None:
        """Its row is written at the end of the batch."""
        self._changed[group.state.id] = group

    def get(self, number: int) -> LiveGroup:
        """A group by its id, or the one that it became part of."""
        group = self._groups.get(number)
        if group is None:
            row = self._rows.get_group(number)
            assert row is not None, number
            group = self._groups[number] = LiveGroup(decode_group_state(row))
            if not group.state.merged_into:
                for file in group.files.values():
                    self.files[file.node] = (file, group)
        return self.get(group.state.merged_into) if group.state.merged_into else group

    # --- who -------------------------------------------------------------------------------------

    def note_actor(self, lsn: int, family: int) -> None:
        """An ACTOR op: which family its process is of."""
        self._actors[lsn] = family
        self._rows.put(ACTOR_ROW + key_lsn(lsn), key_lsn(family))

    def family_of(self, actor: int) -> int:
        """The family of an actor."""
        family = self._actors.get(actor)
        if family is None:
            row = self._rows.get(ACTOR_ROW + key_lsn(actor))
            family = self._actors[actor] = 0 if row is None else int.from_bytes(row, "big")
        return family

    def _family(self, number: int) -> FamilyState:
        family = self._families.get(number)
        if family is None:
            row = self._rows.get(FAMILY_ROW + key_lsn(number))
            family = FamilyState() if row is None else _decode(row, type=FamilyState)
            self._families[number] = family
        self._changed_families.add(number)
        return family

    # --- where -----------------------------------------------------------------------------------

    def place_of(self, node: int) -> Place | None:
        """Name of a node at this point of the log."""
        return self.places.get(node) or self._rows.place_of(node)

    def of_directory(self, directory: int, family: int, lsn: int) -> LiveGroup:
        """The group of what a family does in a directory; founded if there is none."""
        key = (directory, family)
        number = self._ids.get(key)
        if number is None:
            row = self._rows.get(_directory_key(directory, family))
            if row is None:
                return self._found(directory, family, lsn)
            number = self._ids[key] = int.from_bytes(row, "big")
        return self.get(number)

    def _found(self, directory: int, family: int, lsn: int) -> LiveGroup:
        self.machine.groups += 1
        number = self.machine.groups
        group = LiveGroup(GroupState(number, lsn, directories=[directory]))
        self._groups[number] = group
        self._assign(directory, family, number)
        self.touch(group)
        return group

    def _assign(self, directory: int, family: int, number: int) -> None:
        self._ids[directory, family] = number
        self._rows.put(_directory_key(directory, family), key_lsn(number))

    def find_file(self, node: int) -> tuple[FileState, LiveGroup] | None:
        """A file that some group remembers."""
        found = self.files.get(node)
        if found is not None:
            return found
        row = self._rows.get(_NODE + key_lsn(node))
        if row is None:
            return None
        self.get(int.from_bytes(row, "big"))
        return self.files.get(node)

    def meet(self, node: int, actor: int, lsn: int) -> tuple[FileState, LiveGroup] | None:
        """The file's state and group, whoever writes to it; None for one without a name."""
        found = self.find_file(node)
        if found is not None:
            return found
        place = self.place_of(node)
        if place is None:
            return None
        directory, name = place
        group = self._configured(place, lsn) or self._of_name(place)
        family = self.family_of(actor)
        own = self.of_directory(directory, family, lsn)
        if group is not None and group is not own:
            own = self.unite(group, own, lsn)
        return self.add(FileState(node, directory, name, actor), own)

    def _of_name(self, place: Place) -> LiveGroup | None:
        """A group that knows a file of this name: it was made anew by another family."""
        for _, row in self._rows.starting_with(_DIRECTORY + key_lsn(place[0])):
            group = self.get(int.from_bytes(row, "big"))
            if place in group.state.members:
                return group
        return None

    def add(self, file: FileState, group: LiveGroup) -> tuple[FileState, LiveGroup]:
        """Have a group remember a file."""
        group.files[file.node] = file
        found = self.files[file.node] = (file, group)
        self.touch(group)
        return found

    def other_writer(self, file: FileState, group: LiveGroup, actor: int, lsn: int) -> LiveGroup:
        """A file is written to by somebody else than before."""
        before, now = self.family_of(file.actor), self.family_of(actor)
        file.actor = actor
        if before != now:
            own = self.of_directory(file.directory, now, lsn)
            if own is not group:
                group = self.unite(group, own, lsn)
        return group

    # --- configured groups -----------------------------------------------------------------------

    def _configured(self, place: Place, lsn: int) -> LiveGroup | None:
        if not self.machine.settings.groups:
            return None
        path = self._path(place)
        for wanted in self.machine.settings.groups:
            if any(matches(path, pattern) for pattern in wanted.paths):
                number = self.machine.configured.get(wanted.name)
                if number is not None:
                    return self.get(number)
                group = self._found(place[0], 0, lsn)
                group.state.name = wanted.name
                self.machine.configured[wanted.name] = group.state.id
                return group
        return None

    def _path(self, place: Place) -> bytes:
        parts = [place[1]]
        directory = place[0]
        while directory > 1 and (above := self.place_of(directory)) is not None:
            directory = above[0]
            parts.append(above[1])
        return b"/".join(reversed(parts))

    # --- uniting ---------------------------------------------------------------------------------

    def note_dirty(self, family: int, group: LiveGroup) -> None:
        """A family begins to write to a file that was clean."""
        state = self._family(family)
        state.left_dirty.setdefault(group.state.id, state.syncs)

    def note_sync(self, family: int, node: int, group: LiveGroup, lsn: int) -> LiveGroup:
        """A family synced a file; returns the file's group, which may have grown by that."""
        state = self._family(family)
        state.syncs += 1
        state.recent.append((node, group.state.id))
        del state.recent[:-MAX_RECENT]
        for number, since in tuple(state.left_dirty.items()):
            other = self.get(number)
            if other is group or not any(file.dirty for file in other.files.values()):
                if other is not group or number != group.state.id:
                    del state.left_dirty[number]
            elif state.syncs - since >= LEFT_DIRTY:
                del state.left_dirty[number]
                group = self.unite(group, other, lsn)
        if not group.unfinished:
            state.left_dirty.pop(group.state.id, None)
        for number in self._alternating(state):
            other = self.get(number)
            if other is not group:
                group = self.unite(group, other, lsn)
        return group

    @staticmethod
    def _alternating(state: FamilyState) -> list[int]:
        """Groups whose files were synced in one repeated order."""
        recent = state.recent
        for period in range(2, MAX_RECENT // ALTERNATIONS + 1):
            span = recent[-period * ALTERNATIONS :]
            if len(span) < period * ALTERNATIONS:
                break
            nodes = [node for node, _ in span]
            if len(set(nodes)) > 1 and nodes[period:] == nodes[:-period]:
                return sorted({number for _, number in span})
        return []

    def unite(self, one: LiveGroup, other: LiveGroup, lsn: int) -> LiveGroup:
        """Make two groups one; the older one goes on."""
        if one.state.id > other.state.id:
            one, other = other, one
        old, young = one.state, other.state
        for file in other.files.values():
            one.files[file.node] = file
            one.count(file)
            self.files[file.node] = (file, one)
        one.any_synced = one.any_synced or other.any_synced
        old.directories += [d for d in young.directories if d not in old.directories]
        old.members = [*young.members, *(m for m in old.members if m not in young.members)]
        del old.members[MAX_MEMBERS:]
        old.journals += [j for j in young.journals if j not in old.journals]
        old.hot += young.hot
        old.name = old.name or young.name
        old.last_lsn = max(old.last_lsn, young.last_lsn)
        old.last_ns = max(old.last_ns, young.last_ns)
        old.rhythm = united(old.rhythm, young.rhythm)
        young.merged_into, young.merged_at = old.id, lsn
        young.files, young.hot = [], []
        other.files, other.unfinished = {}, {}
        for name, number in self.machine.configured.items():
            if number == young.id:
                self.machine.configured[name] = old.id
        self.touch(one)
        self.touch(other)
        self.on_unite(one, other, lsn)
        return one

    def unite_unfinished(self, group: LiveGroup, actor: int, lsn: int) -> LiveGroup:
        """A program that is at making a file elsewhere (a lock) does all of it as one."""
        state = self._family(self.family_of(actor))
        for number in tuple(state.left_dirty):
            other = self.get(number)
            at_it = any(file.actor == actor for file in other.unfinished.values())
            if other is not group and at_it:
                group = self.unite(group, other, lsn)
        return group


def _nobody_asks(one: LiveGroup, other: LiveGroup, lsn: int) -> None:
    """Until somebody does."""


def matches(path: bytes, pattern: str) -> bool:
    """Does a path relative to the volume's root match a glob? `**` spans directories."""
    return _glob(tuple(path.decode("utf-8", "surrogateescape").split("/")), _parts(pattern))


def _parts(pattern: str) -> tuple[str, ...]:
    return tuple(part for part in pattern.split("/") if part)


def _glob(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_glob(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    here = bool(parts) and fnmatchcase(parts[0], pattern[0])
    return here and _glob(parts[1:], pattern[1:])


def _directory_key(directory: int, family: int) -> bytes:
    return _DIRECTORY + key_lsn(directory) + key_lsn(family)


def _to_front(places: list[Place], place: Place, limit: int) -> None:
    if not places or places[0] != place:
        if place in places:
            places.remove(place)
        places.insert(0, place)
        del places[limit:]
