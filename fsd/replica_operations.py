"""The requests of the kernel on a mounted replica, one handler each.

Duty: show the visible head at the top, everything below in the one view in which it was reached,
and the past in every directory's `.snapshots` (`fsd/snapshots.py` does both). The kernel refuses
all changes by itself, since the mount is read-only.

The top is inode 1 and moves from barrier to barrier; a name in it leads to an inode of the view
that was the head then, and the kernel is told to look names of the top up again soon. So a path
that is walked from the top is walked in one view, and who holds a file or a directory below keeps
what he has.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pyfuse3
import trio
from pyfuse3 import FUSEError

from fsd.attributes import statfs_of
from fsd.guard import guarded
from fsd.replica import Replica
from fsd.snapshots import MOMENT_S, PastInode, Snapshots
from store.types import ROOT, Lsn
from timetravel.moment import AtLsn
from timetravel.resolve import ResolvedPoint, resolve

Entry = pyfuse3.EntryAttributes
Context = pyfuse3.RequestContext

PID_XATTR = b"user.cdpfs.pid"
"""Of the top, not listed: the process that serves the mount, for whoever waits for its end."""

log = logging.getLogger(__name__)


class NoSecondChance:
    """What `guarded` asks: nothing is tried again."""

    async def is_worth_it(self, _error: Exception) -> bool:
        """Never."""
        await trio.lowlevel.checkpoint()
        return False


class ReplicaOperations(pyfuse3.Operations):
    """All handlers. `store_fd`: an open file on the file system whose space is told."""

    supports_dot_lookup = False
    enable_acl = True
    enable_writeback_cache = False

    def __init__(self, replica: Replica, snapshots: Snapshots, store_fd: int) -> None:
        super().__init__()
        self.chance = NoSecondChance()
        self._replica = replica
        self._snapshots = snapshots
        self._store_fd = store_fd
        self._top: PastInode | None = None
        self._moving = trio.Lock()
        self._open_tops: dict[int, int] = {}
        """Listings of the top → the inode that stands for it."""

    # --- the top --------------------------------------------------------------------------------

    async def _head(self) -> PastInode | None:
        """The top directory as of the head; None as long as nothing has arrived."""
        async with self._moving:
            head = await self._replica.head()
            if head.lsn and (self._top is None or self._top.key[0] != head.lsn):
                view = await self._snapshots.view_of(head.lsn)
                point = await trio.to_thread.run_sync(self._resolve, head.lsn)
                top = self._snapshots.inode(head.lsn, ROOT, view, living=True)
                top.lookups += 1
                top.directory, top.point = ROOT, point
                if self._top is not None:
                    self._snapshots.forget(self._top.number, 1)
                self._top = top
            return self._top

    def _resolve(self, lsn: Lsn) -> ResolvedPoint:
        return resolve(self._replica.journal, AtLsn(lsn), now_ns=time.time_ns(), judge_exact=False)

    async def _number(self, inode: int) -> int:
        """The inode that stands for the top, or `inode` itself. ENOENT when nothing is there."""
        if inode != ROOT:
            return inode
        top = await self._head()
        if top is None:
            raise FUSEError(errno.ENOENT)
        return top.number

    # --- names and attributes -------------------------------------------------------------------

    @guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> Entry:
        """Find a name."""
        return await self._snapshots.lookup(await self._number(parent_inode), name)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel lets go of nodes."""
        for inode, count in inode_list:
            if inode != ROOT:
                self._snapshots.forget(inode, count)

    @guarded
    async def getattr(self, inode: int, ctx: Context) -> Entry:
        """Attributes."""
        if inode != ROOT:
            return await self._snapshots.getattr(inode)
        top = await self._head()
        entry = _empty_top() if top is None else await self._snapshots.getattr(top.number)
        entry.st_ino = ROOT
        entry.attr_timeout = entry.entry_timeout = MOMENT_S
        return entry

    @guarded
    async def readlink(self, inode: int, ctx: Context) -> bytes:
        """Target of a symlink."""
        return await self._snapshots.readlink(inode)

    @guarded
    async def statfs(self, ctx: Context) -> pyfuse3.StatvfsData:
        """Space of the file system that the replica is on."""
        return statfs_of(self._store_fd)

    @guarded
    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        """Value of an extended attribute."""
        if inode == ROOT and name == PID_XATTR:
            return b"%d" % os.getpid()
        return await self._snapshots.getxattr(await self._number(inode), name)

    @guarded
    async def listxattr(self, inode: int, ctx: Context) -> Sequence[bytes]:
        """Names of the extended attributes."""
        if inode == ROOT and await self._head() is None:
            return []
        return await self._snapshots.listxattr(await self._number(inode))

    # --- content --------------------------------------------------------------------------------

    @guarded
    async def open(self, inode: int, flags: int, ctx: Context) -> pyfuse3.FileInfo:
        """Open a regular file."""
        return await self._snapshots.open(inode, flags)

    def read(self, fh: int, off: int, size: int) -> Coroutine[Any, Any, bytes]:
        """Read."""
        return self._read(fh, off, size)

    @guarded
    async def _read(self, fh: int, off: int, size: int) -> bytes:
        return await self._snapshots.read(fh, off, size)

    async def release(self, fh: int) -> None:
        """The last descriptor of an open is gone."""
        self._snapshots.release(fh)

    async def flush(self, fh: int) -> None:
        """close(2) of a descriptor. ENOSYS: the kernel need not ask again."""
        raise FUSEError(errno.ENOSYS)

    # --- directories ----------------------------------------------------------------------------

    @guarded
    async def opendir(self, inode: int, ctx: Context) -> int:
        """Open a directory for listing."""
        if inode != ROOT:
            return await self._snapshots.opendir(inode)
        top = await self._head()
        if top is None:
            return 0
        handle = await self._snapshots.opendir(top.number)
        top.lookups += 1
        self._open_tops[handle] = top.number
        return handle

    @guarded
    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        """The next entries of a listing."""
        if fh:
            await self._snapshots.readdir(fh, start_id, token)

    async def releasedir(self, fh: int) -> None:
        """A listing is closed."""
        self._snapshots.release(fh)
        number = self._open_tops.pop(fh, None)
        if number is not None:
            self._snapshots.forget(number, 1)


def _empty_top() -> Entry:
    """The top of a replica of which nothing has arrived that could be shown."""
    entry = Entry()
    entry.st_mode = stat.S_IFDIR | 0o500
    entry.st_uid, entry.st_gid = os.geteuid(), os.getegid()
    entry.st_nlink = 1
    return entry
