"""How the things of a tree are called in an archive. Pure; any thread; no I/O."""

from __future__ import annotations

import re
from typing import Final

from tape.layout import SOCKET_FOLDER

_NAME_MAX: Final = 255
_PART: Final = b".cdpfs-part-%04d-of-%04d"
_OURS: Final = frozenset({b"", b"cdpfs", b"README"})


def top_folder(volume_name: str) -> bytes:
    """The folder that a volume's tree is in: its name, as far as every file system takes it."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", volume_name).strip(".-")[:80].encode()
    return b"volume" if name in _OURS else name


def member_name(top: bytes, path: bytes) -> bytes:
    """Of the thing at `path`, relative to the volume's root."""
    return top + b"/" + path if path else top


def part_name(name: bytes, node: int, part: int, parts: int) -> bytes:
    """Of a part, from 0. A name that would get too long ends in the node's number instead."""
    ending = _PART % (part + 1, parts)
    folder, slash, last = name.rpartition(b"/")
    if len(last) + len(ending) > _NAME_MAX:
        number = b"~%x" % node
        last = last[: _NAME_MAX - len(ending) - len(number)] + number
    return folder + slash + last + ending


def socket_name(directory: int, entry: int) -> bytes:
    """Of the member that stands for a socket, by its place in the walk through the tree."""
    return SOCKET_FOLDER.encode() + b"/%d-%d" % (directory, entry)
