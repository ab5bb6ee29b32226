"""`cdpfs status`: how a volume is, from its daemon, or from the store alone when not mounted.

Duty: gather one dictionary (the contract of `--json`) and show it to people. It reads only.
"""

from __future__ import annotations

import os
import time
from typing import Any

from console.control import STATUS_TIMEOUT_S, Control, Json, connect_if_mounted
from console.daemon import is_stale
from console.errors import ConsoleError
from console.exit_codes import ExitCode
from console.group_status import group_rows, group_status
from console.output import (
    duration_text,
    path_text,
    print_json,
    say,
    size_text,
    table,
    time_text,
)
from console.replicating import from_store, summary
from console.spooling import from_store as tape_from_store
from console.spooling import summary as tape_summary
from console.volumes import volume_of
from replicator.errors import ReplicationError
from store.errors import StoreError
from store.holds import read_holds
from store.volume import Store, list_stores
from tape.errors import TapeError

LEAST_PAYLOAD_BYTES = 1 << 20
"""Below this the ratio of stored to written bytes is that of the index's fixed size."""


def show_status(path: str, store_root: str | None, as_json: bool) -> None:
    """Print how the volume is that `path` lies in."""
    status = status_of(volume_of(path, store_root))
    if as_json:
        print_json(status)
    else:
        _show(status)


def show_all(as_json: bool) -> None:
    """Print one line for each volume that this user can see."""
    stores = list_stores()
    statuses = [status_of(store) for store in stores]
    if as_json:
        print_json(statuses)
        return
    if not statuses:
        raise ConsoleError(
            "nothing is protected here yet",
            "protect a directory: cdpfs protect DIR",
            code=ExitCode.NO_VOLUME,
        )
    table(
        ("directory", "state", "journal", "behind", "alarms"),
        [
            (
                path_text(str(status["mount_point"])),
                str(status["state"]),
                size_text(int(status["journal_bytes"])),
                duration_text(float(status["lag_s"])),
                str(len(status["alarms"])),
            )
            for status in statuses
        ],
        right=(2, 3, 4),
    )


def status_of(store: Store) -> dict[str, Any]:
    """Everything that `status --json` prints, whether the volume is mounted or not."""
    control = connect_if_mounted(store)
    if control is None:
        return _base(store) | _from_store(store)
    with control:
        status = _base(store) | _from_daemon(control)
    # Of the index alone, so that the daemon's loop has nothing to do with it.
    return status | _groups(store, int(status["lsn"]))


def _base(store: Store) -> dict[str, Any]:
    """What the configuration and the file system say; the keys of every status."""
    config = store.config
    disk = os.statvfs(store.root)
    return {
        "volume": config.name,
        "state": "unmounted",
        "directory": config.directory,
        "mount_point": config.mount_point,
        "store": str(store.root),
        "capture": config.capture,
        "pids": {},
        "lsn": 0,
        "indexed_lsn": 0,
        "seeding": {
            "done_bytes": 0,
            "total_bytes": 0,
            "done_files": 0,
            "total_files": 0,
            "complete": False,
        },
        "journal_bytes": 0,
        "payload_bytes": 0,
        "ratio": None,
        "lag_s": 0.0,
        "ops_per_s": 0.0,
        "space": {
            "store_free_bytes": disk.f_bavail * disk.f_frsize,
            "store_total_bytes": disk.f_blocks * disk.f_frsize,
        },
        "protection": {"policy": config.protect, "state": "unmounted"},
        "history": {},
        "groups": {"total": 0, "mid_transaction": 0, "newest": []},
        "worst_loop_delay_ms": 0.0,
        "replication": None,
        "tape": None,
        "holds": read_holds(store.root),
        "alarms": [],
    }


def _from_daemon(control: Control) -> dict[str, Any]:
    answer: dict[str, Any] = control.call("status", timeout_s=STATUS_TIMEOUT_S)
    return answer


def _from_store(store: Store) -> dict[str, Any]:
    """What can be said with no daemon: the journal's figures, and what is wrong with it."""
    gathered: dict[str, Any] = {}
    if is_stale(store.config.mount_point):
        gathered["state"] = "dead"
        gathered["alarms"] = ["the daemon was killed; bring it back: cdpfs mount DIR"]
    try:
        gathered |= _journal_figures(store)
        gathered["replication"] = from_store(store)
        gathered["tape"] = tape_from_store(store)
    except (StoreError, ReplicationError, TapeError) as error:
        gathered["alarms"] = [*gathered.get("alarms", []), f"{error} ({error.hint})"]
    return gathered


def _groups(store: Store, newest_lsn: int) -> dict[str, Any]:
    """Where the consistency groups stand; nothing if the index can't be read just now."""
    from store.journal import Journal

    try:
        with Journal(store) as journal:
            return {"groups": group_status(journal, store.config.quiet_s, newest_lsn)}
    except StoreError:
        # What is wrong with it is in the daemon's alarms.
        return {}


def _journal_figures(store: Store) -> dict[str, Any]:
    from store.journal import Journal

    if not any(store.index_dir.iterdir()):
        return {}
    with Journal(store) as journal, journal.snapshot() as snapshot:
        stats = snapshot.stats()
        indexed_lsn = snapshot.indexed_lsn
    found = {"lsn": indexed_lsn, "indexed_lsn": indexed_lsn} | figures_of(stats)
    return found | _groups(store, indexed_lsn)


def figures_of(stats: dict[str, int]) -> dict[str, Any]:
    """The part of a status that the journal's own counts give."""
    stored = stats.get("segment_bytes", 0) + stats.get("index_bytes", 0)
    payload = stats.get("payload_bytes", 0)
    history = {}
    if stats.get("first_time_ns"):
        history = {"oldest_ns": stats["first_time_ns"], "newest_ns": stats["last_time_ns"]}
    return {
        "journal_bytes": stored,
        "payload_bytes": payload,
        "ratio": round(stored / payload, 4) if payload else None,
        "history": history,
    }


def _show(status: dict[str, Any]) -> None:
    rows = list(_rows(status))
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        say(f"{label.ljust(width)}  {text}")
    for alarm in status["alarms"]:
        say(f"ALARM  {alarm if isinstance(alarm, str) else alarm.get('message', alarm)}")


def _rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Labels and texts for people, the most asked for first."""
    rows = [
        ("volume", f"{status['volume']}  ({path_text(status['mount_point'])})"),
        ("state", _state_text(status)),
        ("initial backup", _seeding_text(status["seeding"], status["state"])),
        ("history", _history_text(status["history"])),
        ("journal", _journal_text(status)),
        ("changes", f"{status['ops_per_s']:.0f} ops/s, newest LSN {status['lsn']}"),
        ("indexer", f"{duration_text(status['lag_s'])} behind, at LSN {status['indexed_lsn']}"),
        ("store", f"{path_text(status['store'])}, {_free_text(status['space'])}"),
    ]
    if status["replication"]:
        rows.append(("replication", summary(status["replication"])))
    if status["tape"]:
        rows.append(("tape", tape_summary(status["tape"])))
    rows += group_rows(status["groups"])
    if status["state"] == "mounted":
        rows.append(("worst delay", f"{status['worst_loop_delay_ms']:.1f} ms in the daemon's loop"))
    return rows


def _state_text(status: dict[str, Any]) -> str:
    pids = ", ".join(f"{name} {pid}" for name, pid in status["pids"].items())
    return f"{status['state']}" + (f"  (pids: {pids})" if pids else "")


def _seeding_text(seeding: Json, state: str) -> str:
    done_files, total_files, done_bytes, total_bytes = (
        int(str(seeding.get(key) or 0))
        for key in ("done_files", "total_files", "done_bytes", "total_bytes")
    )
    if seeding.get("complete"):
        return f"complete ({done_files} files, {size_text(done_bytes)})"
    if state != "mounted":
        return "goes on when mounted, unless it is complete"
    return (
        f"{size_text(done_bytes)} of {size_text(total_bytes)}, "
        f"{done_files} of {total_files} files so far"
    )


def _history_text(history: Json) -> str:
    oldest = history.get("oldest_ns")
    if not isinstance(oldest, int) or not oldest:
        return "none yet"
    return f"since {time_text(oldest)} ({duration_text((time.time_ns() - oldest) / 1e9)})"


def _journal_text(status: dict[str, Any]) -> str:
    ratio = status["ratio"]
    tells_little = ratio is None or status["payload_bytes"] < LEAST_PAYLOAD_BYTES
    shown = "" if tells_little else f", {ratio:.2f} bytes stored per byte written"
    return (
        f"{size_text(status['journal_bytes'])} for {size_text(status['payload_bytes'])} "
        f"of changes{shown}"
    )


def _free_text(space: Json) -> str:
    free, total = space.get("store_free_bytes"), space.get("store_total_bytes")
    if not isinstance(free, int):
        return "free space unknown"
    return f"{size_text(free)} free" + (f" of {size_text(total)}" if isinstance(total, int) else "")
