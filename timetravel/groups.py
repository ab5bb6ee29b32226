"""Consistency groups as readers need them: which concern a path, how they stand, what to call them.

Duty: the groups of one snapshot, with the one point that can't be in the index yet: a group that
has fallen quiet at the end of the log. For one thread at a time. It does not choose an LSN
(`timetravel/barrier_search.py` does).
"""

from __future__ import annotations

import heapq
import os.path
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from store.index_points import KnownGroups
from store.journal import Group, Point, Snapshot
from store.types import ROOT, Lsn, NodeId, TimeNs

MAX_NAMED_DIRECTORIES: Final = 64
"""Of a group's directories so many are looked at to find out what to call it."""

MAX_RESTING: Final = 256
"""Groups at rest that are looked for below a directory."""

_MAX_DEPTH: Final = 4096


class Concern(NamedTuple):
    """What a moment is asked about."""

    directory: NodeId
    name: bytes | None = None
    """A file in the directory; None: the directory and everything below it."""


EVERYTHING: Final = Concern(ROOT)


class GroupTable:
    """The groups of a snapshot. `now_ns` is the clock now; the index must be as far as that."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        now_ns: int,
        quiet_ns: int,
        known: KnownGroups | None = None,
    ) -> None:
        self.now_ns = now_ns
        self.quiet_ns = quiet_ns
        self._snapshot = snapshot
        self._rows = {group.id: group for group in snapshot.groups(known)}
        self._titles: dict[Lsn, bytes] = {}
        self._paths: dict[tuple[NodeId, Lsn], bytes | None] = {}
        self._below: dict[tuple[NodeId, NodeId, Lsn], bool] = {}

    def groups(self) -> Iterator[Group]:
        """All of them, those that became part of others too."""
        return iter(self._rows.values())

    def group(self, number: Lsn) -> Group | None:
        """One of them."""
        return self._rows.get(number)

    # --- points ----------------------------------------------------------------------------------

    def point_before(self, group: Lsn, lsn: Lsn, least: str) -> Point | None:
        """As `Snapshot.point_before`, the point of a group that has fallen quiet included."""
        if least != "transaction":
            quiet = self.quiet_point(group)
            if quiet is not None and quiet.lsn <= lsn:
                return quiet
        return self._snapshot.point_before(group, lsn, least)

    def quiet_point(self, number: Lsn) -> Point | None:
        """The `sync` point of a group without a change for `quiet_ns`, if the index lacks it.

        Points come from ops alone: until another op arrives, quiet can't be written down.
        """
        group = self._rows.get(number)
        if group is None or not group.open_since or group.merged_into or group.hot:
            return None
        if self.now_ns - group.last_time_ns <= self.quiet_ns:
            return None
        reason = f"quiet for {self.quiet_ns / 1e9:g} s"
        return Point(group.last_lsn, group.last_time_ns, "sync", number, reason, "", Lsn(0))

    def newest_point(self, group: Group) -> Point | None:
        """The group's newest point of at least `sync` grade."""
        return self.point_before(group.id, self._snapshot.indexed_lsn, "sync")

    def is_open(self, group: Group) -> bool:
        """Whether the group is in the midst of something now."""
        return bool(group.open_since) and self.quiet_point(group.id) is None

    def time_of(self, lsn: Lsn) -> TimeNs:
        """When that op was; the beginning of time for one that is not kept."""
        op = self._snapshot.op(lsn)
        return op.time_ns if op is not None else TimeNs(0)

    # --- which groups ----------------------------------------------------------------------------

    def concerned(
        self, concern: Concern, at: Lsn, rests: Callable[[Group], bool] | None = None
    ) -> list[Group]:
        """The groups that write where `concern` says, as of `at`.

        Of a file those that have its name among their members; if none has, all of its directory.
        Where a directory lay is not found out for every group that `rests`, only for those that
        changed last: they make no difference to where a time goes.
        """
        if concern == EVERYTHING:
            return list(self._rows.values())
        here = [g for g in self._rows.values() if concern.directory in g.directories]
        if concern.name is None:
            found = [*here, *self._below_directory(concern.directory, at, rests)]
        else:
            place = (concern.directory, concern.name)
            found = [group for group in here if place in group.members] or here
        return self._with_successors(found)

    def _below_directory(
        self, top: NodeId, at: Lsn, rests: Callable[[Group], bool] | None
    ) -> Iterator[Group]:
        """Groups with a directory below `top`."""
        there = [group for group in self._rows.values() if group.first_lsn <= at]
        if rests is not None:
            resting = [group for group in there if rests(group)]
            newest = heapq.nlargest(MAX_RESTING, resting, key=lambda group: group.last_lsn)
            ids = {group.id for group in resting}
            there = [*(group for group in there if group.id not in ids), *newest]
        return (
            group
            for group in there
            if any(self._is_below(node, top, at) for node in group.directories)
        )

    def _with_successors(self, found: list[Group]) -> list[Group]:
        """The groups, and those that they became part of."""
        every = {group.id: group for group in found}
        for group in found:
            while group.merged_into and group.merged_into not in every:
                successor = self._rows.get(group.merged_into)
                if successor is None:
                    break
                every[successor.id] = group = successor
        return list(every.values())

    def _is_below(self, node: NodeId, top: NodeId, at: Lsn) -> bool:
        """Whether a directory lay at or below `top`. What is found out on the way is remembered."""
        passed: list[NodeId] = []
        below = False
        for _ in range(_MAX_DEPTH):
            known = self._below.get((node, top, at))
            if known is not None or node in (top, ROOT):
                below = node == top if known is None else known
                break
            passed.append(node)
            names = self._snapshot.names(node, at)
            if not names or not names[0][0]:
                break
            node = names[0][0]
        self._below.update(((on_the_way, top, at), below) for on_the_way in passed)
        return below

    # --- names -----------------------------------------------------------------------------------

    def title(self, group: Group) -> bytes:
        """What people call it: its configured name, or the path that its directories share.

        Relative to the volume's root, `.` for the root itself.
        """
        known = self._titles.get(group.id)
        if known is None:
            known = self._titles[group.id] = self._title(group)
        return known

    def _title(self, group: Group) -> bytes:
        if group.name:
            return group.name.encode("utf-8", "surrogateescape")
        directories = group.directories[:MAX_NAMED_DIRECTORIES]
        paths = [self.path_of(node, group.last_lsn) for node in directories]
        known = [path for path in paths if path is not None]
        if not known:
            return b"?"
        return os.path.commonpath([b"/" + path for path in known]).lstrip(b"/") or b"."

    def path_of(self, node: NodeId, at: Lsn) -> bytes | None:
        """Path of a directory as of `at`, else as of now; None if it has none."""
        for lsn in (at, self._snapshot.indexed_lsn):
            key = (node, lsn)
            if key not in self._paths:
                self._paths[key] = self._walk_up(node, lsn)
            if self._paths[key] is not None:
                return self._paths[key]
        return None

    def _walk_up(self, node: NodeId, at: Lsn) -> bytes | None:
        parts: list[bytes] = []
        for _ in range(_MAX_DEPTH):
            if node == ROOT:
                return b"/".join(reversed(parts))
            names = self._snapshot.names(node, at)
            if not names or not names[0][0]:
                return None
            node, name = names[0]
            parts.append(name)
        return None

    def names(self, group: Group, most: int) -> list[bytes]:
        """A few names of its files, for people; those used last."""
        return [name for _directory, name in group.members[:most]]
