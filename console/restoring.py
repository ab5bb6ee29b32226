"""`cdpfs restore` and `cdpfs undo`: from what was asked to a plan, and from a report to people.

Duty: where things go, what stands in the way, progress and the closing report. What is done to
files is `timetravel/restore.py`'s and `timetravel/undo.py`'s.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from console.control import not_mounted
from console.errors import ConsoleError
from console.exit_codes import ExitCode
from console.output import (
    bytes_progress,
    note,
    path_json,
    path_text,
    print_json,
    say,
    size_text,
    time_json,
    time_text,
)
from console.past import Past
from timetravel.place import Place
from timetravel.resolve import ResolvedPoint
from timetravel.restore import Existing
from timetravel.restore import restore as carry_out_restore
from timetravel.steps import Action, Progress, Report
from timetravel.view import View

MAX_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Request:
    """The arguments of `cdpfs restore`."""

    path: str
    moment: str
    destination: str | None
    store: str | None
    exact: bool = False
    overwrite: bool = False
    keep_new: bool = False


def restore(request: Request, as_json: bool) -> ExitCode:
    """Bring a path back and print what was done."""
    with Past(request.path, request.store) as past:
        point = past.point_for_path(request.moment, request.exact)
        view = past.view(point)
        top = view.walk(past.path)
        if stat.S_ISDIR(top.mode):
            past.seed_below(top.node)
        if request.destination is None:
            return _in_place(past, request, point, view, as_json)
        root, at = _destination(request.destination, stat.S_ISDIR(top.mode), past.path)
        existing = Existing.REPLACE if request.overwrite else Existing.REFUSE
        with Place(root) as place, _progress("restoring") as progress:
            report = carry_out_restore(
                view, past.path, place, at, existing=existing, progress=progress
            )
        return _tell(past, point, report, os.path.join(root, at), None, as_json)


def _in_place(
    past: Past, request: Request, point: ResolvedPoint, view: View, as_json: bool
) -> ExitCode:
    _refuse_unmounted(past)
    before = past.point("@now")
    with (
        Place(os.fsencode(past.place.store.config.mount_point)) as place,
        _progress("restoring") as progress,
    ):
        report = carry_out_restore(
            view,
            past.path,
            place,
            past.path,
            delete_new=not request.keep_new,
            now=past.view(before),
            progress=progress,
        )
    return _tell(past, point, report, past.place.live, before, as_json)


def _refuse_unmounted(past: Past) -> None:
    """What is put back in place is logged like any change, so it must go through the mount."""
    if not past.is_mounted:
        error = not_mounted(past.place.store)
        raise ConsoleError(
            f"{error}, so nothing can be put back in place",
            *error.hints,
            "or name another place: --to DEST",
            code=error.code,
        )


def _destination(destination: str, is_directory: bool, source: bytes) -> tuple[bytes, bytes]:
    """(directory that exists, path below it) for the restored thing itself.

    As with cp, a file goes into DEST when that is a directory. A directory becomes DEST.
    """
    target = os.path.abspath(os.fsencode(destination))
    if not is_directory and os.path.isdir(target):
        target = os.path.join(target, os.path.basename(source))
    parent, name = os.path.split(target)
    os.makedirs(parent, exist_ok=True)
    return parent, name


@contextmanager
def _progress(title: str) -> Iterator[Progress]:
    """A progress bar, as the callback that a restore takes."""
    with bytes_progress() as bar:
        task = bar.add_task(title, total=None)

        def advance(done_bytes: int, total_bytes: int, _done_files: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes)

        yield advance


def _tell(
    past: Past,
    point: ResolvedPoint,
    report: Report,
    destination: bytes,
    before: ResolvedPoint | None,
    as_json: bool,
) -> ExitCode:
    """Print the report; the exit code is what it comes to. `before` is set for in place."""
    undo = None
    if before is not None and any(report.done.get(action) for action in _CHANGING):
        undo = f"cdpfs undo {path_text(past.place.live)} --since @lsn:{before.lsn}"
    if as_json:
        print_json(_as_json(past, point, report, destination, undo))
    else:
        _show(past, point, report, destination, undo)
    if report.ok:
        return ExitCode.OK
    return ExitCode.SPACE if report.stopped else ExitCode.FAILURE


_CHANGING = frozenset(Action) - {Action.KEEP, Action.DIRECTORY}


def _as_json(
    past: Past, point: ResolvedPoint, report: Report, destination: bytes, undo: str | None
) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "path": path_json(past.path),
        "destination": path_json(destination),
        "at": point_json(point),
        "done": {action.value: count for action, count in report.done.items()},
        "written_bytes": report.written_bytes,
        "failure_count": report.failure_count,
        "failures": [
            {"path": path_json(failure.path), "reason": failure.reason}
            for failure in report.failures
        ],
        "notes": [
            {"text": text, "count": count, "first_path": path_json(first)}
            for text, (count, first) in report.notes.items()
        ],
        "undo": undo,
    }


def point_json(point: ResolvedPoint) -> dict[str, Any]:
    """A resolved moment for scripts."""
    return {
        "asked": point.asked,
        "lsn": point.lsn,
        "time": time_json(point.time_ns),
        "time_ns": point.time_ns,
        "grade": point.grade.label,
        "reason": point.reason,
    }


def _show(
    past: Past, point: ResolvedPoint, report: Report, destination: bytes, undo: str | None
) -> None:
    for failure in report.failures[:MAX_SHOWN_FAILURES]:
        note(f"cdpfs: {path_text(failure.path)}: {failure.reason}")
    if report.failure_count > MAX_SHOWN_FAILURES:
        note(f"cdpfs: and {report.failure_count - MAX_SHOWN_FAILURES} more failures (see --json)")
    if not report.ok:
        note(f"cdpfs: {report.failure_count} paths could not be restored; the others are")
        note("  next: do what the reasons above say, then run it again")
    for text, (count, first) in report.notes.items():
        more = f" and {count - 1} more" if count > 1 else ""
        note(f"cdpfs: {path_text(first)}{more}: {text}")
    done = ", ".join(_done_text(action, count) for action, count in report.done.items() if count)
    verb = "restored" if report.ok else "INCOMPLETE"
    say(f"{verb}  {path_text(destination)}  as of {time_text(point.time_ns)} ({point.grade.label})")
    say(f"  {done or 'nothing to do'}; {size_text(report.written_bytes)} written and read back")
    if undo is not None:
        say(f"  to take this back: {undo}")


_DONE_TEXT = {
    Action.MAKE_DIRECTORY: ("directory made", "directories made"),
    Action.DIRECTORY: ("directory looked through", "directories looked through"),
    Action.CREATE: ("created", "created"),
    Action.REPLACE: ("replaced", "replaced"),
    Action.REWRITE: ("rewritten", "rewritten"),
    Action.LINK: ("linked", "linked"),
    Action.ATTRIBUTES: ("given its attributes", "given their attributes"),
    Action.MOVE: ("moved back", "moved back"),
    Action.REMOVE: ("removed", "removed"),
    Action.KEEP: ("left as it was", "left as they were"),
}


def _done_text(action: Action, count: int) -> str:
    one, many = _DONE_TEXT[action]
    return f"{count} {one if count == 1 else many}"


def undo(path: str, store: str | None, moment: str, as_json: bool) -> ExitCode:
    """Take back every change of a path since a moment, in place."""
    from timetravel.undo import undo as carry_out_undo

    with Past(path, store) as past:
        _refuse_unmounted(past)
        point = past.point_for_path(moment)
        before = past.point("@now")
        with (
            Place(os.fsencode(past.place.store.config.mount_point)) as place,
            _progress("undoing") as progress,
        ):
            report = carry_out_undo(
                past.view(point), past.view(before), past.path, place, progress=progress
            )
        return _tell(past, point, report, past.place.live, before, as_json)
