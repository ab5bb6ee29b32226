"""What a tree holds, from a mounted directory or from a view, and what differs between two.

A copy leaves out what two right trees may differ in: size and link count of directories, access
and change times, and the attribute that says which moment a view is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from store.types import ROOT, NodeId
from timetravel.view import View

POINT = b"user.cdpfs.point"
READ_BYTES = 1 << 20


class Entry(NamedTuple):
    """One name. `content` is a digest; `same_as` the first path, in order, of the same file."""

    mode: int
    uid: int
    gid: int
    size_bytes: int
    rdev: int
    links: int
    mtime_ns: int
    content: str
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    same_as: bytes


Copy = dict[bytes, Entry]
"""Path relative to the root (b"" is the root itself) → what stands there."""


def of_tree(root: Path, below: bytes = b"") -> Copy:
    """A directory as it is now, or the part of it under `below`."""
    base = os.fsencode(root)
    copy: Copy = {}
    firsts: dict[int, bytes] = {}
    waiting = [below]
    while waiting:
        path = waiting.pop()
        full = os.path.join(base, path) if path else base
        status = os.lstat(full)
        copy[path] = _entry(full, path, status, firsts)
        if stat.S_ISDIR(status.st_mode):
            waiting += (os.path.join(path, name) for name in sorted(os.listdir(full), reverse=True))
    return copy


def _entry(full: bytes, path: bytes, status: os.stat_result, firsts: dict[int, bytes]) -> Entry:
    mode = status.st_mode
    is_dir = stat.S_ISDIR(mode)
    names = sorted(map(os.fsencode, os.listxattr(full, follow_symlinks=False)))
    return Entry(
        mode=mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size_bytes=0 if is_dir else status.st_size,
        rdev=status.st_rdev,
        links=0 if is_dir else status.st_nlink,
        mtime_ns=status.st_mtime_ns,
        content=_digest(_blocks(full)) if stat.S_ISREG(mode) else "",
        target=os.readlink(full) if stat.S_ISLNK(mode) else b"",
        xattrs=tuple(
            (name, os.getxattr(full, name, follow_symlinks=False))
            for name in names
            if name != POINT
        ),
        same_as=path if is_dir else firsts.setdefault(status.st_ino, path),
    )


def _blocks(full: bytes) -> Iterator[bytes]:
    with open(full, "rb", buffering=0) as file:
        while data := file.read(READ_BYTES):
            yield data


def _digest(blocks: Iterator[bytes]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for block in blocks:
        whole.update(block)
    return whole.hexdigest()


def of_view(view: View) -> Copy:
    """A view, read through the journal alone."""
    copy: Copy = {}
    firsts: dict[NodeId, bytes] = {}
    waiting = [(b"", ROOT)]
    while waiting:
        path, node = waiting.pop()
        copy[path] = _past_entry(view, path, node, firsts)
        if stat.S_ISDIR(copy[path].mode):
            entries = sorted(view.entries(node), reverse=True)
            waiting += ((os.path.join(path, name), child) for name, child in entries)
    return copy


def _past_entry(view: View, path: bytes, node: NodeId, firsts: dict[NodeId, bytes]) -> Entry:
    state = view.state(node)
    is_dir = stat.S_ISDIR(state.mode)
    return Entry(
        mode=state.mode,
        uid=state.uid,
        gid=state.gid,
        size_bytes=0 if is_dir else state.size_bytes,
        rdev=state.rdev,
        links=0 if is_dir else state.links,
        mtime_ns=state.mtime_ns,
        content=_digest(_past_blocks(view, node)) if stat.S_ISREG(state.mode) else "",
        target=state.target,
        xattrs=tuple(sorted(view.xattrs(node).items())),
        same_as=path if is_dir else firsts.setdefault(node, path),
    )


def _past_blocks(view: View, node: NodeId) -> Iterator[bytes]:
    start = 0
    while data := view.read(node, start, READ_BYTES):
        yield data
        start += len(data)


def differences(found: Copy, wanted: Copy, times: bool = True) -> list[str]:
    """One line for each difference; [] when the trees are equal. `times`: compare mtimes too."""
    lines = [f"{path!r} is missing" for path in wanted.keys() - found.keys()]
    lines += [f"{path!r} should not be there" for path in found.keys() - wanted.keys()]
    for path in wanted.keys() & found.keys():
        for field in Entry._fields:
            have, want = getattr(found[path], field), getattr(wanted[path], field)
            if have != want and (times or field != "mtime_ns"):
                lines.append(f"{path!r}: {field} is {have!r}, should be {want!r}")
    return sorted(lines)
