"""Ops and the payloads of those that carry more than bytes. Pure; any thread; no I/O.

`Op` is one change as the log holds it, wherever it is read from. The payload classes turn to and
from bytes with `encode` and `decode`; `decode` raises `ValueError` on anything malformed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from store.format import Flag, Kind
from store.types import Lsn, NodeId, TimeNs


class Op(NamedTuple):
    """One op. `kind` and `flags` are ints for speed (`format.Kind`, `format.Flag`)."""

    lsn: Lsn
    time_ns: TimeNs
    kind: int
    flags: int
    node: NodeId
    offset: int
    actor: Lsn
    payload_xxh3: int
    payload: bytes | memoryview


class OpHead(Protocol):
    """What an op is, however it is read."""

    @property
    def lsn(self) -> Lsn:
        """Its LSN."""

    @property
    def kind(self) -> int:
        """See `format.Kind`."""

    @property
    def flags(self) -> int:
        """See `format.Flag`."""

    @property
    def offset(self) -> int:
        """By kind."""


def begins_history(op: OpHead) -> bool:
    """Is it the BASELINE op at which the history of a copy begins?"""
    return op.kind == Kind.BASELINE and not op.flags & Flag.BASELINE


def aborted_in(ops: Sequence[OpHead]) -> set[int]:
    """LSNs of the ops of a batch that never happened.

    Where a history begins stands another op than the one that may have been aborted there.
    """
    aborted = {op.offset for op in ops if op.kind == Kind.ABORT}
    if aborted and begins_history(ops[0]):
        aborted.discard(ops[0].lsn)
    return aborted


class Reader:
    """Bounds-checked reading of a payload from its start on."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = bytes(data)
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes; ValueError when there are fewer."""
        stop = self._at + count
        if stop > len(self._data):
            raise ValueError(f"payload of {len(self._data)} bytes ends before byte {stop}")
        piece = self._data[self._at : stop]
        self._at = stop
        return piece

    def numbers(self, codec: struct.Struct) -> tuple[int, ...]:
        """The members of the structure that comes next."""
        return codec.unpack(self.take(codec.size))

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self._data) - self._at)

    def finish(self) -> None:
        """ValueError when bytes are left over."""
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} unexpected bytes at the payload's end")


_CREATED = struct.Struct("<IIIQH")
_RENAMED = struct.Struct("<QIQH")
_ATTRIBUTES = struct.Struct("<IIIIqq")
_ACTOR = struct.Struct("<IIIII")
_ADOPTED = struct.Struct("<QIIIQQqqqQIHHH")
_XATTR = struct.Struct("<HI")
_PARENT = struct.Struct("<Q")
_GAP = struct.Struct("<QB")
_FOLDED = struct.Struct("<QQII")


@dataclass(frozen=True)
class Created:
    """Payload of CREATE: a new node under a name. `mode` has the file type; `target` of links."""

    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    target: bytes = b""

    def encode(self) -> bytes:
        """To bytes."""
        head = _CREATED.pack(self.mode, self.uid, self.gid, self.rdev, len(self.name))
        return head + self.name + self.target

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """From bytes."""
        reader = Reader(data)
        mode, uid, gid, rdev, length = reader.numbers(_CREATED)
        name = reader.take(length)
        return cls(name, mode, uid, gid, rdev, reader.rest())


RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Renamed:
    """Payload of RENAME. `other` is the node replaced or exchanged, 0 if there was none."""

    name: bytes
    new_parent: NodeId
    new_name: bytes
    flags: int = 0
    other: NodeId = NodeId(0)

    def encode(self) -> bytes:
        """To bytes."""
        head = _RENAMED.pack(self.new_parent, self.flags, self.other, len(self.name))
        return head + self.name + self.new_name

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """From bytes."""
        reader = Reader(data)
        new_parent, flags, other, length = reader.numbers(_RENAMED)
        name = reader.take(length)
        return cls(name, NodeId(new_parent), reader.rest(), flags, NodeId(other))


SET_MODE, SET_UID, SET_GID, SET_ATIME, SET_MTIME = 1, 2, 4, 8, 16


@dataclass(frozen=True)
class Attributes:
    """Payload of SETATTR: those members count whose `SET_…` bit is in `mask`.

    `mode` holds the permission bits only (07777).
    """

    mask: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0

    def encode(self) -> bytes:
        """To bytes."""
        return _ATTRIBUTES.pack(
            self.mask, self.mode, self.uid, self.gid, self.atime_ns, self.mtime_ns
        )

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """From bytes."""
        reader = Reader(data)
        numbers = reader.numbers(_ATTRIBUTES)
        reader.finish()
        return cls(*numbers)


@dataclass(frozen=True)
class Actor:
    """Payload of ACTOR: who does the ops that point to it."""

    uid: int
    gid: int
    pid: int
    parent_pid: int
    session: int
    command: bytes

    def encode(self) -> bytes:
        """To bytes."""
        numbers = _ACTOR.pack(self.uid, self.gid, self.pid, self.parent_pid, self.session)
        return numbers + self.command

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """From bytes."""
        reader = Reader(data)
        uid, gid, pid, parent_pid, session = reader.numbers(_ACTOR)
        return cls(uid, gid, pid, parent_pid, session, reader.rest())


@dataclass(frozen=True)
class Adopted:
    """Payload of ADOPT: a node that cdpfs found, with one of its names (b"" for the root).

    `mode` has the file type. `links` is st_nlink, `inode` st_ino of the backing file. `size_bytes`
    counts for regular files only; their content follows as BASE ops unless it is 0.
    """

    parent: NodeId
    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: int
    size_bytes: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    links: int
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    def encode(self) -> bytes:
        """To bytes."""
        parts = [
            _ADOPTED.pack(
                self.parent,
                self.mode,
                self.uid,
                self.gid,
                self.rdev,
                self.size_bytes,
                self.atime_ns,
                self.mtime_ns,
                self.ctime_ns,
                self.inode,
                self.links,
                len(self.name),
                len(self.target),
                len(self.xattrs),
            ),
            self.name,
            self.target,
        ]
        for name, value in self.xattrs:
            parts += (_XATTR.pack(len(name), len(value)), name, value)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """From bytes."""
        reader = Reader(data)
        numbers = reader.numbers(_ADOPTED)
        name_length, target_length, count = numbers[11:]
        name, target = reader.take(name_length), reader.take(target_length)
        xattrs = []
        for _ in range(count):
            key_length, value_length = reader.numbers(_XATTR)
            xattrs.append((reader.take(key_length), reader.take(value_length)))
        reader.finish()
        mode, uid, gid, rdev, size_bytes, atime_ns, mtime_ns, ctime_ns, inode, links = numbers[1:11]
        return cls(
            parent=NodeId(numbers[0]),
            name=name,
            mode=mode,
            uid=uid,
            gid=gid,
            rdev=rdev,
            size_bytes=size_bytes,
            atime_ns=atime_ns,
            mtime_ns=mtime_ns,
            ctime_ns=ctime_ns,
            inode=inode,
            links=links,
            target=target,
            xattrs=tuple(xattrs),
        )


@dataclass(frozen=True)
class Gap:
    """Payload of GAP: until when changes went unlogged (wall time), and why.

    `found`: the daemon ended inside the gap, so that its end is that of the session that found it.
    """

    ended_ns: int
    reason: str
    found: bool = False

    def encode(self) -> bytes:
        """To bytes."""
        return _GAP.pack(self.ended_ns, self.found) + self.reason.encode()

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """From bytes."""
        reader = Reader(data)
        ended_ns, found = reader.numbers(_GAP)
        return cls(ended_ns, reader.rest().decode("utf-8", "replace"), bool(found))


@dataclass(frozen=True)
class Folded:
    """Payload of a batch's last FOLDED op: what was left out of the batch on the way.

    States from LSN `first` on and before `until` are not to be had any more; that at `until` is.
    """

    first: Lsn
    until: Lsn
    writes: int
    """Writes whose bytes were left out, since later ones overwrote them by `until`."""
    points: int
    """Recovery points that the site had in between."""

    def encode(self) -> bytes:
        """To bytes."""
        return _FOLDED.pack(self.first, self.until, self.writes, self.points)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """From bytes."""
        reader = Reader(data)
        first, until, writes, points = reader.numbers(_FOLDED)
        reader.finish()
        return cls(Lsn(first), Lsn(until), writes, points)


def encode_entry(parent: NodeId, name: bytes) -> bytes:
    """Payload of ADOPT_NAME."""
    return _PARENT.pack(parent) + name


def decode_entry(data: bytes | memoryview) -> tuple[NodeId, bytes]:
    """(parent, name) of an ADOPT_NAME payload."""
    reader = Reader(data)
    (parent,) = reader.numbers(_PARENT)
    return NodeId(parent), reader.rest()
