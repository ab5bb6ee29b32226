"""What a person writes after `cdpfs throttle`: lengths of time, and places instead of rates."""

import pytest

from console.errors import WrongUse
from console.throttling import is_path, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("1h30m", 5400),
        ("45m", 2700),
        ("1d", 86_400),
        ("1.5h", 5400),
        ("2w 1d", 1_296_000),
    ],
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "-1h", "0s", "99999999w", "1h30"])
def test_what_is_no_length_of_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(WrongUse) as caught:
        parse_duration(text)
    assert "1h30m" in caught.value.hints[0]


@pytest.mark.parametrize(
    ("word", "place"),
    [("56k", False), ("off", False), (".", True), ("/srv/x", True), ("a/b", True)],
)
def test_a_place_is_told_from_a_rate(word: str, place: bool) -> None:
    assert is_path(word) is place
