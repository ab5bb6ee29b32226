"""The errors of time travel.

    TimetravelError             base: a message, and a hint that says what to do next
    ├── MomentError             the text of a moment (or of a mark's name) is not valid
    ├── MomentInFuture          the moment has not come yet
    ├── MomentBeforeProtection  the moment lies before the volume's history begins
    ├── UnknownMark             no mark has that name
    ├── NoSuchPath              the path did not exist at that moment
    ├── NoSuchNode              the node did not exist at that LSN
    ├── NotADirectory           names were asked of something that has none
    ├── RestoreRefused          nothing was changed: something is in the way of the restore
    └── VerificationFailed      what was written reads back differently

All are permanent: the same question gets the same answer. Only MomentInFuture can turn out well
later, and then only by waiting. Pure; no threading rule; must not know FUSE, the journal or the
command line, which translate these at their edges.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from errno import EEXIST, EIO, ENOENT, ENOTDIR
from typing import ClassVar

_SHOWN_CHARS = 60
"""How much of a foreign text a message repeats, so that a message stays one readable line."""


class TimetravelError(Exception):
    """Base of the package. `str(error)` is the message; `hint` says what to do next.

    `errno` is what a file operation answers: a name under `.snapshots` that can't be resolved
    is a name that does not exist.
    """

    errno: ClassVar[int] = ENOENT

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class MomentError(TimetravelError):
    """A text that is no moment, or no name for a mark: `text` as given, and the `reason`."""

    def __init__(self, text: str, reason: str, hint: str) -> None:
        super().__init__(f"{_shown(text)}: {reason}", hint=hint)
        self.text = text
        self.reason = reason


class MomentInFuture(TimetravelError):
    """The moment is later than now. Both arguments are texts for people."""

    def __init__(self, moment: str, now: str) -> None:
        super().__init__(
            f"{_shown(moment)} lies in the future; it is {now} now",
            hint="ask for a moment up to @now; without an offset, times are local",
        )
        self.moment = moment


class MomentBeforeProtection(TimetravelError):
    """The moment is earlier than the first one kept. Both arguments are texts for people.

    `copied`: what is kept is a copy that begins in the midst of the volume's history.
    """

    def __init__(self, moment: str, first: str, *, copied: bool = False) -> None:
        begins = "the history of this copy" if copied else "this volume's history"
        super().__init__(
            f"{_shown(moment)} is too early; {begins} begins at {first}",
            hint=f"ask for {first} or later; `cdpfs points` lists what is kept",
        )
        self.moment = moment
        self.first = first


class UnknownMark(TimetravelError):
    """No mark is called `name`; `known` names are searched for what may have been meant."""

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean @mark:{near[0]}? " if near else ""
        super().__init__(
            f"there is no mark {_shown(name)}",
            hint=f"{meant}`cdpfs points --grade mark` lists the marks",
        )
        self.name = name


class NoSuchPath(TimetravelError):
    """`path` (bytes) did not exist at `moment` (a text for people)."""

    def __init__(self, path: bytes, moment: str) -> None:
        shown_path = _shown(path.decode("utf-8", "surrogateescape"))
        super().__init__(
            f"{shown_path} did not exist at {moment}",
            hint="`cdpfs history PATH` shows when it did",
        )
        self.path = path
        self.moment = moment


class NoSuchNode(TimetravelError):
    """`node` was not known at `lsn`, or had no name left."""

    def __init__(self, node: int, lsn: int) -> None:
        super().__init__(
            f"node {node} did not exist at LSN {lsn}",
            hint="`cdpfs history PATH` shows when it did",
        )
        self.node = node
        self.lsn = lsn


class NotADirectory(TimetravelError):
    """`node` was not a directory at `lsn`."""

    errno = ENOTDIR

    def __init__(self, node: int, lsn: int) -> None:
        super().__init__(
            f"node {node} was not a directory at LSN {lsn}",
            hint="leave out what follows the name of a file or symbolic link",
        )
        self.node = node
        self.lsn = lsn


class RestoreRefused(TimetravelError):
    """Something stands where the restore would write; nothing was changed. `paths` are bytes."""

    errno = EEXIST

    def __init__(self, paths: Sequence[bytes], hint: str) -> None:
        first = _shown(paths[0].decode("utf-8", "surrogateescape"))
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        super().__init__(f"{first}{more} in the way of the restore", hint=hint)
        self.paths = list(paths)


class VerificationFailed(TimetravelError):
    """What was read back from the destination is not what was written there."""

    errno = EIO

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(
            f"bytes {start} to {stop} read back differently from what was written",
            hint="distrust the destination's disk or memory; restore to another one",
        )
        self.start = start
        self.stop = stop


def _shown(text: str) -> str:
    """`text` quoted, shortened, and with anything unprintable escaped."""
    if len(text) > _SHOWN_CHARS:
        text = text[: _SHOWN_CHARS - 1] + "…"
    return repr(text)
