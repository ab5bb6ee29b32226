"""What barrier inference remembers, as rows. Pure; any thread; no I/O.

Everything that the machine in `store/barriers.py` knows is in these structures, so that it can be
stopped after any batch and go on from the rows as if nothing had happened: the points found while
ops arrive are those that a replay of the whole log finds.

Numbers are plain ints (LSNs, NodeIds, nanoseconds); rows are msgpack arrays.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec

from store.index_rows import Point
from store.types import Lsn, NodeId, TimeNs

MAX_MEMBERS = 64
"""Names that a group remembers as its files, the newest ones."""

Place = tuple[int, bytes]
"""(directory, name)."""

SYNC, TRANSACTION = 1, 2
"""Grades as they are stored; `labels` names them."""

LABELS = {SYNC: "sync", TRANSACTION: "transaction"}
GRADES = {label: number for number, label in LABELS.items()}


class FileState(msgspec.Struct, array_like=True):
    """A file whose state matters to its group."""

    node: int
    directory: int
    name: bytes
    actor: int = 0
    """LSN of the ACTOR op of the last writer."""
    dirty: int = 0
    """LSN of the first write that no fsync has covered; 0: none."""
    settled: bool = False
    """Dirty, but complete as its writer sees it: closed, or quiet for long."""
    written: int = 0
    """LSN of the last write."""
    synced: int = 0
    """LSN of the last fsync that had something to make durable; 0: never."""
    made: int = 0
    """LSN of its creation, while it is still being made; else 0."""
    staged: int = 0
    """LSN since which its content stands (fsync, close, rename to this name); 0: it doesn't."""
    end: int = 0
    """Where the furthest write ended."""
    appends: bool = False
    """The last writes were behind everything that was there."""

    @property
    def place(self) -> Place:
        """Its name, as far as it is known."""
        return (self.directory, self.name)

    @property
    def unfinished(self) -> bool:
        """Has writes that somebody may still be at."""
        return bool(self.dirty) and not self.settled


class Rhythm(msgspec.Struct, array_like=True):
    """The order in which the files of a group are synced; `store/barrier_cycles.py` reads it."""

    keys: list[Place] = []
    """Files by name: a file that is made anew each time is one key."""
    events: list[int] = []
    """The last fsyncs, as indexes into `keys`; the columns below go with them."""
    cleans: list[bool] = []
    """Had no file of the group unsynced writes after it?"""
    times_ns: list[int] = []
    gaps_ns: list[int] = []
    """From the fsync to the next first write; -1: not yet."""
    appends: list[bool] = []
    """Was the file written at its end?"""
    fresh: list[bool] = []
    """Had a program just begun: is its first write the first one since the event before?"""
    actors: list[int] = []
    """Who wrote to the file."""
    beginning: bool = False
    """The same of the event to come."""
    waking: bool = False
    """Does the event to come end a long pause?"""
    wakings: dict[int, int] = {}
    """How often a file was the first to be synced after a long pause, by key."""
    sure: bool = False
    """Was it seen where a program began, when `cycle` was learned?"""
    actor: int = 0
    """Who wrote last."""
    last_node: int = 0
    """The file that was synced last."""
    disturbed: bool = False
    """Was another file that is synced here written to since?"""
    total: int = 0
    """Events since the beginning, or since `keys` was last emptied."""
    log: int = -1
    """The key that is a log: each of its fsyncs completes something; -1: none is."""
    run: int = 0
    """Fsyncs of the same file in a row, with nothing written elsewhere in between."""
    long_run: int = 0
    """The same, whatever was written elsewhere."""
    strikes: int = 0
    """How often in a row the log was interrupted too early to be one."""
    probation: int = 0
    """Fsyncs of the log that are still not trusted after an interruption."""
    doubts: int = 0
    """How often a program began elsewhere than at the beginning of `cycle`."""
    cycle: list[int] = []
    """Keys in the order in which a transaction syncs them; the last one completes it."""


class NewestPoint(msgspec.Struct, array_like=True):
    """The newest point of a group: enough to write its row again when it ends."""

    lsn: int
    time_ns: int
    grade: int
    reason: bytes
    """Text with names in it as they are."""
    burst_ns: int
    """Of sync points that follow each other closely only the last is kept: when did they begin?"""


class GroupState(msgspec.Struct, array_like=True):
    """A consistency group. Ids count up: that of an older group is smaller."""

    id: int
    first_lsn: int
    """The op that founded it."""
    name: str = ""
    """Of a configured group."""
    directories: list[int] = []
    files: list[FileState] = []
    members: list[Place] = []
    """Names of the files that its transactions consist of, the newest first."""
    last_lsn: int = 0
    """The newest op that changed content or names."""
    last_ns: int = 0
    open_since: int = 0
    """The first change after the newest point; 0: none."""
    point: NewestPoint | None = None
    merged_into: int = 0
    merged_at: int = 0
    hot: list[int] = []
    """Nodes of journals with content that can undo what is being written."""
    hot_run: int = 0
    """Fsyncs of a hot journal since another file was written to."""
    hot_syncs: int = 0
    """Fsyncs of other files since a hot journal was written to."""
    journals: list[Place] = []
    """Names of files that were seen to be journals, the newest first."""
    step: int = 0
    """Whose the newest point is, if it moves should the program go on with names; else 0."""
    steps: bool = False
    """Do files get their names here once they are finished? Then not yet having it is nothing."""
    deferred: bytes = b""
    """Why a transaction is complete but for files that somebody is still at; empty: none is."""
    rhythm: Rhythm = msgspec.field(default_factory=Rhythm)


class FamilyState(msgspec.Struct, array_like=True):
    """Processes that belong together (see `barriers.family_of`)."""

    syncs: int = 0
    """Fsyncs that had something to make durable."""
    recent: list[tuple[int, int]] = []
    """The last of them: (node, group)."""
    left_dirty: dict[int, int] = {}
    """Group → `syncs` when the family wrote there first without syncing it since."""


class ConfiguredGroup(msgspec.Struct, frozen=True):
    """`[[groups]]` of volume.toml: files that belong together whoever writes them."""

    name: str
    paths: tuple[str, ...]
    """Globs on paths relative to the volume's root; `**` spans directories."""


class Settings(msgspec.Struct, frozen=True, array_like=True):
    """What a session's MOUNT op says about barriers."""

    quiet_ns: int = 2_000_000_000
    groups: tuple[ConfiguredGroup, ...] = ()


class MachineState(msgspec.Struct, array_like=True):
    """What is not about one group."""

    groups: int = 0
    """Groups founded so far: the newest one's id."""
    open: list[int] = []
    """Groups that changed since their newest point and may still fall quiet."""
    settings: Settings = msgspec.field(default_factory=Settings)
    configured: dict[str, int] = {}
    """Configured groups by name."""


def decode_machine(row: bytes) -> MachineState:
    """The row of what is not about one group."""
    return msgspec.msgpack.decode(row, type=MachineState)


class Group(NamedTuple):
    """A consistency group, for readers."""

    id: Lsn
    directories: tuple[NodeId, ...]
    members: tuple[tuple[NodeId, bytes], ...]
    """(directory, name) of the files that its transactions consist of, the newest first."""
    first_lsn: Lsn
    last_lsn: Lsn
    last_time_ns: TimeNs
    open_since: Lsn
    """The first change after its newest point; 0: it is clean."""
    merged_into: Lsn
    """The older group that it became part of at LSN `merged_at`; 0: none."""
    merged_at: Lsn
    name: str
    """Of a configured group, else empty."""
    hot: bool = False
    """A journal in it has content: its program has a transaction open, so it can't fall quiet."""


_point = struct.Struct("<BQQ")


def encode_point(point: NewestPoint, until: int) -> bytes:
    """The row of a point: grade, time, until, reason."""
    return _point.pack(point.grade, point.time_ns, until) + point.reason


def point_row(point: Point) -> bytes:
    """The row of a point as readers have it: the inverse of `decode_point`."""
    reason = point.reason.encode("utf-8", "surrogateescape")
    return _point.pack(GRADES[point.grade], point.time_ns, point.until) + reason


def decode_point(group: int, lsn: int, row: bytes) -> Point:
    """From key and value."""
    grade, time_ns, until = _point.unpack_from(row)
    reason = row[_point.size :].decode("utf-8", "surrogateescape")
    return Point(Lsn(lsn), TimeNs(time_ns), LABELS[grade], Lsn(group), reason, "", Lsn(until))


# A group's row begins with what readers need, so that they can go through all groups of a volume
# (as many as it has directories) without decoding what only inference knows.

_head = struct.Struct("<IQQQQQQ?HHH")
"""Bytes of this part, first and last LSN, last time, open since, merged into and at, hot, counts
of directories and members, bytes of the name."""
_number = struct.Struct("<Q")
_place = struct.Struct("<QH")


def encode_group(state: GroupState) -> bytes:
    """The row of a group."""
    parts = [_number.pack(directory) for directory in state.directories]
    for directory, name in state.members:
        parts += (_place.pack(directory, len(name)), name)
    text = state.name.encode("utf-8", "surrogateescape")
    tail = b"".join((*parts, text))
    head = _head.pack(
        _head.size + len(tail),
        state.first_lsn,
        state.last_lsn,
        state.last_ns,
        state.open_since,
        state.merged_into,
        state.merged_at,
        bool(state.hot),
        len(state.directories),
        len(state.members),
        len(text),
    )
    return head + tail + msgspec.msgpack.encode(state)


def decode_group_state(row: bytes) -> GroupState:
    """All of a group's row."""
    (length,) = struct.unpack_from("<I", row)
    return msgspec.msgpack.decode(memoryview(row)[length:], type=GroupState)


def decode_group(number: int, row: bytes) -> Group:
    """The readers' part of the row of group `number`. Any thread."""
    _, first, last, time_ns, since, into, merged_at, hot, directories, members, length = (
        _head.unpack_from(row)
    )
    at = _head.size
    found = struct.unpack_from(f"<{directories}Q", row, at)
    at += 8 * directories
    places = []
    for _ in range(members):
        directory, size = _place.unpack_from(row, at)
        at += _place.size + size
        places.append((NodeId(directory), row[at - size : at]))
    return Group(
        Lsn(number),
        tuple(map(NodeId, found)),
        tuple(places),
        Lsn(first),
        Lsn(last),
        TimeNs(time_ns),
        Lsn(since),
        Lsn(into),
        Lsn(merged_at),
        row[at : at + length].decode("utf-8", "surrogateescape"),
        hot,
    )
