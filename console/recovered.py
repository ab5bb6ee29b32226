"""What the commands that recover a volume have in common: the place, progress, what is told.

Duty: checks before anything is fetched, and the report on what came of it, for people and scripts.
`recovering.py` and `tape_recovering.py` add where the journal comes from, and what comes next.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from console.errors import WrongUse
from console.exit_codes import ExitCode
from console.output import note, path_json, path_text, say
from console.protect import PhaseLine
from store.journal import Journal
from store.volume import Store, default_store_root
from timetravel.recovery import Progress, Recovered, Wish, refuse_occupied
from timetravel.report import caution_about, point_fields, point_sentence
from timetravel.steps import Failure

MAX_SHOWN = 20


def wish_for(
    directory: str,
    store_root: str | None,
    at: str,
    *,
    keep_tree: bool,
    accept_failures: bool,
    settings: dict[str, object] | None = None,
) -> Wish:
    """What is asked for, for a place that fits; the directory is there then. WrongUse, NotEmpty."""
    directory = os.path.realpath(directory)
    root = Path(os.path.realpath(store_root or default_store_root(directory)))
    _check_place(directory, root, keep_tree)
    if keep_tree and at:
        raise WrongUse("a tree that is kept is as of no moment", "leave --at away")
    return Wish(directory, root, at, settings, keep_tree, accept_failures)


def _check_place(directory: str, root: Path, keep_tree: bool) -> None:
    """What can be checked before anything is fetched."""
    from console.protect import refuse_overlap
    from fsd.mountpoint import check_directory, check_store_place

    refuse_overlap(directory)
    if keep_tree and not os.path.isdir(directory):
        raise WrongUse(f"there is no tree to keep at {directory}", "leave --keep-tree away")
    if not keep_tree and not (root / "volume.toml").exists():
        refuse_occupied(directory)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    check_directory(directory)
    check_store_place(directory, root)


@contextlib.contextmanager
def progress_shown() -> Iterator[Progress]:
    """Tells the stages on a line, percent by percent."""
    line = PhaseLine()
    shown: dict[str, int] = {}

    def show(stage: str, done: int, total: int) -> None:
        percent = 100 * done // total if total > 0 else 100
        if shown.get(stage) != percent:
            shown[stage] = percent
            line.show({"phase": stage, "%": percent})

    try:
        yield show
    finally:
        line.close()


def exit_code(done: Recovered) -> ExitCode:
    """FAILURE unless it is ready and nothing is missing."""
    return ExitCode.OK if done.ready and not done.note.missing else ExitCode.FAILURE


def _first_lsn(store: Store) -> int:
    """Where the history begins that can be read."""
    with Journal(store) as journal, journal.snapshot() as snapshot:
        return 1 if snapshot.baseline is None else int(snapshot.baseline.lsn)


def fields_of(done: Recovered) -> dict[str, Any]:
    """For --json."""
    config = done.store.config
    return {
        "ready": done.ready,
        "directory": path_json(os.fsencode(config.directory)),
        "store": path_json(os.fsencode(done.store.root)),
        "volume": config.name,
        "uuid": config.uuid,
        "line": done.note.line,
        "lsn": done.note.lsn,
        "base_lsn": _first_lsn(done.store),
        "held_lsn": config.foreign_lsn,
        "at": None if done.point is None else point_fields(done.point),
        "written_bytes": done.report.written_bytes,
        "failure_count": done.report.failure_count,
        "failures": _failures_json(done.report.failures),
        "missing_count": done.note.missing,
        "missing": _failures_json(done.missing),
    }


def _failures_json(failures: list[Failure]) -> list[dict[str, str]]:
    return [{"path": path_json(path), "reason": reason} for path, reason in failures]


def show(done: Recovered, what_is_missing: str) -> None:
    """For people: what is there now, and what is not. `what_is_missing`: "X never had"."""
    config, kept = done.store.config, done.note
    _show_failures(done.missing, kept.missing, what_is_missing)
    _show_failures(done.report.failures, done.report.failure_count, "could not be made here")
    for text, (count, first) in done.report.notes.items():
        more = f" and {count - 1} more" if count > 1 else ""
        note(f"cdpfs: {path_text(first)}{more}: {text}")
    if not done.ready:
        say(f"NOT READY  {path_text(config.directory)}")
        note("  next: mend what is told above, then run the same command again; it goes on there")
        note("  next: or do without these paths: --accept-failures")
        return
    incomplete = "" if not kept.missing else f"  (INCOMPLETE: {kept.missing} paths are missing)"
    say(f"recovered  {path_text(config.directory)}{incomplete}")
    when = f"LSN {kept.lsn}" if done.point is None else point_sentence(done.point)
    if kept.kept:
        say("the tree   stays as it is; what it has beyond the history is logged by the next mount")
    else:
        say(f"as of      {when}")
    say(f"history    LSN {_first_lsn(done.store)} to {config.foreign_lsn}, in {done.store.root}")
    if kept.lsn < config.foreign_lsn:
        behind = config.foreign_lsn - kept.lsn
        say(f"           the newest {behind} ops are in history only: {_why(kept.at)}")
    for text in () if done.point is None else filter(None, [caution_about(done.point)]):
        note(f"cdpfs: {text}")


def _why(at: str) -> str:
    return "you asked for an earlier moment" if at else "a transaction was under way"


def _show_failures(failures: list[Failure], count: int, what: str) -> None:
    for path, reason in failures[:MAX_SHOWN]:
        note(f"cdpfs: {path_text(path)}: {reason}")
    if count > MAX_SHOWN:
        note(f"cdpfs: and {count - MAX_SHOWN} more (see --json)")
    if count:
        note(f"cdpfs: {count} paths {what}")
