"""A whole tree made anew from the journal, in a directory of its own: the plan.

Duty: everything that a view has below its root, as steps for `timetravel/steps.py`, with owners,
modes, times, links, holes. Unlike a restore it makes do with a journal that is not complete (the
initial backup had not been finished when the machine was lost) and says by name what is missing;
and it can go on where an earlier run was cut short: what is there already is compared with the
view and mended where it differs. Synchronous; one thread.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from store.errors import NeverCaptured, NotSeeded
from store.journal import Journal, Snapshot
from store.types import Lsn, NodeId
from timetravel.place import Place, joined
from timetravel.steps import TEMPORARY_PREFIX, Action, Failure, Step
from timetravel.view import NodeState, View

NEVER_SENT = "it had not been copied yet when the machine was lost (initial backup)"
SOME_NAMES = "not all names in it are known: the initial backup had not come to it"


class TreePlan(NamedTuple):
    """What to do, and what can't be done."""

    steps: list[Step]
    missing: list[Failure]
    """Paths of which the journal never had the content, or all the names."""

    @property
    def total_bytes(self) -> int:
        """Content to write."""
        return sum(step.size_bytes for step in self.steps)


class KnownView(View):
    """A view that takes for a directory's listing what is known of it.

    `incomplete`: directories of which that is not all.
    """

    def __init__(self, journal: Journal, lsn: Lsn) -> None:
        super().__init__(journal, lsn)
        self.incomplete: set[NodeId] = set()

    def listing(self, directory: NodeId) -> list[tuple[bytes, NodeState]]:
        """Names and attributes of what is known to have been there, sorted."""
        try:
            return super().listing(directory)
        except NotSeeded:
            self.incomplete.add(directory)

        def known(snapshot: Snapshot) -> list[tuple[bytes, NodeState]]:
            found = [
                (name, snapshot.state(node, self.lsn))
                for name, node in snapshot.known_names(directory, self.lsn)
            ]
            return sorted((name, state) for name, state in found if state is not None)

        return self._ask(known)

    def lacks_content(self, state: NodeState) -> bool:
        """Is some of a file's content not in the journal?"""
        with self.journal.snapshot() as snapshot:
            base = snapshot.base(state.node)
        if base is None or (base.complete and base.since <= self.lsn):
            return False
        try:
            for _ in self.data_areas(state.node):
                pass
        except (NotSeeded, NeverCaptured):
            return True
        return False


def plan_tree(view: KnownView, place: Place) -> TreePlan:
    """The steps that make the place's root what the view's root is. Changes nothing."""
    return _Planner(view, place).run()


class _Entry(NamedTuple):
    """A thing to plan. `fresh`: its directory is made by this plan, so nothing can be there."""

    state: NodeState
    path: bytes
    fresh: bool


class _Planner:
    def __init__(self, view: KnownView, place: Place) -> None:
        self._view = view
        self._place = place
        self._plan = TreePlan([], [])
        self._first_names: dict[NodeId, bytes] = {}
        """Of nodes with several links: the path that the further ones are linked to."""

    def run(self) -> TreePlan:
        """Plan everything, directories before their content."""
        waiting = [_Entry(self._view.root(), b"", False)]
        while waiting:
            entry = waiting.pop()
            if stat.S_ISDIR(entry.state.mode):
                waiting += reversed(self._directory(entry))
            else:
                self._other(entry)
        return self._plan

    def _directory(self, entry: _Entry) -> list[_Entry]:
        state, path = entry.state, entry.path
        there = None if entry.fresh else self._place.stat(path)
        if there is not None and not stat.S_ISDIR(there.st_mode):
            self._plan.steps.append(Step(Action.REMOVE, path))
            there = None
        action = Action.MAKE_DIRECTORY if there is None else Action.DIRECTORY
        self._plan.steps.append(Step(action, path, state.node))
        names = self._view.listing(state.node)
        if state.node in self._view.incomplete:
            self._plan.missing.append(Failure(path + b"/", SOME_NAMES))
        if there is not None:
            self._remove_half_made(path, {name for name, _ in names})
        return [_Entry(child, joined(path, name), there is None) for name, child in names]

    def _remove_half_made(self, directory: bytes, names: set[bytes]) -> None:
        for name in self._place.names(directory):
            if name.startswith(TEMPORARY_PREFIX) and name not in names:
                self._plan.steps.append(Step(Action.REMOVE, joined(directory, name)))

    def _other(self, entry: _Entry) -> None:
        state, path = entry.state, entry.path
        first = self._first_names.get(state.node)
        if first is not None:
            self._plan.steps.append(Step(Action.LINK, path, state.node, other=first))
            return
        regular = stat.S_ISREG(state.mode)
        if regular and self._view.lacks_content(state):
            self._plan.missing.append(Failure(path, NEVER_SENT))
            return
        if state.links > 1:
            self._first_names[state.node] = path
        there = None if entry.fresh else self._place.stat(path)
        size = state.size_bytes if regular else 0
        self._plan.steps.append(Step(_action(state, there), path, state.node, size))


def _action(state: NodeState, there: os.stat_result | None) -> Action:
    """How a file, link or special file comes to be what it must be."""
    if there is None:
        return Action.CREATE
    can_open = os.geteuid() == 0 or there.st_mode & stat.S_IWUSR
    if stat.S_ISREG(state.mode) and stat.S_ISREG(there.st_mode) and can_open:
        return Action.REWRITE  # it is compared, and need not be what an earlier run wrote
    return Action.REPLACE
