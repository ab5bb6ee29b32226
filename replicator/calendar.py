"""The limit on a line by the hours of the week: which holds now, why, and when it changes next.

    [[throttle]]              the first rule that fits counts; where none does there is no limit
    days = "mon-fri"          empty: every day; "sat,sun", "fri-mon"
    hours = "08:00-18:00"     empty: the whole day; "22:00-06:00" belongs to the day it begins on
    rate = "256k"             bits per second; "off": no limit; "pause": nothing

    [override]                set by hand; counts before the rules until it ends
    rate = "56k"
    until_ns = 0              0: until it is taken away

Hours are local wall-clock time, as the clock on the wall shows it: an hour that comes twice when
clocks go back is in force twice, one that is skipped when they go forward does not come, and a rule
that begins inside the skipped hour begins when the clock has passed it.

Pure; any thread. The system's zone is read once per process by the time library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from whenever import SYSTEM_TZ, Instant, PlainDateTime, Time, ZonedDateTime

from replicator.errors import BadSettings

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MIN = 24 * 60
_SEARCH_DAYS = 15
"""A change is looked for so far ahead: two weeks, as one may be short of a day."""
_NS_PER_S = 1_000_000_000

UNITS: Final = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
MIN_RATE_BPS = 1_000
"""Below this not even the acknowledgements of an idle connection would fit."""
MAX_RATE_BPS = 1_000_000_000_000

_RATE_HINT = "write bits per second, such as 56k, 1.5M or 100M, or off, or pause"
_DAYS_HINT = "write days such as mon-fri, sat,sun or mon,wed-fri; leave them away for every day"
_HOURS_HINT = "write hours such as 08:00-18:00, 22:00-06:00 or 8-12,13-17"


def parse_rate(text: str) -> int | None:
    """Bits per second that `56k`, `2M` or `1.5M` mean; None for `off`, 0 for `pause`. BadSettings.

    As with every line, k and M are thousands and millions.
    """
    word = text.strip().lower()
    if word in ("off", "pause"):
        return None if word == "off" else 0
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([kmg]?)(?:bit(?:/s)?|bps)?", word)
    if found is None:
        raise BadSettings(f"{text!r} is no rate", _RATE_HINT)
    exact = float(found[1]) * UNITS[found[2]]
    rate = round(exact)
    if exact and not MIN_RATE_BPS <= rate <= MAX_RATE_BPS:
        raise BadSettings(
            f"{text!r} is outside {rate_text(MIN_RATE_BPS)} to {rate_text(MAX_RATE_BPS)}",
            _RATE_HINT,
        )
    return rate


def rate_text(rate_bps: int | None) -> str:
    """The shortest text that `parse_rate` reads as this rate."""
    if not rate_bps:
        return "off" if rate_bps is None else "pause"
    for unit, factor in (("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        if rate_bps >= factor and rate_bps * 1000 % factor == 0:
            whole, rest = divmod(rate_bps, factor)
            digits = f"{rest * 1000 // factor:03}".rstrip("0")
            return f"{whole}{'.' if digits else ''}{digits}{unit}"
    return str(rate_bps)


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


_LONGER: Final = ("day", "sday", "nesday", "rsday", "day", "urday", "day")


class Span(NamedTuple):
    """Minutes of a local day, [start, stop); `stop` before or at `start`: into the next day."""

    start: int
    stop: int


def parse_hours(text: str) -> tuple[Span, ...]:
    """The parts of a day; all of it for empty text. BadSettings."""
    if not text.strip():
        return (Span(0, _DAY_MIN),)
    spans = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not dash:
            raise BadSettings(f"{text!r} are no hours", _HOURS_HINT)
        start, stop = _minute(first, text), _minute(last, text)
        if start in (_DAY_MIN, stop):
            raise BadSettings(f"{text!r}: {part.strip()} is no time of the day", _HOURS_HINT)
        spans.append(Span(start, stop or _DAY_MIN))
    return tuple(spans)


def _minute(word: str, text: str) -> int:
    found = re.fullmatch(r"(\d{1,2})(?::?(\d\d))?", word.strip())
    minute = int(found[1]) * 60 + int(found[2] or 0) if found else -1
    if found is None or int(found[2] or 0) > 59 or not 0 <= minute <= _DAY_MIN:
        raise BadSettings(f"{text!r} are no hours", _HOURS_HINT)
    return minute


@dataclass(frozen=True)
class Rule:
    """One `[[throttle]]`."""

    days: frozenset[int]
    spans: tuple[Span, ...]
    rate_bps: int | None
    text: str
    """For people: `256k on mon-fri 08:00-18:00`."""

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


def parse_rule(days: str, hours: str, rate: str) -> Rule:
    """A rule from its three texts. BadSettings says which of them is wrong, and why."""
    rule_days, spans, bps = parse_days(days), parse_hours(hours), parse_rate(rate)
    when = " ".join(part for part in (days.strip().lower(), hours.strip()) if part)
    return Rule(rule_days, spans, bps, f"{rate_text(bps)} {when or 'always'}")


@dataclass(frozen=True)
class Override:
    """A limit set by hand, until a wall time in ns since 1970; 0: it stays."""

    rate_bps: int | None
    until_ns: int = 0


class Standing(NamedTuple):
    """What holds at a moment."""

    rate_bps: int | None
    """None: no limit; 0: pause."""
    reason: str
    until_ns: int | None
    """Wall time of the next change; None: as long as nobody changes the settings."""


NO_LIMIT = Standing(None, "no limit is set", None)


class Calendar:
    """Rules by the hours of the week, and what was set by hand.

    `zone` is the name of a time zone; None: the system's.
    """

    def __init__(
        self, rules: Sequence[Rule], override: Override | None = None, zone: str | None = None
    ) -> None:
        self._rules = tuple(rules)
        self._override = override
        self._zone = zone

    def at(self, now_ns: int) -> Standing:
        """What holds at `now_ns` (ns since 1970, UTC)."""
        override = self._override
        if override is not None and (not override.until_ns or now_ns < override.until_ns):
            return Standing(override.rate_bps, "set by hand", override.until_ns or None)
        if not self._rules:
            return NO_LIMIT
        now = self._local(now_ns)
        rule = self._rule_at(now)
        until = self._next_change(now, rule)
        if rule is None:
            return Standing(None, "no rule of the calendar holds now", until)
        return Standing(rule.rate_bps, f"calendar: {rule.text}", until)

    def _local(self, time_ns: int) -> ZonedDateTime:
        instant = Instant.from_timestamp(time_ns, unit="nanosecond")
        return instant.to_tz(SYSTEM_TZ if self._zone is None else self._zone)

    def _rule_at(self, when: ZonedDateTime) -> Rule | None:
        weekday = when.date().day_of_week().value - 1
        minute = when.hour * 60 + when.minute
        return next((rule for rule in self._rules if rule.fits(weekday, minute)), None)

    def _next_change(self, now: ZonedDateTime, rule: Rule | None) -> int | None:
        """The first time after `now` at which another rule holds; None: in no week."""
        now_ns = now.timestamp(unit="nanosecond")
        for time_ns in sorted({ns for ns in self._candidates(now) if ns > now_ns}):
            if self._rule_at(self._local(time_ns)) is not rule:
                return time_ns
        return None

    def _candidates(self, now: ZonedDateTime) -> Iterator[int]:
        """Every time at which another rule may begin to hold, in no order."""
        minutes = {minute for rule in self._rules for span in rule.spans for minute in span}
        minutes = {minute % _DAY_MIN for minute in minutes} | {0}
        today = now.date()
        for ahead in range(-1, _SEARCH_DAYS):
            day = today.add(days=ahead)
            for minute in minutes:
                local = day.at(Time(minute // 60, minute % 60))
                yield from self._instants(local)
        # Where the clock jumps, any rule may begin or end.
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


def as_rate(rate_bps: int | None) -> float:
    """A standing's rate as the bucket has it: `inf` for no limit."""
    return math.inf if rate_bps is None else float(rate_bps)
