"""What a moment came to, in words and as fields. Pure; any thread.

Duty: one wording for the mount's extended attributes and for the command line.
"""

from __future__ import annotations

import os
from typing import Any

from timetravel.moment import format_time, label_for_point
from timetravel.resolve import ResolvedPoint


def point_fields(point: ResolvedPoint) -> dict[str, Any]:
    """A resolved moment for scripts, ready for JSON. `back_s` is what going to the point cost."""
    return {
        "asked": point.asked,
        "lsn": point.lsn,
        "time": label_for_point(point.time_ns).removeprefix("@"),
        "time_ns": point.time_ns,
        "grade": point.grade.label,
        "reason": point.reason,
        "asked_lsn": point.asked_lsn,
        "back_s": round(point.back_ns / 1e9, 9),
        "mid_transaction": point.mid_transaction,
        "group_count": point.group_count,
        "open_count": point.open_count,
        "groups": [
            {
                "group": os.fsdecode(group.title),
                "files": [os.fsdecode(name) for name in group.names],
                "clean": group.clean,
                "grade": group.grade.label,
                "lsn": group.point_lsn,
                "reason": group.reason,
            }
            for group in point.groups
        ],
    }


def point_line(point: ResolvedPoint) -> str:
    """`lsn=N time=T grade=G ... reason=R`; the reason comes last since it has blanks in it."""
    fields = {
        "lsn": point.lsn,
        "time": format_time(point.time_ns),
        "grade": point.grade.label,
        "asked_lsn": point.asked_lsn,
        "back_s": f"{point.back_ns / 1e9:.3f}",
        "groups": point.group_count,
        "mid_transaction": point.open_count,
        "reason": printable(point.reason),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())


def point_sentence(point: ResolvedPoint) -> str:
    """`2026-11-22 15:00:00.000+01:00 (LSN 42, transaction, 0.120 s back): reason`, for people."""
    when = format_time(point.time_ns).replace("T", " ", 1)
    facts = [f"LSN {point.lsn}", point.grade.label]
    if point.lsn != point.asked_lsn:
        facts.append(f"{point.back_ns / 1e9:.3f} s back")
    return f"{when} ({', '.join(facts)}): {printable(point.reason)}"


def caution_about(point: ResolvedPoint) -> str:
    """What to be careful of at a point in the midst of a transaction; empty if there is nothing."""
    if not point.mid_transaction:
        return ""
    texts = [group.text for group in point.groups if not group.clean]
    more = point.open_count - len(texts)
    named = ", ".join(texts) + (f" and {more} more" if more > 0 else "")
    return (
        f"CAUTION: in the midst of a transaction of {printable(named)}; take a database whole, "
        "with its journal, or ask for a moment without !exact"
    )


def printable(text: str) -> str:
    """A text with names of files in it, which may hold any byte, escaped for a terminal."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
