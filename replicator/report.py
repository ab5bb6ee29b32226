"""What the sender knows of itself, and the status that is made of it.

Duty: hold the figures in one place; whoever changes one rings `changed`. Loop's thread.
"""

from __future__ import annotations

import logging
import os
import time

from replicator.backlog import Backlog
from replicator.calendar import NO_LIMIT
from replicator.outgoing import Sizer
from replicator.pace import Bell
from replicator.settings import ReplicaSettings
from replicator.status import Parted, RateMeter, ReplicaStatus, State, eta_s
from replicator.wire import Hello, Position

log = logging.getLogger(__name__)


class Report:
    """How replication is, as the sender sees it."""

    def __init__(self) -> None:
        self.sizer = Sizer()
        self.changed = Bell()
        self.introduced: tuple[str, str] | None = None
        """The vault and the line to which the volume was described."""
        self.acked_lsn = self.visible_lsn = 0
        self.parted: Parted | None = None
        self.sent_bytes = 0
        self.limit = NO_LIMIT
        self._wire_sent_bytes = self._wire_received_bytes = 0
        self._state: State = "connecting"
        self._rate = RateMeter()
        self._moved_at = time.monotonic()
        self._error = self._hint = ""
        self._failures = 0
        self._hello: Hello | None = None
        self._clock_ahead_s: float | None = None

    @property
    def state(self) -> State:
        """See `status.State`."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        if state in ("idle", "sending"):
            if self._error:
                log.info("the vault takes what is sent again")
            self._error = self._hint = ""
        self._moved_at = time.monotonic()
        if state != self._state:
            self._state = state
            # A connection that has just been made has its time to move something.
            self._moved_at = time.monotonic()
            self.changed.ring()

    @property
    def still_s(self) -> float:
        """Since when nothing has gone out and nothing was acknowledged."""
        return time.monotonic() - self._moved_at

    def failed(self, state: State, error: Exception) -> None:
        """A connection ended with `error`. It is logged once, not at each try."""
        if str(error) != self._error:
            log.info("%s: %s", state, error)
        self._error, self._hint = str(error), str(getattr(error, "hint", ""))
        self._failures += 1
        self._state = state
        self.changed.ring()

    def met(self, hello: Hello) -> None:
        """The vault has introduced itself."""
        self._hello = hello
        self._clock_ahead_s = round((hello.time_ns - time.time_ns()) / 1e9, 3)
        log.info("the vault %s knows us as %s", hello.vault, hello.site)

    def acknowledged(self, position: Position) -> None:
        """The vault holds everything before `position.next_lsn`."""
        self.acked_lsn = max(position.next_lsn - 1, 0)
        self.visible_lsn = position.visible_lsn
        self.changed.ring()

    def sent(self, count: int) -> None:
        """So many bytes of a shipment have gone out."""
        self.sent_bytes += count
        self._moved_at = time.monotonic()

    def tick(self, wire_sent_bytes: int, wire_received_bytes: int) -> None:
        """Once a second or so: what went over the connection until now, everything counted."""
        self._rate.sample(time.monotonic(), wire_sent_bytes)
        self._wire_sent_bytes = wire_sent_bytes
        self._wire_received_bytes = wire_received_bytes

    def status(self, settings: ReplicaSettings | None, backlog: Backlog) -> ReplicaStatus:
        """All of it."""
        limit_bps = self.limit.rate_bps
        paused = limit_bps == 0 and self._state in ("sending", "connecting")
        rate = self._rate.bps
        return ReplicaStatus(
            state="paused" if paused else self._state,
            acked_lsn=self.acked_lsn,
            visible_lsn=self.visible_lsn,
            indexed_lsn=backlog.indexed_lsn,
            lag_s=round(backlog.lag_s(), 3),
            lag_bytes=backlog.payload_bytes,
            limit_bps=limit_bps,
            limit_reason=self.limit.reason,
            limit_until_ns=self.limit.until_ns,
            rate_bps=int(rate),
            eta_s=eta_s(backlog.payload_bytes, self.sizer.ratio, rate, limit_bps),
            error=self._error,
            hint=self._hint,
            url=settings.link.url if settings is not None else "",
            vault=self._hello.vault if self._hello is not None else "",
            site=self._hello.site if self._hello is not None else "",
            line=settings.link.line if settings is not None else "",
            parted=self.parted,
            sent_bytes=self.sent_bytes,
            wire_sent_bytes=self._wire_sent_bytes,
            wire_received_bytes=self._wire_received_bytes,
            clock_ahead_s=self._clock_ahead_s,
            alarm_lag_s=settings.policy.alarm_lag_s if settings is not None else 0.0,
            failures=self._failures,
            pid=os.getpid(),
        )
