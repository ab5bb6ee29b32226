"""The throttle's calendar: rates, days and hours as they are written, and what holds when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whenever import Instant

from replicator.calendar import (
    Calendar,
    Override,
    Rule,
    Standing,
    parse_rate,
    parse_rule,
    rate_text,
)
from replicator.errors import BadSettings

BERLIN = "Europe/Berlin"
ZONES = [BERLIN, "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Havana", "UTC"]
WORK = ("mon-fri", "08:00-18:00", "256k")


def ns(iso: str) -> int:
    return Instant(iso).timestamp(unit="nanosecond")


def iso(time_ns: int | None) -> str:
    assert time_ns is not None
    return Instant.from_timestamp(time_ns, unit="nanosecond").to_tz(BERLIN).format_iso()[:25]


def calendar(*rules: tuple[str, str, str], override: Override | None = None) -> Calendar:
    return Calendar([parse_rule(*rule) for rule in rules], override, BERLIN)


# --- as they are written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("56k", 56_000),
        ("2M", 2_000_000),
        ("1.5M", 1_500_000),
        ("100m", 100_000_000),
        ("1G", 1_000_000_000),
        ("9600", 9600),
        ("56kbit/s", 56_000),
        ("off", None),
        ("pause", 0),
        ("0", 0),
    ],
)
def test_rates_are_bits_per_second_in_thousands(text: str, rate: int | None) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "fast", "-1", "56q", "1e9", "1.5.5M", "0.1", "9999999G", "nan"]
)
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadSettings) as caught:
        parse_rate(text)
    assert "56k" in caught.value.hint


@given(st.integers(1000, 10**12) | st.none() | st.just(0))
def test_a_rate_as_text_is_read_back_as_it_was(rate: int | None) -> None:
    assert parse_rate(rate_text(rate)) == rate


@pytest.mark.parametrize("rule", [("mo", "", "56k"), ("mon", "8", "56k"), ("mon", "8-9", "x")])
def test_a_rule_with_a_part_that_is_none_is_refused(rule: tuple[str, str, str]) -> None:
    with pytest.raises(BadSettings):
        parse_rule(*rule)


# --- what holds when -----------------------------------------------------------------------------


def test_a_rule_holds_in_its_hours_and_no_limit_outside() -> None:
    work = calendar(WORK)
    monday = work.at(ns("2026-11-23T07:59:59.9+01:00"))
    assert (monday.rate_bps, iso(monday.until_ns)) == (None, "2026-11-23T08:00:00+01:00")
    inside = work.at(ns("2026-11-23T08:00:00+01:00"))
    assert (inside.rate_bps, iso(inside.until_ns)) == (256_000, "2026-11-23T18:00:00+01:00")
    assert inside.reason == "calendar: 256k mon-fri 08:00-18:00"
    friday = work.at(ns("2026-11-27T18:00:00+01:00"))
    assert (friday.rate_bps, iso(friday.until_ns)) == (None, "2026-11-30T08:00:00+01:00")


def test_the_first_rule_that_fits_counts() -> None:
    both = calendar(("mon", "", "pause"), ("", "", "1M"))
    assert both.at(ns("2026-11-23T12:00:00+01:00")).rate_bps == 0
    tuesday = both.at(ns("2026-11-24T12:00:00+01:00"))
    assert (tuesday.rate_bps, iso(tuesday.until_ns)) == (1_000_000, "2026-11-30T00:00:00+01:00")


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    night = calendar(("fri", "22:00-06:00", "off"), ("", "", "56k"))
    assert night.at(ns("2026-11-28T05:59:00+01:00")).rate_bps is None  # Saturday morning
    assert night.at(ns("2026-11-27T05:59:00+01:00")).rate_bps == 56_000  # Friday morning
    evening = night.at(ns("2026-11-27T23:00:00+01:00"))
    assert (evening.rate_bps, iso(evening.until_ns)) == (None, "2026-11-28T06:00:00+01:00")


def test_what_is_set_by_hand_counts_before_the_rules_until_it_ends() -> None:
    end = ns("2026-11-23T10:00:00+01:00")
    both = calendar(WORK, override=Override(2_000_000, end))
    assert both.at(end - 1) == Standing(2_000_000, "set by hand", end)
    assert both.at(end).rate_bps == 256_000
    for_ever = calendar(WORK, override=Override(None))
    assert for_ever.at(end) == Standing(None, "set by hand", None)


def test_without_rules_there_is_no_limit_for_ever() -> None:
    assert calendar().at(0) == Standing(None, "no limit is set", None)
    always = calendar(("", "", "56k")).at(ns("2026-11-23T10:00:00+01:00"))
    assert (always.rate_bps, always.until_ns) == (56_000, None)


def test_an_hour_that_comes_twice_is_in_force_twice() -> None:
    twice = calendar(("", "02:30-02:45", "56k"))
    for offset in ("+02:00", "+01:00"):
        during = twice.at(ns(f"2026-10-25T02:31:00{offset}"))
        assert (during.rate_bps, iso(during.until_ns)) == (56_000, f"2026-10-25T02:45:00{offset}")
    between = twice.at(ns("2026-10-25T02:50:00+02:00"))
    assert (between.rate_bps, iso(between.until_ns)) == (None, "2026-10-25T02:30:00+01:00")


def test_a_skipped_hour_does_not_come() -> None:
    skipped = calendar(("", "02:00-03:00", "56k"))
    before = skipped.at(ns("2026-03-29T01:59:59+01:00"))
    assert (before.rate_bps, iso(before.until_ns)) == (None, "2026-03-30T02:00:00+02:00")


def test_a_rule_that_begins_in_a_skipped_hour_begins_after_it() -> None:
    late = calendar(("", "02:30-05:00", "56k"))
    before = late.at(ns("2026-03-29T01:00:00+01:00"))
    assert (before.rate_bps, iso(before.until_ns)) == (None, "2026-03-29T03:00:00+02:00")
    after = late.at(ns("2026-03-29T03:00:00+02:00"))
    assert (after.rate_bps, iso(after.until_ns)) == (56_000, "2026-03-29T05:00:00+02:00")


def test_a_rule_ends_where_clocks_go_back_over_its_beginning() -> None:
    over = calendar(("", "02:50-03:00", "56k"))
    first = over.at(ns("2026-10-25T02:55:00+02:00"))
    assert (first.rate_bps, iso(first.until_ns)) == (56_000, "2026-10-25T02:00:00+01:00")


MINUTES = st.integers(0, 47).map(lambda half: f"{half // 2}:{half % 2 * 30:02}")
HOURS = st.tuples(MINUTES, MINUTES).filter(lambda ends: ends[0] != ends[1]).map("-".join)
DAY_TEXT = st.sampled_from(["", "mon-fri", "sat,sun", "fri-mon", "wed", "sun"])
RULES = st.lists(
    st.builds(parse_rule, DAY_TEXT, st.just("") | HOURS, st.sampled_from(["56k", "2M", "off"])),
    min_size=1,
    max_size=4,
)
# Around changes of the clocks, and Apia's missing 30 December 2011.
TIMES = st.sampled_from(
    [
        ns("2026-03-28T12:00:00Z"),
        ns("2026-03-07T12:00:00Z"),
        ns("2026-10-24T12:00:00Z"),
        ns("2026-10-31T12:00:00Z"),
        ns("2026-04-04T00:00:00Z"),
        ns("2011-12-29T12:00:00Z"),
    ]
)


@given(rules=RULES, zone=st.sampled_from(ZONES), start_ns=TIMES, later_min=st.integers(0, 3 * 1440))
def test_nothing_changes_before_the_stated_time_and_something_does_then(
    rules: list[Rule], zone: str, start_ns: int, later_min: int
) -> None:
    minute_ns = 60_000_000_000
    plan = Calendar(rules, None, zone)
    now = start_ns + later_min * minute_ns
    standing = plan.at(now)
    stop = now + 2 * 1440 * minute_ns if standing.until_ns is None else standing.until_ns
    for time_ns in range(now, min(stop, now + 2 * 1440 * minute_ns), 10 * minute_ns):
        assert plan.at(time_ns)[:2] == standing[:2]
    if standing.until_ns is not None:
        assert plan.at(standing.until_ns - 1)[:2] == standing[:2]
        assert plan.at(standing.until_ns)[:2] != standing[:2] or len(rules) > 1
