"""`cdpfs restore` and `cdpfs undo`: from what was asked to a plan, and from a report to people.

Duty: where things go, what stands in the way, progress and the closing report. What is done to
files is `timetravel/restore.py`'s and `timetravel/undo.py`'s.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from console.companions import Decision, decide
from console.control import not_mounted
from console.errors import ConsoleError, WrongUse
from console.exit_codes import ExitCode
from console.output import (
    bytes_progress,
    note,
    path_json,
    path_text,
    print_json,
    say,
    size_text,
)
from console.past import Past
from console.pasts import AnyPast, open_past
from console.vault_options import VaultSource
from timetravel.place import Place
from timetravel.report import caution_about, point_fields, point_sentence
from timetravel.resolve import ResolvedPoint
from timetravel.restore import Existing
from timetravel.restore import restore as carry_out_restore
from timetravel.steps import Action, Progress, Report
from timetravel.view import View

if TYPE_CHECKING:
    from console.remote_past import RemotePast

MAX_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Request:
    """The arguments of `cdpfs restore`."""

    path: str
    moment: str
    destination: str | None
    store: str | None
    exact: bool = False
    companions: bool | None = None
    """True: with them; False: alone; None: ask if it makes a difference."""
    overwrite: bool = False
    keep_new: bool = False
    limit_s: float | None = None
    source: VaultSource | None = None
    """A vault to bring it from."""


@dataclass(frozen=True)
class _Outcome:
    """What there is to tell about a restore."""

    point: ResolvedPoint
    report: Report
    destination: bytes
    before: ResolvedPoint | None = None
    """The moment right before; set for in place."""
    decision: Decision = Decision()

    @property
    def changed(self) -> bool:
        """Whether anything is different from before."""
        return any(self.report.done.get(action) for action in _CHANGING)


def restore(request: Request, as_json: bool) -> ExitCode:
    """Bring a path back and print what was done."""
    with open_past(request.path, request.store, request.source, request.limit_s) as past:
        if not isinstance(past, Past):
            return _from_vault(past, request, as_json)
        point = past.point_for_path(request.moment, request.exact)
        view = past.view(point)
        top = view.walk(past.path)
        if stat.S_ISDIR(top.mode):
            past.seed_below(top.node)
        if request.destination is None:
            return _in_place(past, request, point, view, as_json)
        root, at = _destination(request.destination, stat.S_ISDIR(top.mode), past.path)
        found = past.companions(view)
        decision = decide(found, past.path, request.companions, at, in_place=False)
        existing = Existing.REPLACE if request.overwrite else Existing.REFUSE
        with Place(root) as place, _progress("restoring") as progress:
            report = carry_out_restore(
                view,
                past.path,
                place,
                at,
                companions=decision.transfers,
                existing=existing,
                progress=progress,
            )
        outcome = _Outcome(point, report, os.path.join(root, at), decision=decision)
        return _tell(past, outcome, as_json)


def _from_vault(past: RemotePast, request: Request, as_json: bool) -> ExitCode:
    """Bring a path from a vault. When it is cut, the same command goes on where it was."""
    from replicator.resume import Resumption  # it takes long to load

    if request.destination is None:
        raise WrongUse("what a vault has needs a place here", "name one: --to DEST")
    point = past.point_for_path(request.moment, request.exact)
    view = past.view(point)
    top = view.walk(past.path)
    is_directory = stat.S_ISDIR(top.mode)
    root, at = _destination(request.destination, is_directory, past.path)
    with Place(root) as place:
        resume = Resumption(place, past.volume.uuid, past.line.line, past.path, at)
        asked = request.moment + ("!exact" if request.exact else "")
        lsn = resume.lsn_of(asked)
        if lsn is not None and lsn != point.lsn:
            point = past.point_for_path(f"@lsn:{lsn}")
            view = past.view(point)
            top = view.walk(past.path)
        if lsn is not None:
            note(f"cdpfs: going on with a restore of LSN {point.lsn} that was cut")
        if is_directory:
            view.load_tree(top.node)
        decision = decide(past.companions(view), past.path, request.companions, at, False)
        with _progress("restoring") as progress:
            report = carry_out_restore(
                view,
                past.path,
                place,
                at,
                companions=decision.transfers,
                existing=Existing.REPLACE if request.overwrite else Existing.REFUSE,
                progress=progress,
                resume=resume.of(view, asked),
            )
        if report.ok:
            resume.finish()
    outcome = _Outcome(point, report, os.path.join(root, at), decision=decision)
    return _tell(past, outcome, as_json)


def _in_place(
    past: Past, request: Request, point: ResolvedPoint, view: View, as_json: bool
) -> ExitCode:
    _refuse_unmounted(past)
    before = past.newest()
    now = past.view(before)
    found = past.companions(view)
    decision = decide(found, past.path, request.companions, past.path, in_place=True)
    with (
        Place(os.fsencode(past.place.store.config.mount_point)) as place,
        _progress("restoring") as progress,
    ):
        report = carry_out_restore(
            view,
            past.path,
            place,
            past.path,
            companions=decision.transfers,
            delete_new=not request.keep_new,
            now=now,
            progress=progress,
        )
    return _tell(past, _Outcome(point, report, past.place.live, before, decision), as_json)


def _refuse_unmounted(past: Past) -> None:
    """What is put back in place is logged like any change, so it must go through the mount."""
    if past.place.store.config.replica:
        raise ConsoleError(
            "this is a replica, so nothing can be put back in place",
            "name another place: --to DEST",
            code=ExitCode.USAGE,
        )
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


def _tell(past: AnyPast, outcome: _Outcome, as_json: bool) -> ExitCode:
    """Print the report; the exit code is what it comes to."""
    undo = _undo_command(past, outcome) if isinstance(past, Past) else None
    if as_json:
        print_json(_as_json(past, outcome, undo))
    else:
        _show(outcome, undo)
    if outcome.report.ok:
        return ExitCode.OK
    return ExitCode.SPACE if outcome.report.stopped else ExitCode.FAILURE


_CHANGING = frozenset(Action) - {Action.KEEP, Action.DIRECTORY}


def _undo_command(past: Past, outcome: _Outcome) -> str | None:
    """How to take it back, companions too."""
    if outcome.before is None or not outcome.changed:
        return None
    base = os.fsencode(past.place.store.config.mount_point)
    lives = [os.path.join(base, transfer.at) for transfer in outcome.decision.transfers]
    commands = [
        f"cdpfs undo {shlex.quote(path_text(live))} --since @lsn:{outcome.before.lsn}"
        for live in (past.place.live, *lives)
    ]
    return " && ".join(commands)


def _as_json(past: AnyPast, outcome: _Outcome, undo: str | None) -> dict[str, Any]:
    report = outcome.report
    return {
        "ok": report.ok,
        "path": path_json(past.path),
        "destination": path_json(outcome.destination),
        "at": point_fields(outcome.point),
        "mid_transaction": outcome.point.mid_transaction,
        "companions": outcome.decision.as_json(),
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


def _show(outcome: _Outcome, undo: str | None) -> None:
    report, point = outcome.report, outcome.point
    _show_failures(report)
    done = ", ".join(_done_text(action, count) for action, count in report.done.items() if count)
    verb = "restored" if report.ok else "INCOMPLETE"
    say(f"{verb}  {path_text(outcome.destination)}  as of {point_sentence(point)}")
    say(f"  {done or 'nothing to do'}; {size_text(report.written_bytes)} written and read back")
    decision = outcome.decision
    for companion in decision.companions if decision.taken else ():
        became = "restored" if companion.then is not None else "removed, it was not there then"
        say(f"  companion {path_text(companion.path)}: {became}")
    if undo is not None:
        say(f"  to take this back: {undo}")
    for companion in decision.undecided:
        note(f"cdpfs: its companion {path_text(companion.path)} was left as it is (--alone)")
    caution = caution_about(point)
    if caution:
        note(f"cdpfs: {caution}")


def _show_failures(report: Report) -> None:
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


def undo(
    path: str, store: str | None, moment: str, exact: bool, limit_s: float | None, as_json: bool
) -> ExitCode:
    """Take back every change of a path since a moment, in place."""
    from timetravel.undo import undo as carry_out_undo

    with Past(path, store, limit_s) as past:
        _refuse_unmounted(past)
        point = past.point_for_path(moment, exact)
        before = past.newest()
        with (
            Place(os.fsencode(past.place.store.config.mount_point)) as place,
            _progress("undoing") as progress,
        ):
            report = carry_out_undo(
                past.view(point), past.view(before), past.path, place, progress=progress
            )
        return _tell(past, _Outcome(point, report, past.place.live, before), as_json)
