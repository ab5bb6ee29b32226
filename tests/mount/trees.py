"""Copies of whole trees in memory, and what differs between two of them.

A copy holds what a user can see of each entry: name, kind, content, size, mode, owner, device,
symlink target, extended attributes, mtime, and which names are hard links of one file. It leaves
out what two right trees may differ in: the size and the link count of directories, access and
change times, and the attribute that says which moment a view is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

POINT = "user.cdpfs.point"

Tree = dict[bytes, "Entry"]
"""Path relative to the root (b"" is the root itself) → what stands there."""

_contents: dict[bytes, bytes] = {}


class Entry(NamedTuple):
    """One name of a tree. `same_as` is the first path, in order, of the same file."""

    mode: int
    uid: int
    gid: int
    size_bytes: int
    rdev: int
    links: int
    mtime_ns: int
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    same_as: bytes


def copy_of(root: Path) -> Tree:
    """The tree as it is now."""
    tree: Tree = {}
    first_names: dict[int, bytes] = {}
    for path in _walk(os.fsencode(root), b""):
        tree[path] = _entry(os.fsencode(root), path, first_names)
    return tree


def _walk(root: bytes, path: bytes) -> Iterator[bytes]:
    """Every path in order, directories before what is in them."""
    yield path
    with os.scandir(_join(root, path)) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        below = _join(path, entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, below)
        else:
            yield below


def _join(folder: bytes, name: bytes) -> bytes:
    return os.path.join(folder, name) if folder and name else folder or name


def _entry(root: bytes, path: bytes, first_names: dict[int, bytes]) -> Entry:
    full = _join(root, path)
    status = os.lstat(full)
    is_dir = stat.S_ISDIR(status.st_mode)
    return Entry(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size_bytes=0 if is_dir else status.st_size,
        rdev=status.st_rdev,
        links=0 if is_dir else status.st_nlink,
        mtime_ns=status.st_mtime_ns,
        content=_content(full, status.st_mode),
        xattrs=_xattrs(full),
        same_as=path if is_dir else first_names.setdefault(status.st_ino, path),
    )


def _content(full: bytes, mode: int) -> bytes:
    """A file's bytes or a symlink's target; equal contents share their memory."""
    if stat.S_ISLNK(mode):
        return os.readlink(full)
    if not stat.S_ISREG(mode):
        return b""
    with open(full, "rb", buffering=0) as file:
        found = file.readall()
    return _contents.setdefault(found, found)


def _xattrs(full: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(full, follow_symlinks=False))
    return tuple(
        (name, os.getxattr(full, name, follow_symlinks=False)) for name in names if name != POINT
    )


def differences(found: Tree, wanted: Tree, *, times: bool = True) -> list[str]:
    """One line for each difference; [] when the trees are equal. `times`: compare mtimes too."""
    lines = [f"{path!r} is missing" for path in wanted.keys() - found.keys()]
    lines += [f"{path!r} should not be there" for path in found.keys() - wanted.keys()]
    for path in wanted.keys() & found.keys():
        for field in Entry._fields:
            if field == "mtime_ns" and not times:
                continue
            have, want = getattr(found[path], field), getattr(wanted[path], field)
            if have != want:
                lines.append(f"{path!r}: {field} is {_show(have)}, should be {_show(want)}")
    return sorted(lines)


def _show(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 80:
        stripped = value.strip(b"\0")
        return f"{len(value)} bytes ({value[:30]!r}…, without zeros {stripped[:40]!r})"
    return repr(value)


def assert_same(found: Path, wanted: Path | Tree, *, times: bool = True) -> None:
    """Fail with a list of the differences."""
    expected = wanted if isinstance(wanted, dict) else copy_of(wanted)
    lines = differences(copy_of(found), expected, times=times)
    assert not lines, f"{found}:\n" + "\n".join(lines)
