"""Days and hours of the week as they are written, and a weekly time when the clocks change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whenever import Instant

from store.errors import BadSettings
from store.week import Span, Weekly, parse_days, parse_hours, parse_time

BERLIN = "Europe/Berlin"
ZONES = [BERLIN, "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Havana", "UTC"]


def ns(iso: str) -> int:
    return Instant(iso).timestamp(unit="nanosecond")


def utc(time_ns: int) -> str:
    return Instant.from_timestamp(time_ns, unit="nanosecond").format_iso()


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("", range(7)),
        ("mon-fri", range(5)),
        ("sat,sun", (5, 6)),
        ("fri-mon", (4, 5, 6, 0)),
        ("Monday, wed - friday", (0, 2, 3, 4)),
        ("thurs", (3,)),
        ("mon-sun", range(7)),
    ],
)
def test_days_are_names_and_ranges(text: str, days: range) -> None:
    assert parse_days(text) == frozenset(days)


@pytest.mark.parametrize("text", ["mo", "mon-", "-fri", "mon,,tue", "someday", "mon fri", "1-5"])
def test_what_are_no_days_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="no days"):
        parse_days(text)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("", [(0, 1440)]),
        ("08:00-18:00", [(480, 1080)]),
        ("8-12,13-17:30", [(480, 720), (780, 1050)]),
        ("22:00-06:00", [(1320, 360)]),
        ("18-24", [(1080, 1440)]),
        ("18-0", [(1080, 1440)]),
        ("0-24", [(0, 1440)]),
    ],
)
def test_hours_are_spans_of_a_day(text: str, spans: list[tuple[int, int]]) -> None:
    assert parse_hours(text) == tuple(Span(*span) for span in spans)


@pytest.mark.parametrize(
    "text", ["8", "8-8", "24-8", "8-25", "08:60-09:00", "a-b", "8-12,", "-8-9"]
)
def test_what_are_no_hours_is_refused(text: str) -> None:
    with pytest.raises(BadSettings):
        parse_hours(text)


@pytest.mark.parametrize(("text", "minute"), [("18:00", 1080), ("0", 0), ("7", 420), ("0230", 150)])
def test_a_time_of_the_day_is_a_minute(text: str, minute: int) -> None:
    assert parse_time(text) == minute


@pytest.mark.parametrize("text", ["", "24", "24:00", "12:60", "noon", "-1", "12:"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="time of the day"):
        parse_time(text)


def friday(text: str) -> Weekly:
    return Weekly(parse_days("fri"), parse_time(text), BERLIN)


def test_a_weekly_time_comes_on_its_day_by_the_local_clock() -> None:
    weekly = friday("18:00")
    assert utc(weekly.next(ns("2026-11-25T12:00:00Z"))) == "2026-11-27T17:00:00Z"
    assert utc(weekly.next(ns("2026-07-01T12:00:00Z"))) == "2026-07-03T16:00:00Z"
    assert utc(weekly.last(ns("2026-11-27T17:00:00Z"))) == "2026-11-27T17:00:00Z"
    assert utc(weekly.last(ns("2026-11-27T16:59:59Z"))) == "2026-11-20T17:00:00Z"


def test_a_weekly_time_comes_once_when_the_clocks_change() -> None:
    skipped = Weekly(parse_days("sun"), parse_time("02:30"), BERLIN)
    assert utc(skipped.next(ns("2026-03-28T12:00:00Z"))) == "2026-03-29T01:30:00Z"
    assert utc(skipped.next(ns("2026-03-29T01:30:00Z"))) == "2026-04-05T00:30:00Z"
    assert utc(skipped.next(ns("2026-10-24T12:00:00Z"))) == "2026-10-25T00:30:00Z"
    assert utc(skipped.next(ns("2026-10-25T00:30:00Z"))) == "2026-11-01T01:30:00Z"


@given(
    st.integers(0, 4 * 10**18),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.sampled_from(ZONES),
)
def test_the_last_and_the_next_time_enclose_now_and_nothing_lies_between(
    now_ns: int, days: frozenset[int], minute: int, zone: str
) -> None:
    weekly = Weekly(days, minute, zone)
    last, following = weekly.last(now_ns), weekly.next(now_ns)
    assert last <= now_ns < following
    assert weekly.last(following) == following
    assert weekly.last(following - 1) == last
    assert weekly.next(last) == following
