"""The consistency groups in `cdpfs status`: where each one stands, the newest activity first.

Duty: from the journal to a bounded dictionary and to lines for people. It reads only.
"""

from __future__ import annotations

import heapq
import os
import time
from typing import Any

from console.output import duration_text, path_text, time_json
from store.journal import Group, Journal
from store.types import Lsn
from timetravel.groups import GroupTable
from timetravel.standing import MAX_SHOWN_NAMES

MAX_GROUPS = 100
"""Groups that `status --json` names."""
SHOWN_GROUPS = 5
"""Groups that a person is shown."""


def group_status(journal: Journal, quiet_s: float, newest_lsn: int) -> dict[str, Any]:
    """`total`, `mid_transaction` (how many), and `newest`: those that changed last.

    `newest_lsn` is that of the intake log: while the index is behind it, nothing counts as quiet.
    """
    with journal.snapshot() as snapshot:
        last = snapshot.last()
        now_ns = time.time_ns()
        if last is not None and snapshot.indexed_lsn < newest_lsn:
            now_ns = last.time_ns
        table = GroupTable(snapshot, now_ns=now_ns, quiet_ns=int(quiet_s * 1e9))
        groups = [group for group in table.groups() if not group.merged_into]
        newest = heapq.nlargest(MAX_GROUPS, groups, key=lambda group: group.last_lsn)
        return {
            "total": len(groups),
            "mid_transaction": sum(table.is_open(group) for group in groups),
            "newest": [_one(table, group) for group in newest],
        }


def _one(table: GroupTable, group: Group) -> dict[str, Any]:
    point = table.newest_point(group)
    is_open = table.is_open(group)
    since_ns = table.time_of(Lsn(group.open_since)) if is_open else 0
    return {
        "group": os.fsdecode(table.title(group)),
        "group_id": group.id,
        "files": [os.fsdecode(name) for name in table.names(group, MAX_SHOWN_NAMES)],
        "mid_transaction": is_open,
        "open_s": round((table.now_ns - since_ns) / 1e9, 3) if is_open else 0.0,
        "point": None
        if point is None
        else {
            "lsn": point.lsn,
            "time": time_json(point.time_ns),
            "time_ns": point.time_ns,
            "grade": point.grade,
            "reason": point.reason,
            "age_s": round((table.now_ns - point.time_ns) / 1e9, 3),
        },
    }


def group_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Labels and texts for people."""
    if not status.get("total"):
        return []
    busy = status["mid_transaction"]
    rows = [("groups", f"{status['total']}, {busy} in the midst of a transaction")]
    rows += [("", _text(group)) for group in status["newest"][:SHOWN_GROUPS]]
    if status["total"] > SHOWN_GROUPS:
        rows.append(("", f"and {status['total'] - SHOWN_GROUPS} more (cdpfs points lists points)"))
    return rows


def _text(group: dict[str, Any]) -> str:
    names = ", ".join(path_text(name) for name in group["files"])
    title = path_text(group["group"]) + (f" ({names})" if names else "")
    state = "clean"
    if group["mid_transaction"]:
        state = f"mid-transaction for {duration_text(group['open_s'])}"
    point = group["point"]
    if point is None:
        return f"{title}: {state}, no point yet"
    age = duration_text(max(point["age_s"], 0.0))
    reason = path_text(point["reason"])
    return f"{title}: {state}; {point['grade']} point {age} ago, {reason} (LSN {point['lsn']})"
