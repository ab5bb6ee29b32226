"""Open regular files of the live tree: the way of every read, write and fsync.

Duty: one descriptor of the backing file for each open (never shared: a file opened for reading
first may be written by another open), and the order of what belongs to a write: room in the log,
old content into the log, set-id bits away, then `fsd/capture.py`. Loop's thread.

File handles are the descriptors; those of the past (`fsd/snapshots.py`) are larger numbers.
"""

from __future__ import annotations

import os

import pyfuse3

from fsd.capture import Handle
from fsd.guard import fuse_error, guarded
from fsd.metadata import Metadata
from fsd.nodes import Node
from fsd.second_chance import SecondChance
from fsd.session import Session
from fsd.snapshots import Snapshots
from store.errors import StoreError
from store.format import Flag, Kind
from store.types import NO_LSN


class OpenFiles:
    """The open files. `coalesced`: the kernel holds writes back and fills pages by reading."""

    def __init__(
        self,
        session: Session,
        metadata: Metadata,
        snapshots: Snapshots,
        chance: SecondChance,
        coalesced: bool,
    ) -> None:
        self.chance = chance
        self._session = session
        self._metadata = metadata
        self._snapshots = snapshots
        self._coalesced = coalesced
        self._intake = session.intake
        self._capture = session.capture
        self._nodes = session.nodes
        self._seeder = session.seeder
        self._handles: dict[int, Handle] = {}
        self._synced_too = session.store.config.fsync == "both"

    def backing_flags(self, flags: int) -> int:
        """The kernel gives each write its offset and keeps O_DIRECT to itself; ours stay plain."""
        access = flags & os.O_ACCMODE
        return os.O_RDWR if self._coalesced and access == os.O_WRONLY else access

    def writable_fd(self, fh: int | None) -> int:
        """The descriptor behind a handle if it may be written to, else -1."""
        handle = self._handles.get(fh) if fh is not None else None
        return handle.fd if handle is not None and handle.writable else -1

    def enter(
        self, node: Node, fd: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        """The open descriptor `fd` of a node becomes a handle."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        actors = self._session.actors
        actor = actors.lsn_of(ctx.pid, ctx.uid, ctx.gid) if writable else NO_LSN
        handle = self._handles[fd] = Handle(node, fd, actor, ctx.uid, writable)
        if writable and flags & (os.O_SYNC | os.O_DSYNC):
            handle.synchronous, handle.flags = True, int(Flag.SYNCHRONOUS)
        node.uses += 1
        return pyfuse3.FileInfo(fh=fd, keep_cache=True)

    async def open(self, node: Node, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Open a node, cutting it to nothing first if O_TRUNC says so."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        truncate = writable and flags & os.O_TRUNC
        if truncate and node.unseeded is not None:
            await self._seeder.before_truncate(node, 0)
            await self._session.wait_for_room_or_refuse()
        fd = self._nodes.open(node, self.backing_flags(flags))
        try:
            if writable:
                self._metadata.look_for_capabilities(node, fd)
            if truncate:
                actor = self._session.actors.lsn_of(ctx.pid, ctx.uid, ctx.gid)
                self._metadata.drop_privileges(node, ctx.uid, actor)
                self._capture.truncate(node, 0, actor, fd)
            return self.enter(node, fd, flags, ctx)
        except BaseException:
            if fd not in self._handles:
                os.close(fd)
            raise

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        """Read: the live file from the backing tree."""
        try:
            if fh in self._handles:
                return os.pread(fh, size, offset)
            return await self._snapshots.read(fh, offset, size)
        except Exception as error:  # noqa: BLE001  (see guard; inlined on the hot path)
            raise fuse_error(error) from None

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """Write: logged, then made."""
        try:
            handle = self._handles[fh]
            self._seeder.requests += 1
            if not self._intake.has_room():
                await self._session.wait_for_room_or_refuse()
            node = handle.node
            if node.unseeded is not None:
                await self._seeder.before_write(node, offset, offset + len(data))
                await self._session.wait_for_room_or_refuse()
            if node.privileged:
                self._metadata.drop_privileges(node, handle.uid, handle.actor)
            written = self._capture.write(handle, offset, data)
            if handle.synchronous:
                await self._session.durable(fh, self._intake.lsn)
            return written
        except Exception as error:  # noqa: BLE001  (see guard; inlined on the hot path)
            if await self.chance.is_worth_it(error):
                return await self._write_again(fh, offset, data)
            raise fuse_error(error) from None

    @guarded
    async def _write_again(self, fh: int, offset: int, data: bytes) -> int:
        """As `write`, for one that failed at first."""
        handle = self._handles[fh]
        await self._session.wait_for_room_or_refuse()
        if handle.node.unseeded is not None:
            await self._seeder.before_write(handle.node, offset, offset + len(data))
            await self._session.wait_for_room_or_refuse()
        self._metadata.drop_privileges(handle.node, handle.uid, handle.actor)
        written = self._capture.write(handle, offset, data)
        if handle.synchronous:
            await self._session.durable(fh, self._intake.lsn)
        return written

    @guarded
    async def release(self, fh: int) -> None:
        """The last descriptor of an open is gone."""
        handle = self._handles.pop(fh, None)
        if handle is None:
            self._snapshots.release(fh)
            return
        (os.close if handle.node.linked else self._nodes.close_removed)(handle.fd)
        try:
            if handle.wrote:
                await self._session.wait_for_room_or_refuse(little=True)
                self._intake.append(Kind.CLOSE, handle.node.id, actor=handle.actor)
        except StoreError as error:
            await self.chance.is_worth_it(error)  # nobody is told whether a release succeeds
        finally:
            handle.node.uses -= 1
            self._nodes.drop_if_unused(handle.node)

    @guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        """fsync(2), fdatasync(2): the log is durable up to here when it returns."""
        handle = self._handles.get(fh)
        if handle is None:
            return
        await self._session.wait_for_room_or_refuse(little=True)
        flags = Flag.DATASYNC if datasync else 0
        lsn = self._intake.append(Kind.FSYNC, handle.node.id, flags=flags, actor=handle.actor)
        if self._synced_too:
            await self._session.sync_backing(handle.fd)
        await self._session.durable(handle.fd, lsn)
