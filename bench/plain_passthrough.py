"""The plainest pyfuse3 passthrough that is still honest.

Run it as `python -m bench.plain_passthrough SOURCE MOUNT_POINT`; it serves until unmounted.

Duty: the yardstick for what any Python filesystem costs before it does anything of its own. It
mirrors SOURCE at MOUNT_POINT and logs nothing. Unlike the well-known example it hands fsync on to
the disk; otherwise it is as fast as pyfuse3 lets it be: one descriptor per open, pread and pwrite,
kept caches, long timeouts, and no xattr handlers, so that the kernel stops asking for them.

Only for measuring: no hard link keeps its inode number, no ACLs, no recovery. One thread (trio).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

TIMEOUT_S = 300.0
_STAT_FIELDS = (
    "st_mode",
    "st_nlink",
    "st_uid",
    "st_gid",
    "st_rdev",
    "st_size",
    "st_atime_ns",
    "st_mtime_ns",
    "st_ctime_ns",
    "st_blocks",
    "st_blksize",
)
_STATVFS_FIELDS = (
    "f_bsize",
    "f_frsize",
    "f_blocks",
    "f_bfree",
    "f_bavail",
    "f_files",
    "f_ffree",
    "f_favail",
    "f_namemax",
)
# The kernel adds the offset itself, and its O_DIRECT buffers need not be aligned for us.
_NOT_OURS = os.O_APPEND | os.O_DIRECT


class Passthrough(pyfuse3.Operations):
    """Inode numbers are our own and belong to paths."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, root: bytes) -> None:
        super().__init__()
        self._paths: dict[int, bytes] = {pyfuse3.ROOT_INODE: root}
        self._inodes: dict[bytes, int] = {root: pyfuse3.ROOT_INODE}
        self._lookups: dict[int, int] = {}
        self._next = pyfuse3.ROOT_INODE + 1
        # Open files by inode: an unlinked file has no other way to its attributes.
        self._open: dict[int, int] = {}
        self._opened: dict[int, int] = {}
        self._listings: dict[int, tuple[bytes, list[bytes]]] = {}

    def _path(self, parent: int, name: bytes) -> bytes:
        return self._paths[parent] + b"/" + name

    def _entry(self, inode: int, status: os.stat_result) -> EntryAttributes:
        entry = EntryAttributes()
        for field in _STAT_FIELDS:
            setattr(entry, field, getattr(status, field))
        entry.st_ino = InodeT(inode)
        entry.entry_timeout = entry.attr_timeout = TIMEOUT_S
        return entry

    def _remember(self, path: bytes, status: os.stat_result | None = None) -> EntryAttributes:
        """The entry of a path that the kernel will know from now on."""
        status = status or os.lstat(path)
        inode = self._inodes.get(path)
        if inode is None:
            inode = self._next
            self._next += 1
            self._inodes[path], self._paths[inode] = inode, path
        self._lookups[inode] = self._lookups.get(inode, 0) + 1
        return self._entry(inode, status)

    def _forget_path(self, path: bytes) -> None:
        inode = self._inodes.pop(path, None)
        if inode is not None:
            self._paths.pop(inode, None)

    def _status(self, inode: int) -> os.stat_result:
        path = self._paths.get(inode)
        if path is not None:
            return os.lstat(path)
        return os.fstat(self._open[inode])

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        try:
            return self._remember(self._path(parent_inode, name))
        except FileNotFoundError:
            # Inode 0 lets the kernel remember that there is nothing.
            entry = EntryAttributes()
            entry.st_ino = InodeT(0)
            entry.entry_timeout = TIMEOUT_S
            return entry

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            left = self._lookups.get(inode, 0) - count
            if left > 0:
                self._lookups[inode] = left
                continue
            self._lookups.pop(inode, None)
            path = self._paths.pop(inode, None)
            if path is not None:
                self._inodes.pop(path, None)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(inode, self._status(inode))

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        place: bytes | int = fh if fh is not None else self._paths.get(inode, b"")
        if place == b"":
            place = self._open[inode]
        if fields.update_size:
            os.truncate(place, attr.st_size)
        if fields.update_mode:
            os.chmod(place, attr.st_mode & 0o7777)
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else -1
            gid = attr.st_gid if fields.update_gid else -1
            os.chown(place, uid, gid)
        if fields.update_atime or fields.update_mtime:
            now = self._status(inode)
            atime = attr.st_atime_ns if fields.update_atime else now.st_atime_ns
            mtime = attr.st_mtime_ns if fields.update_mtime else now.st_mtime_ns
            os.utime(place, ns=(atime, mtime))
        return self._entry(inode, self._status(inode))

    def _opened_file(self, inode: int, fd: int) -> FileInfo:
        self._open[inode] = fd
        self._opened[fd] = inode
        return FileInfo(fh=FileHandleT(fd), keep_cache=True)

    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        path = self._path(parent_inode, name)
        fd = os.open(path, (flags | os.O_CREAT) & ~_NOT_OURS, mode)
        if ctx.uid or ctx.gid:
            os.fchown(fd, ctx.uid, ctx.gid)
        entry = self._remember(path, os.fstat(fd))
        return self._opened_file(entry.st_ino, fd), entry

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return self._opened_file(inode, os.open(self._paths[inode], flags & ~_NOT_OURS))

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        try:
            return os.pread(fh, size, off)
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        try:
            return os.pwrite(fh, buf, off)
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None

    async def flush(self, fh: FileHandleT) -> None:
        pass

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        if datasync:
            os.fdatasync(fh)
        else:
            os.fsync(fh)

    async def release(self, fh: FileHandleT) -> None:
        inode = self._opened.pop(fh)
        if self._open.get(inode) == fh:
            del self._open[inode]
        os.close(fh)

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        path = self._path(parent_inode, name)
        os.mkdir(path, mode)
        return self._own(path, ctx)

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        path = self._path(parent_inode, name)
        os.mknod(path, mode, rdev)
        return self._own(path, ctx)

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        path = self._path(parent_inode, name)
        os.symlink(target, path)
        return self._own(path, ctx)

    def _own(self, path: bytes, ctx: RequestContext) -> EntryAttributes:
        if ctx.uid or ctx.gid:
            os.chown(path, ctx.uid, ctx.gid, follow_symlinks=False)
        return self._remember(path)

    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        path = self._path(new_parent_inode, new_name)
        os.link(self._paths[inode], path, follow_symlinks=False)
        return self._remember(path)

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(os.readlink(self._paths[inode]))

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        path = self._path(parent_inode, name)
        os.unlink(path)
        self._forget_path(path)

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        path = self._path(parent_inode, name)
        os.rmdir(path)
        self._forget_path(path)

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if flags:
            raise FUSEError(errno.EINVAL)
        old, new = self._path(parent_inode_old, name_old), self._path(parent_inode_new, name_new)
        os.rename(old, new)
        self._forget_path(new)
        moved = [old] if old in self._inodes else []
        if moved and stat.S_ISDIR(os.lstat(new).st_mode):
            moved += [path for path in self._inodes if path.startswith(old + b"/")]
        for path in moved:
            inode = self._inodes.pop(path)
            now = new + path[len(old) :]
            self._inodes[now], self._paths[inode] = inode, now

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        directory = self._paths[inode]
        handle = self._next
        self._next += 1
        self._listings[handle] = (directory, os.listdir(directory))
        return FileHandleT(handle)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        directory, names = self._listings[fh]
        for position in range(start_id, len(names)):
            name = names[position]
            path = directory + b"/" + name
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            entry = self._remember(path, status)
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry, position + 1):
                self._lookups[entry.st_ino] -= 1
                return

    async def releasedir(self, fh: FileHandleT) -> None:
        del self._listings[fh]

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        fd = os.open(self._listings[fh][0], os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        data = StatvfsData()
        status = os.statvfs(self._paths[pyfuse3.ROOT_INODE])
        for field in _STATVFS_FIELDS:
            setattr(data, field, getattr(status, field))
        return data


def _foreseen(name: str) -> None:
    """Let an OSError of a handler become the errno that the application sees."""
    handler = getattr(Passthrough, name)

    async def run(*args: object, **options: object) -> object:
        try:
            return await handler(*args, **options)
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        except KeyError:
            raise FUSEError(errno.ESTALE) from None

    setattr(Passthrough, name, run)


def main() -> None:
    """Mount and serve until unmounted."""
    source, mount_point = sys.argv[1:3]
    os.umask(0)
    for name in [name for name in vars(Passthrough) if not name.startswith(("_", "forget"))]:
        if callable(getattr(Passthrough, name)) and name not in {"read", "write"}:
            _foreseen(name)
    options = {"fsname=plain", "default_permissions"}
    if os.geteuid() == 0:
        options.add("allow_other")
    pyfuse3.init(Passthrough(os.fsencode(source)), mount_point, options)
    try:
        # As many workers as fsd has.
        trio.run(pyfuse3.main, 4)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
