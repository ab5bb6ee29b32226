"""Copies of the past, tried one at a time with a user's checker.

Duty: a private temporary directory, a copy in it of a path as of an LSN, and what the checker says
of that. One thread. It does not know which moments are worth trying (`console/bisecting.py` does).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from console.commands import run_command
from console.errors import ConsoleError, WrongUse
from console.output import note, path_text, time_text
from console.past import Past
from store.types import Lsn
from timetravel.companions import find_companions
from timetravel.errors import NoSuchPath
from timetravel.place import Place
from timetravel.restore import Transfer, restore

_CANNOT_RUN: Final = frozenset({126, 127})
"""What a shell answers when there is no such program, or it can't be executed."""

_SQLITE_CHECK: Final = re.compile(r"\b(integrity_check|quick_check)\b")
_SQLITE_GOOD: Final = "^ok$"


@dataclass(frozen=True)
class Request:
    """The arguments of `cdpfs bisect`."""

    path: str
    check: str
    expect: str | None = None
    since: str | None = None
    until: str | None = None
    grade: str | None = None
    exact: bool = False
    timeout_s: float | None = None
    store: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the checker said of one moment."""

    lsn: int
    good: bool
    text: str
    """Why it is bad, or `good`."""
    output: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "lsn": self.lsn,
            "good": self.good,
            "verdict": self.text,
            "output": self.output[:4096],
        }


class Laboratory:
    """Where copies are tried. A context manager; its directory goes with it."""

    def __init__(self, past: Past, request: Request) -> None:
        self.verdicts: list[Verdict] = []
        self.expected_in_all = 0
        """How many copies will be tried at most; 0 while that is not known."""
        self._past = past
        self._request = request
        expect = request.expect
        if expect is None and _SQLITE_CHECK.search(request.check):
            note(f"cdpfs: sqlite3 exits with 0 whatever it finds, so --expect '{_SQLITE_GOOD}'")
            expect = _SQLITE_GOOD
        try:
            self._expect = None if expect is None else re.compile(expect, re.MULTILINE)
        except re.error as error:
            raise WrongUse(
                f"--expect {expect!r} is no regular expression: {error}",
                "put a backslash before characters that shall mean themselves",
            ) from error
        self._folder = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="cdpfs-bisect-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def try_moment(self, lsn: int) -> Verdict:
        """Copy the path as of an LSN, with its companions, and have the checker look at it."""
        for verdict in self.verdicts:
            if verdict.lsn == lsn:
                return verdict
        folder = os.path.join(self._folder, str(lsn))
        os.mkdir(folder, 0o700)
        try:
            verdict = self._try_in(folder, Lsn(lsn))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.verdicts.append(verdict)
        total = f" of at most {self.expected_in_all}" if self.expected_in_all else ""
        note(f"{len(self.verdicts)}{total}: {when_text(self._past, lsn)}: {verdict.text}")
        return verdict

    def _try_in(self, folder: str, lsn: Lsn) -> Verdict:
        past = self._past
        name = os.path.basename(past.path) or b"volume"
        try:
            self._copy(os.fsencode(folder), name, lsn)
        except NoSuchPath:
            return Verdict(lsn, False, "bad: it was not there")
        copy = os.path.join(folder, os.fsdecode(name))
        quoted = shlex.quote(copy)
        check = self._request.check
        command = check.replace("{}", quoted) if "{}" in check else f"{check} {quoted}"
        ended = run_command(
            command, timeout_s=self._request.timeout_s, directory=folder, keep_output=True
        )
        if ended.code in _CANNOT_RUN:
            raise ConsoleError(
                f"the check can't be run (exit code {ended.code}): {ended.output.strip()}",
                "give the command as a shell would take it; {} stands for the copy's path",
            )
        if not ended.ok:
            return Verdict(lsn, False, f"bad: the check {ended.text}", ended.output)
        if self._expect is not None and self._expect.search(ended.output) is None:
            return Verdict(lsn, False, "bad: the output is not as expected", ended.output)
        return Verdict(lsn, True, "good", ended.output)

    def _copy(self, folder: bytes, name: bytes, lsn: Lsn) -> None:
        past = self._past
        view = past.view_of(lsn)
        now = past.view(past.newest())
        companions = find_companions(
            view, now, past.path, now_ns=past.now_ns, quiet_ns=past.settings.quiet_ns
        )
        transfers = [
            Transfer(companion.path, os.path.basename(companion.path))
            for companion in companions
            if companion.then is not None
        ]
        with Place(folder) as place:
            report = restore(view, past.path, place, name, companions=transfers, durable=False)
        if not report.ok:
            failure = report.failures[0]
            raise ConsoleError(
                f"a copy could not be made: {path_text(failure.path)}: {failure.reason}",
                "the copies lie in a temporary directory; set TMPDIR to one with more room",
            )


def when_text(past: Past, lsn: int) -> str:
    """Time and LSN of an op, for people."""
    op = past.journal.op(Lsn(lsn))
    time_ns = op.time_ns if op is not None else 0
    return f"{time_text(time_ns)} (LSN {lsn})"
