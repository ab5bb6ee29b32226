"""The grammar of moments: turns what a person types after `@` into a value.

    @15:00  @15:00:30.25  @noon  @midnight           the most recent past occurrence
    @2026-11-22                                      the start of that local day
    @2026-11-22T15:00[:SS[.fff]][Z|+01:00|-0530]     a space may replace the T
    @20261122  @20261122T1500[SS[.fff]][Z|+01:00]    the same, without punctuation
    @-10m  @-2h30m  @-1d  @2 hours ago               before now; units w d h m s
    @yesterday  @yesterday 15:00                     @yesterday alone: same local time
    @monday  @monday 9:00  @mon 9:00                 the most recent; alone: start of the day
    @now  @lsn:N  @mark:NAME  @before-last-write

The `@` may be missing, words ignore case, a dot may replace any space (`@2.hours.ago`, so that
a path needs no quoting), the whole may stand in double quotes, and `!exact` may follow anything.

What a text means where it could mean several things:

- `@15:00` is 15:00:00 sharp, today if it has come already, else yesterday; `note` says when the
  day is not today.
- Times are local unless an offset is given. A local time that happens twice (clocks go back) is
  the earlier one. A local time that is skipped (clocks go forward) is moved on by the length of
  the gap, the rule that RFC 5545 section 3.3.5 states. `note` reports both.
- Durations are exact: a day is 24 hours and a week 168, across a change of clocks too.
  `@yesterday` follows the calendar instead, and can be 23 or 25 hours ago.
- A moment in the future is a valid moment; whoever resolves it knows the clock of the journal
  and refuses it.

Pure, and safe to call from any thread. Must not know the journal or what a moment resolves to.
The system's zone is read once per process by the time library.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn, TypeAlias

from whenever import (
    SYSTEM_TZ,
    Date,
    Instant,
    PlainDateTime,
    Time,
    TimeZoneNotFoundError,
    ZonedDateTime,
)

from store.types import Lsn, TimeNs
from timetravel.errors import MomentError

MAX_TEXT_CHARS: Final = 200
MAX_MARK_CHARS: Final = 100
MAX_MARK_BYTES: Final = 240
"""In UTF-8, so that `@mark:NAME!exact` stays within the 255 bytes of a file name."""
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2200
"""First and last year that a moment may lie in, both inclusive, counted in UTC."""

_EXACT: Final = "!exact"
_NS_PER_S: Final = 1_000_000_000
_MAX_LSN: Final = 2**63 - 1
_START_TIME_NS: Final = Instant.from_utc(FIRST_YEAR, 1, 1).timestamp(unit="nanosecond")
_STOP_TIME_NS: Final = Instant.from_utc(LAST_YEAR + 1, 1, 1).timestamp(unit="nanosecond")

_YEAR_REASON_AND_HINT: Final = (
    f"outside the years {FIRST_YEAR} to {LAST_YEAR} (UTC)",
    "check the year, or the length of the time span",
)
_GRAMMAR_HINT: Final = (
    "write for example @15:00, @2026-11-22T15:00, @-10m, @yesterday, @monday 9:00, "
    "@2 hours ago, @lsn:42, @mark:NAME or @before-last-write"
)


class BaseMoment(ABC):
    """What all moments share. `exact` asks for the very point instead of the barrier before it.

    `note` tells a person about a choice that was made in reading the text; it is empty where
    there was none, and does not take part in comparisons.
    """

    __slots__ = ()
    exact: bool
    note: str = ""

    @abstractmethod
    def _body(self) -> str:
        """The canonical text without `@` and suffix."""

    def display(self) -> str:
        """The canonical text: `parse_moment` gives an equal moment back, in any zone."""
        return f"@{self._body()}{_EXACT if self.exact else ''}"


@dataclass(frozen=True, slots=True)
class AtTime(BaseMoment):
    """The state as of `time_ns`, sharp."""

    time_ns: TimeNs
    exact: bool = False
    note: str = field(default="", compare=False)

    def _body(self) -> str:
        return _instant(self.time_ns).format_iso()


@dataclass(frozen=True, slots=True)
class AtLsn(BaseMoment):
    """The state right after the op with this LSN; 0 is the state before the first op."""

    lsn: Lsn
    exact: bool = False

    def _body(self) -> str:
        return f"lsn:{self.lsn}"


@dataclass(frozen=True, slots=True)
class AtMark(BaseMoment):
    """The state at the mark `name`, which `valid_mark_name` has passed."""

    name: str
    exact: bool = False

    def _body(self) -> str:
        return f"mark:{self.name}"


@dataclass(frozen=True, slots=True)
class BeforeLastWrite(BaseMoment):
    """The state right before the last change of whatever the moment is applied to."""

    exact: bool = False

    def _body(self) -> str:
        return "before-last-write"


Moment: TypeAlias = AtTime | AtLsn | AtMark | BeforeLastWrite


def parse_moment(text: str, *, now_ns: int, zone: str | None) -> Moment:
    """Read a moment in the grammar of this module.

    `text` is what was typed, with or without the `@`. `now_ns` (nanoseconds since the Unix
    epoch) is what relative moments start from. `zone` is an IANA name, or None for the system's
    local zone. A bare time of day, such as `@15:00`, is its most recent past occurrence.

    Raises MomentError for anything that is no moment, with a hint how to write it.
    """
    if len(text) > MAX_TEXT_CHARS:
        hint = f"a moment has at most {MAX_TEXT_CHARS} characters; {_GRAMMAR_HINT}"
        raise MomentError(text, f"too long ({len(text)} characters)", hint)
    body, exact = _unwrapped(text)
    keyword, colon, rest = body.partition(":")
    if colon and keyword.lower() == "lsn":
        return AtLsn(_lsn(text, rest), exact)
    if colon and keyword.lower() == "mark":
        return AtMark(valid_mark_name(rest), exact)
    if body.lower() == "before-last-write":
        return BeforeLastWrite(exact)
    time_ns, note = _parse_time(_Question(text, now_ns, zone), body.lower())
    return AtTime(time_ns, exact, note)


def valid_mark_name(name: str) -> str:
    """Return `name` as marks are stored (Unicode NFC, so that what looks equal is equal).

    A name is printable text without `/`, not `.` or `..`, without blanks at its ends, up to
    MAX_MARK_CHARS characters and MAX_MARK_BYTES bytes of UTF-8, and does not end in `!exact`,
    which would be read as the suffix. Raises MomentError.
    """
    name = unicodedata.normalize("NFC", name)
    size_bytes = len(name.encode("utf-8", "surrogatepass"))
    reason = None
    if not name:
        reason = "a mark needs a name"
    elif len(name) > MAX_MARK_CHARS or size_bytes > MAX_MARK_BYTES:
        reason = f"too long for a mark's name ({len(name)} characters, {size_bytes} bytes)"
    elif not name.isprintable():
        reason = "a mark's name can't contain control, invisible or undecodable characters"
    elif "/" in name or name in {".", ".."}:
        reason = "a mark's name becomes a file name: no '/', and neither '.' nor '..'"
    elif name != name.strip():
        reason = "a mark's name can't begin or end with a blank"
    elif name.lower().endswith(_EXACT):
        reason = f"a mark's name can't end in {_EXACT}, which means something after a moment"
    if reason is not None:
        hint = (
            f"use up to {MAX_MARK_CHARS} characters and {MAX_MARK_BYTES} bytes, "
            "for example before-upgrade_2.1"
        )
        raise MomentError(name, reason, hint)
    return name


def format_time(time_ns: int, zone: str | None = None) -> str:
    """`2026-11-22T15:00:00.000+01:00`: local time with its offset, cut to milliseconds.

    `zone` is an IANA name or None for the system's zone; an unknown one raises MomentError. Times
    outside the years 1 to 9999 raise ValueError.
    """
    local = _in_zone(_instant(time_ns), zone).to_fixed_offset()
    return local.format_iso(unit="millisecond")


def label_for_point(time_ns: int, zone: str | None = None) -> str:
    """`@2026-11-22T15:00:00+01:00`: a file name that reads back as exactly `time_ns`, anywhere.

    The fraction is as long as it must be. Raises MomentError for a time outside the years that
    moments have, and for an unknown zone.
    """
    _check_bounds(str(time_ns), time_ns)
    return f"@{_in_zone(_instant(time_ns), zone).to_fixed_offset().format_iso()}"


# Taking the text apart


def _unwrapped(text: str) -> tuple[str, bool]:
    """The text without `@`, quotes and suffix, and whether the suffix was there."""
    body = _unquoted(text.strip().removeprefix("@").strip())
    exact = body.lower().endswith(_EXACT)
    if exact:
        body = _unquoted(body[: -len(_EXACT)].rstrip())
    if not body:
        raise MomentError(text, "there is no moment in it", _GRAMMAR_HINT)
    return body, exact


def _unquoted(body: str) -> str:
    return body[1:-1].strip() if re.fullmatch('".*"', body) else body


def _lsn(text: str, digits: str) -> Lsn:
    hint = "write @lsn:N with the number that `cdpfs points` or `cdpfs history` shows"
    if not re.fullmatch(r"-?[0-9]+", digits):
        raise MomentError(text, "an LSN is a whole decimal number", hint)
    value = int(digits)
    if not 0 <= value <= _MAX_LSN:
        raise MomentError(text, f"an LSN lies between 0 and {_MAX_LSN}", hint)
    return Lsn(value)


@dataclass(frozen=True, slots=True)
class _Question:
    """A text about time and what it is asked against."""

    text: str
    now_ns: int
    zone: str | None

    def now(self) -> PlainDateTime:
        """What the clock on the wall shows. Only this and `local` need the zone to be known."""
        return _in_zone(_instant(self.now_ns), self.zone, self.text).to_plain()

    def local(self, plain: PlainDateTime) -> tuple[TimeNs, str]:
        """The instant of a local time and a note, by the rules for changes of clocks."""
        if not FIRST_YEAR - 1 <= plain.year <= LAST_YEAR + 1:
            self.refuse(*_YEAR_REASON_AND_HINT)
        early = _assume(plain, self.zone, "earlier", self.text)
        late = _assume(plain, self.zone, "later", self.text)
        early_ns, late_ns = _time_ns(early), _time_ns(late)
        if early_ns == late_ns:
            return early_ns, ""
        wall = f"{plain.time()} on {plain.date()}"
        if early.to_plain() == plain:
            return early_ns, (
                f"{wall} happened twice in local time, at {_offset(early)} and again at "
                f"{_offset(late)}; this is the earlier one, the other is @{_iso(late)}"
            )
        # For a skipped time `late` applies the offset from before the gap, shown in the one after.
        return late_ns, (
            f"{wall} was skipped in local time (clocks went from {_offset(early)} to "
            f"{_offset(late)}); this is {_iso(late)}"
        )

    def refuse(self, reason: str, hint: str = _GRAMMAR_HINT) -> NoReturn:
        raise MomentError(self.text, reason, hint)


def _parse_time(question: _Question, body: str) -> tuple[TimeNs, str]:
    """The instant that `body`, in lower case, means, and a note about how it was understood."""
    for pattern, read in _TIME_FORMS:
        match = pattern.fullmatch(body)
        if match:
            time_ns, note = read(question, match)
            _check_bounds(question.text, time_ns)
            return time_ns, note
    question.refuse("not a moment that can be understood")


# One function per form of time


def _read_now(question: _Question, _match: re.Match[str]) -> tuple[TimeNs, str]:
    return TimeNs(question.now_ns), ""


def _read_clock(question: _Question, match: re.Match[str]) -> tuple[TimeNs, str]:
    """A bare time of day: the most recent one that is not in the future.

    Two steps back at most: one if it has not come today, and one more where a zone left out a
    whole day, as Samoa did with 30 December 2011.
    """
    clock = _clock(question, match)
    today = date = question.now().date()
    time_ns, note = question.local(date.at(clock))
    while time_ns > question.now_ns:
        date = date.subtract(days=1)
        time_ns, note = question.local(date.at(clock))
    if date == today:
        return time_ns, note
    return time_ns, _joined(f"{clock} has not come yet today; this is that of {date}", note)


def _read_yesterday(question: _Question, match: re.Match[str]) -> tuple[TimeNs, str]:
    now = question.now()
    clock = _clock(question, match) if match["clock"] else now.time()
    date = now.date().subtract(days=1)
    time_ns, note = question.local(date.at(clock))
    if match["clock"]:
        return time_ns, note
    return time_ns, _joined(f"this is {clock} of {date}, the same local time yesterday", note)


def _read_weekday(question: _Question, match: re.Match[str]) -> tuple[TimeNs, str]:
    """The most recent such day; today counts once the time of day has come."""
    clock = _clock(question, match) if match["clock"] else Time()
    today = question.now().date()
    days = (today.day_of_week().value - 1 - _WEEKDAYS.index(match["weekday"][:3])) % 7
    date = today.subtract(days=days)
    time_ns, note = question.local(date.at(clock))
    if time_ns > question.now_ns:
        date = date.subtract(days=7)
        time_ns, note = question.local(date.at(clock))
    return time_ns, _joined(f"this is {clock} of {match['weekday'].title()} {date}", note)


def _read_date(question: _Question, match: re.Match[str]) -> tuple[TimeNs, str]:
    """A date, with or without a time of day and an offset."""
    parts = match.groupdict()
    year, month, day = int(parts["year"]), int(parts["month"]), int(parts["day"])
    try:
        date = Date(year, month, day)
    except ValueError:
        question.refuse("there is no such date", "check the month and the day: YEAR-MONTH-DAY")
    clock = _clock(question, match) if parts["clock"] else Time()
    if parts.get("offset") is None:
        return question.local(date.at(clock))
    offset_ns = _offset_s(question, parts["offset"]) * _NS_PER_S
    utc_ns = date.at(clock).assume_utc().timestamp(unit="nanosecond")
    return TimeNs(utc_ns - offset_ns), ""


def _read_ago(question: _Question, match: re.Match[str]) -> tuple[TimeNs, str]:
    """`-2h30m` and `2 hours 30 minutes ago`: an exact span before now."""
    spans: dict[int, int] = {}
    for count, unit in re.findall(r"([0-9]+)[ .]*([a-z]+)", match["spans"]):
        unit_s = _UNITS_S.get(unit)
        if unit_s is None:
            question.refuse(
                f"{unit!r} is no unit of time here",
                "use w, d, h, m or s, or weeks, days, hours, minutes, seconds; "
                "for months and years give the date",
            )
        if unit_s in spans:
            question.refuse("a unit of time stands there twice", "write each unit once: @-2h30m")
        spans[unit_s] = int(count)
    ago_s = sum(unit_s * count for unit_s, count in spans.items())
    return TimeNs(question.now_ns - ago_s * _NS_PER_S), ""


def _clock(question: _Question, match: re.Match[str]) -> Time:
    """The time of day in a match of one of the clock patterns."""
    if match["clock"] in _CLOCK_WORDS:
        return _CLOCK_WORDS[match["clock"]]
    fraction = match["fraction"] or ""
    if len(fraction) > 9:
        question.refuse("more than 9 digits of a second", "a moment is kept to the nanosecond")
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    try:
        return Time(hour, minute, second, nanosecond=int(fraction.ljust(9, "0")))
    except ValueError:
        question.refuse(
            "there is no such time of day",
            "times go from 00:00 to 23:59:59.999999999; for 24:00 write 00:00 of the next day",
        )


def _offset_s(question: _Question, offset: str) -> int:
    """Seconds east of UTC."""
    if offset == "z":
        return 0
    digits = offset[1:].replace(":", "").ljust(6, "0")
    hours, minutes, seconds = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    if hours > 23 or minutes > 59 or seconds > 59:
        question.refuse("there is no such offset from UTC", "offsets go from -23:59 to +23:59")
    return (-1 if offset[0] == "-" else 1) * (hours * 3600 + minutes * 60 + seconds)


_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK_WORDS: Final = {"noon": Time(12), "midnight": Time()}
_UNITS_S: Final = {
    name: unit_s
    for unit_s, names in (
        (604_800, "w week weeks"),
        (86_400, "d day days"),
        (3_600, "h hr hrs hour hours"),
        (60, "m min mins minute minutes"),
        (1, "s sec secs second seconds"),
    )
    for name in names.split()
}

_CLOCK: Final = (
    r"(?P<clock>(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]+))?)?|noon|midnight)"
)
_BASIC_CLOCK: Final = (
    r"(?P<clock>(?P<hour>[0-9]{2})(?P<minute>[0-9]{2})"
    r"(?:(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]+))?)?)"
)
_OFFSET: Final = r" ?(?P<offset>z|[+-][0-9]{2}(?::[0-9]{2}(?::[0-9]{2})?|[0-9]{2}(?:[0-9]{2})?)?)"
_DATE: Final = r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
_BASIC_DATE: Final = r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"
_WEEKDAY: Final = (
    r"(?P<weekday>mon(?:day)?|tue(?:s|sday)?|wed(?:nesday)?|thu(?:rs|rsday)?|fri(?:day)?"
    r"|sat(?:urday)?|sun(?:day)?)"
)
_SPANS: Final = r"(?P<spans>[0-9]+[ .]*[a-z]+(?:[ .]*[0-9]+[ .]*[a-z]+)*)"

_Reader: TypeAlias = Callable[[_Question, re.Match[str]], tuple[TimeNs, str]]
_TIME_FORMS: Final[tuple[tuple[re.Pattern[str], _Reader], ...]] = (
    (re.compile("now"), _read_now),
    (re.compile(_CLOCK), _read_clock),
    (re.compile(rf"{_DATE}(?:(?:t|[ .]+){_CLOCK}(?:{_OFFSET})?)?"), _read_date),
    (re.compile(rf"{_BASIC_DATE}(?:t{_BASIC_CLOCK}(?:{_OFFSET})?)?"), _read_date),
    (re.compile(rf"-{_SPANS}"), _read_ago),
    (re.compile(rf"{_SPANS}[ .]+ago"), _read_ago),
    (re.compile(rf"yesterday(?:[ .]+{_CLOCK})?"), _read_yesterday),
    (re.compile(rf"{_WEEKDAY}(?:[ .]+{_CLOCK})?"), _read_weekday),
)


# Instants, zones and how they are written


def _check_bounds(text: str, time_ns: int) -> None:
    if not _START_TIME_NS <= time_ns < _STOP_TIME_NS:
        raise MomentError(text, *_YEAR_REASON_AND_HINT)


def _instant(time_ns: int) -> Instant:
    return Instant.from_timestamp(time_ns, unit="nanosecond")


def _time_ns(moment: ZonedDateTime) -> TimeNs:
    return TimeNs(moment.timestamp(unit="nanosecond"))


def _in_zone(instant: Instant, zone: str | None, text: str | None = None) -> ZonedDateTime:
    try:
        return instant.to_tz(SYSTEM_TZ if zone is None else zone)
    except TimeZoneNotFoundError as error:
        raise _unknown_zone(zone, text) from error


def _assume(
    plain: PlainDateTime, zone: str | None, which: Literal["earlier", "later"], text: str
) -> ZonedDateTime:
    try:
        return plain.assume_tz(SYSTEM_TZ if zone is None else zone, disambiguation=which)
    except TimeZoneNotFoundError as error:
        raise _unknown_zone(zone, text) from error


def _unknown_zone(zone: str | None, text: str | None) -> MomentError:
    name = "the system's time zone" if zone is None else f"the time zone {zone!r}"
    hint = "use an IANA name such as Europe/Berlin (see TZ, and whether tzdata is installed)"
    return MomentError(text or zone or "", f"{name} is not known here", hint)


def _iso(moment: ZonedDateTime) -> str:
    return moment.to_fixed_offset().format_iso()


def _offset(moment: ZonedDateTime) -> str:
    """`+01:00`, as it stands at the end of an ISO time, after the 19 characters of the seconds."""
    return moment.to_fixed_offset().format_iso(unit="second")[19:]


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
