"""Names: finished files that get theirs, and what merely comes and goes. Pure; one thread.

A program that writes a file aside and then renames (or links) it to its name has completed
something, unless it goes on with names that exist: a link is followed by the unlink of the first
name, a rename over the branch by the unlink of its lock. So such a point is put at once and
withdrawn if the same program's next change is an unlink, rename or link; then the point moves
there. (One of an earlier batch becomes a `sync` point: somebody may be shown it.) Between
directories it makes them one group.
"""

from __future__ import annotations

from stat import S_ISREG

from store.barrier_groups import Groups, LiveGroup
from store.barrier_journals import has_rules, retire
from store.barrier_points import Points
from store.barrier_state import FileState
from store.ops import RENAME_EXCHANGE, Created, Op, Renamed


class Names:
    """The rules about names."""

    def __init__(self, groups: Groups, points: Points) -> None:
        self._groups = groups
        self._points = points

    def _of(self, directory: int, op: Op) -> LiveGroup:
        return self._groups.of_directory(directory, self._groups.family_of(op.actor), op.lsn)

    def create(self, op: Op) -> None:
        """A new node. A file is being made until it is closed, synced or has another name."""
        created = Created.decode(op.payload)
        self._groups.places[op.node] = (op.offset, created.name)
        if S_ISREG(created.mode):
            found = self._groups.meet(op.node, op.actor, op.lsn)
            assert found is not None
            file, group = found
            file.made = file.dirty = op.lsn
            group.count(file)
            self._groups.note_dirty(self._groups.family_of(op.actor), group)
            self._points.change(group, op.lsn, op.time_ns)
            return
        group = self._of(op.offset, op)
        self._points.change(group, op.lsn, op.time_ns)
        self._points.maybe_sync(group, op, b"creation of %b" % created.name)

    def link(self, op: Op) -> None:
        """A further name."""
        name = bytes(op.payload)
        found = self._groups.find_file(op.node)
        moved = found is not None and found[0].directory != op.offset
        target = self._target(op, op.offset, found)
        self._publish(op, target, found, name, b"link", moved)

    def rename(self, op: Op) -> None:
        """Another name, perhaps that of another file."""
        renamed = Renamed.decode(op.payload)
        found = self._groups.find_file(op.node)
        source = found[1] if found is not None else self._of(op.offset, op)
        if renamed.other and not renamed.flags & RENAME_EXCHANGE:
            self._lose(renamed.other)
        target = self._target(op, renamed.new_parent, found)
        self._groups.places[op.node] = (renamed.new_parent, renamed.new_name)
        if renamed.other and renamed.flags & RENAME_EXCHANGE:
            self._groups.places[renamed.other] = (op.offset, renamed.name)
        moved = bool(renamed.other) or renamed.new_parent != op.offset
        finished = found is not None and _is_finished(found[0])
        if found is not None:
            self._give_name(found[0], target, renamed, op.lsn)
        self._publish(op, target, found if finished else None, renamed.new_name, b"rename", moved)
        if found is None and source is not target:
            self._points.change(source, op.lsn, op.time_ns)
            self._points.maybe_sync(source, op, b"rename of %b" % renamed.name)

    def _give_name(self, file: FileState, group: LiveGroup, renamed: Renamed, lsn: int) -> None:
        file.directory, file.name = renamed.new_parent, renamed.new_name
        file.staged = lsn
        if file.made:
            # Made for this name: whatever it holds is what was wanted.
            file.made, file.settled = 0, True
        group.count(file)

    def _target(
        self, op: Op, directory: int, found: tuple[FileState, LiveGroup] | None
    ) -> LiveGroup:
        """The group of the directory, one with those that the program is at work in."""
        target = self._of(directory, op)
        if found is not None and found[1] is not target:
            target = self._groups.unite(target, found[1], op.lsn)
        return self._groups.unite_unfinished(target, op.actor, op.lsn)

    def _publish(
        self,
        op: Op,
        target: LiveGroup,
        found: tuple[FileState, LiveGroup] | None,
        name: bytes,
        how: bytes,
        moved: bool,
    ) -> None:
        """A node gets a name. A finished file that does so is a transaction of its directory.

        `moved`: it replaces a file or comes from another directory. If not, only the program that
        wrote it can mean that it is finished; somebody else gives an old file a new name. Where
        other rules have been learned, it may be a part of something larger.
        """
        reason = b"%b to %b" % (how, name)
        if self._goes_on(op, target):
            return
        self._points.change(target, op.lsn, op.time_ns)
        file = found[0] if found is not None else None
        own = file is not None and (moved or file.actor == op.actor)
        if file is None or not own or not _is_finished(file) or has_rules(target):
            self._points.maybe_sync(target, op, reason)
        else:
            done = b"fsync" if file.synced and not file.dirty else b"close"
            target.remember_member((file.directory, name))
            reason = b"%b after %b of it" % (reason, done)
            self._points.complete(target, op, reason, step=True)

    def _goes_on(self, op: Op, group: LiveGroup) -> bool:
        """The program whose point this is changes names again: the point moves here."""
        state = group.state
        if not state.step or state.step != op.actor or state.open_since:
            return False
        reason = self._points.withdraw(group, op.lsn)
        self._points.change(group, op.lsn, op.time_ns)
        self._points.complete(group, op, reason, step=True)
        return True

    def unlink(self, op: Op) -> None:
        """A name goes."""
        name = bytes(op.payload)
        found = self._groups.find_file(op.node)
        group = found[1] if found is not None else self._of(op.offset, op)
        self._groups.places.pop(op.node, None)
        named = found is not None and found[0].place == (op.offset, name)
        if found is not None and not named:
            group = found[1]
        if self._goes_on_without(op, group, found):
            return
        self._points.change(group, op.lsn, op.time_ns)
        if found is not None:
            file = found[0]
            if file.staged or file.place in group.state.journals:
                retire(self._points, group, file, file.staged, op, b"unlink")
            self._lose(op.node)
        if group.state.open_since:
            self._points.maybe_sync(group, op, b"unlink of %b" % name)

    def _goes_on_without(
        self, op: Op, group: LiveGroup, found: tuple[FileState, LiveGroup] | None
    ) -> bool:
        if not group.state.step or group.state.step != op.actor or group.state.open_since:
            return False
        if found is not None:
            self._lose(op.node)
        return self._goes_on(op, group)

    def _lose(self, node: int) -> None:
        found = self._groups.find_file(node)
        if found is not None:
            found[1].drop(node)
            self._groups.files.pop(node, None)
            self._groups.touch(found[1])


def _is_finished(file: FileState) -> bool:
    return bool(file.staged) and (not file.dirty or file.settled)
