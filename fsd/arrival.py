"""The first mount of a volume that was recovered on another machine: its tree is taken over.

Duty: as `ExternalChanges`, where more is known. The tree was made from the journal's own state of
an earlier LSN (`Relocation.lsn`, the visible head), and the journal goes on to its end: those ops
were made on the lost machine, but somebody was in the midst of something, so the tree is without
them. They stay in history; that the tree went back is logged behind them as external changes, and
only what differs is: nodes that both LSNs have keep their identity, files are compared block by
block, and a name that was removed or moved on in between gets its node back.

A tree that was kept, because only the store was lost, is newer than the journal: what it has more
is logged behind a gap.

Killed at any point it can run again: the note of the recovery stays until all of it is on disk.
Loop's thread, before the mount.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator

import trio

from fsd.external import ExternalChanges
from fsd.housekeeping import syncfs
from fsd.nodes import Node
from fsd.session import Session
from fsd.touched import QUIET
from fsd.unlogged import TO_THE_END
from store.errors import NeverCaptured, NotSeeded
from store.format import Kind
from store.journal import NodeState
from store.relocation import Relocation, remove_relocation
from store.types import Lsn, NodeId
from timetravel.errors import NoSuchNode, NotADirectory
from timetravel.view import View

log = logging.getLogger(__name__)

BLOCK_BYTES = 4096
"""What differs is logged in whole blocks of this size."""


def mark_of(note: Relocation) -> str:
    """The name of the mark that is set when the tree has been taken over."""
    return f"recovered-{note.lsn}-{time.strftime('%Y%m%d', time.gmtime(note.ended_ns // 10**9))}"


class Arrival(ExternalChanges):
    """One search. The tree is as of `note.lsn`, the journal ends at `end`."""

    def __init__(
        self,
        session: Session,
        end: Lsn,
        note: Relocation,
        report: Callable[[int], Awaitable[None]],
    ) -> None:
        super().__init__(session, end, note.ended_ns, True, report, unlogged=note.kept)
        self._note = note
        self._then = View(session.journal, Lsn(note.lsn))
        self._touched = self._nodes_between(Lsn(note.lsn), end)
        self._differing: dict[NodeId, Node] = {}
        """Held files whose content is to be compared."""

    def _nodes_between(self, start: Lsn, end: Lsn) -> set[NodeId]:
        """Nodes that ops of (start, end] speak of: size and times need not give them away, since
        programs set times back."""
        with self._session.journal.snapshot() as snapshot:
            ops = snapshot.ops(Lsn(start + 1), Lsn(end + 1))
            return {op.node for op in ops if not op.aborted and op.kind not in QUIET}

    async def run(self) -> None:
        """Search the whole tree, say in the log what it is, and forget the recovery."""
        await super().run()
        await self._mend_all()
        session = self._session
        lsn = session.intake.append(Kind.MARK, 0, 0, mark_of(self._note).encode())
        await session.flusher.durable(lsn)
        await trio.to_thread.run_sync(syncfs, session.root_fd)
        await trio.to_thread.run_sync(remove_relocation, session.store)
        log.info("the recovered tree, as of LSN %d, is taken over", self._note.lsn)

    async def _mend_all(self) -> None:
        if not self._differing:
            return
        session = self._session
        # A node that got its name back has it in the journal's newest state only.
        await session.wait_indexed(session.intake.lsn)
        self._view = View(session.journal, session.intake.lsn)
        for node in self._differing.values():
            await self._count()
            await self._mend(node)
            node.uses -= 1
            session.nodes.drop_if_unused(node)

    def _is_suspicious(self, node: Node, status: os.stat_result) -> bool:
        return node.id in self._touched or super()._is_suspicious(node, status)

    # --- names ----------------------------------------------------------------------------------

    def _kept(self, directory: Node, name: bytes, node_id: NodeId) -> Node | None:
        then = self._state_then(directory.id, name)
        if then is not None and then.node != node_id and self._is_whole(directory, name, then):
            self._departed(directory, name, node_id)
            self._arrived(directory, name)
            return None
        return super()._kept(directory, name, node_id)

    def _new(self, directory: Node, name: bytes) -> None:
        """A name that the journal's end does not have, or has for another node."""
        state = self._state_then(directory.id, name)
        if state is None or not self._is_whole(directory, name, state):
            super()._new(directory, name)
            return
        session = self._session
        self._log(Kind.LINK, state.node, directory.id, name, self._flags)
        session.names.set(directory.id, name, state.node, session.intake.lsn)
        node = session.adopter.resolve(directory, name)
        assert node is not None
        if node.is_dir:
            self._look_inside(node)
        else:
            self._hold(node)

    def _state_then(self, directory: NodeId, name: bytes) -> NodeState | None:
        if self._note.kept:
            return None  # the tree is as of no LSN
        try:
            return self._then.lookup(directory, name)
        except (NotSeeded, NoSuchNode, NotADirectory):
            return None

    def _is_whole(self, directory: Node, name: bytes, state: NodeState) -> bool:
        """Is the same kind of thing there, and all of its content in the journal?"""
        dir_fd = self._session.nodes.dir_fd(directory)
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(state.mode):
            return False
        base = self._session.names.base(state.node)
        return stat.S_ISDIR(state.mode) or base is None or base.complete

    # --- content --------------------------------------------------------------------------------

    def _changed(self, node: Node, state: NodeState, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode) and node.unseeded is None:
            self._hold(node)
        else:
            super()._changed(node, state, status)

    def _hold(self, node: Node) -> None:
        if node.id not in self._differing:
            node.uses += 1
            self._differing[node.id] = node

    async def _mend(self, node: Node) -> None:
        state = self._view.state(node.id)
        status = self._session.nodes.stat(node)
        if stat.S_ISREG(status.st_mode):
            before = self.found
            try:
                await self._mend_content(node, state, [(0, TO_THE_END)])
            except (NotSeeded, NeverCaptured):
                self._begin_anew(node, state, status)
                return
            if self.found != before:
                self._log_mtime(node)
                state = state._replace(mtime_ns=status.st_mtime_ns)
        self._compare_attributes(node, state, status, suspicious=True)

    def _mend_piece(self, node: NodeId, fd: int, at: int, length: int) -> None:
        """Only the blocks that differ."""
        right = os.pread(fd, length, at)
        known = self._view.read(node, at, len(right)).ljust(len(right), b"\0")
        for start, stop in differing_blocks(known, right):
            self._log(Kind.WRITE, node, at + start, right[start:stop], self._flags)


def differing_blocks(one: bytes, other: bytes) -> Iterator[tuple[int, int]]:
    """The intervals `[start, stop)`, in whole blocks, in which two equally long runs differ."""
    start = -1
    for at in range(0, len(one), BLOCK_BYTES):
        stop = at + BLOCK_BYTES
        if one[at:stop] != other[at:stop]:
            start = at if start < 0 else start
        elif start >= 0:
            yield start, at
            start = -1
    if start >= 0:
        yield start, len(one)
