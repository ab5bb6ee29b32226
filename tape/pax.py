"""Members of pax archives: their headers from facts, and facts from headers. Pure; any thread.

Duty: the headers of everything that a volume's tree has, so that GNU tar restores it whole, and the
same read back with every length bounded first. The ustar blocks are the standard library's
(`tarfile.TarInfo`); pax records (POSIX.1-2017, pax, "pax Interchange Format") are written here,
since names, targets and values are bytes, and so are names of attributes.

Like GNU tar, and unlike the letter of the standard, records that are no UTF-8 are written as they
are, without `hdrcharset`, which GNU tar would warn about once a file. What only a store needs (see
`Note`) is in the record `comment`, which every tar skips in silence.
"""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterable
from typing import Annotated, Final, NamedTuple

import msgspec

from store.types import NodeId
from tape.errors import BadArchive
from tape.layout import Count
from tape.posix_acl import acl_text

BLOCK_BYTES: Final = tarfile.BLOCKSIZE

MAX_RECORDS_BYTES: Final = 32 << 20
"""Of one member: its path, target and attributes."""

XATTR: Final = b"SCHILY.xattr."
SPARSE_NAME: Final = b"GNU.sparse.name"
SPARSE_SIZE: Final = b"GNU.sparse.realsize"

_ACLS: Final = {
    b"system.posix_acl_access": b"SCHILY.acl.access",
    b"system.posix_acl_default": b"SCHILY.acl.default",
}
_NAME_BYTES: Final = 100
_MAX_OCTAL_7: Final = 8**7
_MAX_OCTAL_11: Final = 8**11
_NS: Final = 10**9
_NOTE_START: Final = b"cdpfs "

_TYPES: Final = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFSOCK: tarfile.REGTYPE,
}
_FORMATS: Final = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}


class Note(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What a store needs of a member and tar has no place for; JSON in the record `comment`."""

    node: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    links: Count = 1
    """Names of the node in the whole tree."""
    socket: bool = False
    """It is a socket, which no tar can make: a member outside of the tree stands for it."""
    path: bytes | None = None
    """Of sockets and of parts: the path in the tree, which the member's name does not say."""
    part: Count = 0
    """Of a file in parts: which, from 0, of how many."""
    parts: Count = 1
    offset: Count = 0
    """Where the part begins in the file."""
    file_bytes: Count = 0
    """Of a file in parts: the size of all of it."""
    lost: bool = False
    """Some of its content was never captured; zeros stand for it."""


class Facts(NamedTuple):
    """What is true of a thing in the tree."""

    mode: int
    """File type and permission bits."""
    uid: int
    gid: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    target: bytes = b""
    """Of a symbolic link."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


class Header(NamedTuple):
    """What a member's headers say. `note` is None of members that are not of the tree."""

    name: bytes
    """Without the slash at a directory's end."""
    facts: Facts
    link: bytes | None
    """Of a further hard link: the name of the member that it is a link to."""
    stored_bytes: int
    """Of what follows the headers, without the padding."""
    sparse_bytes: int | None
    """Of a sparse member: the size of the file that the map and data that follow make up."""
    note: Note | None


def entry_header(
    name: bytes, facts: Facts, note: Note, stored_bytes: int = 0, sparse_bytes: int | None = None
) -> bytes:
    """The headers of something in the tree: whole blocks. ValueError when they get too long."""
    kind = stat.S_IFMT(facts.mode)
    records = [(b"comment", _NOTE_START + msgspec.json.encode(note))]
    for attribute, value in facts.xattrs:
        records.append((XATTR + _escaped(attribute), value))
        if attribute in _ACLS and (text := acl_text(value)):
            records.append((_ACLS[attribute], text))
    if sparse_bytes is not None:
        records += [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (SPARSE_NAME, name),
            (SPARSE_SIZE, b"%d" % sparse_bytes),
        ]
        name = b"GNUSparseFile.0/" + name
    if kind == stat.S_IFDIR:
        name += b"/"
    link = facts.target if kind == stat.S_IFLNK else b""
    return _header(name, _TYPES[kind], facts, link, stored_bytes, records)


def link_header(name: bytes, link: bytes, facts: Facts, note: Note) -> bytes:
    """The headers of a further hard link to the member `link`."""
    records = [(b"comment", _NOTE_START + msgspec.json.encode(note))]
    return _header(name, tarfile.LNKTYPE, facts, link, 0, records)


def plain_header(name: str, stored_bytes: int, mtime_ns: int) -> bytes:
    """The headers of a file that is not of the tree; readable for its owner."""
    whole_ns = mtime_ns // _NS * _NS
    facts = Facts(stat.S_IFREG | 0o600, 0, 0, 0, whole_ns, whole_ns, whole_ns)
    return _ustar(name.encode(), tarfile.REGTYPE, facts, b"", stored_bytes)


def padding(size_bytes: int) -> bytes:
    """What fills a member's content up to whole blocks."""
    return bytes(-size_bytes % BLOCK_BYTES)


def _header(
    name: bytes,
    kind: bytes,
    facts: Facts,
    link: bytes,
    stored_bytes: int,
    records: list[tuple[bytes, bytes]],
) -> bytes:
    for key, text in ((b"path", name), (b"linkpath", link)):
        if len(text) >= _NAME_BYTES or not text.isascii():
            records.append((key, text))
    if stored_bytes >= _MAX_OCTAL_11:
        records.append((b"size", b"%d" % stored_bytes))
    for key, number in ((b"uid", facts.uid), (b"gid", facts.gid)):
        if number >= _MAX_OCTAL_7:
            records.append((key, b"%d" % number))
    for key, time_ns in (
        (b"atime", facts.atime_ns),
        (b"mtime", facts.mtime_ns),
        (b"ctime", facts.ctime_ns),
    ):
        records.append((key, time_text(time_ns)))
    body = encode_records(records)
    if len(body) > MAX_RECORDS_BYTES:
        raise ValueError(f"{len(body)} bytes of names and attributes are more than a tape takes")
    start = tarfile.TarInfo("././@PaxHeader")
    start.type, start.size = tarfile.XHDTYPE, len(body)
    return (
        start.tobuf(tarfile.USTAR_FORMAT)
        + body
        + padding(len(body))
        + _ustar(name, kind, facts, link, stored_bytes)
    )


def _ustar(name: bytes, kind: bytes, facts: Facts, link: bytes, stored_bytes: int) -> bytes:
    """The header block. What does not fit in is in the records, and cut or 0 here."""
    # A directory's slash is the library's to add, which has room for it.
    info = tarfile.TarInfo(_text(name.rstrip(b"/")[: _NAME_BYTES - 1]))
    info.type, info.linkname = kind, _text(link[:_NAME_BYTES])
    info.mode = stat.S_IMODE(facts.mode)
    info.uid = facts.uid if facts.uid < _MAX_OCTAL_7 else 0
    info.gid = facts.gid if facts.gid < _MAX_OCTAL_7 else 0
    info.size = stored_bytes if stored_bytes < _MAX_OCTAL_11 else 0
    info.mtime = min(max(facts.mtime_ns // _NS, 0), _MAX_OCTAL_11 - 1)
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = _device(facts.rdev)
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


def encode_records(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """`length key=value` lines; the length counts its own digits."""
    lines = []
    for key, value in records:
        rest = len(key) + len(value) + 3
        size = rest + len(str(rest))
        if rest + len(str(size)) != size:
            size = rest + len(str(size))
        lines.append(b"%d %b=%b\n" % (size, key, value))
    return b"".join(lines)


def decode_records(body: bytes) -> dict[bytes, bytes]:
    """The inverse; of a key that comes twice the last counts. BadArchive."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        digits, space, _ = body[at : at + 12].partition(b" ")
        if not space or not digits.isdigit():
            raise BadArchive("a pax record without a length")
        stop = at + int(digits)
        key, equals, value = body[at + len(digits) + 1 : stop].partition(b"=")
        if stop > len(body) or not equals or not value.endswith(b"\n"):
            raise BadArchive("a pax record that is not what its length says")
        found[key] = value[:-1]
        at = stop
    return found


def read_header(block: bytes, records: dict[bytes, bytes]) -> Header:
    """What a member's header block and the pax records before it say. BadArchive."""
    info = read_block(block)
    name = records.get(b"path", _bytes(info.name)).rstrip(b"/")
    link = records.get(b"linkpath", _bytes(info.linkname))
    if info.type == tarfile.AREGTYPE:
        info.type = tarfile.REGTYPE
    if info.type not in _FORMATS and info.type != tarfile.LNKTYPE:
        raise BadArchive(f"a member of a kind that cdpfs never writes: {info.type!r}")
    size = _number(records, b"size", info.size)
    sparse = None
    if SPARSE_SIZE in records:
        sparse = _number(records, SPARSE_SIZE, 0)
        name = records.get(SPARSE_NAME, name)
    elif info.type != tarfile.REGTYPE:
        size = 0
    note = _note(records)
    kind = _FORMATS.get(info.type, stat.S_IFREG)
    if note is not None and note.socket:
        kind = stat.S_IFSOCK
    facts = Facts(
        kind | stat.S_IMODE(info.mode),
        _number(records, b"uid", info.uid, 1 << 32),
        _number(records, b"gid", info.gid, 1 << 32),
        _rdev(info),
        _time(records, b"atime", info.mtime),
        _time(records, b"mtime", info.mtime),
        _time(records, b"ctime", info.mtime),
        link if info.type == tarfile.SYMTYPE else b"",
        tuple(
            (_unescaped(key[len(XATTR) :]), value)
            for key, value in records.items()
            if key.startswith(XATTR)
        ),
    )
    if not name or b"\0" in name + link:
        raise BadArchive("a member with a name that none can have")
    hard = link if info.type == tarfile.LNKTYPE else None
    return Header(name, facts, hard, size, sparse, note)


def read_block(block: bytes) -> tarfile.TarInfo:
    """A header block, its checksum tested. BadArchive."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise BadArchive(f"no tar header where one should be: {error}") from error
    if info.size < 0:
        raise BadArchive("a member of a negative size")
    return info


def is_records(info: tarfile.TarInfo) -> bool:
    """Do pax records for the next member follow?"""
    return info.type == tarfile.XHDTYPE


def time_text(time_ns: int) -> bytes:
    """Seconds with all their nanoseconds; the sign counts for the whole."""
    seconds, ns = divmod(abs(time_ns), _NS)
    sign = b"-" if time_ns < 0 else b""
    return b"%b%d.%09d" % (sign, seconds, ns) if ns else b"%b%d" % (sign, seconds)


def _time(records: dict[bytes, bytes], key: bytes, default_s: float) -> int:
    text = records.get(key)
    if text is None:
        return int(default_s) * _NS
    sign, digits = (-1, text[1:]) if text.startswith(b"-") else (1, text)
    whole, _, part = digits.partition(b".")
    if not whole.isdigit() or len(whole) > 12 or (part and not part.isdigit()):
        raise BadArchive("a time that is none")
    return sign * (int(whole) * _NS + int((part + b"000000000")[:9]))


def _number(records: dict[bytes, bytes], key: bytes, default: int, stop: int = 1 << 63) -> int:
    text = records.get(key)
    value = default
    if text is not None:
        if not text.isdigit() or len(text) > 20:
            raise BadArchive(f"{key.decode()} is no number")
        value = int(text)
    if not 0 <= value < stop:
        raise BadArchive(f"{key.decode()} is impossible")
    return value


def _note(records: dict[bytes, bytes]) -> Note | None:
    text = records.get(b"comment", b"")
    if not text.startswith(_NOTE_START):
        return None
    try:
        note = msgspec.json.decode(text[len(_NOTE_START) :], type=Note)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadArchive(f"a note of cdpfs that can't be read: {error}") from error
    if not note.part < note.parts:
        raise BadArchive("a part beyond the number of parts")
    return note


def node_of(note: Note) -> NodeId:
    """The node that a note is about."""
    return NodeId(note.node)


def _device(rdev: int) -> tuple[int, int]:
    """Major and minor number, as the C library packs them (makedev(3))."""
    major = (rdev >> 8 & 0xFFF) | (rdev >> 32 & ~0xFFF)
    return major, (rdev & 0xFF) | (rdev >> 12 & ~0xFF & 0xFFFFFFFF)


def _rdev(info: tarfile.TarInfo) -> int:
    if info.type not in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        return 0
    major, minor = info.devmajor, info.devminor
    if not (0 <= major < 1 << 32 and 0 <= minor < 1 << 32):
        raise BadArchive("a device number that is impossible")
    low = (major & 0xFFF) << 8 | minor & 0xFF
    return low | (minor & ~0xFF) << 12 | (major & ~0xFFF) << 32


def _escaped(attribute: bytes) -> bytes:
    """An attribute's name in a keyword, where "=" ends it: as GNU tar writes it."""
    return attribute.replace(b"%", b"%25").replace(b"=", b"%3D")


def _unescaped(key: bytes) -> bytes:
    return key.replace(b"%3D", b"=").replace(b"%25", b"%")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
