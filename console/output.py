"""What the command line prints: sizes, times, paths, tables, JSON. Any thread.

Results go to stdout, everything about how it goes to stderr, so that a pipe gets results only.
`rich` is imported where a table or a progress bar is drawn, since that takes longer than most
commands.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from timetravel.moment import format_time, label_for_point

if TYPE_CHECKING:
    from rich.progress import Progress

_BINARY = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def say(text: str = "") -> None:
    """A line of the result."""
    print(text)


def note(text: str) -> None:
    """A line about how it goes, on stderr."""
    print(text, file=sys.stderr)


def print_json(value: object) -> None:
    """`value` as JSON; bytes of names that are no UTF-8 appear as `\\udcXX`, as Python has them."""
    print(json.dumps(value, indent=2))


def size_text(size_bytes: int) -> str:
    """`1.4 MiB`: three digits are enough for people."""
    if size_bytes < _BINARY:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in _UNITS:
        value /= _BINARY
        if value < _BINARY - 0.5 or unit == _UNITS[-1]:
            break
    digits = 0 if value >= 99.95 else 1
    return f"{value:.{digits}f} {unit}"


def duration_text(seconds: float) -> str:
    """`0.4 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit_s, unit, lower_s, lower in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // lower_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"


def time_text(time_ns: int) -> str:
    """Local time for people, with its offset, to the millisecond."""
    return format_time(time_ns).replace("T", " ", 1)


def time_json(time_ns: int) -> str:
    """Local time with its offset to the nanosecond; every `--at` reads it back exactly."""
    return label_for_point(time_ns).removeprefix("@")


def path_text(path: bytes | str) -> str:
    """A path for people: undecodable bytes and control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def path_json(path: bytes) -> str:
    """A path as a JSON string: as `os.fsdecode` gives it."""
    return os.fsdecode(path)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> None:
    """Print rows under headings, aligned; the columns numbered in `right` to the right.

    No frame and no cut text: what a person sees can be piped into another program.
    """
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    to_right = set(right)
    for cells in lines:
        aligned = (
            cell.rjust(width) if number in to_right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        say("  ".join(aligned).rstrip())


def bytes_progress() -> Progress:
    """A progress bar for bytes on stderr: done, total, rate, time left; invisible in a pipe."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
