"""Searching for what was deleted below a directory, also in directories that are gone themselves.

Duty: names that once were and are not, with who removed them and from which LSN they can be
brought back. Synchronous; any thread. Things that were moved, or replaced by something of the
same name, are not deleted; the path's history has them.
"""

from __future__ import annotations

import fnmatch
import re
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from store.format import Kind
from store.journal import OpMeta, Snapshot
from store.ops import Actor
from store.types import Lsn, NodeId, TimeNs
from timetravel.place import joined
from timetravel.resolve import BURST_GAP_NS
from timetravel.view import NodeState, View

MAX_BURST_OPS: Final = 1_000_000
"""How far back `before_deletion` looks for the beginning of a deletion."""


class Deleted(NamedTuple):
    """Something that was deleted."""

    path: bytes
    """Relative to the volume's root, as it was in the end."""
    state: NodeState
    """Its last attributes."""
    removed_lsn: Lsn
    removed_time_ns: TimeNs
    actor: Actor | None
    """Who removed it, if that is known."""
    restore_lsn: Lsn
    """The last LSN at which it was there. For a directory see `before_deletion`."""


def search_deleted(now: View, directory: bytes = b"", pattern: str = "") -> Iterator[Deleted]:
    """What was deleted at and below `directory`, as seen from the view `now`; in walk order.

    `pattern` is a glob if it has one of `*?[`, else a part of the name, in either case; with a `/`
    in it it is held against the path below `directory`, else against the name. NoSuchPath if the
    directory is not there (a directory that is gone is found from the one above it).
    """
    matches = _matcher(pattern)
    top = now.walk(directory)
    prefix = directory.strip(b"/")
    pending: list[tuple[bytes, NodeId, bool]] = [(b"", top.node, True)]
    while pending:
        below, node, alive = pending.pop()
        with now.journal.snapshot() as snapshot:
            dead = list(_dead_entries(now, snapshot, node))
        for name, found in dead:
            path = joined(below, name)
            if matches(path):
                yield found._replace(path=joined(prefix, path))
            if stat.S_ISDIR(found.state.mode):
                pending.append((path, found.state.node, False))
        if alive:
            for name, child in reversed(now.entries(node)):
                if stat.S_ISDIR(now.state(child).mode):
                    pending.append((joined(below, name), child, True))


def _dead_entries(
    now: View, snapshot: Snapshot, directory: NodeId
) -> Iterator[tuple[bytes, Deleted]]:
    """The deleted entries of one directory, without their paths."""
    for name, node, removed in snapshot.dead_names(directory, now.lsn):
        op = snapshot.op(removed)
        # Removed by a rename: moved away. A node with a name left: one link less, still there.
        if op is None or op.kind != Kind.UNLINK or snapshot.state(node, now.lsn) is not None:
            continue
        restore_lsn = Lsn(removed - 1)
        state = snapshot.state(node, restore_lsn)
        if state is None:
            continue
        actor = _actor(snapshot, op)
        yield name, Deleted(b"", state, removed, op.time_ns, actor, restore_lsn)


def _actor(snapshot: Snapshot, op: OpMeta) -> Actor | None:
    payload = snapshot.actor(op.actor) if op.actor else None
    return Actor.decode(payload) if payload is not None else None


def before_deletion(now: View, deleted: Deleted) -> Lsn:
    """The LSN before the deletion that `deleted` was a part of began.

    `rm -r` empties a directory before it removes it, so right before that it was empty. This goes
    back over everything that the same process removed without pauses.
    """
    start = deleted.removed_lsn
    with now.journal.snapshot() as snapshot:
        last = snapshot.op(start)
        if last is None:
            return deleted.restore_lsn
        actor = last.actor
        for lsn in range(start - 1, max(0, start - MAX_BURST_OPS), -1):
            op = snapshot.op(Lsn(lsn))
            if op is None or last.time_ns - op.time_ns >= BURST_GAP_NS:
                break
            if op.kind == Kind.UNLINK and op.actor == actor and not op.aborted:
                last = op
    return Lsn(last.lsn - 1)


def _matcher(pattern: str) -> Callable[[bytes], bool]:
    """A test of paths below the searched directory."""
    whole_path = "/" in pattern
    glob = re.compile(fnmatch.translate(pattern)) if any(c in pattern for c in "*?[") else None
    part = pattern.casefold()

    def matches(path: bytes) -> bool:
        subject = path if whole_path else path.rpartition(b"/")[2]
        text = subject.decode("utf-8", "surrogateescape")
        return glob.match(text) is not None if glob else part in text.casefold()

    return matches
