"""Attributes of a restored entry: owner, mode, extended attributes with ACLs, times.

Duty: give one existing entry the attributes it had, in the order in which they don't undo each
other, and say what could not be given. Synchronous; any thread. It knows nothing of content.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from timetravel.view import NodeState

Target = int | bytes
"""A descriptor, or the `/proc/self/fd/N` path of one opened with O_PATH."""

_SET_ID_BITS = stat.S_ISUID | stat.S_ISGID

_REMOVABLE = (b"user.", b"system.posix_acl_")
"""Attributes that an entry may have got besides (by inheritance) and must lose again. Others, such
as security labels, are the system's own."""

_NOT_PERMITTED = frozenset({errno.EPERM, errno.EACCES, errno.EINVAL})
_XATTR_REFUSED = _NOT_PERMITTED | {
    errno.ENOTSUP,
    errno.ENOSPC,  # also means: too large for this file system, with plenty of space left
    errno.E2BIG,
    errno.ERANGE,
    errno.EDQUOT,
}


def apply_attributes(
    target: Target,
    state: NodeState,
    xattrs: dict[bytes, bytes],
    note: Callable[[str], None],
) -> None:
    """Make `target` have the attributes of `state`.

    What this user or this file system can't have is told to `note` in a few words; other failures
    raise OSError.
    """
    found = os.stat(target)
    mode = stat.S_IMODE(state.mode)
    # The owner first: changing it clears set-id bits and file capabilities.
    other_owner = (found.st_uid, found.st_gid) != (state.uid, state.gid)
    if other_owner and not _set_owner(target, state):
        note("the owner could not be set")
        if mode & _SET_ID_BITS:
            note("set-id bits were left out because the owner could not be set")
            mode &= ~_SET_ID_BITS
    _set_xattrs(target, xattrs, note)
    # After the ACL, which the permission bits are a part of. A needless chmod would be logged.
    stirred = other_owner or any(name.startswith(b"system.posix_acl_") for name in xattrs)
    if not stat.S_ISLNK(state.mode) and (stirred or stat.S_IMODE(found.st_mode) != mode):
        os.chmod(target, mode)
    os.utime(target, ns=(state.atime_ns, state.mtime_ns))


def _set_owner(target: Target, state: NodeState) -> bool:
    try:
        os.chown(target, state.uid, state.gid)
    except OSError as error:
        if error.errno not in _NOT_PERMITTED:
            raise
        return False
    return True


def _set_xattrs(target: Target, wanted: dict[bytes, bytes], note: Callable[[str], None]) -> None:
    try:
        present = {os.fsencode(name) for name in os.listxattr(target)}
    except OSError as error:
        if error.errno not in _XATTR_REFUSED:
            raise
        present = set()
    for name in sorted(present - wanted.keys()):
        if name.startswith(_REMOVABLE):
            with _noting(name, "could not be removed", note):
                os.removexattr(target, name)
    for name, value in sorted(wanted.items()):
        with _noting(name, "was refused", note):
            if name not in present or os.getxattr(target, name) != value:
                os.setxattr(target, name, value)


@contextmanager
def _noting(name: bytes, what: str, note: Callable[[str], None]) -> Iterator[None]:
    """Turn a refusal of the attribute `name` into a note."""
    try:
        yield
    except OSError as error:
        if error.errno not in _XATTR_REFUSED:
            raise
        shown = name.decode("utf-8", "backslashreplace")
        note(f"the extended attribute {shown} {what}: {os.strerror(error.errno)}")
