"""Access control lists as text, as `tar --acls` reads them. Pure; any thread; no I/O.

The kernel's form is that of the attributes `system.posix_acl_*` (linux/posix_acl_xattr.h): a
version, then entries of tag, permissions and id. Ids stay numbers: names mean nothing elsewhere.
"""

from __future__ import annotations

import struct
from typing import Final

_VERSION: Final = 2
_TAGS: Final = {
    0x01: b"user:",
    0x02: b"user:%d",
    0x04: b"group:",
    0x08: b"group:%d",
    0x10: b"mask:",
    0x20: b"other:",
}
_ENTRY: Final = struct.Struct("<HHI")


def acl_text(value: bytes) -> bytes:
    """The entries, separated by commas; empty for what is no list of these."""
    body = value[4:]
    if len(value) < 4 or int.from_bytes(value[:4], "little") != _VERSION:
        return b""
    if len(body) % _ENTRY.size:
        return b""
    entries = []
    for tag, permissions, number in _ENTRY.iter_unpack(body):
        who = _TAGS.get(tag)
        if who is None:
            return b""
        name = who % number if b"%" in who else who
        shown = bytes(
            letter if permissions & bit else ord("-")
            for letter, bit in zip(b"rwx", (4, 2, 1), strict=True)
        )
        entries.append(name + b":" + shown)
    return b",".join(entries)
