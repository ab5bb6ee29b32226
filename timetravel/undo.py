"""Making a path what it was at an earlier moment, by touching only what changed since.

Duty: turn the difference between then and now into steps. Through the mount these are ops like
any other, so an undo can be undone. Synchronous; one thread.

What was renamed is renamed back and not copied; a file that was changed in place is changed back
in place, where it differs; one that was replaced by another file is replaced by rename. Steps
are ordered so that no step needs a name that is taken: everything renamed is first moved out of
the way (deepest first, together with what is to be deleted), then things come back from the top
down.
"""

from __future__ import annotations

import stat

from store.types import NodeId
from timetravel.diff import Change, ChangeKind, Part, diff, same_file
from timetravel.errors import NoSuchNode
from timetravel.place import Place, joined
from timetravel.restore import Plan
from timetravel.steps import Action, Progress, Report, Step, carry_out
from timetravel.view import NodeState, View

STAGE_PREFIX = b".cdpfs-undo-"
"""Start of the names that renamed things have for the duration of an undo."""


def undo(
    view: View,
    now: View,
    path: bytes,
    place: Place,
    *,
    verify: bool = True,
    durable: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Make `path` equal to what `view` has there. `place` is the volume's tree, `now` its present.

    What was created since is deleted; a directory that has got further entries since `now` stays,
    as a failure in the report. NoSuchPath if neither view has the path.
    """
    plan = plan_undo(view, now, path)
    return carry_out(
        view, place, plan.steps, now=now, verify=verify, durable=durable, progress=progress
    )


def plan_undo(view: View, now: View, path: bytes) -> Plan:
    """The steps that undo what happened at and below `path` between `view` and `now`."""
    planner = _Planner(view, now, path)
    planner.watch_directories()
    planner.clear()
    planner.bring_back()
    return planner.plan


class _Planner:
    def __init__(self, view: View, now: View, path: bytes) -> None:
        self.plan = Plan()
        self._view = view
        self._now = now
        self._scope = path
        self._changes = list(diff(view, now, path))
        self._waiting: dict[bytes, bytes] = {}
        """Old path of a renamed entry → where it waits."""
        self._names: dict[NodeId, bytes] = {}
        """Of nodes that came back or stayed: an old path at which they are in the end."""
        self._changed_back: set[NodeId] = set()
        self._links: list[Step] = []
        """Done last: what they are linked to is in its place then."""

    def watch_directories(self) -> None:
        """Have directories get their times back even where the difference shows none.

        (Someone may have set a directory's times back after changing its names.)
        """
        changed = {change.old_path for change in self._changes}
        above = {change.old_path.rpartition(b"/")[0] for change in self._changes}
        for path in sorted(above | {self._scope}):
            inside = path == self._scope or path.startswith(self._scope + b"/") or not self._scope
            state = self._view.find(path) if inside and path not in changed else None
            if state is not None and stat.S_ISDIR(state.mode):
                self.plan.steps.append(Step(Action.KEEP, path, state.node))

    def clear(self) -> None:
        """Delete what is new and move away what was renamed, children before directories."""
        moving = [c for c in self._changes if c.kind in (ChangeKind.ADDED, ChangeKind.RENAMED)]
        for change in sorted(moving, key=lambda change: change.path, reverse=True):
            if change.kind is ChangeKind.ADDED:
                self.plan.steps.append(Step(Action.REMOVE, change.path))
                continue
            name = b"%b%d-%d" % (STAGE_PREFIX, self._now.lsn, len(self._waiting))
            stage = joined(self._scope, name)
            self._waiting[change.old_path] = stage
            if change.old is not None:
                self._names[change.old.node] = change.old_path
            self.plan.steps.append(Step(Action.MOVE, stage, other=change.path))

    def bring_back(self) -> None:
        """Rename back, create and change back, directories before what is in them."""
        self._missing_ancestors()
        for change in sorted(self._changes, key=lambda change: change.old_path):
            old = change.old
            if old is None:
                continue
            if change.kind is ChangeKind.RENAMED:
                stage = self._waiting[change.old_path]
                self.plan.steps.append(Step(Action.MOVE, change.old_path, other=stage))
            came_back = change.kind is ChangeKind.REMOVED
            if came_back or (change.replaced and not stat.S_ISDIR(old.mode)):
                self._bring(old, change.old_path, Action.CREATE if came_back else Action.REPLACE)
            elif change.parts:
                self._change_back(old, change)
        self.plan.steps.extend(self._links)

    def _missing_ancestors(self) -> None:
        above = self._scope.split(b"/")[:-1]
        for depth in range(1, len(above) + 1):
            path = b"/".join(above[:depth])
            if self._now.find(path) is None:
                self._step(Action.MAKE_DIRECTORY, path, self._view.walk(path))

    def _bring(self, old: NodeState, path: bytes, action: Action) -> None:
        """Make an entry that is gone, as a link where its node is still, or again, there."""
        if stat.S_ISDIR(old.mode):
            self._step(Action.MAKE_DIRECTORY, path, old)
            return
        other = self._names.get(old.node) or self._surviving_name(old)
        if other is not None:
            self._links.append(Step(Action.LINK, path, old.node, other=other))
            return
        if old.links > 1:
            self._names[old.node] = path
        self._step(action, path, old)

    def _surviving_name(self, old: NodeState) -> bytes | None:
        """A path, in the end, of a link to the node that was never gone.

        One outside the scope does only if the node is the same as then: what is outside is not
        ours to change.
        """
        if old.links == 1:
            return None
        try:
            present = self._now.state(old.node)
        except NoSuchNode:
            return None
        before = set(self._view.names(old.node))
        for directory, name in sorted(before & set(self._now.names(old.node))):
            path = joined(self._view.path_of(directory), name)
            inside = not self._scope or path.startswith(self._scope + b"/")
            if inside or same_file(self._view, self._now, old, present):
                return path
        return None

    def _change_back(self, old: NodeState, change: Change) -> None:
        """Undo changes to an entry that is there, where it stands."""
        path = change.old_path
        if stat.S_ISDIR(old.mode):
            self.plan.steps.append(Step(Action.DIRECTORY, path, old.node))
        elif old.node not in self._changed_back:
            # Once is enough for all links of a file.
            self._changed_back.add(old.node)
            content = Part.CONTENT in change.parts and stat.S_ISREG(old.mode)
            self._step(Action.REWRITE if content else Action.ATTRIBUTES, path, old)

    def _step(self, action: Action, path: bytes, state: NodeState) -> None:
        brings_content = stat.S_ISREG(state.mode) and action is not Action.ATTRIBUTES
        size = state.size_bytes if brings_content else 0
        self.plan.steps.append(Step(action, path, state.node, size))
