"""What to do about a file's companions when it is restored: ask, obey, or refuse.

Duty: from `--alone`, `--with-companions` or neither to the files that come along, and the words
about it. A companion that stays as it is although it belongs to another moment is never left
unsaid: SQLite plays a leftover journal or log into whatever database it finds beside it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from console.errors import ConsoleError
from console.exit_codes import ExitCode
from console.output import note, path_json, path_text, size_text
from timetravel.companions import Companion
from timetravel.restore import Transfer

MAX_SHOWN = 10


@dataclass(frozen=True)
class Decision:
    """Which companions come along."""

    companions: tuple[Companion, ...] = ()
    """All there are."""
    taken: bool = False
    """They come along."""
    transfers: tuple[Transfer, ...] = ()
    """What the restore does about them."""
    undecided: tuple[Companion, ...] = ()
    """Those that make a difference and were left as they are."""

    def as_json(self) -> list[dict[str, Any]]:
        """For `restore --json`."""
        return [
            {
                "path": path_json(companion.path),
                "existed": companion.then is not None,
                "exists": companion.now is not None,
                "differs": companion.differs,
                "action": self._action(companion),
            }
            for companion in self.companions
        ]

    def _action(self, companion: Companion) -> str:
        if not self.taken:
            return "left"
        return "restored" if companion.then is not None else "removed"


def decide(
    found: list[Companion], path: bytes, wish: bool | None, at: bytes, in_place: bool
) -> Decision:
    """What comes along of `found` with the file at `path`, to `at` in the destination.

    `wish` is True for `--with-companions`, False for `--alone`, None for neither. ConsoleError
    with COMPANIONS when it makes a difference and nobody can be asked.
    """
    if in_place:
        deciding = [companion for companion in found if companion.differs]
    else:
        deciding = [companion for companion in found if companion.matters]
    if wish is None:
        wish = _ask(path, deciding, in_place) if deciding else False
    if not wish:
        return Decision(tuple(found), undecided=tuple(deciding))
    transfers = _transfers(path, found, at, in_place)
    return Decision(tuple(found), taken=True, transfers=tuple(transfers))


def _transfers(path: bytes, found: list[Companion], at: bytes, in_place: bool) -> list[Transfer]:
    transfers = []
    for companion in found:
        if in_place:
            source = companion.path if companion.then is not None else None
            transfers.append(Transfer(source, companion.path))
        elif companion.then is not None:
            transfers.append(Transfer(companion.path, _renamed(path, companion.path, at)))
    return transfers


def _renamed(path: bytes, companion: bytes, at: bytes) -> bytes:
    """Where a companion goes beside a file that is restored to `at`, under another name perhaps.

    `app.db-wal` goes beside `copy.db` as `copy.db-wal`.
    """
    directory, name = os.path.split(at)
    old_name, own = os.path.basename(path), os.path.basename(companion)
    if own.startswith(old_name):
        own = name + own[len(old_name) :]
    return os.path.join(directory, own)


def _ask(path: bytes, deciding: list[Companion], in_place: bool) -> bool:
    """Whether to take them along; raises when there is nobody to ask, or on "no"."""
    lines = describe(deciding, in_place)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        where = "are not as they were then" if in_place else "belong to it"
        raise ConsoleError(
            f"{path_text(path)} has companions that {where}, and alone it may be worthless; "
            f"nothing was restored: {'; '.join(lines)}",
            "bring them along (a later journal or log is removed): --with-companions",
            "or leave them as they are: --alone",
            code=ExitCode.COMPANIONS,
        )
    note(f"{path_text(path)} has companions:")
    for line in lines:
        note(f"  {line}")
    while True:
        sys.stderr.write("restore it with them (w), alone (a), or not at all (n)? [w] ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        choice = answer.strip().lower()[:1]
        if not answer or choice == "n":
            raise ConsoleError(
                "nothing was restored",
                "decide beforehand with --with-companions or --alone",
                code=ExitCode.COMPANIONS,
            )
        if choice in ("", "w", "y"):
            return True
        if choice == "a":
            return False


def describe(companions: list[Companion], in_place: bool) -> list[str]:
    """What would become of each with `--with-companions`, a few of them."""
    lines = [_line(companion, in_place) for companion in companions[:MAX_SHOWN]]
    if len(companions) > MAX_SHOWN:
        lines.append(f"and {len(companions) - MAX_SHOWN} more; restore their directory instead")
    return lines


def _line(companion: Companion, in_place: bool) -> str:
    shown = path_text(companion.path)
    if companion.then is None:
        return f"{shown} was not there then; it would be removed"
    would = "would be restored" if in_place else "would be put beside it"
    return f"{shown}, {size_text(companion.then.size_bytes)} then; it {would}"
