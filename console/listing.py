"""`cdpfs points`, `history` and `deleted`: what there is to go back to.

Duty: from arguments to the questions of timetravel, and from answers to tables or JSON. It
changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections import deque
from collections.abc import Iterator
from typing import Any

from console.output import (
    note,
    path_json,
    path_text,
    print_json,
    say,
    size_text,
    time_json,
    time_text,
)
from console.output import table as table_of_rows
from console.past import Past
from console.pasts import AnyPast, open_past
from console.vault_options import VaultSource
from replicator.reading_wire import decode_name
from store.journal import Point
from store.ops import Actor
from store.types import Lsn, TimeNs
from timetravel.deleted import Deleted, before_deletion, search_deleted
from timetravel.errors import MomentBeforeProtection, NoSuchPath
from timetravel.gaps import gap_text
from timetravel.grade import Grade
from timetravel.groups import Concern, GroupTable
from timetravel.history import Version, history
from timetravel.points import concern_of_path, points_of_path

SHOWN_POINTS = 50
"""Newest points that a person is shown unless more are asked for; scripts get all."""


def show_points(
    path: str,
    store: str | None,
    since: str | None,
    until: str | None,
    grade: str | None,
    limit: int | None,
    as_json: bool,
    source: VaultSource | None = None,
) -> None:
    """Print the recovery points of a volume, or of the groups that a path concerns."""
    with open_past(path, store, source) as past:
        first, last = _range(past, since, until)
        if limit is None and not as_json:
            limit = SHOWN_POINTS
        newest = deque(_points(past, first, last, grade), maxlen=limit or None)
        if as_json:
            print_json([_point_json(point, title) for point, title in newest])
            return
        rows = [_point_row(point, title) for point, title in newest]
        table_of_rows(("time", "grade", "LSN", "group", "point"), rows, right=(2,))
        if limit and len(newest) == limit:
            note(f"these are the newest {limit}; for more: --limit N, --since M or --json")


def _points(
    past: AnyPast, first: Lsn | None, last: Lsn | None, grade: str | None
) -> Iterator[tuple[Point, str]]:
    """The points of the path, each with the readable path of its group."""
    if not isinstance(past, Past):
        for row in past.points(first, last, grade):
            lsn, group, until = Lsn(row.lsn), Lsn(row.group), Lsn(row.until)
            point = Point(lsn, TimeNs(row.time_ns), row.grade, group, row.reason, row.name, until)
            yield point, os.fsdecode(decode_name(row.title))
        return
    _adopt(past)
    least = Grade.CRASH if grade is None else Grade.of(grade)
    with past.journal.snapshot() as snapshot:
        table = past.groups_in(snapshot)
        end = snapshot.indexed_lsn if last is None else last
        for point in points_of_path(
            past.journal, table, past.view_of, past.path, first or Lsn(1), end, least
        ):
            yield point, _group_text(point, table)


def concern_of(past: Past, last: Lsn) -> Concern:
    """What the path is about at an LSN."""
    return concern_of_path(past.view_of, past.path, last)


def _group_text(point: Point, table: GroupTable) -> str:
    """The readable path of a point's group; empty for the whole volume's."""
    group = table.group(point.group) if point.group else None
    return "" if group is None else path_json(table.title(group))


def _point_row(point: Point, title: str) -> tuple[str, ...]:
    group = path_text(title)
    text = point.name or point.reason
    return (time_text(point.time_ns), point.grade, str(point.lsn), group, path_text(text))


def _point_json(point: Point, title: str) -> dict[str, Any]:
    return {
        "lsn": point.lsn,
        "time": time_json(point.time_ns),
        "time_ns": point.time_ns,
        "grade": point.grade,
        "group": title,
        "group_id": point.group,
        "reason": point.reason,
        "name": point.name,
        "until": point.until,
    }


def show_history(
    path: str,
    store: str | None,
    since: str | None,
    until: str | None,
    as_json: bool,
    source: VaultSource | None = None,
) -> None:
    """Print the versions of a path, oldest first."""
    with open_past(path, store, source) as past:
        first, last = _range(past, since, until)
        versions = _versions(past, first, last)
        if as_json:
            print_json([_version_json(version) for version in versions])
            return
        rows = [_version_row(version) for version in versions]
        table_of_rows(("time", "who", "what", "written", "size", "LSN"), rows, right=(3, 4, 5))
        for gap in past.journal.gaps() if isinstance(past, Past) else ():
            if (first or 0) <= gap.lsn and (last is None or gap.lsn <= last):
                note(gap_text(gap))


def _versions(past: AnyPast, first: Lsn | None, last: Lsn | None) -> Iterator[Version]:
    if not isinstance(past, Past):
        from replicator.reading_words import version_of

        return map(version_of, past.versions(first, last))
    _adopt(past)
    return history(past.journal, past.path, since=first, until=last)


def _version_row(version: Version) -> tuple[str, ...]:
    what = ", ".join(event.value for event in version.events)
    if version.other_name:
        what += f" ({path_text(version.other_name)})"
    return (
        time_text(version.last_time_ns),
        who_text(version.actor),
        what,
        size_text(version.written_bytes) if version.written_bytes else "",
        "gone" if version.size_bytes is None else size_text(version.size_bytes),
        str(version.last),
    )


def _version_json(version: Version) -> dict[str, Any]:
    return {
        "lsn": version.last,
        "first_lsn": version.first,
        "time": time_json(version.last_time_ns),
        "time_ns": version.last_time_ns,
        "first_time": time_json(version.first_time_ns),
        "first_time_ns": version.first_time_ns,
        "node": version.node,
        **who_json(version.actor),
        "events": [event.value for event in version.events],
        "ops": version.ops,
        "written_bytes": version.written_bytes,
        "size_bytes": version.size_bytes,
        "other_name": path_json(version.other_name),
    }


def who_text(actor: Actor | None) -> str:
    """`anna, soffice (4711)`; cdpfs itself for what nobody is known to have done."""
    if actor is None:
        return "cdpfs"
    return f"{_user(actor.uid)}, {path_text(actor.command)} ({actor.pid})"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def who_json(actor: Actor | None) -> dict[str, Any]:
    """The same for scripts."""
    if actor is None:
        return {"uid": None, "gid": None, "pid": None, "user": None, "command": None}
    return {
        "uid": actor.uid,
        "gid": actor.gid,
        "pid": actor.pid,
        "user": _user(actor.uid),
        "command": path_json(actor.command),
    }


def show_deleted(
    path: str,
    store: str | None,
    name: str | None,
    since: str | None,
    as_json: bool,
    source: VaultSource | None = None,
) -> None:
    """Print what was deleted below a directory, and from which moment it can be restored."""
    with open_past(path, store, source) as past:
        first, _ = _range(past, since, None)
        found = _deletions(past, name, first)
        if as_json:
            print_json([_deleted_json(entry) for entry in found])
            return
        count = 0
        for entry in found:
            count += 1
            _say_deleted(entry)
        if not count:
            say("nothing that was deleted fits")


def _deletions(past: AnyPast, name: str | None, first: Lsn | None) -> Iterator[Deleted]:
    """What was deleted; `restore_lsn` is the moment from which it comes back whole."""
    if not isinstance(past, Past):
        from replicator.reading_words import deleted_of

        yield from map(deleted_of, past.deletions(name, first))
        return
    now = past.view(past.newest())
    for entry in search_deleted(now, past.path, name or ""):
        if first is None or entry.removed_lsn >= first:
            is_directory = stat.S_ISDIR(entry.state.mode)
            yield entry._replace(restore_lsn=before_deletion(now, entry)) if is_directory else entry


def _say_deleted(entry: Deleted) -> None:
    is_directory = stat.S_ISDIR(entry.state.mode)
    size = "directory" if is_directory else size_text(entry.state.size_bytes)
    say(
        f"{time_text(entry.removed_time_ns)}  {size.rjust(9)}  {who_text(entry.actor)}  "
        f"{path_text(entry.path)}{'/' if is_directory else ''}"
        f"  (--at @lsn:{entry.restore_lsn})"
    )


def _deleted_json(entry: Deleted) -> dict[str, Any]:
    return {
        "path": path_json(entry.path),
        "lsn": entry.removed_lsn,
        "time": time_json(entry.removed_time_ns),
        "time_ns": entry.removed_time_ns,
        **who_json(entry.actor),
        "mode": f"{entry.state.mode:o}",
        "size_bytes": entry.state.size_bytes,
        "restore_at": f"@lsn:{entry.restore_lsn}",
    }


def _adopt(past: Past) -> None:
    """Have the names on the way to the path in the journal, if it is there now."""
    with contextlib.suppress(NoSuchPath):
        past.view(past.newest()).walk(past.path)


def _range(past: AnyPast, since: str | None, until: str | None) -> tuple[Lsn | None, Lsn | None]:
    """LSNs of two moments, both included; None where no bound was given or needed."""
    first = None
    if since is not None:
        with contextlib.suppress(MomentBeforeProtection):
            first = past.point_for_path(since, exact=True).lsn
    last = None if until is None else past.point_for_path(until, exact=True).lsn
    return first, last
