"""What a vault's readers are told: rows, trees and contents as messages. Blocking; any thread.

Duty: ask `timetravel` and put its answers into `replicator.reading_wire`. Iterators here read the
journal step by step, each with a fresh snapshot, so a slow reader holds nothing up.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

from blake3 import blake3

from replicator.errors import BadRequest
from replicator.reading_wire import (
    FRAME,
    MAX_AREAS,
    MAX_CONTENTS_BYTES,
    MAX_ROWS,
    MAX_TREE_ENTRIES,
    Areas,
    ChangeMessage,
    CompanionMessage,
    DeletedMessage,
    Digests,
    Entry,
    Failure,
    GroupMessage,
    PointMessage,
    PointRow,
    VersionMessage,
    Wanted,
    actor_message,
    encode_name,
    state_message,
    xattr_messages,
)
from replicator.vault.shelf import Book
from store.errors import StoreError
from store.types import Lsn, NodeId
from timetravel.companions import find_companions
from timetravel.deleted import Deleted, before_deletion, search_deleted
from timetravel.diff import Change, diff
from timetravel.grade import Grade
from timetravel.groups import GroupTable
from timetravel.head import Head
from timetravel.history import Version, history
from timetravel.place import joined
from timetravel.points import points_of_path
from timetravel.resolve import ResolvedPoint
from timetravel.view import NodeState, View

_Row = TypeVar("_Row")


def point_message(point: ResolvedPoint, head: Head) -> PointMessage:
    """What a moment came to."""
    groups = [
        GroupMessage(
            title=encode_name(group.title),
            names=[encode_name(name) for name in group.names],
            clean=group.clean,
            grade=group.grade.label,
            point_lsn=group.point_lsn,
            reason=_plain(group.reason),
        )
        for group in point.groups
    ]
    return PointMessage(
        lsn=point.lsn,
        time_ns=point.time_ns,
        grade=point.grade.label,
        reason=_plain(point.reason),
        asked=point.asked,
        note=_plain(point.note),
        asked_lsn=point.asked_lsn,
        back_ns=point.back_ns,
        groups=groups,
        group_count=point.group_count,
        open_count=point.open_count,
        held_lsn=head.held_lsn,
        visible_lsn=head.lsn,
    )


def tree(view: View, top: NodeId, deep: bool) -> Iterator[Entry | Failure]:
    """Everything in a directory, or below it as well, directories before what is in them."""
    pending: list[tuple[bytes, NodeId]] = [(b"", top)]
    count = 0
    while pending:
        path, directory = pending.pop()
        try:
            listing = view.listing(directory)
        except StoreError as error:
            yield failure(error, path)
            continue
        below = []
        for name, state in listing:
            if count == MAX_TREE_ENTRIES:
                yield failure(BadRequest(f"there are more than {MAX_TREE_ENTRIES} entries"), path)
                return
            count += 1
            entry_path = joined(path, name)
            yield _entry(view, entry_path, state)
            if deep and stat.S_ISDIR(state.mode):
                below.append((entry_path, state.node))
        pending.extend(reversed(below))


def entry(view: View, node: NodeId) -> Entry:
    """A node by itself. NoSuchNode."""
    return _entry(view, b"", view.state(node))


def _entry(view: View, path: bytes, state: NodeState) -> Entry:
    xattrs = xattr_messages(view.xattrs(state.node))
    return Entry(path=encode_name(path), state=state_message(state), xattrs=xattrs)


def failure(error: Exception, path: bytes = b"") -> Failure:
    """Something that could not be told."""
    hint = str(getattr(error, "hint", ""))
    return Failure(
        path=encode_name(path), kind=type(error).__name__, message=_plain(str(error)), hint=hint
    )


def contents(view: View, wanted: Wanted) -> bytes:
    """The ranges' bytes, each behind its `FRAME`. BadRequest when they are too many."""
    parts = []
    for data in _ranges(view, wanted):
        parts.append(FRAME.pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def digests(view: View, wanted: Wanted) -> Digests:
    """The ranges' digests. BadRequest when they are too many."""
    return Digests([blake3(data).hexdigest() for data in _ranges(view, wanted)])


def _ranges(view: View, wanted: Wanted) -> Iterator[bytes]:
    if sum(part.size for part in wanted.ranges) > MAX_CONTENTS_BYTES:
        raise BadRequest(f"more than {MAX_CONTENTS_BYTES} bytes were asked for at once")
    for node, start, size in ((NodeId(part.node), part.start, part.size) for part in wanted.ranges):
        yield view.read(node, start, size)


def areas(view: View, node: NodeId, start: int) -> Areas:
    """What of a file from `start` on is no hole, MAX_AREAS intervals at the most."""
    found: list[tuple[int, int]] = []
    for area_start, area_stop in view.data_areas(node):
        if area_stop <= start:
            continue
        if len(found) == MAX_AREAS:
            return Areas(found, area_start)
        found.append((max(area_start, start), area_stop))
    return Areas(found)


def versions(book: Book, path: bytes, first: Lsn | None, last: Lsn | None) -> list[VersionMessage]:
    """The versions of a path, the newest MAX_ROWS."""
    return [_version(row) for row in _newest(history(book.journal, path, since=first, until=last))]


def point_rows(
    book: Book, path: bytes, first: Lsn, last: Lsn | None, least: Grade, now_ns: int
) -> list[PointRow]:
    """The recovery points of the groups that a path concerns, the newest MAX_ROWS."""
    with book.journal.snapshot() as snapshot:
        clock_ns = book.settings.log_clock_ns(snapshot, now_ns)
        table = GroupTable(snapshot, now_ns=clock_ns, quiet_ns=book.settings.quiet_ns)
        end = snapshot.indexed_lsn if last is None else last
        found = points_of_path(book.journal, table, book.view, path, first, end, least)
        rows = []
        for point in _newest(found):
            group = table.group(point.group) if point.group else None
            rows.append(
                PointRow(
                    lsn=point.lsn,
                    time_ns=point.time_ns,
                    grade=point.grade,
                    group=point.group,
                    title="" if group is None else encode_name(table.title(group)),
                    reason=_plain(point.reason),
                    name=_plain(point.name),
                    until=point.until,
                )
            )
    return rows


def changes(old: View, new: View, path: bytes) -> Iterator[ChangeMessage]:
    """What differs between two moments."""
    return map(_change, diff(old, new, path))


def deletions(now: View, path: bytes, pattern: str, since: Lsn) -> Iterator[DeletedMessage]:
    """What was deleted below a directory."""
    for entry in search_deleted(now, path, pattern):
        if entry.removed_lsn >= since:
            yield _deleted(now, entry)


def companions(
    book: Book, view: View, now: View, path: bytes, now_ns: int
) -> list[CompanionMessage]:
    """The files that belong to a file."""
    with book.journal.snapshot() as snapshot:
        clock_ns = book.settings.log_clock_ns(snapshot, now_ns)
    found = find_companions(view, now, path, now_ns=clock_ns, quiet_ns=book.settings.quiet_ns)
    return [
        CompanionMessage(
            path=encode_name(companion.path),
            then=state_message(companion.then) if companion.then else None,
            now=state_message(companion.now) if companion.now else None,
            matters=companion.matters,
            differs=companion.differs,
        )
        for companion in found
    ]


def _newest(rows: Iterable[_Row]) -> deque[_Row]:
    return deque(rows, maxlen=MAX_ROWS)


def _version(version: Version) -> VersionMessage:
    return VersionMessage(
        first=version.first,
        last=version.last,
        first_time_ns=version.first_time_ns,
        last_time_ns=version.last_time_ns,
        node=version.node,
        actor=actor_message(version.actor),
        events=[event.value for event in version.events],
        written_bytes=version.written_bytes,
        ops=version.ops,
        size_bytes=version.size_bytes,
        other_name=encode_name(version.other_name),
    )


def _change(change: Change) -> ChangeMessage:
    return ChangeMessage(
        kind=change.kind.value,
        path=encode_name(change.path),
        old_path=encode_name(change.old_path),
        old=state_message(change.old) if change.old else None,
        new=state_message(change.new) if change.new else None,
        parts=[part.name for part in change.parts if part.name],
    )


def _deleted(now: View, entry: Deleted) -> DeletedMessage:
    is_directory = stat.S_ISDIR(entry.state.mode)
    restore_lsn = before_deletion(now, entry) if is_directory else entry.restore_lsn
    return DeletedMessage(
        path=encode_name(entry.path),
        state=state_message(entry.state),
        removed_lsn=entry.removed_lsn,
        removed_time_ns=entry.removed_time_ns,
        actor=actor_message(entry.actor),
        restore_lsn=restore_lsn,
    )


def _plain(text: str) -> str:
    """A text with names of files in it, as UTF-8 can have it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
