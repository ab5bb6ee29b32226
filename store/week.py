"""Days and hours of the week, as the clock on the wall shows them: what holds now, and until when.

    days = "mon-fri"          empty: every day; "sat,sun", "fri-mon"
    hours = "08:00-18:00"     empty: the whole day; "22:00-06:00" belongs to the day it begins on

An hour that comes twice when clocks go back is in force twice, one that is skipped when they go
forward does not come, and what begins inside the skipped hour begins when the clock has passed it.

Pure; any thread. The system's zone is read once per process by the time library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from whenever import SYSTEM_TZ, Instant, PlainDateTime, Time, ZonedDateTime

from store.errors import BadSettings

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MIN: Final = 24 * 60
_SEARCH_DAYS = 15
"""A change is looked for so far ahead: two weeks, as one may be short of a day."""

_DAYS_HINT = "write days such as mon-fri, sat,sun or mon,wed-fri; leave them away for every day"
_HOURS_HINT = "write hours such as 08:00-18:00, 22:00-06:00 or 8-12,13-17"
_TIME_HINT = "write a time of the day such as 18:00"
_LONGER: Final = ("day", "sday", "nesday", "rsday", "day", "urday", "day")


def parse_days(text: str) -> frozenset[int]:
    """Numbers of weekdays, 0 for Monday; all of them for empty text. BadSettings."""
    if not text.strip():
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = part.strip().partition("-")
        start = _day(first, text)
        stop = _day(last, text) if dash else start
        found |= {(start + step) % 7 for step in range((stop - start) % 7 + 1)}
    return frozenset(found)


def _day(word: str, text: str) -> int:
    word = word.strip()
    for number, name in enumerate(DAYS):
        if len(word) >= 3 and f"{name}{_LONGER[number]}".startswith(word):
            return number
    raise BadSettings(f"{text!r} are no days of the week", _DAYS_HINT)


class Span(NamedTuple):
    """Minutes of a local day, [start, stop); `stop` before or at `start`: into the next day."""

    start: int
    stop: int


def parse_hours(text: str) -> tuple[Span, ...]:
    """The parts of a day; all of it for empty text. BadSettings."""
    if not text.strip():
        return (Span(0, DAY_MIN),)
    spans = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not dash:
            raise BadSettings(f"{text!r} are no hours", _HOURS_HINT)
        start, stop = _minute(first), _minute(last)
        if start is None or stop is None:
            raise BadSettings(f"{text!r} are no hours", _HOURS_HINT)
        if start in (DAY_MIN, stop):
            raise BadSettings(f"{text!r}: {part.strip()} is no time of the day", _HOURS_HINT)
        spans.append(Span(start, stop or DAY_MIN))
    return tuple(spans)


def parse_time(text: str) -> int:
    """The minute of the day that a time such as `18:00` means. BadSettings."""
    minute = _minute(text)
    if minute is None or minute == DAY_MIN:
        raise BadSettings(f"{text!r} is no time of the day", _TIME_HINT)
    return minute


def _minute(word: str) -> int | None:
    found = re.fullmatch(r"(\d{1,2})(?::?(\d\d))?", word.strip())
    if found is None or int(found[2] or 0) > 59:
        return None
    minute = int(found[1]) * 60 + int(found[2] or 0)
    return minute if minute <= DAY_MIN else None


@dataclass(frozen=True)
class Hours:
    """Some hours of some days."""

    days: frozenset[int]
    spans: tuple[Span, ...]

    def fits(self, weekday: int, minute: int) -> bool:
        """Does it hold at that minute of that local weekday (0: Monday)?"""
        before = (weekday - 1) % 7
        for start, stop in self.spans:
            if start < stop:
                if weekday in self.days and start <= minute < stop:
                    return True
            elif (weekday in self.days and minute >= start) or (
                before in self.days and minute < stop
            ):
                return True
        return False


class Week:
    """Several of them, of which the first that fits counts.

    `zone` is the name of a time zone; None: the system's.
    """

    def __init__(self, hours: Sequence[Hours], zone: str | None = None) -> None:
        self._hours = tuple(hours)
        self._zone = zone

    def at(self, now_ns: int) -> int | None:
        """Which holds at `now_ns` (ns since 1970, UTC), by its index; None: none does."""
        return self._at(_local(now_ns, self._zone))

    def _at(self, when: ZonedDateTime) -> int | None:
        weekday = when.date().day_of_week().value - 1
        minute = when.hour * 60 + when.minute
        fitting = (at for at, hours in enumerate(self._hours) if hours.fits(weekday, minute))
        return next(fitting, None)

    def next_change(self, now_ns: int) -> int | None:
        """The first time after `now_ns` at which another one holds; None: in no week."""
        now = _local(now_ns, self._zone)
        holds = self._at(now)
        for time_ns in sorted({ns for ns in self._candidates(now) if ns > now_ns}):
            if self.at(time_ns) != holds:
                return time_ns
        return None

    def _candidates(self, now: ZonedDateTime) -> Iterator[int]:
        """Every time at which another may begin to hold, in no order."""
        minutes = {minute for hours in self._hours for span in hours.spans for minute in span}
        minutes = {minute % DAY_MIN for minute in minutes} | {0}
        today = now.date()
        for ahead in range(-1, _SEARCH_DAYS):
            day = today.add(days=ahead)
            for minute in minutes:
                local = day.at(Time(minute // 60, minute % 60))
                yield from self._instants(local)
        # Where the clock jumps, any of them may begin or end.
        last = today.add(days=_SEARCH_DAYS)
        jump = now.next_transition()
        while jump is not None and jump.date() <= last:
            yield jump.timestamp(unit="nanosecond")
            jump = jump.next_transition()

    def _instants(self, local: PlainDateTime) -> Iterator[int]:
        """The times at which the clock shows `local`: none, one or two."""
        zone = SYSTEM_TZ if self._zone is None else self._zone
        for which in ("earlier", "later"):
            shown = local.assume_tz(zone, disambiguation=which)
            if shown.to_plain() == local:
                yield shown.timestamp(unit="nanosecond")


class Weekly:
    """A time of the day on some days of the week.

    When clocks go back over it, it comes once, the first time; when they skip it, it comes as long
    after the jump as it would have come after the hour that is skipped began.
    """

    def __init__(self, days: frozenset[int], minute: int, zone: str | None = None) -> None:
        self._days = days
        self._minute = minute
        self._zone = zone

    def last(self, now_ns: int) -> int:
        """The newest time at or before `now_ns` (ns since 1970, UTC) at which it came."""
        return max(ns for ns in self._around(now_ns) if ns <= now_ns)

    def next(self, now_ns: int) -> int:
        """The first time after `now_ns` at which it comes."""
        return min(ns for ns in self._around(now_ns) if ns > now_ns)

    def _around(self, now_ns: int) -> Iterator[int]:
        zone = SYSTEM_TZ if self._zone is None else self._zone
        today = _local(now_ns, self._zone).date()
        for ahead in range(-_SEARCH_DAYS, _SEARCH_DAYS):
            day = today.add(days=ahead)
            if day.day_of_week().value - 1 in self._days:
                local = day.at(Time(self._minute // 60, self._minute % 60))
                yield local.assume_tz(zone, disambiguation="compatible").timestamp(
                    unit="nanosecond"
                )


def _local(time_ns: int, zone: str | None) -> ZonedDateTime:
    instant = Instant.from_timestamp(time_ns, unit="nanosecond")
    return instant.to_tz(SYSTEM_TZ if zone is None else zone)
