"""The limit on a line by the hours of the week: which holds now, why, and when it changes next.

    [[throttle]]              the first rule that fits counts; where none does there is no limit
    days = "mon-fri"          empty: every day; "sat,sun", "fri-mon"
    hours = "08:00-18:00"     empty: the whole day; "22:00-06:00" belongs to the day it begins on
    rate = "256k"             bits per second; "off": no limit; "pause": nothing

    [override]                set by hand; counts before the rules until it ends
    rate = "56k"
    until_ns = 0              0: until it is taken away

Days and hours are those of `store/week.py`: local, as the clock on the wall shows them.

Pure; any thread.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import store.errors
from replicator.errors import BadSettings
from store.week import Hours, Week, parse_days, parse_hours

UNITS: Final = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
MIN_RATE_BPS = 1_000
"""Below this not even the acknowledgements of an idle connection would fit."""
MAX_RATE_BPS = 1_000_000_000_000

_RATE_HINT = "write bits per second, such as 56k, 1.5M or 100M, or off, or pause"


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


@dataclass(frozen=True)
class Rule:
    """One `[[throttle]]`."""

    hours: Hours
    rate_bps: int | None
    text: str
    """For people: `256k on mon-fri 08:00-18:00`."""


def parse_rule(days: str, hours: str, rate: str) -> Rule:
    """A rule from its three texts. BadSettings says which of them is wrong, and why."""
    bps = parse_rate(rate)
    try:
        rule_hours = Hours(parse_days(days), parse_hours(hours))
    except store.errors.BadSettings as error:
        raise BadSettings(str(error), error.hint) from error
    when = " ".join(part for part in (days.strip().lower(), hours.strip()) if part)
    return Rule(rule_hours, bps, f"{rate_text(bps)} {when or 'always'}")


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
        self._week = Week([rule.hours for rule in self._rules], zone)
        self._override = override

    def at(self, now_ns: int) -> Standing:
        """What holds at `now_ns` (ns since 1970, UTC)."""
        override = self._override
        if override is not None and (not override.until_ns or now_ns < override.until_ns):
            return Standing(override.rate_bps, "set by hand", override.until_ns or None)
        if not self._rules:
            return NO_LIMIT
        which = self._week.at(now_ns)
        until = self._week.next_change(now_ns)
        if which is None:
            return Standing(None, "no rule of the calendar holds now", until)
        rule = self._rules[which]
        return Standing(rule.rate_bps, f"calendar: {rule.text}", until)


def as_rate(rate_bps: int | None) -> float:
    """A standing's rate as the bucket has it: `inf` for no limit."""
    return math.inf if rate_bps is None else float(rate_bps)
