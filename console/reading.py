"""`cdpfs cat` and `cdpfs diff`: content and differences of past states.

Duty: from arguments to views, and from what they say to lines or JSON. It changes nothing.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from typing import Any

from console.errors import WrongUse
from console.output import (
    path_json,
    path_text,
    print_json,
    say,
    size_text,
    table,
    time_json,
    time_text,
)
from console.past import Past
from console.pasts import AnyPast, open_past
from console.vault_options import VaultSource
from timetravel.diff import Change, ChangeKind, Part, diff
from timetravel.resolve import ResolvedPoint
from timetravel.view import NodeState

READ_BYTES = 1 << 20

_LETTERS = {
    ChangeKind.ADDED: "A",
    ChangeKind.REMOVED: "D",
    ChangeKind.MODIFIED: "M",
    ChangeKind.RENAMED: "R",
}


def cat_file(
    path: str,
    store: str | None,
    moment: str,
    exact: bool,
    limit_s: float | None,
    source: VaultSource | None = None,
) -> None:
    """Write a file's past content to stdout, and on stderr what the moment came to."""
    with open_past(path, store, source, limit_s) as past:
        point = past.point_for_path(moment, exact)
        past.say_point(moment, point)
        view = past.view(point)
        state = view.walk(past.path)
        if stat.S_ISLNK(state.mode):
            raise WrongUse(
                f"{path} was a symbolic link to {path_text(state.target)}",
                "name what it points to",
            )
        if not stat.S_ISREG(state.mode):
            raise WrongUse(
                f"{path} was not a file", f"cdpfs restore {path} --at {moment} --to DEST"
            )
        out = sys.stdout.buffer
        with view.expecting([(state.node, state.size_bytes)]):
            for start in range(0, state.size_bytes, READ_BYTES):
                size = min(READ_BYTES, state.size_bytes - start)
                out.write(view.read(state.node, start, size))
        out.flush()


def show_diff(
    path: str,
    store: str | None,
    since: str,
    until: str | None,
    exact: bool,
    limit_s: float | None,
    as_json: bool,
    source: VaultSource | None = None,
) -> None:
    """Print what changed below a path between two moments, `until` None meaning now."""
    with open_past(path, store, source, limit_s) as past:
        old = past.point_for_path(since, exact)
        past.say_point(since, old)
        new = past.newest() if until is None else past.point_for_path(until, exact)
        if until is not None:
            past.say_point(until, new)
        if old.lsn > new.lsn:
            raise WrongUse(
                f"--from {since} ({time_text(old.time_ns)}) is later than --to {until or 'now'}",
                "swap the two",
            )
        changes = _changes(past, old, new)
        if as_json:
            print_json([change_json(change) for change in changes])
            return
        for change in changes:
            if not change.only_directory_times:
                say(change_text(change))


def _changes(past: AnyPast, old: ResolvedPoint, new: ResolvedPoint) -> Iterator[Change]:
    if isinstance(past, Past):
        return diff(past.view(old), past.view(new), past.path)
    from replicator.reading_words import change_of

    return map(change_of, past.changes(old.lsn, new.lsn))


def list_directory(
    path: str,
    store: str | None,
    moment: str,
    exact: bool,
    limit_s: float | None,
    as_json: bool,
    source: VaultSource | None,
) -> None:
    """Print what a directory had at a moment, or the path itself if it was none."""
    with open_past(path, store, source, limit_s) as past:
        point = past.point_for_path(moment, exact)
        past.say_point(moment, point)
        view = past.view(point)
        top = view.walk(past.path)
        found = [(os.path.basename(past.path) or b".", top)]
        if stat.S_ISDIR(top.mode):
            found = view.listing(top.node)
        if as_json:
            print_json([{"name": path_json(name), **_attributes(state)} for name, state in found])
            return
        rows = [_listed(name, state) for name, state in found]
        table(("mode", "owner", "size", "changed", "name"), rows, right=(2,))


def _listed(name: bytes, state: NodeState) -> tuple[str, ...]:
    shown = path_text(name)
    if stat.S_ISLNK(state.mode):
        shown += f" -> {path_text(state.target)}"
    elif stat.S_ISDIR(state.mode):
        shown += "/"
    size = size_text(state.size_bytes) if stat.S_ISREG(state.mode) else ""
    owner = f"{state.uid}:{state.gid}"
    return (stat.filemode(state.mode), owner, size, time_text(state.mtime_ns), shown)


def change_text(change: Change) -> str:
    """`M  path  (content, mode)`; a directory ends in a slash."""
    state = change.new or change.old
    assert state is not None
    slash = "/" if stat.S_ISDIR(state.mode) else ""
    shown = path_text(change.path or b".") + slash
    if change.kind is ChangeKind.RENAMED:
        shown = f"{path_text(change.old_path)}{slash} -> {shown}"
    extras = [part.name.lower() for part in change.parts if part.name]
    if change.kind is ChangeKind.MODIFIED and change.replaced:
        extras.append("another file")
    if change.parts & Part.CONTENT and change.old is not None and change.new is not None:
        extras[0] += f" {size_text(change.old.size_bytes)} -> {size_text(change.new.size_bytes)}"
    return f"{_LETTERS[change.kind]}  {shown}" + (f"  ({', '.join(extras)})" if extras else "")


def change_json(change: Change) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "change": change.kind.value,
        "path": path_json(change.path),
        "old_path": path_json(change.old_path),
        "parts": [part.name.lower() for part in change.parts if part.name],
        "replaced": change.replaced,
        "old": _state_json(change.old),
        "new": _state_json(change.new),
    }


def _state_json(state: NodeState | None) -> dict[str, Any] | None:
    return None if state is None else _attributes(state)


def _attributes(state: NodeState) -> dict[str, Any]:
    return {
        "node": state.node,
        "mode": f"{state.mode:o}",
        "uid": state.uid,
        "gid": state.gid,
        "size_bytes": state.size_bytes,
        "mtime": time_json(state.mtime_ns),
        "mtime_ns": state.mtime_ns,
        "links": state.links,
        "target": path_json(state.target),
    }
