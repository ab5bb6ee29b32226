"""Moments and time zones: changes of the clocks, and what holds for any time in any zone."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from whenever import Instant, ZonedDateTime

from store.types import Lsn, TimeNs
from timetravel.errors import MomentError
from timetravel.moment import (
    MAX_TEXT_CHARS,
    AtLsn,
    AtMark,
    AtTime,
    BaseMoment,
    BeforeLastWrite,
    Moment,
    label_for_point,
    parse_moment,
    valid_mark_name,
)

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"
LORD_HOWE = "Australia/Lord_Howe"
KATHMANDU = "Asia/Kathmandu"
APIA = "Pacific/Apia"
HAVANA = "America/Havana"
ZONES = [BERLIN, NEW_YORK, LORD_HOWE, KATHMANDU, APIA, HAVANA, "UTC"]

START_NS = 0
STOP_NS = Instant("2201-01-01T00:00:00Z").timestamp(unit="nanosecond")


def ns(iso: str) -> int:
    """Nanoseconds of an ISO time with an offset or Z."""
    return Instant(iso).timestamp(unit="nanosecond")


NOW = "2026-11-22T16:20:30.5+01:00"


def at(text: str, *, now: str = NOW, zone: str = BERLIN) -> AtTime:
    moment = parse_moment(text, now_ns=ns(now), zone=zone)
    assert isinstance(moment, AtTime)
    return moment


def local(moment: AtTime, zone: str = BERLIN) -> str:
    return label_for_point(moment.time_ns, zone)


# When the clocks change

TWICE = [
    # zone, local time, the earlier instant, the later one
    (BERLIN, "2026-10-25T02:30", "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"),
    (BERLIN, "2026-10-25T02:00", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"),
    (NEW_YORK, "2026-11-01T01:59", "2026-11-01T01:59:00-04:00", "2026-11-01T01:59:00-05:00"),
    (LORD_HOWE, "2026-04-05T01:45", "2026-04-05T01:45:00+11:00", "2026-04-05T01:45:00+10:30"),
    (HAVANA, "2026-11-01", "2026-11-01T00:00:00-04:00", "2026-11-01T00:00:00-05:00"),
]
SKIPPED = [
    # zone, local time, what it becomes, the offsets before and after
    (BERLIN, "2026-03-29T02:30", "2026-03-29T03:30:00+02:00", "+01:00"),
    (BERLIN, "2026-03-29T02:00", "2026-03-29T03:00:00+02:00", "+01:00"),
    (NEW_YORK, "2026-03-08T02:15", "2026-03-08T03:15:00-04:00", "-05:00"),
    (LORD_HOWE, "2026-10-04T02:10", "2026-10-04T02:40:00+11:00", "+10:30"),
    (HAVANA, "2026-03-08", "2026-03-08T01:00:00-04:00", "-05:00"),
]


@pytest.mark.parametrize(("zone", "text", "early", "late"), TWICE)
def test_a_time_that_happens_twice_is_the_earlier_one_and_the_note_names_both(
    zone: str, text: str, early: str, late: str
) -> None:
    moment = at(f"@{text}", zone=zone)
    assert local(moment, zone) == f"@{early}"
    assert "twice" in moment.note
    assert early[-6:] in moment.note
    assert f"@{late}" in moment.note
    assert at(f"@{late}", zone=zone).time_ns == ns(late) > moment.time_ns


@pytest.mark.parametrize(("zone", "text", "becomes", "before"), SKIPPED)
def test_a_skipped_time_moves_on_by_the_gap_and_the_note_says_so(
    zone: str, text: str, becomes: str, before: str
) -> None:
    moment = at(f"@{text}", zone=zone)
    assert local(moment, zone) == f"@{becomes}"
    assert "skipped" in moment.note
    assert becomes in moment.note
    assert f"from {before} to {becomes[-6:]}" in moment.note


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        (BERLIN, "2026-10-25T01:59:59.999999999"),
        (BERLIN, "2026-10-25T03:00"),
        (BERLIN, "2026-03-29T01:59"),
        (BERLIN, "2026-03-29T03:00"),
        (NEW_YORK, "2026-11-01T02:00"),
        (NEW_YORK, "2026-03-08T03:00"),
        (LORD_HOWE, "2026-04-05T02:00"),
        (LORD_HOWE, "2026-10-04T02:30"),
        (KATHMANDU, "2026-03-29T02:30"),
    ],
)
def test_times_at_the_edge_of_a_change_are_plain(zone: str, text: str) -> None:
    assert at(f"@{text}", zone=zone).note == ""


def test_a_bare_time_of_day_in_the_repeated_hour_is_the_first_pass() -> None:
    moment = at("@02:30", now="2026-10-25T02:45:00+01:00")
    assert local(moment) == "@2026-10-25T02:30:00+02:00"
    assert "twice" in moment.note
    # It is past already while the clock shows 02:15 for the second time.
    assert at("@02:30", now="2026-10-25T02:15:00+01:00") == moment


def test_a_bare_time_of_day_moved_by_a_gap_into_the_future_is_yesterdays() -> None:
    assert local(at("@02:30", now="2026-03-29T03:10:00+02:00")) == "@2026-03-28T02:30:00+01:00"
    assert local(at("@02:30", now="2026-03-29T03:30:00+02:00")) == "@2026-03-29T03:30:00+02:00"


def test_yesterday_is_23_or_25_hours_ago_after_a_change_of_clocks() -> None:
    spring = "2026-03-29T12:00:00+02:00"
    assert ns(spring) - at("@yesterday", now=spring).time_ns == 23 * 3600 * 10**9
    autumn = "2026-10-25T12:00:00+01:00"
    assert ns(autumn) - at("@yesterday", now=autumn).time_ns == 25 * 3600 * 10**9
    lord_howe = "2026-04-05T12:00:00+10:30"
    moment = at("@yesterday", now=lord_howe, zone=LORD_HOWE)
    assert ns(lord_howe) - moment.time_ns == (24 * 3600 + 1800) * 10**9


def test_yesterday_reports_both_the_choice_of_day_and_the_change_of_clocks() -> None:
    moment = at("@yesterday", now="2026-10-26T02:30:00+01:00")
    assert local(moment) == "@2026-10-25T02:30:00+02:00"
    assert "same local time yesterday" in moment.note
    assert "twice" in moment.note
    moment = at("@yesterday", now="2026-03-30T02:30:00+02:00")
    assert local(moment) == "@2026-03-29T03:30:00+02:00"
    assert "skipped" in moment.note


def test_a_day_that_a_zone_left_out_is_stepped_over() -> None:
    moment = at("@15:00", now="2011-12-31T10:00:00+14:00", zone=APIA)
    assert local(moment, APIA) == "@2011-12-29T15:00:00-10:00"


# Properties

times_ns = st.integers(START_NS, STOP_NS - 1)
later_times_ns = st.integers(START_NS + 16 * 86_400 * 10**9, STOP_NS - 1)
"""Times from which going back to the last weekday stays within the bounds."""
zones = st.sampled_from(ZONES)
mark_names = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=40
).filter(lambda n: "/" not in n and n not in {".", ".."} and not n.lower().endswith("!exact"))
moments: st.SearchStrategy[Moment] = st.one_of(
    st.builds(AtTime, times_ns.map(TimeNs), st.booleans(), st.text()),
    st.builds(AtLsn, st.integers(0, 2**63 - 1).map(Lsn), st.booleans()),
    st.builds(AtMark, mark_names.map(valid_mark_name), st.booleans()),
    st.builds(BeforeLastWrite, st.booleans()),
)


@given(moments, times_ns, zones)
@example(AtTime(TimeNs(STOP_NS - 1), True), 0, APIA)
def test_what_is_displayed_reads_back_as_the_same_moment(
    moment: Moment, now_ns: int, zone: str
) -> None:
    assert isinstance(moment, BaseMoment)
    assert parse_moment(moment.display(), now_ns=now_ns, zone=zone) == moment


@given(times_ns, zones, zones)
@example(STOP_NS - 1, LORD_HOWE, BERLIN)
@example(0, NEW_YORK, BERLIN)
def test_a_label_reads_back_exactly_in_any_zone_and_is_a_file_name(
    time_ns: int, written: str, read: str
) -> None:
    label = label_for_point(time_ns, written)
    assert parse_moment(label, now_ns=0, zone=read) == AtTime(TimeNs(time_ns))
    assert set(label) <= set(string.digits + "@-:T+.")


@given(later_times_ns, zones, st.times())
def test_a_time_of_day_is_in_the_past_and_close(now_ns: int, zone: str, clock: object) -> None:
    moment = parse_moment(f"@{clock}", now_ns=now_ns, zone=zone)
    assert isinstance(moment, AtTime)
    assert 0 <= now_ns - moment.time_ns <= 49 * 3600 * 10**9


@given(times_ns, zones)
def test_a_local_time_reads_as_itself_unless_the_note_says_otherwise(
    time_ns: int, zone: str
) -> None:
    there: ZonedDateTime = Instant.from_timestamp(time_ns, unit="nanosecond").to_tz(zone)
    moment = parse_moment(f"@{there.to_plain()}", now_ns=0, zone=zone)
    assert isinstance(moment, AtTime)
    if there.is_repeated():
        assert "twice" in moment.note
        assert moment.time_ns <= time_ns
    else:
        assert moment == AtTime(TimeNs(time_ns))
        assert moment.note == ""


@given(later_times_ns, zones, st.integers(0, 6))
def test_a_weekday_is_in_the_past_and_at_most_a_week_and_a_change_ago(
    now_ns: int, zone: str, index: int
) -> None:
    day = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")[index]
    moment = parse_moment(f"@{day}", now_ns=now_ns, zone=zone)
    assert isinstance(moment, AtTime)
    assert 0 <= now_ns - moment.time_ns <= (7 * 24 + 2) * 3600 * 10**9


def check_that_it_is_a_moment_or_refused(text: str, now_ns: int, zone: str) -> None:
    """Whatever is typed: a moment that reads back, or a MomentError fit to be shown."""
    moment: Moment | None = None
    failure: MomentError | None = None
    try:
        moment = parse_moment(text, now_ns=now_ns, zone=zone)
    except MomentError as error:
        failure = error
    if moment is not None:
        assert parse_moment(moment.display(), now_ns=0, zone="UTC") == moment
    if failure is not None:
        assert failure.hint
        assert str(failure).isprintable()


@given(st.text(max_size=MAX_TEXT_CHARS + 5), times_ns, zones)
def test_any_text_gives_a_moment_or_a_moment_error(text: str, now_ns: int, zone: str) -> None:
    check_that_it_is_a_moment_or_refused(text, now_ns, zone)


GRAMMAR_WORDS = """
@ - 1 22 15:00 15:00:30.25 2026-11-22 20261122 T +01:00 Z . h m w hours ago yesterday monday noon
now lsn: mark: before-last-write !exact " 99
"""
grammar_bits = st.sampled_from([" ", *GRAMMAR_WORDS.split()])


@given(st.lists(grammar_bits, max_size=8).map("".join), times_ns, zones)
def test_any_mix_of_the_grammars_words_gives_a_moment_or_a_moment_error(
    text: str, now_ns: int, zone: str
) -> None:
    check_that_it_is_a_moment_or_refused(text, now_ns, zone)
