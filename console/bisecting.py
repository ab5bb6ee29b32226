"""`cdpfs bisect`: when did it break? Copies of the past are tried with the user's own checker.

Duty: which moments come into question, a copy of each that is tried, what the checker says of it,
and the report. The copies lie in a private temporary directory, one at a time; nothing in the
volume is touched.
"""

from __future__ import annotations

import heapq
import shlex
import stat
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from console.errors import ConsoleError, WrongUse
from console.exit_codes import ExitCode
from console.laboratory import Laboratory, Request, Verdict, when_text
from console.listing import concern_of, who_json, who_text
from console.output import path_json, path_text, print_json, say, size_text
from console.past import Past
from console.reading import change_json, change_text
from store.journal import Point
from store.types import Lsn
from timetravel.bisect import common_points, first_bad, lsns_of
from timetravel.diff import Change, diff
from timetravel.errors import NoSuchPath
from timetravel.grade import Grade
from timetravel.history import Version, history
from timetravel.moment import AtLsn
from timetravel.report import point_fields, point_sentence
from timetravel.resolve import ResolvedPoint, resolve

SHOWN_CHANGES = 20
SHOWN_OUTPUT_LINES = 5
MAX_LISTED = 1_000


@dataclass
class _Found:
    """The result."""

    good: ResolvedPoint
    bad: ResolvedPoint
    bad_verdict: Verdict
    tried: int
    changes: list[Change] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)


def bisect_path(request: Request, as_json: bool) -> ExitCode:
    """Find the last good and the first bad moment of a path, and print them."""
    with Past(request.path, request.store) as past, Laboratory(past, request) as laboratory:
        found = _search(past, request, laboratory)
        _look_between(past, found)
        if as_json:
            print_json(_as_json(past, found, laboratory))
        else:
            _show(past, found)
    return ExitCode.OK


def _search(past: Past, request: Request, laboratory: Laboratory) -> _Found:
    """The neighbours among the moments of which the first is good and the second bad."""
    start = _start(past, request)
    if request.until is None:
        end = past.newest().lsn
    else:
        end = past.point_for_path(request.until, request.exact).lsn
    if start >= end:
        raise WrongUse("--from is not before --to", "swap the two, or leave one of them away")
    moments = array("Q", [start, *_moments_between(past, start, end, request.grade), end])
    bad_end = laboratory.try_moment(end)
    if bad_end.good:
        raise _not_between(past, bad_end, "is still good", "nothing to find: name a later --to")
    first = _first_good(past, request, laboratory, moments)
    moments = moments[first:]
    steps = max(len(moments) - 2, 0).bit_length()
    laboratory.expected_in_all = len(laboratory.verdicts) + steps
    good, bad = first_bad(moments, lambda lsn: laboratory.try_moment(lsn).good)
    if request.exact:
        inside = range(good, bad + 1)
        laboratory.expected_in_all += max(len(inside) - 2, 0).bit_length()
        good, bad = first_bad(inside, lambda lsn: laboratory.try_moment(lsn).good)
    return _Found(
        _point_at(past, good),
        _point_at(past, bad),
        laboratory.try_moment(bad),
        len(laboratory.verdicts),
    )


def _start(past: Past, request: Request) -> Lsn:
    if request.since is not None:
        return past.point_for_path(request.since, request.exact).lsn
    first = past.journal.first()
    assert first is not None  # or `newest` would have raised
    if past.view_of(first.lsn).find(past.path) is not None:
        return first.lsn
    version = next(history(past.journal, past.path), None)
    return first.lsn if version is None else version.first


def _first_good(
    past: Past, request: Request, laboratory: Laboratory, moments: Sequence[int]
) -> int:
    """The number of a good moment at the beginning.

    With `--from` that is the first one. Without, a file may not have been complete when it
    began: then the moments 1, 2, 4, 8... are tried, which costs no more than the search itself.
    """
    number = 0
    verdict = laboratory.try_moment(moments[0])
    while not verdict.good:
        number = max(1, 2 * number)
        if request.since is not None or number >= len(moments) - 1:
            hint = "name a moment when it was good: --from M (`cdpfs history PATH` shows its past)"
            raise _not_between(past, verdict, "is not good", hint)
        verdict = laboratory.try_moment(moments[number])
    return number


def _not_between(past: Past, verdict: Verdict, what: str, hint: str) -> ConsoleError:
    lines = verdict.output.strip().splitlines()[:SHOWN_OUTPUT_LINES]
    said = f"; the check said: {' | '.join(lines)}" if lines else ""
    return ConsoleError(
        f"{when_text(past, verdict.lsn)} {what} ({verdict.text}{said})",
        hint,
        code=ExitCode.NOT_BETWEEN,
    )


def _moments_between(past: Past, start: Lsn, end: Lsn, grade: str | None) -> array[int]:
    """LSNs strictly between two to be tried: where all of the path's groups are at rest.

    Without a grade: transactions and marks if there are any, else `sync` points, else crash ones.
    """
    with past.journal.snapshot() as snapshot:
        table = past.groups_in(snapshot)
        groups = table.concerned(concern_of(past, end), end)
        ids = {group.id for group in groups}
        before = (table.point_before(group.id, start, "sync") for group in groups)
        known = sorted(point for point in before if point is not None)

        def of_grade(least: Grade, common: bool) -> array[int]:
            every = snapshot.points(Lsn(start + 1), end)
            if least is Grade.CRASH:
                crash = snapshot.points(Lsn(start + 1), end, Grade.CRASH.label)
                every = heapq.merge(every, crash, key=lambda point: point.lsn)
            mine: Iterator[Point] = (p for p in every if not p.group or p.group in ids)
            if common:
                mine = common_points(chain(known, mine), groups)
            return lsns_of((p for p in mine if Grade.of(p.grade) >= least), start, end)

        wanted = [Grade.of(grade)] if grade else [Grade.TRANSACTION, Grade.SYNC, Grade.CRASH]
        for least in wanted:
            # Where the groups are never at rest together, those of one group alone have to do.
            for common in (least is not Grade.CRASH, False):
                found = of_grade(least, common)
                if found:
                    return found
        return array("Q")


def _point_at(past: Past, lsn: int) -> ResolvedPoint:
    moment = AtLsn(Lsn(lsn))
    return resolve(
        past.journal,
        moment,
        now_ns=past.now_ns,
        subject=past.subject,
        settings=past.settings,
    )


def _look_between(past: Past, found: _Found) -> None:
    """What changed between the two, and who it was."""
    good, bad = past.view(found.good), past.view(found.bad)
    try:
        changes = (c for c in diff(good, bad, past.path) if not c.only_directory_times)
        found.changes = list(islice(changes, MAX_LISTED))
    except NoSuchPath:
        return
    paths = {change.path for change in found.changes[:SHOWN_CHANGES]} or {past.path}
    for path in sorted(paths):
        with suppress(NoSuchPath):
            since, until = Lsn(found.good.lsn + 1), found.bad.lsn
            found.versions += islice(
                history(past.journal, path, since=since, until=until), SHOWN_CHANGES
            )


def _show(past: Past, found: _Found) -> None:
    say(f"last good  {point_sentence(found.good)}")
    say(f"first bad  {point_sentence(found.bad)}")
    say(f"  {found.bad_verdict.text}")
    for line in found.bad_verdict.output.strip().splitlines()[:SHOWN_OUTPUT_LINES]:
        say(f"  | {path_text(line)}")
    say("between the two:")
    for change in found.changes[:SHOWN_CHANGES]:
        say(f"  {change_text(change)}")
    for version in found.versions:
        what = ", ".join(event.value for event in version.events)
        size = f", {size_text(version.written_bytes)} written" if version.written_bytes else ""
        say(f"  {who_text(version.actor)}: {what}{size} (LSN {version.first} to {version.last})")
    directory = _is_directory(past, found.good.lsn)
    options = "" if directory else " --with-companions"
    live = shlex.quote(path_text(past.place.live))
    say(f"to go back: cdpfs restore {live} --at @lsn:{found.good.lsn}{options}")


def _is_directory(past: Past, lsn: Lsn) -> bool:
    state = past.view_of(lsn).find(past.path)
    return state is not None and stat.S_ISDIR(state.mode)


def _as_json(past: Past, found: _Found, laboratory: Laboratory) -> dict[str, Any]:
    return {
        "path": path_json(past.path),
        "good": point_fields(found.good),
        "bad": point_fields(found.bad),
        "tried": [verdict.as_json() for verdict in laboratory.verdicts],
        "changes": [change_json(change) for change in found.changes],
        "versions": [
            {
                "first_lsn": version.first,
                "lsn": version.last,
                **who_json(version.actor),
                "events": [event.value for event in version.events],
                "written_bytes": version.written_bytes,
            }
            for version in found.versions
        ],
    }
