"""The limit at work: from the settings of a volume and its host to the meter of the connection.

Duty: find out what holds now, share the host's limit, set the meter's rate, and say it in the
report. Async (trio); the loop's thread. Its own calls block for microseconds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import trio

from replicator.calendar import NO_LIMIT, Calendar, Standing, as_rate, rate_text
from replicator.errors import BadSettings
from replicator.host_limit import host_limit_path, load_host_limit
from replicator.meter import BucketMeter
from replicator.settings import ReplicaSettings, calendar_of
from replicator.sharing import Claim, Sharer, demand
from store.volume import stores_home

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""What changed is noticed after so long at the most: the hour, the host's limit, the others' work.
A share needs two looks to move from one to another."""

RATE_WINDOW_LOOKS = 4


class _Following:
    """A calendar, and what holds by it; computed anew when that may have changed."""

    def __init__(self) -> None:
        self._calendar = Calendar(())
        self._standing = NO_LIMIT
        self._from_ns = 0

    def set(self, calendar: Calendar, now_ns: int) -> None:
        self._calendar = calendar
        self._standing, self._from_ns = calendar.at(now_ns), now_ns

    def at(self, now_ns: int) -> Standing:
        until_ns = self._standing.until_ns
        # A clock that was set back may be in other hours, too.
        if now_ns < self._from_ns or (until_ns is not None and now_ns >= until_ns):
            self.set(self._calendar, now_ns)
        return self._standing


class Throttle:
    """Keeps the rate of `meter` right. `run` it in a task; `close` it afterwards.

    `changed` is called when what `standing` says is another.
    """

    def __init__(
        self, changed: Callable[[], None], wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.meter = BucketMeter()
        self.standing = NO_LIMIT
        """What holds for this volume now, and why: the least of its own limit and of its share."""
        self._changed = changed
        self._wall_ns = wall_ns
        self._volume = _Following()
        self._host = _Following()
        self._weight = 1.0
        self._host_state: tuple[int, int, int] | None = None
        self._sharer: Sharer | None = None
        self._sent = [0] * RATE_WINDOW_LOOKS
        self._waited_s = 0.0

    def close(self) -> None:
        """Leave the host's limit to the others."""
        if self._sharer is not None:
            self._sharer.close()
            self._sharer = None

    def follow(self, settings: ReplicaSettings) -> None:
        """Hold to these settings of the volume from now on. BadSettings."""
        self._volume.set(calendar_of(settings.throttle, settings.override), self._wall_ns())
        self._weight = settings.weight
        self.look()

    async def run(self) -> None:
        """Follow the hours, the host's limit and the others, until cancelled."""
        while True:
            self.look()
            with trio.move_on_after(LOOK_S):
                await self.meter.wait_for_need()

    def look(self) -> None:
        """Set the meter to what holds now."""
        now_ns = self._wall_ns()
        self._read_host(now_ns)
        own, host = self._volume.at(now_ns), self._host.at(now_ns)
        rate_bps = as_rate(own.rate_bps)
        standing = own
        if host.rate_bps is not None:
            share_bps = self._share(float(host.rate_bps), rate_bps)
            if host.rate_bps < rate_bps:
                standing = self._share_standing(own, host, share_bps)
            rate_bps = min(rate_bps, share_bps)
        elif self._sharer is not None:
            self.close()
        self.meter.set_rate(rate_bps)
        if standing != self.standing:
            self.standing = standing
            self._changed()

    def _share(self, host_bps: float, own_bps: float) -> float:
        """How much of the host's limit may be used here now."""
        if self._sharer is None:
            self._sharer = Sharer(stores_home())
        self._sent.append(self.meter.sent_bytes)
        rate_bps = (self._sent[-1] - self._sent.pop(0)) * 8 / (LOOK_S * RATE_WINDOW_LOOKS)
        waited_s = self.meter.waited_s()
        waiting = waited_s > self._waited_s
        self._waited_s = waited_s
        wanted_bps = demand(min(host_bps, own_bps), rate_bps, waiting)
        return self._sharer.look(host_bps, Claim(self._weight, wanted_bps))

    def _share_standing(self, own: Standing, host: Standing, share_bps: float) -> Standing:
        assert host.rate_bps is not None
        until_ns = min(own.until_ns or math.inf, host.until_ns or math.inf)
        text = rate_text(host.rate_bps)
        # Without work there is no share yet; what could be used then is what the host may use.
        # Two digits, as it moves a little at each look.
        rate = int(float(f"{share_bps:.2g}")) or host.rate_bps
        reason = f"limit of the host: {host.reason}"
        if rate != host.rate_bps:
            reason = f"share of the host's {text}: {host.reason}"
        return Standing(rate, reason, None if math.isinf(until_ns) else int(until_ns))

    def _read_host(self, now_ns: int) -> None:
        try:
            found = host_limit_path().stat()
            state = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            state = (0, 0, 0)
        if state == self._host_state:
            return
        self._host_state = state
        try:
            limit = load_host_limit()
            self._host.set(calendar_of(limit.throttle, limit.override), now_ns)
        except (BadSettings, OSError) as error:
            # What held before still does: no limit at all would be worse.
            log.info("the host's limit is not used as it stands now: %s", error)
