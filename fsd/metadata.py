"""Modes, owners, times and extended attributes, with what the kernel makes of them by itself.

Duty: some changes of attributes bring others about in the backing file system: chown takes set-id
bits and capabilities away, an ACL changes the mode and the mode an ACL, a default ACL is passed on
to new nodes, a write takes set-id bits away. The log must say all of it, so that the past does.

Loop's thread; every method is one synchronous section.
"""

from __future__ import annotations

import errno
import os
import stat

import pyfuse3

from fsd.nodes import Node
from fsd.session import Session
from store.ops import SET_ATIME, SET_GID, SET_MODE, SET_MTIME, SET_UID, Attributes
from store.types import Lsn

ACCESS_ACL = b"system.posix_acl_access"
DEFAULT_ACL = b"system.posix_acl_default"
CAPABILITY = b"security.capability"
_ACLS = (ACCESS_ACL, DEFAULT_ACL)


class Metadata:
    """Attribute changes of the live tree."""

    def __init__(self, session: Session) -> None:
        self._nodes = session.nodes
        self._capture = session.capture

    # --- reading ------------------------------------------------------------------------------

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """A value; OSError ENODATA when there is none."""
        path, follow = self._nodes.magic_path(node), self._nodes.has_fd_path(node)
        try:
            return os.getxattr(path, name, follow_symlinks=follow)
        except OSError as error:
            if name == CAPABILITY and error.errno == errno.ENODATA:
                node.plain = True
            raise

    def listxattr(self, node: Node) -> list[bytes]:
        """All names."""
        path, follow = self._nodes.magic_path(node), self._nodes.has_fd_path(node)
        return [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=follow)]

    def _value(self, node: Node, name: bytes) -> bytes | None:
        if node.plain and name == CAPABILITY:
            return None
        try:
            return self.getxattr(node, name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP):
                return None
            raise

    def has_default_acl(self, directory: Node) -> bool:
        """Does the directory pass an ACL on to what is created in it?"""
        if directory.default_acl is None:
            directory.default_acl = self._value(directory, DEFAULT_ACL) is not None
        return directory.default_acl

    def look_for_capabilities(self, node: Node, fd: int) -> None:
        """Before a file is written: does it have rights that a write takes away?"""
        if not node.privileged and not node.plain:
            try:
                node.privileged = bool(os.getxattr(fd, CAPABILITY))
            except OSError as error:
                node.plain = error.errno == errno.ENODATA

    # --- changes ------------------------------------------------------------------------------

    def setattr(
        self,
        node: Node,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        actor: Lsn,
    ) -> None:
        """Mode, owner and times as the kernel asks for them; nothing when it does not."""
        mask = 0
        for asked, bit in (
            (fields.update_mode, SET_MODE),
            (fields.update_uid, SET_UID),
            (fields.update_gid, SET_GID),
            (fields.update_atime, SET_ATIME),
            (fields.update_mtime, SET_MTIME),
        ):
            mask |= bit if asked else 0
        if not mask:
            return
        mode = stat.S_IMODE(attr.st_mode)
        if mask & (SET_UID | SET_GID):
            mask, mode = self._mode_after_chown(node, mask, mode, actor)
        wanted = Attributes(
            mask, mode, attr.st_uid, attr.st_gid, attr.st_atime_ns, attr.st_mtime_ns
        )
        before = self._value(node, ACCESS_ACL) if mask & SET_MODE else None
        self._capture.setattr(node, wanted, actor)
        if before is not None:
            self._log_value(node, ACCESS_ACL, actor)

    def _mode_after_chown(self, node: Node, mask: int, mode: int, actor: Lsn) -> tuple[int, int]:
        """A new owner does not inherit set-id bits and capabilities (chown(2))."""
        status = self._nodes.stat(node)
        if stat.S_ISDIR(status.st_mode):
            return mask, mode
        if self._value(node, CAPABILITY) is not None:
            self._capture.removexattr(node, CAPABILITY, actor)
        if not mask & SET_MODE and (kept := _without_set_id(status.st_mode)) != status.st_mode:
            return mask | SET_MODE, stat.S_IMODE(kept)
        return mask, mode

    def drop_privileges(self, node: Node, uid: int, actor: Lsn) -> None:
        """A write or truncate by `uid` takes set-id bits (root keeps them) and capabilities."""
        if not node.privileged:
            return
        status = self._nodes.stat(node)
        if not stat.S_ISREG(status.st_mode):
            return
        if self._value(node, CAPABILITY) is not None:
            self._capture.removexattr(node, CAPABILITY, actor)
        if uid:
            kept = _without_set_id(status.st_mode)
            if kept != status.st_mode:
                wanted = Attributes(SET_MODE, stat.S_IMODE(kept))
                self._capture.setattr(node, wanted, actor)
            node.privileged = False

    def setxattr(self, node: Node, name: bytes, value: bytes, actor: Lsn) -> None:
        """Set a value; an ACL also changes the mode, or is nothing but a mode."""
        before = self._nodes.stat(node).st_mode if name in _ACLS else 0
        self._capture.setxattr(node, name, value, 0, actor)
        if name == CAPABILITY:
            node.privileged, node.plain = True, False
        if name in _ACLS:
            node.default_acl = None
            self._log_value(node, name, actor)
            self._log_mode(node, before, actor)

    def removexattr(self, node: Node, name: bytes, actor: Lsn) -> None:
        """Remove a value; OSError ENODATA when there is none (an ACL may lack: acl(5))."""
        if name in _ACLS and self._value(node, name) is None:
            return
        self.getxattr(node, name)
        before = self._nodes.stat(node).st_mode
        self._capture.removexattr(node, name, actor)
        if name in _ACLS:
            node.default_acl = None
            self._log_mode(node, before, actor)

    def log_inherited(self, node: Node, asked_mode: int) -> None:
        """A node was created under a default ACL: log the ACLs and the mode that it got."""
        if stat.S_ISLNK(asked_mode):
            return
        for name in _ACLS if node.is_dir else (ACCESS_ACL,):
            if self._value(node, name) is not None:
                self._log_value(node, name, Lsn(0))
        self._log_mode(node, asked_mode, Lsn(0))

    # --- what came about ----------------------------------------------------------------------

    def _log_value(self, node: Node, name: bytes, actor: Lsn) -> None:
        """Log an ACL as it is now in the backing tree."""
        value = self._value(node, name)
        if value is None:
            self._capture.log_removexattr(node, name, actor)
        else:
            self._capture.log_setxattr(node, name, value, actor)

    def _log_mode(self, node: Node, before: int, actor: Lsn) -> None:
        mode = self._nodes.stat(node).st_mode
        if stat.S_IMODE(mode) != stat.S_IMODE(before):
            self._capture.log_mode(node, stat.S_IMODE(mode), actor)


def _without_set_id(mode: int) -> int:
    """A file's mode after a write by someone without CAP_FSETID (inode(7))."""
    if mode & stat.S_ISUID:
        mode &= ~stat.S_ISUID
    if mode & stat.S_ISGID and mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode
