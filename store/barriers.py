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

import msgspec

from store.barrier_cycles import note_sync, note_write
from store.barrier_groups import Groups, LiveGroup, Rows
from store.barrier_journals import is_log_after_all, is_zero_header, note_other_sync, retire
from store.barrier_journals import note_write as note_journal_write
from store.barrier_names import Names
from store.barrier_points import Points
from store.barrier_state import SYNC, TRANSACTION, ConfiguredGroup, FileState, Settings
from store.format import Flag, Kind
from store.ops import Actor, Adopted, Folded, Op, decode_entry

_SYNCHRONOUS = int(Flag.SYNCHRONOUS)
_FOLDED = int(Kind.FOLDED)


class Inference:
    """The machine. Feed it with `take`; `flush` at the end of each batch."""

    def __init__(self, rows: Rows) -> None:
        self._groups = Groups(rows)
        self._points = Points(self._groups, rows)
        names = Names(self._groups, self._points)
        self._handlers: dict[int, Callable[[Op], None]] = {
            Kind.WRITE: self._write,
            Kind.FOLDED: self._folded,
            Kind.TRUNCATE: self._truncate,
            Kind.CREATE: names.create,
            Kind.LINK: names.link,
            Kind.UNLINK: names.unlink,
            Kind.RENAME: names.rename,
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
        handlers, points = self._handlers, self._points
        fold = _fold_in(ops)
        for op in ops:
            if op[1] >= points.check_ns:
                points.look_for_quiet(op[1])
            handler = handlers.get(op[2])
            if handler is not None and op[0] not in aborted:
                handler(op)
            if fold is not None and op[0] == fold.until:
                points.end_fold(fold, op[1])

    def flush(self) -> None:
        """Write what has changed: the end of a batch."""
        self._points.flush()
        self._groups.flush()

    # --- content ---------------------------------------------------------------------------------

    def _write(self, op: Op) -> None:
        found = self._groups.files.get(op[4]) or self._groups.meet(op[4], op[6], op[0])
        if found is None:
            return
        file, offset, payload = found[0], op[5], op[8]
        staged = file.staged
        group = self._written(op, file, found[1])
        self._grow(file, offset, offset + len(payload))
        if not offset and staged and is_zero_header(payload):
            retire(self._points, group, file, staged, op, b"zeroed header")
        else:
            note_journal_write(group, file)
        if op[3] & _SYNCHRONOUS and file.dirty:
            self._synced(op, file, group)

    def _folded(self, op: Op) -> None:
        """A write whose bytes a replica was not sent; none that retires a journal is left out."""
        found = self._groups.files.get(op.node) or self._groups.meet(op.node, op.actor, op.lsn)
        if found is None:
            return
        group = self._written(op, *found)
        self._grow(found[0], op.offset, op.offset)
        note_journal_write(group, found[0])
        if op.flags & _SYNCHRONOUS and found[0].dirty:
            self._synced(op, found[0], group)

    def _grow(self, file: FileState, start: int, stop: int) -> None:
        file.appends = start >= file.end
        file.end = max(file.end, stop)

    def _written(self, op: Op, file: FileState, group: LiveGroup) -> LiveGroup:
        """What every write and truncation does."""
        if file.actor != op.actor and op.actor:
            group = self._groups.other_writer(file, group, op.actor, op.lsn)
        if not file.dirty or file.settled or not file.written:
            note_write(group.state.rhythm, op.time_ns, file.actor)
            group.state.deferred = b""
            file.dirty = file.dirty or op.lsn
            file.settled = False
            group.unfinished[file.node] = file
            self._groups.note_dirty(self._groups.family_of(file.actor), group)
        file.written, file.staged = op.lsn, 0
        self._points.change(group, op.lsn, op.time_ns)
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
            retire(self._points, group, file, staged, op, b"truncation")

    # --- fsync and close -------------------------------------------------------------------------

    def _fsync(self, op: Op) -> None:
        found = self._groups.find_file(op.node)
        if found is not None and found[0].dirty:
            self._synced(op, *found)

    def _synced(self, op: Op, file: FileState, group: LiveGroup) -> None:
        made, file.made = file.made, 0
        file.dirty, file.settled = 0, False
        file.synced = file.staged = op.lsn
        group.any_synced = True
        group.count(file)
        self._groups.touch(group)
        family = self._groups.family_of(file.actor)
        group = self._groups.note_sync(family, file.node, group, op.lsn)
        state = group.state
        known = bool(state.journals) and file.place in state.journals
        if known and not is_log_after_all(group, file):
            return
        if not known:
            note_other_sync(group)
        if state.hot or (made and state.steps):
            return
        group.remember_member(file.place)
        worth = note_sync(state.rhythm, file, op.time_ns, group.clean)
        reason = b"fsync of %b" % file.name
        if worth == TRANSACTION:
            self._points.put(group, op.lsn, op.time_ns, TRANSACTION, reason)
        elif worth == SYNC:
            self._points.put(group, op.lsn, op.time_ns, SYNC, reason)

    def _close(self, op: Op) -> None:
        found = self._groups.find_file(op.node)
        if found is None or not found[0].dirty:
            return
        file, group = found
        made, file.made = file.made, 0
        file.settled = True
        file.staged = op.lsn
        group.count(file)
        self._groups.touch(group)
        if made and group.state.steps:
            return
        self._points.maybe_sync(group, op, b"close of %b" % file.name)

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
        """A session begins; the one before may have ended in a crash."""
        self._groups.machine.settings = settings_in(op.payload)
        self._points.lose_writers()

    def _clean(self, op: Op) -> None:
        self._points.close_all()


def _fold_in(ops: Sequence[Op]) -> Folded | None:
    """What was left out of a batch. ValueError when it is not a part of the batch."""
    for op in reversed(ops):
        if op[2] == _FOLDED and op[8]:
            found = Folded.decode(op[8])
            if not ops[0].lsn <= found.first <= op[0] < found.until <= ops[-1].lsn:
                raise ValueError(f"a fold from {found.first} to {found.until} is not in its batch")
            return found
    return None


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
