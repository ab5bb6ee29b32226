"""Capture: each change is logged, then made, in one section that nobody can come between.

Duty: the methods here are the only places that change the backing tree. Each is synchronous (no
await between taking the LSN, appending to the intake log and the backing call: I-1), logs before
it changes anything (I-2), and logs an abort op when the backing call fails. That base content is
in the log before it is destroyed (I-3) is seen to by the caller, through `fsd/seeding.py`.

Runs on the loop's thread only. OSErrors of the backing tree go to the caller.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable

from fsd.names import Names
from fsd.nodes import Node, NodeTable
from store.errors import StoreError
from store.format import Flag, Kind
from store.intake import Intake
from store.ops import (
    RENAME_EXCHANGE,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_UID,
    Attributes,
    Created,
    Renamed,
)
from store.types import Lsn, NodeId

_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
DISK_FAILS = frozenset(
    (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.ENXIO, errno.ENODEV)
)
"""With these a call may have been made in part; others refuse before anything is done."""
_libc = ctypes.CDLL(None, use_errno=True)
_WRITE = int(Kind.WRITE)


class Handle:
    """An open regular file: one descriptor of the backing file for each open."""

    __slots__ = ("actor", "fd", "flags", "node", "synchronous", "uid", "writable", "wrote")

    def __init__(self, node: Node, fd: int, actor: Lsn, uid: int, writable: bool) -> None:
        self.node = node
        self.fd = fd
        self.actor = actor
        self.uid = uid
        self.writable = writable
        self.synchronous = False
        self.flags = 0
        """Of its WRITE ops."""
        self.wrote = False


class Capture:
    """The changes. `touched` holds the nodes whose backing file lacks the mtime of its last op."""

    def __init__(self, intake: Intake, nodes: NodeTable, names: Names) -> None:
        self.intake = intake
        self.nodes = nodes
        self.names = names
        self.touched: dict[int, Node] = {}
        self.abort_lost: Callable[[Lsn, StoreError], None] | None = None
        """Told of an op whose ABORT can't be logged."""
        self.in_doubt: Callable[[tuple[int, int, int, bytes], OSError], None] = _ignore
        """Told (kind, node, offset, payload) of an op that failed, maybe not wholly."""
        self._own_uid = os.geteuid()
        self._own_gid = os.getegid()

    # --- content --------------------------------------------------------------------------

    def write(self, handle: Handle, offset: int, data: bytes) -> int:
        """Log and write; returns the number of bytes that the backing file took."""
        node = handle.node
        intake = self.intake
        lsn = intake.append(_WRITE, node.id, offset, data, handle.flags, handle.actor)
        try:
            written = os.pwrite(handle.fd, data, offset)
        except OSError:
            self._abort(lsn)
            raise
        if written != len(data):
            self._abort(lsn)
            intake.append(_WRITE, node.id, offset, data[:written], handle.flags, handle.actor)
        node.touched_ns = intake.time_ns
        self.touched[node.id] = node
        handle.wrote = True
        return written

    def truncate(self, node: Node, size: int, actor: Lsn, fd: int = -1) -> None:
        """Log and set the size of a regular file; `fd` is a writable descriptor if there is one."""
        own_fd = self.nodes.open(node, os.O_WRONLY) if fd < 0 else fd
        try:
            lsn = self.intake.append(Kind.TRUNCATE, node.id, size, b"", 0, actor)
            self._backing(lsn, os.ftruncate, own_fd, size)
        finally:
            if fd < 0:
                os.close(own_fd)
        self._touch(node)

    # --- new names ------------------------------------------------------------------------

    def create(
        self, parent: Node, created: Created, actor: Lsn, flags: int | None = None
    ) -> tuple[Node, int]:
        """Log and create a file, directory, symlink or special file.

        Regular files are opened with `flags`; returns the node and that descriptor (else -1).
        """
        dir_fd = self.nodes.dir_fd(parent)
        node_id = self.names.new_node()
        lsn = self.intake.append(Kind.CREATE, node_id, parent.id, created.encode(), 0, actor)
        try:
            fd = self._make(dir_fd, created, flags)
        except OSError as error:
            self._abort(lsn)
            if error.errno in DISK_FAILS and _exists(dir_fd, created.name):
                self._doubt((Kind.CREATE, node_id, parent.id, created.encode()), error)
            raise
        is_dir = stat.S_ISDIR(created.mode)
        node = self.nodes.add(node_id, parent, created.name, is_dir)
        node.privileged = bool(created.mode & (stat.S_ISUID | stat.S_ISGID)) and not is_dir
        node.plain = True
        self.names.set(parent.id, created.name, node_id, lsn)
        # The new file's own times are the kernel's of just now, not yet the op's.
        self._touch(node)
        self._touch(parent)
        return node, fd

    def _make(self, dir_fd: int, created: Created, flags: int | None) -> int:
        name, mode = created.name, created.mode
        kind = stat.S_IFMT(mode)
        fd = -1
        if kind == stat.S_IFDIR:
            os.mkdir(name, mode & 0o7777, dir_fd=dir_fd)
        elif kind == stat.S_IFLNK:
            os.symlink(created.target, name, dir_fd=dir_fd)
        elif kind == stat.S_IFREG:
            how = (flags or 0) | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, how, mode & 0o7777, dir_fd=dir_fd)
            if flags is None:
                os.close(fd)
                fd = -1
        else:
            os.mknod(name, mode, created.rdev, dir_fd=dir_fd)
        if self._own_uid == 0 and (created.uid, created.gid) != (0, self._own_gid):
            self._give_to(dir_fd, created, fd)
        return fd

    @staticmethod
    def _give_to(dir_fd: int, created: Created, fd: int) -> None:
        """Make the caller the owner; the set-id bits that chown takes away come back."""
        try:
            if fd >= 0:
                os.fchown(fd, created.uid, created.gid)
            else:
                os.chown(
                    created.name, created.uid, created.gid, dir_fd=dir_fd, follow_symlinks=False
                )
            special = created.mode & _SPECIAL_BITS
            if special and not stat.S_ISLNK(created.mode):
                # The other bits are not always those that were asked for: a default ACL has a say.
                status = os.stat(created.name, dir_fd=dir_fd, follow_symlinks=False)
                os.chmod(created.name, (status.st_mode & 0o777) | special, dir_fd=dir_fd)
        except OSError:
            if fd >= 0:
                os.close(fd)
            is_dir = stat.S_ISDIR(created.mode)
            (os.rmdir if is_dir else os.unlink)(created.name, dir_fd=dir_fd)
            raise

    def link(self, node: Node, parent: Node, name: bytes, actor: Lsn) -> None:
        """Log and add a hard link."""
        dir_fd = self.nodes.dir_fd(parent)
        source = self.nodes.magic_path(node)
        follow = self.nodes.has_fd_path(node)
        lsn = self.intake.append(Kind.LINK, node.id, parent.id, name, 0, actor)
        self._backing(lsn, os.link, source, name, dst_dir_fd=dir_fd, follow_symlinks=follow)
        self.names.set(parent.id, name, node.id, lsn)
        self._touch(parent)

    # --- names that go or move ------------------------------------------------------------

    def unlink(
        self, parent: Node, name: bytes, node: Node, actor: Lsn, keep_as: tuple[int, bytes] | None
    ) -> None:
        """Log and remove a name (a directory's too).

        `keep_as`: (descriptor, name) of a hidden place where the file goes instead, because its
        base content is not in the journal yet.
        """
        dir_fd = self.nodes.dir_fd(parent)
        self.nodes.hold(node)
        flags = Flag.DIRECTORY if node.is_dir else 0
        lsn = self.intake.append(Kind.UNLINK, node.id, parent.id, name, flags, actor)
        if keep_as is not None:
            hidden_fd, hidden = keep_as
            self._backing(lsn, os.rename, name, hidden, src_dir_fd=dir_fd, dst_dir_fd=hidden_fd)
        elif node.is_dir:
            self._backing(lsn, os.rmdir, name, dir_fd=dir_fd)
        else:
            self._backing(lsn, os.unlink, name, dir_fd=dir_fd)
        self.names.set(parent.id, name, 0, lsn)
        if node.parent is parent and node.name == name:
            self.nodes.unlink(node)
        self._touch(parent)

    def rename(
        self,
        node: Node,
        source: tuple[Node, bytes],
        target: tuple[Node, bytes],
        other: Node | None,
        flags: int,
        actor: Lsn,
        keep_as: tuple[int, bytes] | None,
    ) -> None:
        """Log and rename; `other` is the node that is replaced or exchanged."""
        (parent, name), (new_parent, new_name) = source, target
        old_fd, new_fd = self.nodes.dir_fd(parent), self.nodes.dir_fd(new_parent)
        exchange = bool(flags & RENAME_EXCHANGE)
        if other is not None and not exchange:
            self.nodes.hold(other)
        other_id = other.id if other is not None else NodeId(0)
        payload = Renamed(name, new_parent.id, new_name, flags, other_id).encode()
        lsn = self.intake.append(Kind.RENAME, node.id, parent.id, payload, 0, actor)
        if keep_as is not None:
            hidden_fd, hidden = keep_as
            self._backing(lsn, os.rename, new_name, hidden, src_dir_fd=new_fd, dst_dir_fd=hidden_fd)
        try:
            if exchange:
                self._backing(lsn, swap_names, old_fd, name, new_fd, new_name)
            else:
                self._backing(lsn, os.rename, name, new_name, src_dir_fd=old_fd, dst_dir_fd=new_fd)
        except OSError as error:
            if keep_as is not None:
                try:
                    os.rename(hidden, new_name, src_dir_fd=hidden_fd, dst_dir_fd=new_fd)
                except OSError:
                    self._doubt((Kind.RENAME, node.id, parent.id, payload), error)
            raise
        self.names.set(new_parent.id, new_name, node.id, lsn)
        self.names.set(parent.id, name, other_id if exchange else 0, lsn)
        self._rename_in_memory(node, source, target, other, exchange)
        self._touch(parent)
        self._touch(new_parent)

    def _rename_in_memory(
        self,
        node: Node,
        source: tuple[Node, bytes],
        target: tuple[Node, bytes],
        other: Node | None,
        exchange: bool,
    ) -> None:
        """Bring the nodes' places in line with what the backing tree says now."""
        (parent, name), (new_parent, new_name) = source, target
        if other is not None and (other.parent, other.name) == (new_parent, new_name):
            self.nodes.unlink(other)
        self.nodes.move(node, new_parent, new_name)
        if other is not None and exchange:
            self.nodes.move(other, parent, name)

    # --- attributes -----------------------------------------------------------------------

    def setattr(self, node: Node, wanted: Attributes, actor: Lsn) -> None:
        """Log and set mode, owner and times."""
        fd = self.nodes.open_path(node)
        payload = wanted.encode()
        try:
            lsn = self.intake.append(Kind.SETATTR, node.id, 0, payload, 0, actor)
            self._backing(lsn, _set_attributes, fd, wanted)
        except OSError as error:
            # Of several attributes some may have been set before one failed.
            self._doubt((Kind.SETATTR, node.id, 0, payload), error)
            raise
        finally:
            os.close(fd)
        if wanted.mask & SET_MTIME:
            node.touched_ns = 0
            self.touched.pop(node.id, None)
        if wanted.mask & SET_MODE:
            node.privileged = node.privileged or bool(wanted.mode & (stat.S_ISUID | stat.S_ISGID))

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int, actor: Lsn) -> None:
        """Log and set an extended attribute."""
        path, follow = self.nodes.magic_path(node), self.nodes.has_fd_path(node)
        lsn = self.intake.append(Kind.SETXATTR, node.id, len(name), name + value, 0, actor)
        self._backing(lsn, os.setxattr, path, name, value, flags, follow_symlinks=follow)

    def removexattr(self, node: Node, name: bytes, actor: Lsn) -> None:
        """Log and remove an extended attribute."""
        path, follow = self.nodes.magic_path(node), self.nodes.has_fd_path(node)
        lsn = self.intake.append(Kind.REMOVEXATTR, node.id, 0, name, 0, actor)
        self._backing(lsn, os.removexattr, path, name, follow_symlinks=follow)

    # --- what the backing file system did by itself -----------------------------------------

    def log_setxattr(self, node: Node, name: bytes, value: bytes, actor: Lsn) -> None:
        """Log a value that the backing file has got already (an ACL that followed a chmod)."""
        self.intake.append(Kind.SETXATTR, node.id, len(name), name + value, 0, actor)

    def log_removexattr(self, node: Node, name: bytes, actor: Lsn) -> None:
        """Log that the backing file has lost a value already."""
        self.intake.append(Kind.REMOVEXATTR, node.id, 0, name, 0, actor)

    def log_mode(self, node: Node, mode: int, actor: Lsn) -> None:
        """Log a mode that the backing file has got already (by an ACL)."""
        wanted = Attributes(SET_MODE, mode)
        self.intake.append(Kind.SETATTR, node.id, 0, wanted.encode(), 0, actor)

    # --- times ----------------------------------------------------------------------------

    def _touch(self, node: Node) -> None:
        """The op just logged is the node's last change: its mtime is that op's time."""
        node.touched_ns = self.intake.time_ns
        self.touched[node.id] = node

    def apply_times(self, node: Node) -> None:
        """Give the backing file the mtime of the node's last op. Errors go to the caller."""
        self.touched.pop(node.id, None)
        touched_ns, node.touched_ns = node.touched_ns, 0
        if not touched_ns:
            return
        try:
            self._set_mtime(node, touched_ns)
        except OSError as error:
            if error.errno != errno.ENOENT and not node.touched_ns:
                node.touched_ns = touched_ns
                self.touched[node.id] = node
            raise

    def _set_mtime(self, node: Node, touched_ns: int) -> None:
        if node.fd >= 0:
            path, follow = b"/proc/self/fd/%d" % node.fd, True
            os.utime(path, ns=(os.fstat(node.fd).st_atime_ns, touched_ns), follow_symlinks=follow)
            return
        assert node.parent is not None
        dir_fd = self.nodes.dir_fd(node.parent)
        atime_ns = os.stat(node.name, dir_fd=dir_fd, follow_symlinks=False).st_atime_ns
        os.utime(node.name, ns=(atime_ns, touched_ns), dir_fd=dir_fd, follow_symlinks=False)

    # --- failures -------------------------------------------------------------------------

    def _doubt(self, op: tuple[int, int, int, bytes], error: OSError) -> None:
        if error.errno in DISK_FAILS:
            self.in_doubt(op, error)

    def _abort(self, lsn: Lsn) -> None:
        try:
            self.intake.append(Kind.ABORT, 0, lsn)
        except StoreError as error:
            # The caller gets the error of the backing call, which comes first.
            if self.abort_lost is not None:
                self.abort_lost(lsn, error)

    def _backing(
        self, lsn: Lsn, call: Callable[..., object], *args: object, **options: object
    ) -> None:
        """The backing call of op `lsn`; it is cancelled in the log when the call fails."""
        try:
            call(*args, **options)
        except OSError:
            self._abort(lsn)
            raise


def _ignore(op: tuple[int, int, int, bytes], error: OSError) -> None:
    """Before anybody listens."""


def _exists(dir_fd: int, name: bytes) -> bool:
    """Is there something under the name, as far as can be told?"""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _set_attributes(fd: int, wanted: Attributes) -> None:
    """Owner first: a change of owner takes set-id bits away, which `mode` may give back."""
    path = b"/proc/self/fd/%d" % fd
    if wanted.mask & (SET_UID | SET_GID):
        uid = wanted.uid if wanted.mask & SET_UID else -1
        gid = wanted.gid if wanted.mask & SET_GID else -1
        set_owner(fd, uid, gid)
    if wanted.mask & SET_MODE:
        os.chmod(path, wanted.mode)
    if wanted.mask & (SET_ATIME | SET_MTIME):
        now = os.fstat(fd)
        atime_ns = wanted.atime_ns if wanted.mask & SET_ATIME else now.st_atime_ns
        mtime_ns = wanted.mtime_ns if wanted.mask & SET_MTIME else now.st_mtime_ns
        set_times(fd, atime_ns, mtime_ns)


_AT_EMPTY_PATH = 0x1000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def set_owner(fd: int, uid: int, gid: int) -> None:
    """fchownat with AT_EMPTY_PATH: works on O_PATH descriptors, of symlinks too."""
    wanted = (ctypes.c_int(fd), b"", ctypes.c_uint32(uid), ctypes.c_uint32(gid))
    if _libc.fchownat(*wanted, _AT_EMPTY_PATH):
        raise _last_error()


def set_times(fd: int, atime_ns: int, mtime_ns: int) -> None:
    """utimensat with AT_EMPTY_PATH (since Linux 5.8), of symlinks too."""
    times = (_Timespec * 2)(
        _Timespec(*divmod(atime_ns, 10**9)), _Timespec(*divmod(mtime_ns, 10**9))
    )
    if _libc.utimensat(ctypes.c_int(fd), b"", times, _AT_EMPTY_PATH):
        raise _last_error()


def swap_names(old_fd: int, name: bytes, new_fd: int, new_name: bytes) -> None:
    """renameat2 with RENAME_EXCHANGE."""
    if _libc.renameat2(old_fd, name, new_fd, new_name, RENAME_EXCHANGE):
        raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno() or errno.EIO
    return OSError(number, os.strerror(number))
