"""A token bucket that lets bytes out at a rate. Pure; one thread; time comes in from outside.

Whoever sends asks `wait_s`, sends a piece of at most `piece_bytes`, and tells `take` what it cost.
Debt is allowed: a cost that is known only afterwards (a retransmission) is taken all the same, and
what follows waits for it. Together the burst and one piece are at most SLACK_S of the rate, so
that any window of 10 s has at most 3.5 % more than the limit.
"""

from __future__ import annotations

import math

SLACK_S = 0.35
"""Burst and one piece together: what may go beyond an even flow, in seconds at the rate."""

MAX_BURST_BYTES = 2 << 20
"""However fast the line: queues on the way are not longer than this."""

PIECE_S = 0.02
"""A piece is so long at the rate, as far as the next three bounds let it be."""
MIN_PIECE_BYTES = 256
FRAME_BYTES = 1514
"""A full Ethernet frame: a piece is at least that, unless it takes longer than MAX_PIECE_S."""
MAX_PIECE_S = 0.25
MAX_PIECE_BYTES = 64 << 10

UNLIMITED = math.inf


class Bucket:
    """Bytes may go at `rate_bps` bits per second: UNLIMITED, or 0 for none at all.

    `now_s` is a time that never goes back, in seconds.
    """

    def __init__(self, rate_bps: float, now_s: float) -> None:
        self._rate_bps = _checked(rate_bps)
        self._level = 0.0
        """Bytes that may go at once; negative: debt."""
        self._at_s = now_s

    @property
    def rate_bps(self) -> float:
        """The rate, in bits per second."""
        return self._rate_bps

    @property
    def piece_bytes(self) -> int:
        """How many bytes on the wire should go at once: little enough for an even flow."""
        return piece_bytes(self._rate_bps)

    def wait_s(self, now_s: float) -> float:
        """How long until the next piece may go; `inf` when nothing may."""
        if self._rate_bps == UNLIMITED:
            return 0.0
        self._fill(now_s)
        if self._rate_bps == 0:
            return math.inf
        # A debt of less than a byte is no reason to sleep: the clock may not be as fine as that.
        return -self._level * 8 / self._rate_bps if self._level <= -1 else 0.0

    def take(self, now_s: float, wire_bytes: float) -> None:
        """So many bytes go, or went; negative: they did not go after all."""
        if self._rate_bps != UNLIMITED:
            self._fill(now_s)
            self._level = min(self._level - wire_bytes, self._burst_bytes)

    def set_rate(self, now_s: float, rate_bps: float) -> None:
        """From now on another rate. A debt stays as long in time as it was.

        Otherwise one large piece of a fast line would silence a slow one for many seconds.
        """
        before = self._rate_bps
        self._fill(now_s)
        self._rate_bps = _checked(rate_bps)
        if UNLIMITED in (before, rate_bps):
            self._level = 0.0
        elif self._level < 0 and before and rate_bps:
            self._level *= rate_bps / before
        self._level = min(self._level, self._burst_bytes)

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        if self._rate_bps != UNLIMITED:
            level = self._level + passed_s * self._rate_bps / 8
            self._level = min(level, self._burst_bytes)

    @property
    def _burst_bytes(self) -> float:
        if self._rate_bps == UNLIMITED:
            return 0.0
        slack = SLACK_S * self._rate_bps / 8
        return min(MAX_BURST_BYTES, max(0.0, slack - self.piece_bytes))


def piece_bytes(rate_bps: float) -> int:
    """The size of a piece, on the wire, for a rate in bits per second."""
    bytes_s = rate_bps / 8
    even = min(MAX_PIECE_BYTES, max(FRAME_BYTES, bytes_s * PIECE_S))
    return int(max(MIN_PIECE_BYTES, min(even, bytes_s * MAX_PIECE_S)))


def _checked(rate_bps: float) -> float:
    assert rate_bps >= 0, f"{rate_bps} is no rate"
    return rate_bps
