"""Fingerprints of trees that are too large to be kept in memory as copies.

A fingerprint holds one line of facts for each name: kind, mode, owner, device, size, digest of the
content, extended attributes, mtime, and which names are hard links of one file. It leaves out what
two right trees may differ in: sizes and link counts of directories, access and change times, and
the attribute that says which moment a view is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

POINT = "user.cdpfs.point"
_READ_BYTES = 1 << 20


class Facts(NamedTuple):
    """What is true of one name. `same_as` is the first path, in order, of the same file."""

    mode: int
    uid: int
    gid: int
    rdev: int
    links: int
    size_bytes: int
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    mtime_ns: int
    same_as: bytes


Fingerprint = dict[bytes, Facts]
"""Path relative to the root (b"" is the root itself) → its facts."""


def fingerprint(root: Path) -> Fingerprint:
    """The facts of everything at and below `root`, as it is now."""
    found: Fingerprint = {}
    first_names: dict[int, bytes] = {}
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        full = os.path.join(os.fsencode(root), path) if path else os.fsencode(root)
        status = os.lstat(full)
        found[path] = _facts(full, path, status, first_names)
        if stat.S_ISDIR(status.st_mode):
            names = sorted(os.listdir(full), reverse=True)
            waiting += [os.path.join(path, name) if path else name for name in names]
    return found


def _facts(
    full: bytes, path: bytes, status: os.stat_result, first_names: dict[int, bytes]
) -> Facts:
    is_dir = stat.S_ISDIR(status.st_mode)
    return Facts(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        rdev=status.st_rdev,
        links=0 if is_dir else status.st_nlink,
        size_bytes=0 if is_dir else status.st_size,
        content=_content(full, status.st_mode),
        xattrs=tuple(
            (name, os.getxattr(full, name, follow_symlinks=False))
            for name in sorted(os.listxattr(full, follow_symlinks=False))
            if name != POINT
        ),
        mtime_ns=status.st_mtime_ns,
        same_as=path if is_dir else first_names.setdefault(status.st_ino, path),
    )


def _content(full: bytes, mode: int) -> bytes:
    """Digest of a file's bytes; a symlink's target as it is."""
    if stat.S_ISLNK(mode):
        return os.readlink(full)
    if not stat.S_ISREG(mode):
        return b""
    digest = blake3()
    with open(full, "rb", buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.digest(16)


def assert_equal(
    found: Fingerprint,
    wanted: Fingerprint,
    *,
    times: bool = True,
    varies: Callable[[bytes], bool] = lambda path: False,
) -> None:
    """Fail with one line for each difference.

    `times`: compare mtimes too. `varies` says of which paths only the kind and owner must agree,
    because the program itself writes something else at each run.
    """
    lines = [f"{path!r} is missing" for path in sorted(wanted.keys() - found.keys())]
    lines += [f"{path!r} should not be there" for path in sorted(found.keys() - wanted.keys())]
    for path in sorted(wanted.keys() & found.keys()):
        fields = {"mode", "uid", "gid", "rdev"} if varies(path) else set(Facts._fields)
        if not times:
            fields.discard("mtime_ns")
        for field in sorted(fields):
            have, want = getattr(found[path], field), getattr(wanted[path], field)
            if have != want:
                lines.append(f"{path!r}: {field} is {have!r}, should be {want!r}")
    assert not lines, f"{len(lines)} differences:\n" + "\n".join(lines[:60])
