"""Bringing back a file or a tree as a view has it: the plan, and the way from plan to report.

Duty: compare a view with what is at the destination and say, step by step, what to do; a plan
changes nothing. `timetravel/steps.py` carries it out. Synchronous; one thread. A plan is held in
memory: about 300 bytes for each entry of the restored set.

In place means: the destination is the tree that the volume protects. Then `now`, a view of the
newest LSN, tells which nodes did not change since; they are not touched at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from store.errors import StoreError
from store.types import NodeId
from timetravel.errors import RestoreRefused
from timetravel.place import Place, joined
from timetravel.readable import Readable
from timetravel.steps import Action, Failure, Progress, Report, Step, carry_out
from timetravel.view import NodeState, View


class Existing(Enum):
    """What to do with files that are at the destination already. Directories are merged."""

    REPLACE = "replace"
    KEEP = "keep"  # bring back what is missing only
    REFUSE = "refuse"  # then the plan is not carried out


@dataclass
class Plan:
    """What a restore will do."""

    steps: list[Step] = field(default_factory=list)
    blocked: list[Failure] = field(default_factory=list)
    """Paths that will not come back, and why."""
    refused: list[bytes] = field(default_factory=list)
    """Paths in the way under `Existing.REFUSE`."""

    @property
    def total_bytes(self) -> int:
        """Content to bring back."""
        return sum(step.size_bytes for step in self.steps)

    def counts(self) -> dict[Action, int]:
        """How many steps of each kind."""
        found: dict[Action, int] = {}
        for step in self.steps:
            found[step.action] = found.get(step.action, 0) + 1
        return found


class Resume(Protocol):
    """What is known of a restore that was cut, or may be."""

    begun: bool
    """An earlier run has been at this place."""

    def begin(self, plan: Plan) -> None:
        """Note that it begins, before anything is changed; what an earlier run has brought
        already becomes a KEEP step."""
        ...

    def partial_name(self, path: bytes) -> bytes:
        """Name of the half-made file for a path, beside it; the same in each run."""
        ...


class Transfer(NamedTuple):
    """A file to restore beside another."""

    source: bytes | None
    """Path in the volume; None: it was not there, so what is at the destination goes."""
    at: bytes
    """Path relative to the place."""


def restore(
    view: Readable,
    source: bytes,
    place: Place,
    at: bytes,
    *,
    companions: Sequence[Transfer] = (),
    existing: Existing = Existing.REPLACE,
    delete_new: bool = False,
    now: View | None = None,
    verify: bool = True,
    durable: bool = True,
    progress: Progress | None = None,
    resume: Resume | None = None,
) -> Report:
    """Bring `source` (relative to the volume's root) back to `at` (relative to the place).

    `companions` come with it: those that were not there go first, so that no program finds a
    later journal beside the restored file. `resume` remembers how far it has come, if it can be
    cut. The other arguments are those of `plan_restore` and `steps.carry_out`. NoSuchPath if the
    view has no such source; RestoreRefused, with nothing changed, under `Existing.REFUSE`.
    """
    if resume is not None and resume.begun:
        existing = Existing.REPLACE  # what is there now is what the run that was cut has made
    plan = plan_restore(view, source, place, at, existing=existing, delete_new=delete_new, now=now)
    for transfer in companions:
        if transfer.source is None:
            plan.steps.insert(0, Step(Action.REMOVE, transfer.at))
            continue
        further = plan_restore(
            view, transfer.source, place, transfer.at, existing=existing, now=now
        )
        plan.steps.extend(further.steps)
        plan.blocked.extend(further.blocked)
        plan.refused.extend(further.refused)
    if plan.refused:
        hint = "name another destination with --to, or have what is there replaced (--overwrite)"
        raise RestoreRefused(plan.refused, hint)
    if resume is not None:
        resume.begin(plan)
    report = carry_out(
        view,
        place,
        plan.steps,
        verify=verify,
        durable=durable,
        progress=progress,
        partial_name=resume.partial_name if resume is not None else None,
    )
    for failure in plan.blocked:
        report.fail(*failure)
    return report


def plan_restore(
    view: Readable,
    source: bytes,
    place: Place,
    at: bytes,
    *,
    existing: Existing = Existing.REPLACE,
    delete_new: bool = False,
    now: View | None = None,
) -> Plan:
    """What bringing `source` back to `at` takes. Reads the view and the place, changes nothing.

    `at` is the path that the source itself will have. A file there is replaced or kept as
    `existing` says; a directory is merged: what is not in the view stays, unless `delete_new`.
    With `now` the place must be the volume's tree, and `at` equal to `source`: missing directories
    above it come back too. NoSuchPath if the view has no such source.
    """
    planner = _Planner(view, place, existing, delete_new, now)
    state = view.walk(source)
    if now is not None:
        planner.plan_missing_ancestors(at)
    planner.plan_all(state, at)
    return planner.plan


@dataclass(frozen=True, slots=True)
class _Entry:
    """A thing to plan. `fresh`: its directory is made by this plan, so nothing can be there."""

    state: NodeState
    path: bytes
    fresh: bool
    above_now: NodeId | None
    """The present node of its directory, if that is known; else None."""


class _Planner:
    def __init__(
        self,
        view: Readable,
        place: Place,
        existing: Existing,
        delete_new: bool,
        now: View | None,
    ) -> None:
        self.plan = Plan()
        self._view = view
        self._place = place
        self._existing = existing
        self._delete_new = delete_new
        self._now = now
        self._first_names: dict[NodeId, bytes] = {}
        """Of nodes with several links: the path that the further ones are linked to."""
        self._rewritten: set[tuple[int, int]] = set()
        """(device, inode) of files that will be rewritten, each as one node only."""

    def plan_missing_ancestors(self, at: bytes) -> None:
        """The directories above `at`, where they are missing."""
        above = at.split(b"/")[:-1]
        for depth in range(1, len(above) + 1):
            path = b"/".join(above[:depth])
            if self._place.stat(path) is None:
                self._step(Action.MAKE_DIRECTORY, path, self._view.walk(path))

    def plan_all(self, top: NodeState, at: bytes) -> None:
        """Plan `top` and everything below it, directories before their content."""
        above_now = self._above_now(at)
        fresh = any(step.action is Action.MAKE_DIRECTORY for step in self.plan.steps)
        pending = [_Entry(top, at, fresh, above_now)]
        while pending:
            entry = pending.pop()
            if stat.S_ISDIR(entry.state.mode):
                pending.extend(reversed(list(self._directory(entry))))
            else:
                self._other(entry)

    def _above_now(self, at: bytes) -> NodeId | None:
        if self._now is None or not at:
            return None
        present = self._now.find(at.rpartition(b"/")[0])
        return None if present is None else present.node

    def _directory(self, entry: _Entry) -> Iterator[_Entry]:
        """Plan a directory; yields its entries unless it can't come back."""
        state, path, node = entry.state, entry.path, entry.state.node
        there = None if entry.fresh else self._place.stat(path)
        if there is not None and not stat.S_ISDIR(there.st_mode):
            if not self._may_replace(path):
                return
            self._step(Action.REMOVE, path)
            there = None
        present = self._present(entry)
        if there is None:
            self._step(Action.MAKE_DIRECTORY, path, state)
        elif self._existing is Existing.REPLACE:
            quiet = present is not None and unchanged(present, state, self._view)
            self.plan.steps.append(Step(Action.KEEP if quiet else Action.DIRECTORY, path, node))
        try:
            names = self._view.listing(node)
            if there is not None and self._delete_new:
                self._remove_new(path, {name for name, _state in names})
            below_now = present.node if present is not None else None
            for name, child in names:
                yield _Entry(child, joined(path, name), there is None, below_now)
        except StoreError as error:
            self.plan.blocked.append(Failure(path, f"{error} ({error.hint})"))

    def _other(self, entry: _Entry) -> None:
        """Plan a file, link or special file."""
        state, path = entry.state, entry.path
        present = self._present(entry)
        if present is not None and unchanged(present, state, self._view):
            self._step(Action.KEEP, path)
            self._first_names.setdefault(state.node, path)
            return
        there = None if entry.fresh else self._place.stat(path)
        if there is not None and stat.S_ISDIR(there.st_mode):
            if not self._clear_directory(path):
                return
            there = None
        elif there is not None and not self._may_replace(path):
            return
        first = self._first_names.get(state.node)
        if first is not None:
            self.plan.steps.append(Step(Action.LINK, path, state.node, other=first))
            return
        if state.links > 1:
            self._first_names[state.node] = path
        if there is None:
            self._step(Action.CREATE, path, state)
        elif self._stays_one_file(state, there):
            self._step(Action.REWRITE, path, state)
        else:
            self._step(Action.REPLACE, path, state)

    def _stays_one_file(self, state: NodeState, there: os.stat_result) -> bool:
        """Whether to write into the file that is there: it has, and had, further links.

        One inode is rewritten as one node only: names that are links to one file now may have
        been different files.
        """
        inode = (there.st_dev, there.st_ino)
        linked = state.links > 1 and there.st_nlink > 1 and inode not in self._rewritten
        if not (linked and stat.S_ISREG(state.mode) and stat.S_ISREG(there.st_mode)):
            return False
        self._rewritten.add(inode)
        return True

    def _present(self, entry: _Entry) -> NodeState | None:
        """What the present has under the entry's path."""
        if self._now is None or entry.fresh:
            return None
        if not entry.path:
            return self._now.root()
        if entry.above_now is None:
            return None
        return self._now.lookup(entry.above_now, entry.path.rpartition(b"/")[2])

    def _may_replace(self, path: bytes) -> bool:
        if self._existing is Existing.KEEP:
            self._step(Action.KEEP, path)
        elif self._existing is Existing.REFUSE:
            self.plan.refused.append(path)
        return self._existing is Existing.REPLACE

    def _clear_directory(self, path: bytes) -> bool:
        """Plan to remove the directory that stands where something else shall come."""
        if not self._may_replace(path):
            return False
        if not self._delete_new:
            reason = "a directory is in the way; move it away or have new things deleted"
            self.plan.blocked.append(Failure(path, reason))
            return False
        self._remove_tree(path)
        return True

    def _remove_new(self, directory: bytes, keep: set[bytes]) -> None:
        for name in self._place.names(directory):
            if name not in keep:
                self._remove_tree(joined(directory, name))

    def _remove_tree(self, path: bytes) -> None:
        """Plan to remove `path` and everything below it, content first."""
        pending = [path]
        found: list[bytes] = []
        while pending:
            path = pending.pop()
            found.append(path)
            there = self._place.stat(path)
            if there is not None and stat.S_ISDIR(there.st_mode):
                pending.extend(joined(path, name) for name in self._place.names(path))
        for path in reversed(found):
            self._step(Action.REMOVE, path)

    def _step(self, action: Action, path: bytes, state: NodeState | None = None) -> None:
        if state is None:
            self.plan.steps.append(Step(action, path))
            return
        size = state.size_bytes if stat.S_ISREG(state.mode) else 0
        self.plan.steps.append(Step(action, path, state.node, size))


def unchanged(present: NodeState, past: NodeState, view: Readable) -> bool:
    """Whether `present` is what `past`, of `view`, was: nothing about the node changed since."""
    return present.node == past.node and present.changed <= view.lsn
