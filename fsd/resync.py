"""The log goes on after a gap: find out what it lacks, and log it as external changes.

Duty: as `ExternalChanges`, but while the volume is mounted, so that nodes are in memory which the
journal does not know, or knows by other names. What was remembered of the gap is compared, or the
whole tree when that was too much. Loop's thread; gives way between any two nodes.

Every op that is logged here says what is in the backing tree at that moment; so it is right beside
running applications, too, as long as what they change meanwhile is remembered for another search.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import trio

from fsd.external import ExternalChanges
from fsd.nodes import Node
from fsd.unlogged import TO_THE_END, Range, Unlogged
from store.errors import NotSeeded
from store.format import Kind
from store.journal import NodeState
from store.ops import encode_entry
from store.types import ROOT, Lsn, NodeId
from timetravel.errors import NoSuchNode, NotADirectory

if TYPE_CHECKING:
    from fsd.protection import Protection
    from fsd.session import Session

CLOCK_SLACK_NS = 1_000_000_000
"""Inodes that changed so much before the gap are looked at as well."""


async def _give_way(_: int) -> None:
    await trio.lowlevel.checkpoint()


class Resync(ExternalChanges):
    """One search. `lacking` is what the log lacks; the journal is compared as of LSN `end`."""

    def __init__(
        self,
        session: Session,
        end: Lsn,
        since_ns: int,
        lacking: Unlogged,
        protection: Protection,
    ) -> None:
        super().__init__(session, end, max(since_ns - CLOCK_SLACK_NS, 1), True, _give_way, True)
        self._wait_for_room = session.wait_for_real_room
        self._logging = protection.logging
        self._lacking = lacking
        self._introduced: set[NodeId] = set()
        """Nodes that the journal did not know before this search."""
        self._differing: list[Node] = []
        """Held files whose content is to be compared."""
        self._moved: list[Node] = []
        """Held directories that the journal knows elsewhere."""

    async def run(self) -> None:
        """Search what was remembered, or everything."""
        lacking = self._lacking
        if lacking.everything:
            await super().run()
            self._start_over()
            while self._moved:
                await self._look_into(self._moved.pop())
        else:
            for directory, names in lacking.names.items():
                await self._remembered(directory, names)
            await self._log_names()
            for node_id, ranges in lacking.nodes.items():
                await self._count()
                node = self._session.nodes.by_id.get(node_id)
                if node is not None and node.linked:
                    await self._mend(node, ranges)
            await self._settle()
        for node in self._differing:
            await self._mend(node, [(0, TO_THE_END)])
            self._let_go(node)

    def _let_go(self, node: Node) -> None:
        node.uses -= 1
        self._session.nodes.drop_if_unused(node)

    async def _look_into(self, directory: Node) -> None:
        """A directory that was moved: what is in it was not compared where it stood before."""
        waiting = [directory]
        while waiting:
            here = waiting.pop()
            waiting += await self._directory(here)
            self._let_go(here)
        await self._log_names()
        await self._settle()
        self._start_over()

    def _start_over(self) -> None:
        for names in (self._went, self._came, self._new_directories):
            names.clear()

    # --- names ------------------------------------------------------------------------------

    async def _remembered(self, directory_id: NodeId, names: set[bytes]) -> None:
        directory = self._session.nodes.by_id.get(directory_id)
        if directory is None or not directory.linked:
            return  # gone: its own name tells
        directory.uses += 1
        try:
            for name in sorted(names):
                await self._count()
                try:
                    self._compare_name(directory, name)
                except (NoSuchNode, NotADirectory):
                    return  # new: its own name tells
        finally:
            self._let_go(directory)

    def _compare_name(self, directory: Node, name: bytes) -> None:
        state = self._state_under(directory.id, name)
        known = None if state is None else state.node
        now = self._node_now(directory, name)
        if known is not None and known != now:
            self._departed(directory, name, known)
        if known != now or (known is None and self._is_there(directory, name)):
            self._arrived(directory, name)

    def _state_under(self, directory: NodeId, name: bytes) -> NodeState | None:
        try:
            return self._view.lookup(directory, name)
        except NotSeeded:
            return None

    def _is_there(self, directory: Node, name: bytes) -> bool:
        try:
            os.stat(name, dir_fd=self._session.nodes.dir_fd(directory), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _node_now(self, directory: Node, name: bytes) -> NodeId | None:
        """What stands under the name, if anything does and it has a node already."""
        if not self._is_there(directory, name):
            return None
        node = self._session.nodes.child(directory, name)
        return node.id if node is not None else self._session.names.child(directory.id, name)

    def _inside(self, node: NodeId) -> list[tuple[NodeId, bytes, NodeId]]:
        """A directory that only moved took along what is in it."""
        now = self._session.nodes.by_id.get(node)
        return [] if now is not None and now.linked else super()._inside(node)

    def _new(self, directory: Node, name: bytes) -> None:
        try:
            self._came_to_be(directory, name)
        except FileNotFoundError:
            return  # gone again

    def _came_to_be(self, directory: Node, name: bytes) -> None:
        session = self._session
        if self._node_now(directory, name) is None:
            if self._is_there(directory, name):
                super()._new(directory, name)
            return
        node = session.adopter.resolve(directory, name)
        assert node is not None
        status = session.nodes.stat(node)
        self.found += 1
        if node.id not in self._introduced and not self._is_known(node.id):
            self._introduce(node, directory, name, status)
        else:
            if node.id in self._lacking.found:
                entry = encode_entry(directory.id, name)
                self._log(Kind.ADOPT_NAME, node.id, session.adopter.since, entry, 0)
            else:
                self._log(Kind.LINK, node.id, directory.id, name, self._flags)
            session.names.set(directory.id, name, node.id, session.intake.lsn)
            if node.is_dir and self._lacking.everything:
                node.uses += 1
                self._moved.append(node)
        session.nodes.drop_if_unused(node)

    def _is_known(self, node: NodeId) -> bool:
        try:
            self._view.state(node)
        except NoSuchNode:
            return False
        return True

    def _introduce(self, node: Node, directory: Node, name: bytes, status: os.stat_result) -> None:
        """A node that only memory knows, with what is in it."""
        session = self._session
        adopter = session.adopter
        since, flags, links = Lsn(session.intake.lsn + 1), self._flags, 1
        untouched = node.id in self._lacking.found and not self._lacking.nodes.get(node.id)
        if untouched and session.names.index_lacks(directory.id, name):
            # It was there before: only that it was met for the first time was not logged.
            was_there = status.st_ctime_ns <= adopter.protected_ns
            since, flags, links = (adopter.first if was_there else adopter.since), 0, 0
        adopter.log_adoption(node.id, directory, name, status, since, flags, links)
        node.unseeded = adopter.unseeded_of(node.id)
        self._introduced.add(node.id)
        if node.is_dir:
            self._look_inside(node)

    # --- nodes ------------------------------------------------------------------------------

    def _changed(self, node: Node, state: NodeState, status: os.stat_result) -> None:
        """Found in the search of the whole tree: compared piece by piece later."""
        node.uses += 1
        self._differing.append(node)

    async def _mend(self, node: Node, ranges: list[Range]) -> None:
        """Bring the journal's content and attributes of one node up to what it has."""
        if node.id in self._introduced:
            return
        try:
            state = self._view.state(node.id)
            status = self._session.nodes.stat(node)
        except (NoSuchNode, FileNotFoundError):
            return
        if ranges and stat.S_ISREG(status.st_mode):
            if node.unseeded is not None:
                self._begin_anew(node, state, status)
                return
            await self._mend_content(node, state, ranges)
            status = self._session.nodes.stat(node)
        with self._logging():
            self._compare_attributes(node, state, status, suspicious=True)
            if ranges or node.id == ROOT or node.is_dir:
                self._log_mtime(node)
