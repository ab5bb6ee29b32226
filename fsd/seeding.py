"""Seeding: the initial backup, beside the applications and on demand.

Duty: bring base content (what was there before cdpfs) into the log: in the background by walking
the tree, at once for a chunk that is about to change or be destroyed (I-3), and at once for what
a view asks for. Loop's thread only: a chunk is read and logged in one synchronous section, so that
no write can come between; each section takes about a millisecond, and others run between them.

A chunk is in one of three states: in the index; in `Unseeded.done` (logged, maybe not indexed);
neither. Only the last kind is logged, so no chunk is ever logged twice with different content.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import trio

from fsd.adopt import HIDDEN, Adopter, Unseeded, times_kept
from fsd.names import Names
from fsd.nodes import Node, NodeTable
from store.errors import NotLogging
from store.format import CHUNK_BYTES, Flag, Kind
from store.intake import Intake
from store.journal import NotSeeded
from store.types import ROOT, Lsn, NodeId

log = logging.getLogger(__name__)

SLICE_S = 0.002
"""The background walk gives way to requests at least this often."""

MAX_AHEAD = 20_000
"""The background walk waits while the indexer is so many ops behind."""

PACE_S = 0.2
"""A change of the pace is heeded after so long."""

INLINE_CHUNKS = 4
"""A file of more unseeded chunks is not seeded before its unlink, but kept in the hidden place."""

_READ_FLAGS = os.O_RDONLY | (os.O_NOATIME if os.geteuid() == 0 else 0)

DEMAND_FILE_BYTES = 4 << 20
"""When a view asks for a file, so much of it is seeded in one go."""


class Seeder:
    """The seeding of one volume."""

    def __init__(
        self,
        intake: Intake,
        nodes: NodeTable,
        names: Names,
        adopter: Adopter,
        wait_for_log: Callable[[], Awaitable[None]],
        durable: Callable[[Lsn], Awaitable[None]],
    ) -> None:
        self._durable = durable
        self._intake = intake
        self._nodes = nodes
        self._names = names
        self._adopter = adopter
        self._wait_for_log = wait_for_log
        self._hidden_fd = -1
        self._kept: dict[int, Node] = {}
        self._emptying = trio.Lock()
        """Held by who takes files out of the hidden place."""
        self.rate_bytes_s = 0
        self._urgent = 0
        self._counted_links: set[int] = set()
        self.done_bytes = 0
        self.done_files = 0
        self.unreadable = 0
        """Files that this process may not read, or that the disk refuses to give."""
        self.requests = 0
        """Grows with each request of the applications: the walk yields while it does."""

    # --- one chunk --------------------------------------------------------------------------

    def _is_seeded(self, node_id: NodeId, state: Unseeded, region: int) -> bool:
        return region in state.done or self._names.region_seeded(node_id, region)

    def _log_chunk(self, node_id: NodeId, state: Unseeded, region: int, fd: int) -> None:
        """Read a chunk of the backing file and log it. No await in here."""
        start = region * CHUNK_BYTES
        length = min(CHUNK_BYTES, state.size_bytes - start)
        data = b""
        if has_data(fd, start, length):
            data = os.pread(fd, length, start)
            if len(data) < length:  # shorter than when it was adopted: an outside hand
                data += bytes(length - len(data))
        last = len(state.done) + 1 == state.regions
        flags = Flag.LAST if last else 0
        state.lsn = self._intake.append(Kind.BASE, node_id, start, data, flags)
        state.mark_done(region)
        self.done_bytes += length
        if last:
            self._finish(node_id, state)

    def _finish(self, node_id: NodeId, state: Unseeded) -> None:
        state.complete = True
        self.done_files += 1
        node = self._nodes.by_id.get(node_id)
        if node is not None:
            node.unseeded = None

    def _learn_indexed(self, node_id: NodeId, state: Unseeded) -> None:
        """Chunks that an earlier session seeded, so that the last one can be told."""
        if not state.lsn and not state.done:
            for region in range(state.regions):
                if self._names.region_seeded(node_id, region):
                    state.mark_done(region)

    async def seed_regions(self, node: Node, first: int, stop: int) -> None:
        """Log the chunks [first, stop) of a node that are not in the journal yet."""
        state = node.unseeded
        if not isinstance(state, Unseeded):
            return
        self._learn_indexed(node.id, state)
        fd = self._nodes.open(node, _READ_FLAGS)
        try:
            for region in range(first, min(stop, state.regions)):
                if region not in state.done:
                    await self._wait_for_log()
                    if region not in state.done:
                        self._log_chunk(node.id, state, region, fd)
                        if stop - first > 1:
                            await trio.lowlevel.checkpoint()
        finally:
            os.close(fd)

    # --- before changes (none of this while changes are not logged: they are found later)

    async def before_write(self, node: Node, start: int, stop: int) -> None:
        """Log the chunks that a write to [start, stop) would change.

        Also the last, partial one when the write begins behind it: a chunk is known wholly or not.
        """
        state = node.unseeded
        if isinstance(state, Unseeded) and start < state.regions * CHUNK_BYTES:
            with contextlib.suppress(NotLogging):
                await self.seed_regions(node, start // CHUNK_BYTES, -(-stop // CHUNK_BYTES))

    async def before_truncate(self, node: Node, size: int) -> None:
        """Log the chunks that a truncate to `size` would cut, or the partial one it extends."""
        state = node.unseeded
        if isinstance(state, Unseeded):
            first = min(size // CHUNK_BYTES, state.regions - 1)
            with contextlib.suppress(NotLogging):
                await self.seed_regions(node, first, state.regions)

    async def before_destroy(self, node: Node) -> tuple[int, bytes] | None:
        """See to it that a file's last name can go.

        Small files are logged now. For large ones, returns the (descriptor, name) of a hidden
        place to which the file must be renamed instead of being removed.
        """
        state = node.unseeded
        if not isinstance(state, Unseeded):
            return None
        if self._nodes.stat(node).st_nlink > 1:
            return None
        try:
            await self._wait_for_log()
            if state.regions - len(state.done) <= INLINE_CHUNKS:
                await self.seed_regions(node, 0, state.regions)
                return None
        except NotLogging:
            return None
        return self._hidden(), b"%d" % node.id

    def before_rmdir(self, directory: Node) -> None:
        """See to it that a directory can go: it is empty, and the log has all that it ever held.

        What it held at first was adopted when it was removed or moved; only that this was all is
        not known yet. OSError ENOTEMPTY. No await in here.
        """
        if self._adopter.all_seeded or self._names.dir_complete(directory.id):
            return
        fd = self._nodes.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if os.listdir(fd):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        finally:
            os.close(fd)
        self._adopter.mark_dir_seeded(directory)

    def _hidden(self) -> int:
        """A descriptor of the hidden directory, which is created when needed."""
        if self._hidden_fd < 0:
            root = self._nodes.root.fd
            with contextlib.suppress(FileExistsError), times_kept(root):
                os.mkdir(HIDDEN, 0o700, dir_fd=root)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._hidden_fd = os.open(HIDDEN, flags, dir_fd=root)
        return self._hidden_fd

    def kept(self, node: Node) -> None:
        """The node's file has moved to the hidden place: seed it from there."""
        node.uses += 1
        self._kept[node.id] = node

    def is_kept(self, node: Node) -> bool:
        """Has the file a name in the hidden place, which nobody should see?"""
        return node.id in self._kept

    # --- on demand ----------------------------------------------------------------------------

    async def demand(self, missing: NotSeeded) -> None:
        """Bring what a view asked for into the log (the caller waits for the index)."""
        if missing.region is not None:
            node = self._find(NodeId(missing.node))
            try:
                ahead = DEMAND_FILE_BYTES // CHUNK_BYTES
                await self.seed_regions(node, missing.region, missing.region + ahead)
            finally:
                self._let_go(node)
            return
        directory = self._find(NodeId(missing.node))
        try:
            if missing.name is not None:
                await self._wait_for_log()
                child = self._adopter.resolve(directory, missing.name)
                if child is not None:
                    self._nodes.drop_if_unused(child)
                else:
                    # Nothing there: only the whole list can say so to the view.
                    await self.seed_directory(directory)
            else:
                await self.seed_directory(directory)
        finally:
            self._let_go(directory)

    def _find(self, node_id: NodeId) -> Node:
        """The node in memory, brought there by its names in the journal if need be; held."""
        node = self._nodes.by_id.get(node_id) or self._kept_node(node_id)
        if node is None:
            node = self._bring(node_id)
        node.uses += 1
        return node

    def _bring(self, node_id: NodeId) -> Node:
        chain: list[tuple[NodeId, bytes]] = []
        here = node_id
        while here not in self._nodes.by_id:
            names = self._names.names_of(here)
            if not names:
                raise OSError(errno.ENOENT, f"node {node_id} has no name any more")
            parent, name = names[0]
            chain.append((here, name))
            here = parent
        node = self._nodes.by_id[here]
        for _, name in reversed(chain):
            child = self._adopter.resolve(node, name)
            if child is None:
                raise OSError(errno.ENOENT, f"node {node_id} is not in the tree any more")
            node = child
        return node

    def _let_go(self, node: Node) -> None:
        node.uses -= 1
        self._nodes.drop_if_unused(node)

    # --- directories --------------------------------------------------------------------------

    async def seed_directory(self, directory: Node) -> None:
        """Adopt every name of a directory that is not in the journal yet, and say so."""
        if self._names.dir_complete(directory.id):
            return
        async for _ in self._names_on_disk(directory):
            pass
        await self._wait_for_log()
        self._adopter.mark_dir_seeded(directory)

    async def _names_on_disk(self, directory: Node) -> AsyncIterator[Node]:
        """Each entry of a directory as a node, adopted if need be; requests run in between."""
        fd = self._nodes.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            started = time.monotonic()
            with os.scandir(fd) as entries:
                for entry in entries:
                    await self._wait_for_log()
                    child = self._adopter.resolve(directory, os.fsencode(entry.name))
                    if child is not None:
                        yield child
                        self._nodes.drop_if_unused(child)
                    if time.monotonic() - started > SLICE_S:
                        await self._give_way()
                        await self._let_index_follow()
                        started = time.monotonic()
        finally:
            os.close(fd)

    async def _give_way(self) -> None:
        """Let requests run; while there are some, take at most half of the loop."""
        before = self.requests
        await trio.lowlevel.checkpoint()
        if self.requests != before:
            await trio.sleep(SLICE_S)

    async def _let_index_follow(self) -> None:
        """What is not indexed is held in memory: stay within sight of the indexer."""
        while self._intake.lsn - self._names.indexed_lsn > MAX_AHEAD:
            await trio.sleep(SLICE_S * 10)
            self._adopter.purge()

    # --- the background walk ------------------------------------------------------------------

    async def run(self) -> None:
        """Seed everything that is not in the journal yet, then say so in the log."""
        if not self._adopter.all_seeded:
            await self._walk(self._adopt_and_count)
            self._counted_links.clear()
            await self._walk(self._seed_files)
        await self.seed_kept()
        await self._wait_for_log()
        if not self._adopter.all_seeded:
            self._intake.append(Kind.SEEDED, 0)
            self._adopter.all_seeded = True

    async def seed_subtree(self, node: NodeId) -> None:
        """Seed a file, or everything below a directory, now: somebody waits, so not at a pace."""
        with self.hurry():
            await self._seed_subtree(node)

    async def _seed_subtree(self, node: NodeId) -> None:
        held = self._find(node)
        try:
            if not held.is_dir:
                await self._seed_file(held)
                return
        finally:
            self._let_go(held)
        await self._walk(self._adopt_directory, node)
        await self._walk(self._seed_files, node)

    async def _walk(
        self, visit: Callable[[Node], Awaitable[list[NodeId]]], start: NodeId = ROOT
    ) -> None:
        """Visit every directory; `visit` returns the NodeIds of its subdirectories."""
        waiting: list[NodeId] = [start]
        while waiting:
            try:
                directory = self._find(waiting.pop())
            except OSError:
                continue  # removed meanwhile: its content was logged before that
            try:
                waiting += await visit(directory)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
            finally:
                self._let_go(directory)

    async def _adopt_directory(self, directory: Node) -> list[NodeId]:
        below = [child.id async for child in self._names_on_disk(directory) if child.is_dir]
        await self._wait_for_log()
        if not self._names.dir_complete(directory.id):
            self._adopter.mark_dir_seeded(directory)
        return below

    async def _adopt_and_count(self, directory: Node) -> list[NodeId]:
        """As `_adopt_directory`; what an earlier session left to be seeded is this one's to do."""
        below = []
        async for child in self._names_on_disk(directory):
            if child.is_dir:
                below.append(child.id)
            elif child.id <= self._names.last_inherited:
                self._count_left(child)
        await self._wait_for_log()
        if not self._names.dir_complete(directory.id):
            self._adopter.mark_dir_seeded(directory)
        return below

    def _count_left(self, node: Node) -> None:
        state = node.unseeded
        if not isinstance(state, Unseeded) or node.id in self._counted_links:
            return
        if self._nodes.stat(node).st_nlink > 1:
            self._counted_links.add(node.id)
        self._learn_indexed(node.id, state)
        self._adopter.adopted_files += 1
        self._adopter.adopted_bytes += max(state.size_bytes - len(state.done) * CHUNK_BYTES, 0)

    async def _seed_files(self, directory: Node) -> list[NodeId]:
        below = []
        async for child in self._names_on_disk(directory):
            if child.is_dir:
                below.append(child.id)
            elif child.unseeded is not None:
                child.uses += 1
                try:
                    await self._seed_file(child)
                except OSError as error:
                    self.unreadable += 1
                    path = self._nodes.path_of(child)
                    log.error("can't back up %r: %s", path, error)
                finally:
                    child.uses -= 1
        return below

    async def _seed_file(self, node: Node) -> None:
        """Seed one file at the pace that is set."""
        state = node.unseeded
        if not isinstance(state, Unseeded):
            return
        for region in range(state.regions):
            before = self.done_bytes
            await self.seed_regions(node, region, region + 1)
            if self.rate_bytes_s and not self._urgent:
                await self._keep_pace(self.done_bytes - before)
            elif self.done_bytes - before > CHUNK_BYTES // 2:
                await self._give_way()

    async def _keep_pace(self, count: int) -> None:
        """Wait as long as `count` bytes should take; the pace may change meanwhile."""
        left = float(count)
        while left > 0 and self.rate_bytes_s and not self._urgent:
            step = min(left, self.rate_bytes_s * PACE_S)
            await trio.sleep(step / self.rate_bytes_s)
            left -= step

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """Somebody waits: no pace is kept."""
        self._urgent += 1
        try:
            yield
        finally:
            self._urgent -= 1

    async def seed_kept(self) -> bool:
        """Seed the files in the hidden place, and let them go; was there any?"""
        async with self._emptying:
            there = self._has_hidden()
            await self._empty_hidden_place()
        return there

    async def _empty_hidden_place(self) -> None:
        while self._has_hidden() and (names := os.listdir(self._hidden())):
            for name in map(os.fsencode, names):
                node = self._kept_node(NodeId(int(name)))
                if node is None:
                    continue
                await self._seed_file(node)
                # The only copy, until the log is on disk: a power cut might keep the unlink.
                await self._durable(self._intake.lsn)
                os.unlink(name, dir_fd=self._hidden())
                del self._kept[node.id]
                self._let_go(node)
        if self._has_hidden():
            with times_kept(self._nodes.root.fd):
                os.rmdir(HIDDEN, dir_fd=self._nodes.root.fd)
            os.close(self._hidden_fd)
            self._hidden_fd = -1

    def _has_hidden(self) -> bool:
        try:
            status = os.stat(HIDDEN, dir_fd=self._nodes.root.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(status.st_mode)

    def _kept_node(self, node_id: NodeId) -> Node | None:
        """A file in the hidden place, which may have got there in an earlier session."""
        known = self._kept.get(node_id)
        if known is not None or not self._has_hidden():
            return known
        name = b"%d" % node_id
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._hidden())
        except FileNotFoundError:
            return None
        node = Node(node_id, None, name, False)
        node.linked = False
        node.fd = fd
        node.unseeded = self._adopter.unseeded_of(node_id)
        self._nodes.by_id[node_id] = node
        self.kept(node)
        return node


def has_data(fd: int, start: int, length: int) -> bool:
    """Is there anything but a hole in this part of a file?"""
    try:
        return os.lseek(fd, start, os.SEEK_DATA) < start + length
    except OSError as error:
        return error.errno != errno.ENXIO
