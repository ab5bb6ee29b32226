"""What happened to the backing tree while cdpfs was not mounted over it.

Duty: before a mount, compare the whole tree with the journal's newest state and log the
differences as external changes, so that nothing is silently missing from history. Runs before the
mount, on the loop's thread, and gives way only to progress messages.

What gives a change away: kind, size, mtime, mode, owner, device number and target; and a ctime
later than the end of the last session, unless the machine went down. Names that the journal never
had in a directory whose listing it does not have completely are left to seeding.

Changes are logged in an order that the index can follow: first what was found out about nodes that
stayed (an adopt op reaches back to the session's start, so it must stand before the node's other
ops), then names that went, and at last, when that is indexed, names that came (whose file may be
known by another name, unless that was its last name and the inode number is somebody else's now).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext

import trio

from fsd.adopt import OWN_NAMES, read_xattrs
from fsd.nodes import Node
from fsd.session import Session
from store.errors import NotSeeded
from store.format import CHUNK_BYTES, Flag, Kind
from store.journal import NodeState
from store.ops import SET_GID, SET_MODE, SET_MTIME, SET_UID, Attributes
from store.types import ROOT, Lsn, NodeId
from timetravel.view import View

SNAPSHOTS = b".snapshots"
REPORT_EVERY = 2000


class ExternalChanges:
    """One search. `found` counts the changes that were logged.

    `ended_ns`: when the last session ended (0: unknown), `in_order` or by a crash. `unlogged`: it
    was no longer able to log then.
    """

    def __init__(
        self,
        session: Session,
        end: Lsn,
        ended_ns: int,
        in_order: bool,
        report: Callable[[int], Awaitable[None]],
        unlogged: bool = False,
    ) -> None:
        self._flags = int(Flag.EXTERNAL | (Flag.UNLOGGED if unlogged else 0))
        self._session = session
        self._view = View(session.journal, end)
        self._ended_ns = ended_ns
        self._in_order = in_order
        self._report = report
        self._wait_for_room: Callable[[], Awaitable[None]] = session.wait_for_room
        self._logging: Callable[[], AbstractContextManager[None]] = nullcontext
        """Around what appends to the log."""
        self._seen = 0
        self._compared: set[NodeId] = set()
        self._went: list[tuple[Node, bytes, NodeId]] = []
        self._came: list[tuple[Node, bytes]] = []
        self._new_directories: list[Node] = []
        self._inodes: dict[int, NodeId] = {}
        """Backing inodes of nodes that stayed and have several links now."""
        self.found = 0

    async def run(self) -> None:
        """Search the whole tree."""
        session = self._session
        root = session.nodes.root
        self._compare(root, self._view.root(), os.fstat(root.fd))
        root.uses += 1
        waiting = [root]
        while waiting:
            directory = waiting.pop()
            waiting += await self._directory(directory)
            directory.uses -= 1
            session.nodes.drop_if_unused(directory)
        await self._log_names()
        await self._settle()

    async def _log_names(self) -> None:
        """Names that went, then names that came."""
        for directory, name, node in self._went:
            await self._gone(directory.id, name, node)
        if self._came:
            await self._session.wait_indexed(self._session.intake.lsn)
        for directory, name in self._came:  # grows while it is gone through
            await self._count()
            with self._logging():
                self._new(directory, name)

    async def _settle(self) -> None:
        """Say which listings are complete, and what the mtimes of directories really are: the ops
        about names that went or came claim to have set them."""
        for directory in self._new_directories:
            await self._wait_for_room()
            with self._logging():
                self._session.adopter.mark_dir_seeded(directory)
        held = [*self._new_directories, *(directory for directory, _, _ in self._went)]
        held += [directory for directory, _ in self._came]
        for directory in {directory.id: directory for directory in held}.values():
            await self._wait_for_room()
            with self._logging():
                self._log_mtime(directory)
        for directory in held:
            directory.uses -= 1
            self._session.nodes.drop_if_unused(directory)

    async def _directory(self, directory: Node) -> list[Node]:
        """Compare one directory's entries; returns its subdirectories that stayed, held."""
        session = self._session
        fd = session.nodes.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            present = {os.fsencode(name) for name in os.listdir(fd)}
        finally:
            os.close(fd)
        if directory.id == ROOT:
            present -= OWN_NAMES
        known, complete = self._known(directory, present)
        below = []
        for name in sorted(known.keys() - present):
            await self._count()
            self._departed(directory, name, known[name])
        for name in sorted(present):
            await self._count()
            if name in known:
                with self._logging():
                    node = self._kept(directory, name, known[name])
                if node is not None:
                    below.append(node)
            elif complete:
                self._arrived(directory, name)
        return below

    def _departed(self, directory: Node, name: bytes, node: NodeId) -> None:
        directory.uses += 1
        self._went.append((directory, name, node))

    def _arrived(self, directory: Node, name: bytes) -> None:
        directory.uses += 1
        self._came.append((directory, name))

    async def _count(self) -> None:
        await self._wait_for_room()
        self._seen += 1
        if self._seen % REPORT_EVERY == 0:
            await self._report(self._seen)

    def _known(self, directory: Node, present: set[bytes]) -> tuple[dict[bytes, NodeId], bool]:
        """The journal's entries; of an incomplete listing, those whose names are there."""
        try:
            return dict(self._view.entries(directory.id)), True
        except NotSeeded:
            pass
        known = {}
        for name in present:
            try:
                state = self._view.lookup(directory.id, name)
            except NotSeeded:
                continue
            if state is not None:
                known[name] = state.node
        return known, False

    async def _gone(self, directory: NodeId, name: bytes, node: NodeId) -> None:
        """A name was taken away, with everything below it: that is logged first, deepest first."""
        order = []
        waiting = [(directory, name, node)]
        while waiting:
            order.append(waiting.pop())
            waiting += self._inside(order[-1][2])
        for parent, gone, child in reversed(order):
            await self._wait_for_room()
            is_dir = stat.S_ISDIR(self._view.state(child).mode)
            flags = self._flags | (int(Flag.DIRECTORY) if is_dir else 0)
            with self._logging():
                self._log(Kind.UNLINK, child, parent, gone, flags)
                self._session.names.set(parent, gone, 0, self._session.intake.lsn)

    def _inside(self, node: NodeId) -> list[tuple[NodeId, bytes, NodeId]]:
        """The entries of what may be a directory, as far as the journal knows them."""
        if not stat.S_ISDIR(self._view.state(node).mode):
            return []
        try:
            return [(node, name, child) for name, child in self._view.entries(node)]
        except NotSeeded:
            return []

    def _new(self, directory: Node, name: bytes) -> None:
        """A name came; what is in a new directory comes, too."""
        session = self._session
        dir_fd = session.nodes.dir_fd(directory)
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        known = self._inodes.get(status.st_ino)
        if known is not None:
            self._log(Kind.LINK, known, directory.id, name, self._flags)
            session.names.set(directory.id, name, known, session.intake.lsn)
            return
        node = session.adopter.resolve(directory, name)
        self.found += 1
        if node is None:
            return
        if node.is_dir:
            self._look_inside(node)
        session.nodes.drop_if_unused(node)

    def _look_inside(self, directory: Node) -> None:
        """A directory came: so did what is in it."""
        self._new_directories.append(directory)
        directory.uses += 1
        fd = self._session.nodes.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            inside = os.listdir(fd)
        finally:
            os.close(fd)
        for below in sorted(map(os.fsencode, inside)):
            self._arrived(directory, below)

    def _kept(self, directory: Node, name: bytes, node_id: NodeId) -> Node | None:
        """A name that is there and was there; returns its node, held, if it is a directory."""
        session = self._session
        dir_fd = session.nodes.dir_fd(directory)
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        state = self._view.state(node_id)
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(state.mode):
            self._departed(directory, name, node_id)
            self._arrived(directory, name)
            return None
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            self._inodes[status.st_ino] = node_id
        node = session.adopter.resolve(directory, name)
        assert node is not None
        if node.id != node_id:
            self._departed(directory, name, node_id)
            self._arrived(directory, name)
            return None
        self._compare(node, state, status)
        if node.is_dir:
            node.uses += 1  # until it has been looked into: nobody else needs it yet
            return node
        session.nodes.drop_if_unused(node)
        return None

    def _log_mtime(self, directory: Node) -> None:
        """What the directory's mtime really is."""
        status = self._session.nodes.stat(directory)
        wanted = Attributes(SET_MTIME, 0, 0, 0, status.st_atime_ns, status.st_mtime_ns)
        flags = self._flags
        self._session.intake.append(Kind.SETATTR, directory.id, 0, wanted.encode(), flags)

    # --- one node ----------------------------------------------------------------------------

    def _compare(self, node: Node, state: NodeState, status: os.stat_result) -> None:
        """Once for each node, whatever number of names it has."""
        if node.id in self._compared:
            return
        if state.links > 1:
            self._compared.add(node.id)
        regular = stat.S_ISREG(status.st_mode)
        content = regular and (
            status.st_size != state.size_bytes or status.st_mtime_ns != state.mtime_ns
        )
        suspicious = self._is_suspicious(node, status)
        if stat.S_ISLNK(status.st_mode):
            content = status.st_size != state.size_bytes or (
                suspicious and os.readlink(self._session.nodes.magic_path(node)) != state.target
            )
        elif not regular and not node.is_dir:
            content = status.st_rdev != state.rdev
        if content or (regular and suspicious and not self._same_content(node, state)):
            self._changed(node, state, status)
            return
        self._compare_attributes(node, state, status, suspicious)

    def _is_suspicious(self, node: Node, status: os.stat_result) -> bool:
        """May more be different than size and mtime say?"""
        return bool(self._ended_ns) and status.st_ctime_ns > self._ended_ns

    def _same_content(self, node: Node, state: NodeState) -> bool:
        """Somebody changed the inode but neither size nor mtime: compare the bytes.

        Content that was never seeded can't be compared: it counts as changed; after a crash as
        the same, for then it may well have been recovery that touched the inode.
        """
        fd = self._session.nodes.open(node, os.O_RDONLY)
        try:
            return all(
                self._same_chunk(state, fd, at) for at in range(0, state.size_bytes, CHUNK_BYTES)
            )
        finally:
            os.close(fd)

    def _same_chunk(self, state: NodeState, fd: int, at: int) -> bool:
        try:
            right = self._view.read(state.node, at, CHUNK_BYTES)
        except NotSeeded:
            return not self._in_order
        return os.pread(fd, CHUNK_BYTES, at) == right

    def _changed(self, node: Node, state: NodeState, status: os.stat_result) -> None:
        """New content: the node begins anew with what is there now.

        Its number of links stays: names that went or came are logged on their own.
        """
        session = self._session
        since = session.adopter.since
        assert node.parent is not None
        session.adopter.log_adoption(
            node.id, node.parent, node.name, status, since, self._flags, links=state.links
        )
        node.unseeded = session.adopter.unseeded_of(node.id)
        self.found += 1

    def _begin_anew(self, node: Node, state: NodeState, status: os.stat_result) -> None:
        """Content that was never seeded changed: what is there now counts from now on."""
        assert node.parent is not None
        adopter = self._session.adopter
        with self._logging():
            adopter.log_adoption(
                node.id,
                node.parent,
                node.name,
                status,
                Lsn(self._session.intake.lsn + 1),
                self._flags,
                links=state.links,
            )
        node.unseeded = adopter.unseeded_of(node.id)
        self.found += 1

    async def _mend_content(
        self, node: Node, state: NodeState, ranges: list[tuple[int, int]]
    ) -> None:
        """Log where a file's content, within the ranges, is not what the journal has."""
        fd = self._session.nodes.open(node, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size != state.size_bytes:
                with self._logging():
                    self._log(Kind.TRUNCATE, node.id, size, b"", self._flags)
            for start, stop in ranges:
                for at in range(start, min(stop, size), CHUNK_BYTES):
                    await self._wait_for_room()
                    length = min(CHUNK_BYTES, min(stop, size) - at)
                    self._mend_piece(node.id, fd, at, length)
                    await trio.lowlevel.checkpoint()
        finally:
            os.close(fd)

    def _mend_piece(self, node: NodeId, fd: int, at: int, length: int) -> None:
        """Read and logged in one section, so that no write can come between."""
        right = os.pread(fd, length, at)
        if right and right != self._view.read(node, at, len(right)).ljust(len(right), b"\0"):
            with self._logging():
                self._log(Kind.WRITE, node, at, right, self._flags)

    def _compare_attributes(
        self, node: Node, state: NodeState, status: os.stat_result, suspicious: bool
    ) -> None:
        mask = 0
        if stat.S_IMODE(status.st_mode) != stat.S_IMODE(state.mode):
            mask |= SET_MODE
        if status.st_uid != state.uid:
            mask |= SET_UID
        if status.st_gid != state.gid:
            mask |= SET_GID
        if status.st_mtime_ns != state.mtime_ns:
            mask |= SET_MTIME
        if mask:
            wanted = Attributes(
                mask,
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_atime_ns,
                status.st_mtime_ns,
            )
            self._log(Kind.SETATTR, node.id, 0, wanted.encode(), self._flags)
        if suspicious:
            self._compare_xattrs(node)

    def _compare_xattrs(self, node: Node) -> None:
        nodes = self._session.nodes
        follow = nodes.has_fd_path(node)
        have = dict(read_xattrs(nodes.magic_path(node), follow))
        had = self._view.xattrs(node.id)
        for name in had.keys() - have.keys():
            self._log(Kind.REMOVEXATTR, node.id, 0, name, self._flags)
        for name, value in have.items():
            if had.get(name) != value:
                self._log(Kind.SETXATTR, node.id, len(name), name + value, self._flags)

    def _log(self, kind: Kind, node: NodeId, offset: int, payload: bytes, flags: int) -> None:
        self._session.intake.append(kind, node, offset, payload, flags)
        self.found += 1
