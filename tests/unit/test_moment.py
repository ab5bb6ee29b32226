"""The grammar of moments: what each text means, and what is refused and how.

Changes of the clocks and the properties over all zones are in test_moment_zones.py.
"""

from errno import ENOENT

import pytest
from whenever import Instant

from store.types import Lsn
from timetravel.errors import (
    MomentBeforeProtection,
    MomentError,
    MomentInFuture,
    NoSuchPath,
    TimetravelError,
    UnknownMark,
)
from timetravel.moment import (
    MAX_MARK_CHARS,
    MAX_TEXT_CHARS,
    AtLsn,
    AtMark,
    AtTime,
    BeforeLastWrite,
    format_time,
    label_for_point,
    parse_moment,
    valid_mark_name,
)

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"
KATHMANDU = "Asia/Kathmandu"

START_NS = 0
STOP_NS = Instant("2201-01-01T00:00:00Z").timestamp(unit="nanosecond")


def ns(iso: str) -> int:
    """Nanoseconds of an ISO time with an offset or Z."""
    return Instant(iso).timestamp(unit="nanosecond")


NOW = "2026-11-22T16:20:30.5+01:00"  # a Sunday


def at(text: str, *, now: str = NOW, zone: str | None = BERLIN) -> AtTime:
    moment = parse_moment(text, now_ns=ns(now), zone=zone)
    assert isinstance(moment, AtTime)
    return moment


def local(moment: AtTime, zone: str = BERLIN) -> str:
    return label_for_point(moment.time_ns, zone)


def refused(text: str, *, zone: str | None = BERLIN) -> MomentError:
    with pytest.raises(MomentError) as caught:
        parse_moment(text, now_ns=ns(NOW), zone=zone)
    assert caught.value.hint
    assert caught.value.reason in str(caught.value)
    return caught.value


# Times of day


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("@15:00", "@2026-11-22T15:00:00+01:00"),
        ("15:00", "@2026-11-22T15:00:00+01:00"),
        ("  @ 15:00 ", "@2026-11-22T15:00:00+01:00"),
        ("@9:05", "@2026-11-22T09:05:00+01:00"),
        ("@15:00:30", "@2026-11-22T15:00:30+01:00"),
        ("@15:00:30.25", "@2026-11-22T15:00:30.25+01:00"),
        ("@15:00:30.123456789", "@2026-11-22T15:00:30.123456789+01:00"),
        ("@noon", "@2026-11-22T12:00:00+01:00"),
        ("@Midnight", "@2026-11-22T00:00:00+01:00"),
        ("@00:00", "@2026-11-22T00:00:00+01:00"),
    ],
)
def test_a_time_of_day_that_has_come_is_todays_and_sharp(text: str, meaning: str) -> None:
    moment = at(text)
    assert local(moment) == meaning
    assert moment.note == ""


@pytest.mark.parametrize("text", ["@16:20:30.500000001", "@16:21", "@23:59:59"])
def test_a_time_of_day_still_to_come_is_yesterdays_and_says_so(text: str) -> None:
    moment = at(text)
    assert local(moment).startswith("@2026-11-21T")
    assert "not come yet today" in moment.note
    assert "2026-11-21" in moment.note


def test_the_present_instant_as_a_time_of_day_is_today() -> None:
    assert at("@16:20:30.5").time_ns == ns(NOW)


def test_the_day_is_the_local_one_not_the_one_in_utc() -> None:
    moment = at("@01:00", now="2026-11-22T20:00:00Z", zone=KATHMANDU)
    assert local(moment, KATHMANDU) == "@2026-11-23T01:00:00+05:45"


@pytest.mark.parametrize("text", ["@24:00", "@25:00", "@15:60", "@15:00:60", "@99:99"])
def test_impossible_times_of_day_are_refused(text: str) -> None:
    assert "no such time of day" in refused(text).reason


# Dates


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("@2026-11-22", "2026-11-22T00:00:00+01:00"),
        ("@2026-07-01", "2026-07-01T00:00:00+02:00"),
        ("@2026-11-22T15:00", "2026-11-22T15:00:00+01:00"),
        ("@2026-11-22t15:00", "2026-11-22T15:00:00+01:00"),
        ("@2026-11-22 15:00", "2026-11-22T15:00:00+01:00"),
        ("@2026-11-22.15:00", "2026-11-22T15:00:00+01:00"),
        ("@2026-11-22 noon", "2026-11-22T12:00:00+01:00"),
        ("@2026-11-22T15:00:07", "2026-11-22T15:00:07+01:00"),
        ("@2026-11-22T15:00:07.001", "2026-11-22T15:00:07.001+01:00"),
        ("@2026-11-22T15:00Z", "2026-11-22T15:00:00Z"),
        ("@2026-11-22T15:00z", "2026-11-22T15:00:00Z"),
        ("@2026-11-22 15:00 Z", "2026-11-22T15:00:00Z"),
        ("@2026-11-22T15:00+01:00", "2026-11-22T14:00:00Z"),
        ("@2026-11-22T15:00-0530", "2026-11-22T20:30:00Z"),
        ("@2026-11-22T15:00+14", "2026-11-22T01:00:00Z"),
        ("@2026-11-22T15:00:07.5-00:00:30", "2026-11-22T15:00:37.5Z"),
        ("@20261122", "2026-11-22T00:00:00+01:00"),
        ("@20261122T1500", "2026-11-22T15:00:00+01:00"),
        ("@20261122T150007.25Z", "2026-11-22T15:00:07.25Z"),
        ("@2028-02-29", "2028-02-29T00:00:00+01:00"),
        ("@2100-01-01", "2100-01-01T00:00:00+01:00"),
    ],
)
def test_dates(text: str, meaning: str) -> None:
    moment = at(text)
    assert moment.time_ns == ns(meaning)
    assert moment.note == ""


@pytest.mark.parametrize(
    "text",
    ["@0000-01-01", "@2026-02-30", "@2026-13-01", "@2026-00-10", "@2027-02-29", "@20260230T1500"],
)
def test_impossible_dates_are_refused(text: str) -> None:
    assert refused(text).reason == "there is no such date"


@pytest.mark.parametrize("text", ["@2026-11-22T15:00+24:00", "@2026-11-22T15:00-01:60"])
def test_impossible_offsets_are_refused(text: str) -> None:
    assert "no such offset" in refused(text).reason


@pytest.mark.parametrize(
    "text",
    [
        "@0001-01-01",
        "@1969-12-31",
        "@1970-01-01",  # in Berlin, an hour before the epoch
        "@1969-12-31T23:59:59.999999999Z",
        "@2201-01-01T00:00Z",
        "@2201-06-01",
        "@9999-12-31T23:59-23:59",
        "@0001-01-01T00:00+23:59",
        "@-9999w",
        "@-99999999999999999999999999999999999999999s",
    ],
)
def test_years_out_of_bounds_are_refused(text: str) -> None:
    assert "1970" in str(refused(text))


def test_the_first_and_last_instants_are_accepted() -> None:
    assert at("@1970-01-01T00:00Z").time_ns == START_NS
    assert at("@1969-12-31T19:00", zone=NEW_YORK).time_ns == START_NS
    assert at("@2200-12-31T23:59:59.999999999Z").time_ns == STOP_NS - 1


# Before now


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [
        ("@-10m", 600),
        ("@-90s", 90),
        ("@-2h30m", 9000),
        ("@-2h 30m", 9000),
        ("@-1d", 86_400),
        ("@-1w", 604_800),
        ("@-1W2D3H4M5S", 788_645),
        ("@-10min", 600),
        ("@-0s", 0),
        ("@now", 0),
        ("@NOW", 0),
        ("@2 hours ago", 7200),
        ("@2.hours.ago", 7200),
        ("@2  Hours  AGO", 7200),
        ('@"2 hours ago"', 7200),
        ('@"2.hours.ago"', 7200),
        ("@2 hours 30 minutes ago", 9000),
        ("@2.hours.30.minutes.ago", 9000),
        ("@1 day ago", 86_400),
        ("@3 weeks ago", 1_814_400),
        ("@90s ago", 90),
    ],
)
def test_spans_before_now(text: str, ago_s: int) -> None:
    assert at(text).time_ns == ns(NOW) - ago_s * 1_000_000_000


def test_a_day_as_a_span_is_24_hours_even_when_the_clocks_change() -> None:
    now = "2026-10-25T12:00:00+01:00"
    assert local(at("@-1d", now=now)) == "@2026-10-24T13:00:00+02:00"
    assert local(at("@yesterday", now=now)) == "@2026-10-24T12:00:00+02:00"


@pytest.mark.parametrize("text", ["@2 months ago", "@-1y", "@3 fortnights ago", "@-5mo"])
def test_units_without_a_fixed_length_are_refused_by_name(text: str) -> None:
    error = refused(text)
    assert "no unit of time" in error.reason
    assert "date" in error.hint


def test_a_unit_given_twice_is_refused() -> None:
    assert "twice" in refused("@-10m10m").reason
    assert "twice" in refused("@-1h2hours").reason


def test_spans_do_not_need_a_known_zone() -> None:
    for text in ("@-10m", "@now", "@lsn:4", "@mark:x", "@2026-11-22T15:00Z"):
        parse_moment(text, now_ns=ns(NOW), zone="Nowhere/Atall")


# Days by name

WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("@yesterday", "@2026-11-21T16:20:30.5+01:00"),
        ("@yesterday 15:00", "@2026-11-21T15:00:00+01:00"),
        ("@yesterday.15:00:30.25", "@2026-11-21T15:00:30.25+01:00"),
        ("@Yesterday noon", "@2026-11-21T12:00:00+01:00"),
        ("@yesterday 23:00", "@2026-11-21T23:00:00+01:00"),
        ("@monday", "@2026-11-16T00:00:00+01:00"),
        ("@monday 9:00", "@2026-11-16T09:00:00+01:00"),
        ("@Mon.09:00", "@2026-11-16T09:00:00+01:00"),
        ("@thurs", "@2026-11-19T00:00:00+01:00"),
        ("@saturday midnight", "@2026-11-21T00:00:00+01:00"),
        ("@sunday", "@2026-11-22T00:00:00+01:00"),
        ("@sunday 16:00", "@2026-11-22T16:00:00+01:00"),
        ("@sunday 17:00", "@2026-11-15T17:00:00+01:00"),
    ],
)
def test_days_by_name(text: str, meaning: str) -> None:
    assert local(at(text)) == meaning


@pytest.mark.parametrize(("index", "day"), list(enumerate(WEEKDAYS)))
def test_every_weekday_is_the_most_recent_one(index: int, day: str) -> None:
    moment = at(f"@{day}")
    assert local(moment) == f"@2026-11-{16 + index}T00:00:00+01:00"
    assert f"{day.title()} 2026-11-{16 + index}" in moment.note


# LSNs, marks, the last write, and the suffix


@pytest.mark.parametrize("lsn", [0, 1, 42, 2**63 - 1])
def test_lsns(lsn: int) -> None:
    assert parse_moment(f"@lsn:{lsn}", now_ns=0, zone=None) == AtLsn(Lsn(lsn))


@pytest.mark.parametrize(
    "text",
    ["@lsn:-1", f"@lsn:{2**63}", "@lsn:", "@lsn:0x10", "@lsn:1.5", "@lsn: 5", "@lsn:٣", "@lsn:1_0"],
)
def test_bad_lsns_are_refused(text: str) -> None:
    assert "LSN" in refused(text).reason


@pytest.mark.parametrize(
    "name", ["before-upgrade_2.1", "a b", "größe", "月末", "x:y", "now", '"q"', "a!exactly", "..."]
)
def test_marks(name: str) -> None:
    assert parse_moment(f"@mark:{name}", now_ns=0, zone=None) == AtMark(name)
    assert valid_mark_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\0b",
        "a\nb",
        "a\u200bb",
        "a\udcffb",
        " a",
        "a ",
        "x!exact",
        "x!EXACT",
        "n" * (MAX_MARK_CHARS + 1),
        "月" * 81,
    ],
)
def test_bad_mark_names_are_refused(name: str) -> None:
    with pytest.raises(MomentError) as caught:
        valid_mark_name(name)
    assert caught.value.hint


def test_mark_names_that_look_equal_are_equal() -> None:
    assert valid_mark_name("gro\u0308ße") == "größe"
    assert parse_moment("@mark:gro\u0308ße", now_ns=0, zone=None) == AtMark("größe")


def test_the_longest_mark_is_a_file_name_with_its_suffix() -> None:
    name = valid_mark_name("月" * 80)
    assert len(AtMark(name, exact=True).display().encode()) <= 255


def test_before_last_write() -> None:
    moment = parse_moment("@Before-Last-Write", now_ns=0, zone=None)
    assert moment == BeforeLastWrite()
    assert moment.note == ""


@pytest.mark.parametrize(
    "text",
    [
        "@15:00",
        "@2026-11-22T15:00Z",
        "@-10m",
        "@yesterday",
        "@monday 9:00",
        '@"2 hours ago"',
        "@2.hours.ago",
        "@lsn:7",
        "@mark:m",
        "@before-last-write",
    ],
)
def test_the_suffix_goes_with_everything(text: str) -> None:
    plain = parse_moment(text, now_ns=ns(NOW), zone=BERLIN)
    exact = parse_moment(f"{text}!exact", now_ns=ns(NOW), zone=BERLIN)
    assert not plain.exact
    assert exact.exact
    assert exact != plain
    assert exact.display() == f"{plain.display()}!exact"
    assert parse_moment(f"{text} !Exact", now_ns=ns(NOW), zone=BERLIN) == exact


def test_the_suffix_may_stand_inside_or_outside_the_quotes() -> None:
    assert at('@"2 hours ago!exact"') == at('@"2 hours ago"!exact') == at("@-2h!exact")


# What is refused


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "@!exact",
        '@""',
        "@@15:00",
        "@tomorrow",
        "@15",
        "@15:0",
        "@15:00:3",
        "@15:00:30.",
        "@15:00Z",
        "@3pm",
        "@-",
        "@-10",
        "@+10m",
        "@10m",
        "@ago",
        "@1.5 hours ago",
        "@2026-11",
        "@2026-1-2",
        "@2026-11-22T",
        "@2026-11-22Z",
        "@2026-11-22T15",
        "@2026-11-22T15:00+1",
        "@2026-11-2215:00",
        "@yesterday15:00",
        "@mondayish",
        "@mond",
        "@1766000000",
        "@15:00\n@16:00",
        "@\udcff",
        "@\u0661\u0665:\u0660\u0660",
        "@15:00!exact!exact",
        "@15:00!inexact",
        "@stamp:5",
        "@15:00:30.1234567890",
    ],
)
def test_what_is_no_moment_is_refused_with_a_hint(text: str) -> None:
    refused(text)


def test_overlong_texts_are_refused_and_not_repeated_in_full() -> None:
    text = "@" + "9" * MAX_TEXT_CHARS
    error = refused(text)
    assert "too long" in error.reason
    assert len(str(error)) < 120
    assert error.text == text


@pytest.mark.parametrize("zone", ["Nowhere/Atall", "", "../UTC", "a\0b"])
def test_unknown_zones_are_refused_by_name(zone: str) -> None:
    assert "zone" in refused("@15:00", zone=zone).reason
    assert "zone" in refused("@2026-11-22", zone=zone).reason
    with pytest.raises(MomentError, match="zone"):
        format_time(0, zone)
    with pytest.raises(MomentError, match="zone"):
        label_for_point(0, zone)


def test_the_systems_zone_is_the_default() -> None:
    moment = at("@2026-11-22T15:00", zone=None)
    assert label_for_point(moment.time_ns).startswith("@2026-11-22T15:00:00")
    assert format_time(moment.time_ns).startswith("2026-11-22T15:00:00.000")


# Writing times


def test_times_for_people_are_local_with_offset_cut_to_milliseconds() -> None:
    assert format_time(ns("2026-11-22T14:00:00Z"), BERLIN) == "2026-11-22T15:00:00.000+01:00"
    assert format_time(999_999_999, KATHMANDU) == "1970-01-01T05:30:00.999+05:30"
    assert format_time(-1, "UTC") == "1969-12-31T23:59:59.999+00:00"


@pytest.mark.parametrize(
    ("time_ns", "label"),
    [
        (0, "@1970-01-01T00:00:00+00:00"),
        (250_000_000, "@1970-01-01T00:00:00.25+00:00"),
        (1, "@1970-01-01T00:00:00.000000001+00:00"),
        (STOP_NS - 1, "@2200-12-31T23:59:59.999999999+00:00"),
    ],
)
def test_labels_have_the_fraction_that_they_need(time_ns: int, label: str) -> None:
    assert label_for_point(time_ns, "UTC") == label


def test_labels_survive_offsets_with_seconds() -> None:
    label = label_for_point(0, "Africa/Monrovia")
    assert label == "@1969-12-31T23:15:30-00:44:30"
    assert at(label).time_ns == 0


@pytest.mark.parametrize("time_ns", [-1, STOP_NS, 2**63])
def test_no_label_for_a_time_that_could_not_be_read_back(time_ns: int) -> None:
    with pytest.raises(MomentError):
        label_for_point(time_ns, "UTC")


# Errors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MomentInFuture("@2030-01-01", "2026-11-22T15:00:00.000Z"), ["@2030-01-01", "future"]),
        (MomentBeforeProtection("@1999-01-01", "2026-11-22"), ["@1999-01-01", "2026-11-22"]),
        (UnknownMark("upgrade"), ["upgrade"]),
        (NoSuchPath(b"a/\xff\n", "@15:00"), ["'a/\\udcff\\n'", "@15:00"]),
    ],
)
def test_errors_say_what_happened_and_what_to_do(error: TimetravelError, words: list[str]) -> None:
    assert all(word in str(error) for word in words)
    assert str(error).isprintable()
    assert error.hint
    assert error.errno == ENOENT


def test_an_unknown_mark_suggests_the_name_that_was_meant() -> None:
    hint = UnknownMark("before-upgarde", ["nightly", "before-upgrade"]).hint
    assert "did you mean @mark:before-upgrade?" in hint
    assert "mean" not in UnknownMark("xyz", ["nightly"]).hint
