"""Recovery points, inferred from who writes and syncs what. Pure; one thread; no clock of its own.

`Inference` takes the ops of a volume batch by batch and finds LSNs at which the files of a
consistency group are in a state that their programs completed:

- `transaction`: a rollback journal was retired (unlinked, cut to nothing, its header zeroed) after
  the file that it covers was synced; a log was synced; the last file of a learned cycle was
  synced; a finished file was renamed or linked to its name.
- `sync`: nothing unsynced, all closed, or quiet for a while.

A point holds until the first change of the group after it. While a journal is hot, or within a
cycle, there are no points at all: that is the middle of a transaction. What each rule needs is
stated where it stands; `store/barrier_cycles.py` has the rhythm of fsyncs, `barrier_groups.py`
which files belong together.

Everything remembered is in rows (`barrier_state.py`), so that the result does not depend on where
the process was stopped: it equals the replay of the same batches from the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from store.barrier_cycles import LOG_RUN, assume_log, forget_events, note_sync, note_write
from store.barrier_groups import Groups, LiveGroup, Rows
from store.barrier_state import (
    SYNC,
    TRANSACTION,
    ConfiguredGroup,
    FileState,
    NewestPoint,
    Settings,
    encode_point,
)
from store.format import Flag, Kind
from store.ops import (
    RENAME_EXCHANGE,
    Actor,
    Adopted,
    Created,
    Op,
    Renamed,
    decode_entry,
)

SYNC_BURST_NS: Final = 1_000_000_000
"""Of the sync points of a group within so long only the last is kept: copying a tree makes many."""

MAX_HEADER_BYTES: Final = 4096
"""A write of zeros to a journal's start that is longer is no retirement."""

_FOR_EVER: Final = 1 << 63
_SYNCHRONOUS = int(Flag.SYNCHRONOUS)


class Inference:
    """The machine. Feed it with `take`; `flush` at the end of each batch."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._groups = Groups(rows)
        self._open: dict[int, None] = dict.fromkeys(self._groups.machine.open)
        self._check_ns = 0
        """Time from which on an open group may have fallen quiet."""
        self._points: dict[tuple[int, int], bytes | None] = {}
        self._handlers: dict[int, Callable[[Op], None]] = {
            Kind.WRITE: self._write,
            Kind.TRUNCATE: self._truncate,
            Kind.CREATE: self._create,
            Kind.LINK: self._link,
            Kind.UNLINK: self._unlink,
            Kind.RENAME: self._rename,
            Kind.FSYNC: self._fsync,
            Kind.CLOSE: self._close,
            Kind.ACTOR: self._actor,
            Kind.ADOPT: self._adopt,
            Kind.ADOPT_NAME: self._adopt_name,
            Kind.MOUNT: self._mount,
            Kind.CLEAN: self._clean,
        }

    def take(self, ops: Sequence[Op], aborted: set[int]) -> None:
        """The next batch. `aborted` are the LSNs of its ops that never happened."""
        handlers = self._handlers
        for op in ops:
            if op[1] >= self._check_ns:
                self._look_for_quiet(op[1])
            handler = handlers.get(op[2])
            if handler is not None and op[0] not in aborted:
                handler(op)

    def flush(self) -> None:
        """Write what has changed: the end of a batch."""
        for (group, lsn), row in self._points.items():
            self._rows.put_point(group, lsn, row)
        self._points.clear()
        self._groups.machine.open = list(self._open)
        self._groups.flush()

    # --- points ----------------------------------------------------------------------------------

    def _change(self, group: LiveGroup, lsn: int, time_ns: int) -> None:
        """Content or names of the group change with this op: its newest point ends before it."""
        state = group.state
        if not state.open_since:
            state.open_since = lsn
            if state.point is not None:
                self._points[state.id, state.point.lsn] = encode_point(state.point, lsn)
        state.last_lsn, state.last_ns = lsn, time_ns
        self._groups.touch(group)
        if state.id not in self._open:
            self._open[state.id] = None
            self._check_ns = min(self._check_ns, time_ns + self._quiet_ns)

    def _point(self, group: LiveGroup, lsn: int, time_ns: int, grade: int, reason: bytes) -> None:
        """At this LSN, and until its next change, the group is at a recovery point."""
        state, old = group.state, group.state.point
        if grade == SYNC and state.deferred:
            grade, reason = TRANSACTION, state.deferred
        burst_ns = time_ns
        if old is not None and old.lsn == lsn and old.grade >= grade:
            return
        close = old is not None and time_ns - old.burst_ns < SYNC_BURST_NS
        if old is not None and old.grade == grade == SYNC and close:
            burst_ns = old.burst_ns
            self._points[state.id, old.lsn] = None
        state.deferred = b""
        state.point = NewestPoint(lsn, time_ns, grade, reason, burst_ns)
        state.open_since = 0
        self._points[state.id, lsn] = encode_point(state.point, 0)
        self._open.pop(state.id, None)
        self._groups.touch(group)

    def _complete(self, group: LiveGroup, op: Op, reason: bytes) -> None:
        """A transaction is complete, unless somebody is still at a file that the group syncs."""
        if group.state.hot:
            return
        if group.clean:
            self._point(group, op.lsn, op.time_ns, TRANSACTION, reason)
        else:
            group.state.deferred = reason

    def _maybe_sync(self, group: LiveGroup, op: Op, reason: bytes) -> None:
        """A step that may leave the group with nothing open. Within a cycle it proves nothing."""
        state = group.state
        in_cycle = len(state.rhythm.cycle) > 1 and state.open_since and not state.deferred
        if not state.hot and not in_cycle and group.clean:
            self._point(group, op.lsn, op.time_ns, SYNC, reason)

    # --- quiet -----------------------------------------------------------------------------------

    @property
    def _quiet_ns(self) -> int:
        return self._groups.machine.settings.quiet_ns

    def _look_for_quiet(self, now_ns: int) -> None:
        """Groups in which nothing has happened for long are at a sync point since then."""
        oldest_ns = now_ns
        for number in tuple(self._open):
            group = self._groups.get(number)
            if group.state.id != number or group.state.hot:
                # United with another one, or its program waits with a transaction open.
                del self._open[number]
            elif group.state.last_ns + self._quiet_ns <= now_ns:
                self._settle(group, b"quiet for %g s" % (self._quiet_ns / 1e9))
            else:
                oldest_ns = min(oldest_ns, group.state.last_ns)
        self._check_ns = oldest_ns + self._quiet_ns if self._open else _FOR_EVER

    def _settle(self, group: LiveGroup, reason: bytes) -> None:
        state = group.state
        group.settle()
        self._point(group, state.last_lsn, state.last_ns, SYNC, reason)
        self._open.pop(state.id, None)

    # --- content ---------------------------------------------------------------------------------

    def _write(self, op: Op) -> None:
        found = self._groups.files.get(op[4]) or self._groups.meet(op[4], op[6], op[0])
        if found is None:
            return
        file, offset, payload = found[0], op[5], op[8]
        staged = file.staged
        group = self._written(op, file, found[1])
        stop = offset + len(payload)
        file.appends = offset >= file.end
        if stop > file.end:
            file.end = stop
        state = group.state
        if not offset and staged and _is_zero_header(payload):
            self._retire(group, file, staged, op, b"zeroed header")
        elif state.journals and file.place in state.journals:
            if file.node not in state.hot:
                state.hot.append(file.node)
                state.hot_run = 0
        elif file.synced:
            state.hot_run = 0
            if file.node != state.rhythm.last_node:
                state.rhythm.disturbed = True
        if op[3] & _SYNCHRONOUS and file.dirty:
            self._synced(op, file, group)

    def _written(self, op: Op, file: FileState, group: LiveGroup) -> LiveGroup:
        """What every write and truncation does."""
        if file.actor != op.actor and op.actor:
            group = self._groups.other_writer(file, group, op.actor, op.lsn)
        if not file.dirty or file.settled:
            note_write(group.state.rhythm, op.time_ns, file.actor)
            group.state.deferred = b""
            file.dirty = file.dirty or op.lsn
            file.settled = False
            group.unfinished[file.node] = file
            self._groups.note_dirty(self._groups.family_of(file.actor), group)
        file.written, file.staged = op.lsn, 0
        self._change(group, op.lsn, op.time_ns)
        return group

    def _truncate(self, op: Op) -> None:
        found = self._groups.meet(op.node, op.actor, op.lsn)
        if found is None:
            return
        file, group = found
        staged = file.staged
        group = self._written(op, file, group)
        file.end = min(file.end, op.offset)
        if not op.offset and staged:
            self._retire(group, file, staged, op, b"truncation")

    # --- journals --------------------------------------------------------------------------------

    def _retire(self, group: LiveGroup, file: FileState, staged: int, op: Op, how: bytes) -> None:
        """A file loses what it held. If it could undo what was then written, that is a commit.

        So it is a journal if its content stood (since the LSN `staged`) before some other file of
        the group was written to, and that one has been synced since. One whose content was
        synced is remembered by name; a mere copy (closed, or put there by a rename: an editor's
        backup) counts where no other rule has been learned. Retiring a known journal without a
        write completes a transaction too: one that changed nothing.
        """
        state = group.state
        known, synced = file.place in state.journals, staged == file.synced
        covered = [
            other
            for other in group.files.values()
            if other is not file and other.synced > other.written > staged and not other.dirty
        ]
        if file.node in state.hot:
            state.hot.remove(file.node)
        if not known and not (covered and (synced or not _has_rules(group))):
            return
        if synced or known:
            self._learn_journal(group, file)
        file.dirty = 0
        group.count(file)
        newest = max(covered, key=lambda other: other.synced, default=None)
        behind = b" after fsync of %b" % newest.name if newest is not None else b""
        if newest is not None:
            group.remember_member(newest.place)
        self._complete(group, op, b"%b of %b%b" % (how, file.name, behind))

    def _learn_journal(self, group: LiveGroup, file: FileState) -> None:
        if file.place not in group.state.journals:
            forget_events(group.state.rhythm)
        group.remember_member(file.place)
        group.remember_journal(file.place)

    def _is_log_after_all(self, group: LiveGroup, file: FileState) -> bool:
        """A journal is not synced again and again with nothing written elsewhere: a log is."""
        state = group.state
        state.hot_run += 1
        if state.hot_run < LOG_RUN:
            return False
        state.journals.remove(file.place)
        state.hot.remove(file.node)
        assume_log(state.rhythm, file.place)
        return True

    # --- fsync and close -------------------------------------------------------------------------

    def _fsync(self, op: Op) -> None:
        found = self._groups.find_file(op.node)
        if found is not None and found[0].dirty:
            self._synced(op, *found)

    def _synced(self, op: Op, file: FileState, group: LiveGroup) -> None:
        file.dirty, file.settled = 0, False
        file.synced = file.staged = op.lsn
        group.any_synced = True
        group.count(file)
        self._groups.touch(group)
        family = self._groups.family_of(file.actor)
        group = self._groups.note_sync(family, file.node, group, op.lsn)
        state = group.state
        if state.journals and file.place in state.journals:
            is_log = file.node in state.hot and self._is_log_after_all(group, file)
            if not is_log:
                return
        if state.hot:
            return
        group.remember_member(file.place)
        worth = note_sync(state.rhythm, file, op.time_ns, group.clean)
        reason = b"fsync of %b" % file.name
        if worth == TRANSACTION:
            self._point(group, op.lsn, op.time_ns, TRANSACTION, reason)
        elif worth == SYNC:
            self._point(group, op.lsn, op.time_ns, SYNC, reason)

    def _close(self, op: Op) -> None:
        found = self._groups.find_file(op.node)
        if found is None or not found[0].dirty:
            return
        file, group = found
        file.settled = True
        file.staged = op.lsn
        group.count(file)
        self._groups.touch(group)
        self._maybe_sync(group, op, b"close of %b" % file.name)

    # --- names -----------------------------------------------------------------------------------

    def _of(self, directory: int, op: Op) -> LiveGroup:
        return self._groups.of_directory(directory, self._groups.family_of(op.actor), op.lsn)

    def _create(self, op: Op) -> None:
        name = Created.decode(op.payload).name
        self._groups.places[op.node] = (op.offset, name)
        group = self._of(op.offset, op)
        self._change(group, op.lsn, op.time_ns)
        if (op.offset, name) not in group.state.journals:
            self._maybe_sync(group, op, b"creation of %b" % name)

    def _link(self, op: Op) -> None:
        found = self._groups.find_file(op.node)
        moved = found is not None and found[0].directory != op.offset
        self._publish(op, op.offset, bytes(op.payload), b"link", moved)

    def _publish(self, op: Op, directory: int, name: bytes, how: bytes, moved: bool) -> LiveGroup:
        """A node gets a name. A finished file that does so is a transaction of its directory.

        `moved`: it replaces a file or comes from another directory. If not, only the program that
        wrote it can mean that it is finished; somebody else gives an old file a new name. Where
        other rules have been learned, it may be a part of something larger.
        """
        target = self._of(directory, op)
        self._change(target, op.lsn, op.time_ns)
        found = self._groups.find_file(op.node)
        finished = (
            found is not None and bool(found[0].staged) and not found[1].unfinished.get(op.node)
        )
        if found is None or not finished or _has_rules(target):
            self._maybe_sync(target, op, b"%b to %b" % (how, name))
            return target
        file = found[0]
        if not moved and file.actor != op.actor:
            self._maybe_sync(target, op, b"%b to %b" % (how, name))
            return target
        done = b"fsync" if file.synced and not file.dirty else b"close"
        target.remember_member((directory, name))
        self._complete(target, op, b"%b to %b after %b of it" % (how, name, done))
        return target

    def _rename(self, op: Op) -> None:
        renamed = Renamed.decode(op.payload)
        found = self._groups.find_file(op.node)
        source = found[1] if found is not None else self._of(op.offset, op)
        if renamed.other:
            self._lose(renamed.other)
        moved = bool(renamed.other) or renamed.new_parent != op.offset
        target = self._publish(op, renamed.new_parent, renamed.new_name, b"rename", moved)
        self._groups.places[op.node] = (renamed.new_parent, renamed.new_name)
        if renamed.other and renamed.flags & RENAME_EXCHANGE:
            self._groups.places[renamed.other] = (op.offset, renamed.name)
        if found is not None:
            file = found[0]
            source.drop(file.node)
            self._groups.files.pop(file.node, None)
            file.directory, file.name = renamed.new_parent, renamed.new_name
            file.staged = op.lsn
            self._groups.add(file, target)
            target.count(file)
        if source is not target:
            self._change(source, op.lsn, op.time_ns)
            self._maybe_sync(source, op, b"rename of %b" % renamed.name)

    def _lose(self, node: int) -> tuple[FileState, LiveGroup] | None:
        """A name of the node goes."""
        found = self._groups.find_file(node)
        if found is not None:
            found[1].drop(node)
            self._groups.files.pop(node, None)
            self._groups.touch(found[1])
        return found

    def _unlink(self, op: Op) -> None:
        name = bytes(op.payload)
        found = self._groups.find_file(op.node)
        group = found[1] if found is not None else self._of(op.offset, op)
        self._change(group, op.lsn, op.time_ns)
        if found is not None:
            if found[0].staged or found[0].place in group.state.journals:
                self._retire(group, found[0], found[0].staged, op, b"unlink")
            self._lose(op.node)
        self._groups.places.pop(op.node, None)
        if group.state.open_since:
            self._maybe_sync(group, op, b"unlink of %b" % name)

    # --- sessions, programs, what was there before -----------------------------------------------

    def _actor(self, op: Op) -> None:
        self._groups.note_actor(op.lsn, family_of(Actor.decode(op.payload)))

    def _adopt(self, op: Op) -> None:
        adopted = Adopted.decode(op.payload)
        if adopted.parent:
            self._groups.places[op.node] = (adopted.parent, adopted.name)

    def _adopt_name(self, op: Op) -> None:
        self._groups.places.setdefault(op.node, decode_entry(op.payload))

    def _mount(self, op: Op) -> None:
        """Whoever had files open has lost them with the session before."""
        self._groups.machine.settings = settings_in(op.payload)
        self._check_ns = 0
        for number in self._open:
            self._groups.get(number).settle()

    def _clean(self, op: Op) -> None:
        """An unmount in order: everything is closed."""
        for number in tuple(self._open):
            group = self._groups.get(number)
            if group.state.id == number and not group.state.hot and group.state.open_since:
                self._settle(group, b"unmount")


def family_of(actor: Actor) -> int:
    """Which family a process is of: that of its parent's children.

    A child of init belongs to its session: daemons have one each, and the processes that such a
    daemon forks have it as their parent.
    """
    return actor.parent_pid if actor.parent_pid > 1 else actor.session


def settings_in(payload: bytes | memoryview) -> Settings:
    """What a MOUNT op says about barriers; defaults where it says nothing."""
    try:
        said = json.loads(bytes(payload))["barriers"]
        groups = tuple(
            ConfiguredGroup(str(group["name"]), tuple(map(str, group["paths"])))
            for group in said["groups"]
        )
        return Settings(int(said["quiet_ns"]), groups)
    except (ValueError, KeyError, TypeError):
        return Settings()


def describe(settings: Settings) -> dict[str, object]:
    """The inverse of `settings_in`, for the MOUNT op's JSON under the key `barriers`."""
    return {
        "quiet_ns": settings.quiet_ns,
        "groups": [msgspec.to_builtins(group) for group in settings.groups],
    }


def _has_rules(group: LiveGroup) -> bool:
    state = group.state
    return bool(state.journals) or state.rhythm.log >= 0 or len(state.rhythm.cycle) > 1


def _is_zero_header(payload: bytes | memoryview) -> bool:
    return len(payload) <= MAX_HEADER_BYTES and not bytes(payload).strip(b"\0")
