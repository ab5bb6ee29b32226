"""The requests of the kernel, one handler each.

Duty: decide whether a request is about the live tree or about the past (`fsd/snapshots.py`), see
to it that old content is in the log before it is destroyed, and hand changes to `fsd/capture.py`.
Handlers run on the loop's thread and concurrently wherever they await: what was looked up before
an await is looked up again after it.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Coroutine, Sequence
from typing import Any

import pyfuse3
from pyfuse3 import FUSEError

from fsd.adopt import OWN_NAMES
from fsd.attributes import entry_of, no_entry, statfs_of
from fsd.directory import OpenDirectory
from fsd.guard import guarded
from fsd.handshake import HANDSHAKE_NODE, Handshake
from fsd.metadata import CAPABILITY, Metadata
from fsd.nodes import Node
from fsd.open_files import OpenFiles
from fsd.second_chance import SecondChance
from fsd.session import Session
from fsd.snapshots import FIRST_PAST_INODE, SNAPSHOTS, Snapshots
from store.ops import RENAME_EXCHANGE, RENAME_NOREPLACE, Created
from store.types import ROOT, Lsn

Entry = pyfuse3.EntryAttributes
Context = pyfuse3.RequestContext

MAX_NAME_BYTES = 255

log = logging.getLogger(__name__)


class Operations(pyfuse3.Operations):
    """All handlers, one class because pyfuse3 wants one."""

    supports_dot_lookup = False
    enable_acl = True

    def __init__(self, session: Session, snapshots: Snapshots, handshake: Handshake) -> None:
        super().__init__()
        self.enable_writeback_cache = session.store.config.capture == "coalesced"
        self._session = session
        self._snapshots = snapshots
        self._handshake = handshake
        self._intake = session.intake
        self._capture = session.capture
        self._nodes = session.nodes
        self._adopter = session.adopter
        self._seeder = session.seeder
        self._metadata = Metadata(session)
        self.chance = SecondChance(session, handshake.readiness)
        self._files = OpenFiles(
            session, self._metadata, snapshots, self.chance, self.enable_writeback_cache
        )
        self._directories: dict[int, OpenDirectory] = {}

    # --- finding ----------------------------------------------------------------------------

    def _node(self, inode: int) -> Node:
        node = self._nodes.by_id.get(inode)
        if node is None:
            raise FUSEError(errno.ESTALE)
        return node

    def _entry(self, node: Node) -> Entry:
        entry = entry_of(self._nodes.stat(node), node.id, node.touched_ns)
        if self._seeder.is_kept(node):
            entry.st_nlink -= 1  # its name in the hidden place
        return entry

    def _answer(self, node: Node, status: os.stat_result | None = None) -> Entry:
        """An entry that the kernel will remember: count it."""
        entry = entry_of(status or self._nodes.stat(node), node.id, node.touched_ns)
        node.lookups += 1
        return entry

    async def _ready(self, little: bool = False) -> None:
        """Before anything that may append to the log: there is room. `little`: see Session."""
        self._seeder.requests += 1
        if not self._intake.has_room():
            await self._session.wait_for_room_or_refuse(little)

    def _actor(self, ctx: Context) -> Lsn:
        return self._session.actors.lsn_of(ctx.pid, ctx.uid, ctx.gid)

    @guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> Entry:
        """Find a name."""
        if parent_inode >= FIRST_PAST_INODE:
            return await self._snapshots.lookup(parent_inode, name)
        parent = self._node(parent_inode)
        if name == SNAPSHOTS:
            return await self._snapshots.entrance(parent.id)
        await self._ready(little=True)
        found = self._adopter.look(parent, name)
        return no_entry() if found is None else self._answer(*found)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel lets go of nodes. Also ends the handshake (see there)."""
        for inode, count in inode_list:
            try:
                self._forget(inode, count)
            except OSError:
                log.exception("node %d could not be forgotten", inode)

    def _forget(self, inode: int, count: int) -> None:
        if inode == HANDSHAKE_NODE:
            self._handshake.finish()
        elif inode >= FIRST_PAST_INODE:
            self._snapshots.forget(inode, count)
        elif (node := self._nodes.by_id.get(inode)) is not None:
            node.lookups = max(node.lookups - count, 0)
            self._nodes.drop_if_unused(node)

    @guarded
    async def getattr(self, inode: int, ctx: Context) -> Entry:
        """Attributes."""
        if inode >= FIRST_PAST_INODE:
            return await self._snapshots.getattr(inode)
        return self._entry(self._node(inode))

    @guarded
    async def readlink(self, inode: int, ctx: Context) -> bytes:
        """Target of a symlink."""
        if inode >= FIRST_PAST_INODE:
            return await self._snapshots.readlink(inode)
        node = self._node(inode)
        if node.fd >= 0:
            return os.fsencode(os.readlink(b"", dir_fd=node.fd))
        return os.readlink(self._nodes.magic_path(node))

    @guarded
    async def statfs(self, ctx: Context) -> pyfuse3.StatvfsData:
        """Space of the file system beneath."""
        return statfs_of(self._session.root_fd)

    # --- new names ----------------------------------------------------------------------------

    def _place(self, inode: int, name: bytes) -> Node:
        """The directory for a new name, which must be allowed there."""
        if inode >= FIRST_PAST_INODE:
            raise FUSEError(errno.EROFS)
        if name == SNAPSHOTS or (inode == ROOT and name in OWN_NAMES):
            raise FUSEError(errno.EPERM)
        if len(name) > MAX_NAME_BYTES:
            raise FUSEError(errno.ENAMETOOLONG)
        return self._node(inode)

    @guarded
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Context
    ) -> Entry:
        """A file, FIFO, socket or device."""
        return await self._new(parent_inode, name, mode, ctx, rdev=rdev)

    @guarded
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Context) -> Entry:
        """A directory."""
        return await self._new(parent_inode, name, mode | stat.S_IFDIR, ctx)

    @guarded
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Context) -> Entry:
        """A symbolic link."""
        return await self._new(parent_inode, name, stat.S_IFLNK | 0o777, ctx, target=target)

    async def _new(
        self,
        inode: int,
        name: bytes,
        mode: int,
        ctx: Context,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Entry:
        await self._ready()
        parent = self._place(inode, name)
        created = self._created(parent, name, mode, ctx, rdev, target)
        node, _ = self._capture.create(parent, created, self._actor(ctx))
        if parent.default_acl:
            self._metadata.log_inherited(node, created.mode)
        return self._answer(node)

    def _created(
        self, parent: Node, name: bytes, mode: int, ctx: Context, rdev: int, target: bytes
    ) -> Created:
        """Owner and mode of a new node, by the rules of the parent directory."""
        if self._adopter.resolve(parent, name) is not None:
            raise FUSEError(errno.EEXIST)
        above = os.fstat(self._nodes.dir_fd(parent))
        gid = ctx.gid
        if not self._metadata.has_default_acl(parent) and not stat.S_ISLNK(mode):
            mode &= ~ctx.umask
        if above.st_mode & stat.S_ISGID:
            gid = above.st_gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        return Created(name, mode, ctx.uid, gid, rdev, target)

    @guarded
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Context
    ) -> tuple[pyfuse3.FileInfo, Entry]:
        """Create and open a regular file."""
        await self._ready()
        parent = self._place(parent_inode, name)
        known = self._adopter.resolve(parent, name)
        if known is not None:
            if flags & os.O_EXCL:
                raise FUSEError(errno.EEXIST)
            info = await self._files.open(known, flags, ctx)
            return info, self._answer(known)
        created = self._created(parent, name, mode | stat.S_IFREG, ctx, 0, b"")
        actor = self._actor(ctx)
        node, fd = self._capture.create(parent, created, actor, self._files.backing_flags(flags))
        if parent.default_acl:
            self._metadata.log_inherited(node, created.mode)
        info = self._files.enter(node, fd, flags, ctx)
        return info, self._answer(node, os.fstat(fd))

    @guarded
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Context) -> Entry:
        """A further hard link."""
        await self._ready()
        parent = self._place(new_parent_inode, new_name)
        if inode >= FIRST_PAST_INODE:
            raise FUSEError(errno.EXDEV)
        node = self._node(inode)
        if self._adopter.resolve(parent, new_name) is not None:
            raise FUSEError(errno.EEXIST)
        self._capture.link(node, parent, new_name, self._actor(ctx))
        return self._answer(node)

    # --- names that go or move ------------------------------------------------------------------

    def _existing(self, inode: int, name: bytes) -> tuple[Node, Node]:
        """(directory, node) of a name that must be there."""
        if inode >= FIRST_PAST_INODE:
            raise FUSEError(errno.EROFS)
        if name == SNAPSHOTS:
            raise FUSEError(errno.EPERM)
        parent = self._node(inode)
        node = self._adopter.resolve(parent, name)
        if node is None:
            raise FUSEError(errno.ENOENT)
        return parent, node

    @guarded
    async def unlink(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        """Remove a file."""
        await self._ready(little=True)
        if self._existing(parent_inode, name)[1].is_dir:
            raise FUSEError(errno.EISDIR)
        keep_as = await self._save_content(parent_inode, name)
        parent, node = self._existing(parent_inode, name)
        self._capture.unlink(parent, name, node, self._actor(ctx), keep_as)
        self._let_go(node, keep_as)

    async def _save_content(self, inode: int, name: bytes) -> tuple[int, bytes] | None:
        """Before a name goes or is replaced: its base content is in the log, or will be kept.

        Returns the hidden place for it as `Seeder.before_destroy` does. There is no await between
        the last look at the name and the return.
        """
        keep_as, saved = None, None
        while True:
            node = self._adopter.resolve(self._node(inode), name)
            if node is None or node is saved or node.unseeded is None:
                return keep_as if node is saved else None
            keep_as, saved = await self._seeder.before_destroy(node), node
            await self._ready()

    def _let_go(self, node: Node, keep_as: tuple[int, bytes] | None) -> None:
        if keep_as is not None:
            self._seeder.kept(node)
        self._nodes.drop_if_unused(node)

    @guarded
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        """Remove a directory."""
        await self._ready(little=True)
        parent, node = self._existing(parent_inode, name)
        if not node.is_dir:
            raise FUSEError(errno.ENOTDIR)
        self._seeder.before_rmdir(node)
        self._capture.unlink(parent, name, node, self._actor(ctx), None)
        self._nodes.drop_if_unused(node)

    @guarded
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Context,
    ) -> None:
        """Move a name, over another one or in exchange for it if so asked."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise FUSEError(errno.EINVAL)
        await self._ready()
        new_parent = self._place(parent_inode_new, name_new)
        keep_as = None if flags else await self._save_content(parent_inode_new, name_new)
        parent, node = self._existing(parent_inode_old, name_old)
        other = self._adopter.resolve(new_parent, name_new)
        if other is not None and flags & RENAME_NOREPLACE:
            raise FUSEError(errno.EEXIST)
        if other is None and flags & RENAME_EXCHANGE:
            raise FUSEError(errno.ENOENT)
        if other is node:
            return  # two names of one file: POSIX wants nothing done
        if other is not None and other.is_dir and not flags & RENAME_EXCHANGE:
            self._seeder.before_rmdir(other)
        self._capture.rename(
            node,
            (parent, name_old),
            (new_parent, name_new),
            other,
            flags,
            self._actor(ctx),
            keep_as,
        )
        if other is not None and not flags & RENAME_EXCHANGE:
            self._let_go(other, keep_as)

    # --- attributes -----------------------------------------------------------------------------

    @guarded
    async def setattr(
        self,
        inode: int,
        attr: Entry,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: Context,
    ) -> Entry:
        """Size, mode, owner, times."""
        if inode >= FIRST_PAST_INODE:
            raise FUSEError(errno.EROFS)
        await self._ready()
        node = self._node(inode)
        actor = self._actor(ctx)
        if fields.update_size:
            if node.unseeded is not None:
                await self._seeder.before_truncate(node, attr.st_size)
                await self._ready()
            fd = self._files.writable_fd(fh)
            self._metadata.drop_privileges(node, ctx.uid, actor)
            self._capture.truncate(node, attr.st_size, actor, fd)
        self._metadata.setattr(node, attr, fields, actor)
        return self._entry(node)

    @guarded
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Context) -> None:
        """Set an extended attribute."""
        if inode >= FIRST_PAST_INODE:
            raise FUSEError(errno.EROFS)
        await self._ready()
        self._metadata.setxattr(self._node(inode), name, value, self._actor(ctx))

    @guarded
    async def removexattr(self, inode: int, name: bytes, ctx: Context) -> None:
        """Remove an extended attribute."""
        if inode >= FIRST_PAST_INODE:
            raise FUSEError(errno.EROFS)
        await self._ready()
        self._metadata.removexattr(self._node(inode), name, self._actor(ctx))

    @guarded
    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        """Value of an extended attribute."""
        if inode >= FIRST_PAST_INODE:
            return await self._snapshots.getxattr(inode, name)
        node = self._node(inode)
        if node.plain and name == CAPABILITY:
            raise FUSEError(errno.ENODATA)
        return self._metadata.getxattr(node, name)

    @guarded
    async def listxattr(self, inode: int, ctx: Context) -> Sequence[bytes]:
        """Names of the extended attributes."""
        if inode >= FIRST_PAST_INODE:
            return await self._snapshots.listxattr(inode)
        return self._metadata.listxattr(self._node(inode))

    # --- regular files --------------------------------------------------------------------------

    @guarded
    async def open(self, inode: int, flags: int, ctx: Context) -> pyfuse3.FileInfo:
        """Open a regular file."""
        if inode >= FIRST_PAST_INODE:
            return await self._snapshots.open(inode, flags)
        await self._ready(little=True)
        return await self._files.open(self._node(inode), flags, ctx)

    # The next four are awaited by pyfuse3; a coroutine of their own would cost more than it says.

    def read(self, fh: int, off: int, size: int) -> Coroutine[Any, Any, bytes]:
        """Read."""
        return self._files.read(fh, off, size)

    def write(self, fh: int, off: int, buf: bytes) -> Coroutine[Any, Any, int]:
        """Write."""
        return self._files.write(fh, off, buf)

    def release(self, fh: int) -> Coroutine[Any, Any, None]:
        """The last descriptor of an open is gone."""
        return self._files.release(fh)

    def fsync(self, fh: int, datasync: bool) -> Coroutine[Any, Any, None]:
        """fsync(2), fdatasync(2)."""
        return self._files.fsync(fh, datasync)

    async def flush(self, fh: int) -> None:
        """close(2) of a descriptor: nothing is held back. ENOSYS: the kernel need not ask again."""
        raise FUSEError(errno.ENOSYS)

    # --- directories ----------------------------------------------------------------------------

    @guarded
    async def opendir(self, inode: int, ctx: Context) -> int:
        """Open a directory for listing."""
        if inode >= FIRST_PAST_INODE:
            return await self._snapshots.opendir(inode)
        node = self._node(inode)
        fd = self._nodes.open(node, os.O_RDONLY | os.O_DIRECTORY)
        self._directories[fd] = OpenDirectory(node, fd)
        node.uses += 1
        return fd

    @guarded
    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        """The next entries of a listing."""
        directory = self._directories.get(fh)
        if directory is None:
            await self._snapshots.readdir(fh, start_id, token)
            return
        await self._ready(little=True)
        await directory.reply(self._session, start_id, token)

    @guarded
    async def releasedir(self, fh: int) -> None:
        """A listing is closed."""
        directory = self._directories.pop(fh, None)
        if directory is None:
            self._snapshots.release(fh)
            return
        directory.close()
        directory.node.uses -= 1
        self._nodes.drop_if_unused(directory.node)

    @guarded
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """fsync(2) of a directory: names are in the same log."""
        if fh not in self._directories:
            return
        await self._session.wait_for_room_or_refuse(little=True)
        await self._session.durable(fh, self._intake.lsn)
