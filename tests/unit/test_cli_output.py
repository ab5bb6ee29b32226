"""Sizes, times, paths and tables as people see them."""

import datetime

import pytest

from console.errors import WrongUse
from console.output import duration_text, path_text, size_text, table, time_json
from console.sizes import parse_size
from timetravel.moment import AtTime, parse_moment

NOW_NS = 1_795_388_653_123_456_789


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (200 << 10, "200 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (3 << 70, "3072 EiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (75, "1 min 15 s"), (3600, "1 h"), (90_061, "1 d 1 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("64K", 65536),
        ("1.5m", 3 << 19),
        ("2GiB", 2 << 30),
        ("1 T", 1 << 40),
    ],
)
def test_sizes_can_be_typed(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "1x", "1.M", "1e3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(WrongUse):
        parse_size(text)


def test_times_in_json_are_iso_and_read_back_as_the_same_moment() -> None:
    text = time_json(NOW_NS)
    moment = parse_moment("@" + text, now_ns=NOW_NS, zone=None)
    assert isinstance(moment, AtTime)
    assert moment.time_ns == NOW_NS
    parsed = datetime.datetime.fromisoformat(text)
    assert parsed.timestamp() == pytest.approx(NOW_NS / 1e9)


def test_odd_names_can_be_printed_anywhere() -> None:
    shown = path_text("ü b\n\x1b[31m".encode() + b"\xff")
    assert shown == "ü b\\n\\x1b[31m\\xff"
    shown.encode("utf-8")


def test_tables_align_without_trailing_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    table(("name", "size"), [("a", "1"), ("long name", "1000")], right=(1,))
    assert capsys.readouterr().out == "name       size\na             1\nlong name  1000\n"
