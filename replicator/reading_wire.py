"""What is said between a vault and those who read its volumes. Pure; any thread; no I/O.

Every path stands below `/v1/volumes/UUID/`; each takes `line` (default `main`). A moment is turned
into an LSN first, then everything is asked as of that LSN:

    GET  /v1/volumes                                     [VolumeMessage], those that may be read
    GET  resolve?moment=M[&zone=Z][&path=P][&limit_s=S]  PointMessage
    GET  state?lsn=N&node=ID | &path=P                   State
    GET  entry?lsn=N&node=ID                             Entry: with extended attributes
    GET  tree?lsn=N&node=ID[&deep=1]                     NDJSON of Entry
    GET  content?lsn=N&node=ID  (Range)                  bytes of a file
    POST contents?lsn=N         Wanted                   bytes of many ranges, see `FRAME`
    POST digests?lsn=N          Wanted                   [digest of each range]
    GET  areas?lsn=N&node=ID[&start=B]                   Areas: what of a sparse file is no hole
    GET  history?path=P · points?path=P · deleted?path=P · diff?path=P&from_lsn=A&to_lsn=B
                                                         NDJSON of VersionMessage, PointRow, ...
    GET  companions?lsn=N&path=P                         [CompanionMessage]
    GET  shipments?from=LSN[&offset=BYTE]                a shipment, made anew from the journal

An answer has in its headers the digest of its body (before it was packed, should it be: `contents`
are, with zstd, for whoever accepts it), and of the request that it answers, so that
damage on the way is noticed without TLS too; an answer of lines (NDJSON) ends with an `End` that
has the digest of the lines. A line that is a `Failure` says what could not be told.

Names and paths are bytes. As text they are `encode_name` of them: UTF-8 as it is, and every other
byte, `%` and control characters as `%XX`; so no two texts mean the same name. In a URL that text is
quoted like any other.
"""

from __future__ import annotations

import re
import struct
from typing import Annotated, Final
from urllib.parse import unquote_to_bytes

import msgspec
from blake3 import blake3

from replicator.errors import BadRequest
from replicator.wire import Hex32, LsnNumber
from store.journal import NodeState
from store.ops import Actor
from store.types import Lsn, NodeId

DIGEST_HEADER: Final = "cdpfs-digest"
"""Of an answer that is sent whole: the blake3 digest of its body, in hexadecimal digits."""

ASKED_HEADER: Final = "cdpfs-asked"
"""Of an answer: `asked_digest` of the request as it arrived."""

MAX_PATH_BYTES: Final = 1 << 16
MAX_RANGES: Final = 4096
"""Of one request for contents."""
MAX_RANGE_BYTES: Final = 4 << 20
MAX_CONTENTS_BYTES: Final = 16 << 20
"""What one request for contents may come to."""
MAX_AREAS: Final = 16_384
MAX_TREE_ENTRIES: Final = 2_000_000
"""Of one answer; larger trees are asked for directory by directory."""
MAX_ROWS: Final = 100_000
"""Points or versions of one answer, the newest ones."""

FRAME: Final = struct.Struct("<I")
"""Before the bytes of each range in an answer to `contents`: how many there are (fewer at the end
of the file)."""

NDJSON: Final = "application/x-ndjson"

_UNSAFE: Final = re.compile("[\\0-\\x1f%\\x7f\\udc80-\\udcff]")
"""Control characters, the escape itself, and what `surrogateescape` makes of bytes that are no
UTF-8."""


class State(msgspec.Struct, kw_only=True, frozen=True):
    """Attributes of a node, as `store.journal.NodeState` has them."""

    node: LsnNumber
    mode: int
    uid: int
    gid: int
    rdev: int
    size_bytes: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    links: int
    target: str = ""
    changed: LsnNumber


class Entry(msgspec.Struct, kw_only=True, frozen=True, tag_field="is", tag="entry"):
    """A line of a tree. `path` is relative to where the tree begins."""

    path: str
    state: State
    xattrs: dict[str, bytes] = {}
    """By name; values are in base64."""


class End(msgspec.Struct, kw_only=True, frozen=True, tag_field="is", tag="end"):
    """The last line of an answer of lines: without it the answer was cut."""

    lines: int
    """Those before this one."""
    digest: Hex32
    """The blake3 digest of all their bytes, line ends included."""


class Failure(msgspec.Struct, kw_only=True, frozen=True, tag_field="is", tag="failure"):
    """In the midst of an answer of lines: something could not be told, and why."""

    path: str = ""
    """Of a tree: the directory whose entries are missing."""
    kind: str
    message: str
    hint: str = ""


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Bytes `[start, start + size)` of a node."""

    node: LsnNumber
    start: LsnNumber
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_RANGE_BYTES)]


class Wanted(msgspec.Struct, frozen=True):
    """Ranges of any nodes of one view, at most MAX_CONTENTS_BYTES in all."""

    ranges: Annotated[list[Range], msgspec.Meta(min_length=1, max_length=MAX_RANGES)]


class Digests(msgspec.Struct, frozen=True):
    """The blake3 digest of each range that was asked for, in order."""

    digests: list[Hex32]


class Areas(msgspec.Struct, frozen=True):
    """Intervals `[start, stop)` of a file that are no holes, in order."""

    areas: list[tuple[int, int]]
    next: int | None = None
    """Where to go on; None: that was all."""


class GroupMessage(msgspec.Struct, kw_only=True, frozen=True):
    """How a consistency group stands."""

    title: str
    names: list[str]
    clean: bool
    grade: str
    point_lsn: LsnNumber
    reason: str


class PointMessage(msgspec.Struct, kw_only=True, frozen=True):
    """What a moment came to, as `timetravel.resolve.ResolvedPoint`."""

    lsn: LsnNumber
    time_ns: int
    grade: str
    reason: str
    asked: str
    note: str
    asked_lsn: LsnNumber
    back_ns: int
    groups: list[GroupMessage]
    group_count: int
    open_count: int
    held_lsn: LsnNumber
    """The newest LSN that the vault holds."""
    visible_lsn: LsnNumber
    """The barrier that it shows by default."""


class ActorMessage(msgspec.Struct, kw_only=True, frozen=True):
    """Who did something."""

    uid: int
    gid: int
    pid: int
    command: str


class VersionMessage(msgspec.Struct, kw_only=True, frozen=True):
    """A version of a path, as `timetravel.history.Version`."""

    first: LsnNumber
    last: LsnNumber
    first_time_ns: int
    last_time_ns: int
    node: LsnNumber
    actor: ActorMessage | None
    events: list[str]
    written_bytes: int
    ops: dict[str, int]
    size_bytes: int | None
    other_name: str


class PointRow(msgspec.Struct, kw_only=True, frozen=True):
    """A recovery point, as `store.journal.Point`. `title` is its group's."""

    lsn: LsnNumber
    time_ns: int
    grade: str
    group: LsnNumber
    title: str
    reason: str
    name: str
    until: LsnNumber


class ChangeMessage(msgspec.Struct, kw_only=True, frozen=True):
    """A difference between two moments, as `timetravel.diff.Change`."""

    kind: str
    path: str
    old_path: str
    old: State | None
    new: State | None
    parts: list[str]


class DeletedMessage(msgspec.Struct, kw_only=True, frozen=True):
    """Something that was deleted, as `timetravel.deleted.Deleted`."""

    path: str
    state: State
    removed_lsn: LsnNumber
    removed_time_ns: int
    actor: ActorMessage | None
    restore_lsn: LsnNumber


class CompanionMessage(msgspec.Struct, kw_only=True, frozen=True):
    """A file that belongs to another, as `timetravel.companions.Companion`."""

    path: str
    then: State | None
    now: State | None
    matters: bool
    differs: bool


class LineMessage(msgspec.Struct, kw_only=True, frozen=True):
    """A line of a volume's history."""

    line: str
    held_lsn: LsnNumber
    held_time_ns: int
    visible_lsn: LsnNumber
    visible_time_ns: int


class VolumeMessage(msgspec.Struct, kw_only=True, frozen=True):
    """A volume that may be read. A sealed one has no lines that the vault could tell of."""

    uuid: str
    site: str
    name: str
    directory: str
    sealed: bool
    lines: list[LineMessage]


def asked_digest(target: bytes, body: bytes) -> str:
    """The digest of a request: its path and query as they are sent, and its body."""
    return blake3(target + b"\0" + body).hexdigest()


def encode_name(name: bytes) -> str:
    """A name or path as text: UTF-8 as it is; other bytes, `%` and control characters as `%XX`."""
    return _UNSAFE.sub(_quoted, name.decode("utf-8", "surrogateescape"))


def _quoted(found: re.Match[str]) -> str:
    byte = found[0].encode("utf-8", "surrogateescape")
    return f"%{byte[0]:02X}"


def decode_name(text: str) -> bytes:
    """The inverse of `encode_name`; BadRequest for a text that it never makes."""
    try:
        name = unquote_to_bytes(text) if "%" in text else text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest("a name has characters that are none") from None
    if len(name) > MAX_PATH_BYTES or encode_name(name) != text:
        raise BadRequest("a name is not encoded as it should be: UTF-8, the rest as %XX")
    return name


def decode_path(text: str) -> bytes:
    """A path relative to the volume's root; BadRequest for one that could mean something else."""
    path = decode_name(text)
    names = path.split(b"/") if path else []
    if b"\0" in path or any(name in (b"", b".", b"..") for name in names):
        raise BadRequest("a path is relative to the volume's root, without . and ..")
    return path


def state_message(state: NodeState) -> State:
    """Attributes for the wire."""
    return State(
        node=state.node,
        mode=state.mode,
        uid=state.uid,
        gid=state.gid,
        rdev=state.rdev,
        size_bytes=state.size_bytes,
        atime_ns=state.atime_ns,
        mtime_ns=state.mtime_ns,
        ctime_ns=state.ctime_ns,
        links=state.links,
        target=encode_name(state.target),
        changed=state.changed,
    )


def node_state(message: State) -> NodeState:
    """Attributes from the wire. What only the vault's index knows of a node is 0."""
    return NodeState(
        NodeId(message.node),
        message.mode,
        message.uid,
        message.gid,
        message.rdev,
        message.size_bytes,
        message.atime_ns,
        message.mtime_ns,
        message.ctime_ns,
        message.links,
        decode_name(message.target),
        0,
        Lsn(message.changed),
        0,
    )


def actor_message(actor: Actor | None) -> ActorMessage | None:
    """Who did it, for the wire."""
    if actor is None:
        return None
    command = encode_name(actor.command)
    return ActorMessage(uid=actor.uid, gid=actor.gid, pid=actor.pid, command=command)


def actor_of(message: ActorMessage | None) -> Actor | None:
    """Who did it, from the wire."""
    if message is None:
        return None
    command = decode_name(message.command)
    return Actor(message.uid, message.gid, message.pid, 0, 0, command)


def xattr_messages(xattrs: dict[bytes, bytes]) -> dict[str, bytes]:
    """Extended attributes for the wire."""
    return {encode_name(name): value for name, value in xattrs.items()}


def xattrs_of(message: dict[str, bytes]) -> dict[bytes, bytes]:
    """Extended attributes from the wire."""
    return {decode_name(name): value for name, value in message.items()}
