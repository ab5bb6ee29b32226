"""What the index answers: states, ops, pieces, points. Pure; any thread; no I/O."""

from __future__ import annotations

from typing import NamedTuple

from store.types import Lsn, NodeId, TimeNs


class NodeState(NamedTuple):
    """Attributes of a node at a moment."""

    node: NodeId
    mode: int
    """File type and permission bits."""
    uid: int
    gid: int
    rdev: int
    size_bytes: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    links: int
    """Names of the node; 1 for a directory that has its name."""
    target: bytes
    """Of symbolic links; else empty."""
    generation: int
    """Of the content: LSN of its CREATE, of its last TRUNCATE to 0, or `since` of its ADOPT."""
    changed: Lsn
    """LSN of its last change (for an adopted node: its `since`)."""
    inode: int
    """st_ino of the backing file if the node was adopted, else 0."""


class OpMeta(NamedTuple):
    """One op without its payload."""

    lsn: Lsn
    time_ns: TimeNs
    kind: int
    flags: int
    node: NodeId
    offset: int
    length: int
    actor: Lsn
    aborted: bool
    position: int
    """Where its payload starts in the raw payload of its batch."""


class BaseState(NamedTuple):
    """The content that a node had before cdpfs knew it."""

    since: Lsn
    size_bytes: int
    complete: bool
    """All of it is in the journal (of a directory: all its names)."""


class Piece(NamedTuple):
    """A run of a file's bytes `[start, stop)`, all of one op."""

    start: int
    stop: int
    source: Lsn
    """The op whose payload holds them; 0: zeros."""
    source_offset: int
    """Where they start in that payload."""


class Point(NamedTuple):
    """A recovery point."""

    lsn: Lsn
    time_ns: TimeNs
    grade: str
    """crash, sync, transaction or mark."""
    group: str
    reason: str
    name: str
