"""The history of one path: its versions, who made them, when, and how much they wrote.

Duty: follow a name through every node that stood under it, and gather each node's changes into
versions as a person sees them: everything that one process did without a pause of two seconds,
for ten minutes at most, not across a mark. Synchronous; any thread; memory holds one version and
the rows of one name, whatever the length of the history.

A program that saves by writing a new file and renaming it over the old one makes one version:
what happened to the new file under its temporary name belongs to the path. In the same way a
file that was moved to the path brings its history along.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import chain, pairwise
from typing import Final, NamedTuple

from store.format import Flag, Kind
from store.journal import Journal, OpMeta, Snapshot
from store.ops import RENAME_EXCHANGE, Actor, Renamed
from store.types import NO_NODE, ROOT, Lsn, NodeId, TimeNs
from timetravel.errors import NoSuchPath
from timetravel.moment import format_time
from timetravel.resolve import BURST_GAP_NS

MAX_VERSION_NS: Final = 600 * 10**9
"""Changes without a pause are one version for this long at the most."""

_ACTORS_CACHED: Final = 1024


class Event(Enum):
    """What can happen to a path."""

    CREATED = "created"
    WRITTEN = "written"
    TRUNCATED = "truncated"
    RENAMED_FROM = "renamed from"  # came to this path from another name
    RENAMED_TO = "renamed to"  # left this path
    REPLACED = "replaced"  # another file was renamed over the one that was here
    LINKED = "linked"
    UNLINKED = "unlinked"  # a link of the same file was removed elsewhere
    DELETED = "deleted"
    ATTRIBUTES = "attributes"
    ADOPTED = "found"  # was there when protection began
    BASELINE = "kept from here"  # was there where the history of this copy begins
    EXTERNAL = "external"  # changed while the volume was not mounted
    FOLDED = "folded"  # written, and overwritten before the replica here was sent it
    UNLOGGED = "unlogged"  # changed through the mount, in a gap of the log: found afterwards
    ENTRIES = "entries"  # of a directory: its names changed


@dataclass(frozen=True)
class Version:
    """One version of the path. LSNs and times are those of its first and last change."""

    first: Lsn
    last: Lsn
    first_time_ns: TimeNs
    last_time_ns: TimeNs
    node: NodeId
    actor: Actor | None
    """Who it was; None if nobody is known (what cdpfs itself found)."""
    events: tuple[Event, ...]
    """What happened, without repetitions, in order."""
    written_bytes: int
    ops: dict[str, int]
    """How many ops of each kind."""
    size_bytes: int | None
    """Size afterwards; None if the path was gone then."""
    other_name: bytes
    """The name that the path's file came from or went to, in whatever directory; else empty."""


def history(
    journal: Journal, path: bytes, *, since: Lsn | None = None, until: Lsn | None = None
) -> Iterator[Version]:
    """The versions of `path` (relative to the volume's root), oldest first.

    Only changes with an LSN from `since` to `until` (both included) count. A path that is gone has
    a history too; NoSuchPath if it never was.
    """
    with journal.snapshot() as snapshot:
        stop = Lsn((snapshot.indexed_lsn if until is None else until) + 1)
        tracer = _Tracer(journal, snapshot, since or Lsn(1), stop)
        yield from tracer.versions(path)


class _Tenure(NamedTuple):
    """A node stands under the path for LSN `[start, stop)`."""

    node: NodeId
    origin: Lsn
    """Where its part in the path's history starts: before `start` it had other names."""
    start: Lsn
    stop: Lsn
    took_over: bool
    """Another node stood there until `start`."""
    handed_over: bool
    """Another node stands there from `stop` on; its own tenure tells how it came."""


class _Change(NamedTuple):
    """One op as the path sees it."""

    op: OpMeta
    event: Event
    other_name: bytes = b""

    @property
    def gone(self) -> bool:
        """The path has nothing after it."""
        return self.event in (Event.DELETED, Event.RENAMED_TO)


class _Tracer:
    def __init__(self, journal: Journal, snapshot: Snapshot, start: Lsn, stop: Lsn) -> None:
        self._journal = journal
        self._snapshot = snapshot
        self._start = start
        self._stop = stop
        self._marks = [lsn for _name, lsn, _time_ns in snapshot.marks()]
        self._actor = lru_cache(_ACTORS_CACHED)(self._read_actor)

    def _read_actor(self, lsn: Lsn) -> Actor | None:
        payload = self._snapshot.actor(lsn) if lsn else None
        return Actor.decode(payload) if payload is not None else None

    def versions(self, path: bytes) -> Iterator[Version]:
        """All versions in the range."""
        draft: _Draft | None = None
        for tenure in self._tenures(path):
            for change in self._changes(tenure):
                if draft is None or not self._continues(draft, change, tenure.node):
                    if draft is not None:
                        yield self._finished(draft)
                    draft = _Draft(tenure.node, change.op, self._actor(change.op.actor))
                draft.add(change)
        if draft is not None:
            yield self._finished(draft)

    # Who stood under the path

    def _tenures(self, path: bytes) -> Iterator[_Tenure]:
        names = [name for name in path.split(b"/") if name not in (b"", b".")]
        if not names:
            yield _Tenure(ROOT, Lsn(1), Lsn(1), self._stop, False, False)
            return
        directory = ROOT
        for name in names[:-1]:
            directory = self._last_node(directory, name, path)
        self._last_node(directory, names[-1], path)
        yield from self._tenures_of_name(directory, names[-1])

    def _last_node(self, directory: NodeId, name: bytes, path: bytes) -> NodeId:
        """The node under a name now, or the last one that was."""
        found = NO_NODE
        for _lsn, node in self._snapshot.name_rows(directory, name):
            found = node or found
        if found == NO_NODE:
            last = self._snapshot.last()
            raise NoSuchPath(path, format_time(last.time_ns) if last else "any time")
        return found

    def _tenures_of_name(self, directory: NodeId, name: bytes) -> Iterator[_Tenure]:
        left: dict[NodeId, Lsn] = {}
        before = NO_NODE
        rows = self._snapshot.name_rows(directory, name)
        for (lsn, node), (stop, after) in pairwise(chain(rows, [(self._stop, NO_NODE)])):
            if node and lsn < self._stop:
                # What a node did before it came back is told when it comes back.
                origin = left.get(node, Lsn(1))
                yield _Tenure(node, origin, lsn, stop, before != NO_NODE, after != NO_NODE)
                left[node] = Lsn(stop + 1)
            before = node

    # What happened

    def _changes(self, tenure: _Tenure) -> Iterator[_Change]:
        start = max(tenure.origin, self._start)
        stop = min(tenure.stop + 1, self._stop)
        for lsn in self._snapshot.node_ops(tenure.node, start, Lsn(stop)):
            op = self._snapshot.op(lsn)
            ended = lsn == tenure.stop and tenure.handed_over
            if op is not None and not op.aborted and not ended:
                yield self._change(op, tenure)

    def _change(self, op: OpMeta, tenure: _Tenure) -> _Change:
        if op.kind == Kind.MOUNT:
            return _Change(op, self._found(op, tenure.node))
        if op.kind == Kind.BASELINE:
            return _Change(op, Event.BASELINE)
        if op.kind == Kind.RENAME:
            return self._renamed(op, tenure)
        if op.node != tenure.node:
            return _Change(op, Event.ENTRIES)
        if op.kind == Kind.UNLINK:
            return _Change(op, Event.DELETED if op.lsn == tenure.stop else Event.UNLINKED)
        return _Change(op, _EVENTS.get(Kind(op.kind), Event.ATTRIBUTES))

    def _found(self, mount: OpMeta, node: NodeId) -> Event:
        """What the mount found: the node itself, or that it was changed meanwhile."""
        first = next(self._snapshot.node_ops(node, Lsn(1), self._stop))
        return Event.ADOPTED if first == mount.lsn else Event.EXTERNAL

    def _renamed(self, op: OpMeta, tenure: _Tenure) -> _Change:
        renamed = Renamed.decode(self._journal.read_payload(op.lsn))
        if tenure.node not in (op.node, renamed.other):
            return _Change(op, Event.ENTRIES)
        before, after = renamed.name, renamed.new_name
        if op.node != tenure.node:
            before, after = after, before  # it was exchanged with the one that was moved
        if op.lsn == tenure.stop:
            return _Change(op, Event.RENAMED_TO, after)
        if op.lsn > tenure.start:
            return _Change(op, Event.ATTRIBUTES)  # another link of it was renamed
        replaces = op.lsn == tenure.start and tenure.took_over
        replaces = replaces and not renamed.flags & RENAME_EXCHANGE
        return _Change(op, Event.REPLACED if replaces else Event.RENAMED_FROM, before)

    # What belongs together

    def _continues(self, draft: _Draft, change: _Change, node: NodeId) -> bool:
        op = change.op
        if node != draft.node or draft.gone or op.time_ns - draft.last.time_ns >= BURST_GAP_NS:
            return False
        if op.time_ns - draft.first.time_ns >= MAX_VERSION_NS:
            return False
        if self._actor(op.actor) != draft.actor:
            return False
        at = bisect.bisect_left(self._marks, draft.last.lsn)
        return at == len(self._marks) or self._marks[at] > op.lsn

    def _finished(self, draft: _Draft) -> Version:
        state = None if draft.gone else self._snapshot.state(draft.node, draft.last.lsn)
        return Version(
            draft.first.lsn,
            draft.last.lsn,
            draft.first.time_ns,
            draft.last.time_ns,
            draft.node,
            draft.actor,
            tuple(draft.events),
            draft.written_bytes,
            draft.ops,
            None if state is None else state.size_bytes,
            draft.other_name,
        )


class _Draft:
    """A version that may still grow."""

    def __init__(self, node: NodeId, first: OpMeta, actor: Actor | None) -> None:
        self.node = node
        self.first = first
        self.last = first
        self.actor = actor
        self.events: dict[Event, None] = {}
        self.ops: dict[str, int] = {}
        self.written_bytes = 0
        self.other_name = b""
        self.gone = False

    def add(self, change: _Change) -> None:
        """Take one more change in."""
        op = change.op
        self.last = op
        self.events[change.event] = None
        if op.flags & Flag.EXTERNAL:
            self.events[Event.UNLOGGED if op.flags & Flag.UNLOGGED else Event.EXTERNAL] = None
        kind = Kind(op.kind)
        self.ops[kind.name.lower()] = self.ops.get(kind.name.lower(), 0) + 1
        if kind is Kind.WRITE:
            self.written_bytes += op.length
        self.other_name = change.other_name or self.other_name
        self.gone = change.gone


_EVENTS: Final = {
    Kind.CREATE: Event.CREATED,
    Kind.WRITE: Event.WRITTEN,
    Kind.FOLDED: Event.FOLDED,
    Kind.TRUNCATE: Event.TRUNCATED,
    Kind.LINK: Event.LINKED,
}
"""Of ops on the node itself; those that are not here change attributes."""
