"""How replication is: what `replica.status` says, and counting what it needs.

Duty: the file, rewritten atomically and never synced (after a power cut nothing in it holds any
more), and the figures in it. One thread writes; anyone reads.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from store import durable

FILE_NAME = "replica.status"
MAX_FILE_BYTES = 1 << 16
RATE_WINDOW_S = 5.0

State: TypeAlias = Literal[
    "connecting",
    "sending",
    "idle",
    "waiting",
    "refused",
    "forked",
    "paused",
    "down",
    "stopped",
]
"""connecting: no answer yet · sending · idle: the vault has everything · waiting: after a failure,
for the next try · refused, forked: until a person acts · paused: the limit is 0 · down: no process
works on it · stopped: switched off."""


class Parted(msgspec.Struct, kw_only=True, frozen=True):
    """Where this volume's history parted from another one with its name."""

    lsn: int
    """The last one that both share; 0: they share none."""
    time_ns: int
    kept: str
    """The line that the other history is on."""
    line: str
    """The line that was made for this machine."""
    parted_ns: int
    """When it was found, wall time."""


class ReplicaStatus(msgspec.Struct, kw_only=True):
    """What is known of a volume's replication. Times in seconds, rates in bits per second."""

    state: State = "connecting"
    acked_lsn: int = 0
    """The newest op that the vault has on its disk, and every one before it."""
    visible_lsn: int = 0
    """The barrier up to which readers at the vault see."""
    indexed_lsn: int = 0
    lag_s: float = 0.0
    """Age of the oldest op that the vault has not acknowledged; 0 when there is none."""
    lag_bytes: int = 0
    """Payload that the vault has not acknowledged."""
    limit_bps: int | None = None
    """None: no limit; 0: paused."""
    limit_reason: str = ""
    limit_until_ns: int | None = None
    """Wall time at which another limit holds; None: not by itself."""
    rate_bps: int = 0
    eta_s: float | None = None
    """Until the vault has everything, at the limit (without one: at the rate); None: unknown."""
    error: str = ""
    hint: str = ""
    url: str = ""
    vault: str = ""
    """The vault's id, once it has said it."""
    site: str = ""
    line: str = ""
    parted: Parted | None = None
    """None: nobody else ever wrote under this volume's name, as far as is known."""
    sent_bytes: int = 0
    """Of shipments, by this process."""
    wire_sent_bytes: int = 0
    """Everything that this process sent, as it went over the line: headers, TLS, repetitions."""
    wire_received_bytes: int = 0
    clock_ahead_s: float | None = None
    """The vault's clock minus ours, as it was when the connection began."""
    alarm_lag_s: float = 0.0
    failures: int = 0
    """Connections of this process that ended with an error."""
    pid: int = 0
    time_ns: int = 0
    """When this was written, wall time."""


def status_path(store_root: Path) -> Path:
    """Where a store's replicator says how it is."""
    return store_root / FILE_NAME


def write_status(store_root: Path, status: ReplicaStatus) -> None:
    """Put it in place at once, without syncing. A full disk keeps the older one."""
    status.time_ns = time.time_ns()
    durable.replace_unsynced(status_path(store_root), msgspec.json.encode(status))


def read_status(store_root: Path) -> ReplicaStatus | None:
    """What was said last; None when nothing was, or nothing that can be read."""
    try:
        with status_path(store_root).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FILE_BYTES), type=ReplicaStatus)
    except (OSError, msgspec.MsgspecError):
        return None


class RateMeter:
    """Bits per second over the last seconds, from a count of bytes that only grows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=64)

    def sample(self, now_s: float, sent_bytes: int) -> None:
        """Take in how much has gone out until now (monotonic seconds)."""
        self._samples.append((now_s, sent_bytes))
        while now_s - self._samples[0][0] > RATE_WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()

    @property
    def bps(self) -> float:
        """The rate; 0.0 before the second sample."""
        if len(self._samples) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        return 8 * (last - first) / (last_s - first_s) if last_s > first_s else 0.0


def eta_s(lag_bytes: int, ratio: float, rate_bps: float, limit_bps: int | None) -> float | None:
    """How long `lag_bytes` of payload take when each becomes `ratio` bytes on the wire."""
    if not lag_bytes:
        return 0.0
    speed = limit_bps if limit_bps is not None else rate_bps
    return lag_bytes * ratio * 8 / speed if speed else None
