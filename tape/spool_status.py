"""How the copies on tape are: what `tape.status` says.

Duty: the file, rewritten atomically and never synced (after a power cut nothing in it holds any
more), and the request for a run, which is durable until it is met. One process writes the status;
anyone reads, and whoever may write the store may ask for a run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from store import durable
from tape.layout import Count

FILE_NAME: Final = "tape.status"
WANTED_NAME: Final = "tape.wanted"
MAX_FILE_BYTES: Final = 1 << 16

State: TypeAlias = Literal["idle", "spooling", "waiting", "refused", "down", "stopped"]
"""idle: nothing is due · spooling · waiting: after a failure, for the next try · refused: until a
person acts · down: no process works on it · stopped: switched off."""


class PoolStatus(msgspec.Struct, kw_only=True):
    """One copy of the volume."""

    pool: str
    usable: bool = False
    """The volume can be brought back from its newest set."""
    covered_lsn: int = 0
    """The newest op that is on tape, and every one before it back to the set's full."""
    barrier_lsn: int = 0
    """The newest barrier on tape: what is restored when no moment is named."""
    barrier_time_ns: int = 0
    lag_s: float = 0.0
    """Age of the oldest op that is not on tape; 0 when there is none."""
    waiting_bytes: int = 0
    """Of the journal, not on tape; counted up to what makes a run begin."""
    rests: str = ""
    """Why nothing is being done; empty while something is."""
    until_ns: int | None = None
    """When something is to be done at the latest; None: with the next change."""
    error: str = ""
    hint: str = ""


class SpoolStatus(msgspec.Struct, kw_only=True):
    """What is known of a volume's copies on tape. Times in seconds or ns since the epoch."""

    state: State = "idle"
    library: str = ""
    doing: str = ""
    """What is going on in the library just now."""
    pools: list[PoolStatus] = []
    done_bytes: int = 0
    """Written and read back by this process."""
    archives: int = 0
    """Kept by this process."""
    error: str = ""
    kind: str = ""
    """Of the error: the name of its class."""
    hint: str = ""
    failures: int = 0
    """Runs of this process that ended with an error."""
    retry_ns: int | None = None
    """When it is tried again."""
    alarm_lag_s: float = 0.0
    alarms: list[str] = []
    """What a person should look at."""
    pid: int = 0
    time_ns: int = 0
    """When this was written, wall time."""


class Wanted(msgspec.Struct, kw_only=True):
    """Somebody wants everything up to an op on tape now."""

    lsn: Count
    time_ns: Count


def status_path(store_root: Path) -> Path:
    """Where a store's spooler says how it is."""
    return store_root / FILE_NAME


def write_status(store_root: Path, status: SpoolStatus) -> None:
    """Put it in place at once, without syncing. A full disk keeps the older one."""
    status.time_ns = time.time_ns()
    durable.replace_unsynced(status_path(store_root), msgspec.json.encode(status))


def read_status(store_root: Path) -> SpoolStatus | None:
    """What was said last; None when nothing was, or nothing that can be read."""
    try:
        with status_path(store_root).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FILE_BYTES), type=SpoolStatus)
    except (OSError, msgspec.MsgspecError):
        return None


def ask_for_run(store_root: Path, lsn: int) -> None:
    """Want everything up to an op on tape now, whatever the settings say of when to begin."""
    wanted = Wanted(lsn=lsn, time_ns=time.time_ns())
    durable.write_file_atomically(store_root / WANTED_NAME, msgspec.json.encode(wanted))


def read_wanted(store_root: Path) -> Wanted | None:
    """What is wanted now; None for nothing."""
    try:
        with (store_root / WANTED_NAME).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FILE_BYTES), type=Wanted)
    except (OSError, msgspec.MsgspecError):
        return None


def drop_wanted(store_root: Path, met: Wanted) -> None:
    """What was wanted is done, unless somebody has asked for more meanwhile."""
    if read_wanted(store_root) == met:
        durable.unlink(store_root / WANTED_NAME)
