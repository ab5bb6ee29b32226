"""How much work the bytes of a shipment are worth. Pure; one thread; time comes in from outside.

Duty: pick the effort with which most of the journal gets to the vault in a given time. On a thin
line that is the one that leaves the fewest bytes; on a fast one, the one that is quick. What each
costs is learned from the shipments made with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple


class Effort(Enum):
    """The ways to make a shipment. The values are for tables and logs."""

    FAST = "fast"
    """Plain, quickly compressed: keeps up with a fast line."""
    GOOD = "good"
    """With references to what both ends hold, quickly compressed."""
    BEST = "best"
    """The fewest bytes."""


class Cost(NamedTuple):
    """Of an effort: raw bytes that are encoded per second, wire bytes per raw byte."""

    raw_bytes_s: float
    ratio: float


FIRST_COSTS: Final[Mapping[Effort, Cost]] = {
    Effort.BEST: Cost(10e6, 0.05),
    Effort.GOOD: Cost(15e6, 0.06),
    Effort.FAST: Cost(150e6, 0.3),
}
"""What is assumed before anything was made; fewest bytes first."""

FIRST_LINE_BPS: Final = 1e6
"""What a line is assumed to carry before anything was sent. Less than most do: they show it with
the first shipment, while one that was made for too fast a line would take a thin one very long."""

CLOSE: Final = 0.8
"""An effort with fewer bytes is taken when it gets so much of the most through."""

TELLING_BYTES: Final = 64 << 10
"""Smaller shipments say little about speed: fixed costs, and the line's latency."""


MAX_PATIENCE: Final = 256
"""Shipments that go out plain after others were refused, at the most."""


def effort_for(line_bps: float, costs: Mapping[Effort, Cost] = FIRST_COSTS) -> Effort:
    """The effort for a line of so many bits per second; `costs` has the fewest bytes first."""
    through = {
        effort: min(cost.raw_bytes_s, line_bps / 8 / max(cost.ratio, 1e-6))
        for effort, cost in costs.items()
    }
    enough = max(through.values()) * CLOSE
    return next(effort for effort, rate in through.items() if rate >= enough)


class Chooser:
    """Learns what the efforts cost and what the line carries."""

    def __init__(self) -> None:
        self._costs = dict(FIRST_COSTS)
        self._line_bps = FIRST_LINE_BPS
        self._plain = self._patience = 0
        """How many of the next shipments go out plain; how many it was the last time."""
        self.limit_bps: float | None = None
        """What the throttle lets through; None or 0 for no limit that would matter."""

    @property
    def line_bps(self) -> float:
        """What the line carried lately, or may carry."""
        return min(self._line_bps, self.limit_bps or self._line_bps)

    def choose(self) -> Effort:
        """The effort for the next shipment."""
        if self._plain:
            return Effort.FAST
        return effort_for(self.line_bps, self._costs)

    def built(self, effort: Effort, raw_bytes: int, wire_bytes: int, took_s: float) -> None:
        """A shipment was made."""
        if raw_bytes < TELLING_BYTES:
            return
        before = self._costs[effort]
        self._costs[effort] = Cost(
            (before.raw_bytes_s + raw_bytes / max(took_s, 1e-6)) / 2,
            (before.ratio + wire_bytes / raw_bytes) / 2,
        )
        # More work never leaves more bytes of the same content. Without this, what others came to
        # with other content would keep them from being tried ever again.
        for other in list(FIRST_COSTS)[: list(FIRST_COSTS).index(effort)]:
            cost = self._costs[other]
            self._costs[other] = cost._replace(ratio=min(cost.ratio, wire_bytes / raw_bytes))

    def refused(self) -> None:
        """The vault could make nothing of a shipment: the next ones are to refer to nothing.

        More of them each time, until one with references has got there.
        """
        self._patience = min(self._patience * 2 or 1, MAX_PATIENCE)
        self._plain = self._patience

    def shipped(self, wire_bytes: int, took_s: float) -> None:
        """So many bytes of a shipment got to the vault in that time."""
        if self._plain:
            self._plain -= 1
        else:
            self._patience = 0
        rate = wire_bytes * 8 / max(took_s, 1e-6)
        if wire_bytes >= TELLING_BYTES and rate < self._line_bps:
            # At once: a line that has become thin would else be given many times the bytes for
            # several shipments, each of which takes it long.
            self._line_bps = rate
        elif rate > self._line_bps or took_s > 1:
            self._line_bps = (self._line_bps + rate) / 2
