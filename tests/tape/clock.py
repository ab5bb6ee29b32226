"""A clock that only the test moves."""

from __future__ import annotations

NS_PER_S = 10**9
DAY_S = 86_400


class Clock:
    """Wall time in ns. Whoever pauses lets it go on."""

    def __init__(self, start_ns: int) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """Each look takes a microsecond, so that no two events are at one time."""
        self._now_ns += 1000
        return self._now_ns

    def pause(self, seconds: float) -> None:
        """Let time go by."""
        self._now_ns += int(seconds * NS_PER_S)

    def go_to(self, time_ns: int) -> None:
        """To a later moment."""
        self._now_ns = max(self._now_ns, time_ns)
