"""The token bucket: never much more than its rate, nearly all of it when there is work."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.bucket import UNLIMITED, Bucket, piece_bytes

WINDOW_S = 10.0
RATES = st.sampled_from([9_600, 33_600, 56_000, 128_000, 1_000_000, 10_000_000, 100_000_000])
LATE_S = st.lists(st.floats(0, 0.12), min_size=1, max_size=50)
"""How late the sender is woken, by turns."""


def send(
    bucket: Bucket, start_s: float, stop_s: float, late_s: list[float]
) -> list[tuple[float, int]]:
    """A sender that always has work: (time, bytes) of everything it sent."""
    sent = []
    now = start_s
    turn = 0
    while now < stop_s:
        wait = bucket.wait_s(now)
        if wait:
            now += min(wait + late_s[turn % len(late_s)], stop_s - now)
            turn += 1
            continue
        size = bucket.piece_bytes
        bucket.take(now, size)
        sent.append((now, size))
    return sent


def most_in_a_window(sent: list[tuple[float, int]], window_s: float) -> int:
    """Bytes in the fullest window of that length."""
    most = total = first = 0
    for now, size in sent:
        total += size
        while sent[first][0] <= now - window_s:
            total -= sent[first][1]
            first += 1
        most = max(most, total)
    return most


@given(rate=RATES, late_s=LATE_S)
def test_no_window_of_ten_seconds_has_more_than_five_percent_too_much(
    rate: int, late_s: list[float]
) -> None:
    sent = send(Bucket(rate, 0.0), 0.0, 30.0, late_s)
    assert most_in_a_window(sent, WINDOW_S) <= 1.05 * rate * WINDOW_S / 8


@given(rate=RATES, late_s=LATE_S)
def test_a_sender_with_work_uses_nine_tenths_though_it_is_woken_late(
    rate: int, late_s: list[float]
) -> None:
    sent = send(Bucket(rate, 0.0), 0.0, 30.0, late_s)
    assert sum(size for _, size in sent) >= 0.9 * rate * 30 / 8


@given(rate=RATES, idle_s=st.floats(0, 1e6))
def test_idle_time_is_not_saved_up(rate: int, idle_s: float) -> None:
    bucket = Bucket(rate, 0.0)
    sent = send(bucket, idle_s, idle_s + 20.0, [0.0])
    assert most_in_a_window(sent, WINDOW_S) <= 1.05 * rate * WINDOW_S / 8


@given(before=RATES, after=RATES)
def test_a_new_rate_holds_from_the_moment_it_is_set(before: int, after: int) -> None:
    bucket = Bucket(before, 0.0)
    send(bucket, 0.0, 10.0, [0.0])
    bucket.set_rate(10.0, after)
    sent = send(bucket, 10.0, 20.0, [0.0])
    assert (
        0.9 * after * WINDOW_S / 8 <= sum(size for _, size in sent) <= 1.05 * after * WINDOW_S / 8
    )


def test_after_a_time_without_limit_there_is_no_burst() -> None:
    bucket = Bucket(UNLIMITED, 0.0)
    bucket.take(5.0, 10_000_000)
    bucket.set_rate(10.0, 56_000)
    sent = send(bucket, 10.0, 20.0, [0.0])
    assert sum(size for _, size in sent) <= 1.05 * 70_000


def test_a_pause_lets_nothing_go_and_its_end_does() -> None:
    bucket = Bucket(56_000, 0.0)
    bucket.set_rate(1.0, 0.0)
    assert bucket.wait_s(1.0) == math.inf
    assert bucket.wait_s(1e9) == math.inf
    bucket.set_rate(1e9, 56_000)
    assert bucket.wait_s(1e9) == 0.0


def test_without_a_limit_nothing_waits() -> None:
    bucket = Bucket(UNLIMITED, 0.0)
    bucket.take(0.0, 1 << 40)
    assert bucket.wait_s(0.0) == 0.0


def test_a_debt_is_paid_and_a_refund_is_given_back() -> None:
    bucket = Bucket(8_000, 0.0)
    bucket.take(0.0, 5_000)
    assert bucket.wait_s(0.0) == pytest.approx(5.0)
    bucket.take(0.0, -2_000)
    assert bucket.wait_s(0.0) == pytest.approx(3.0)


def test_time_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(8_000, 10.0)
    bucket.take(10.0, 1_000)
    assert bucket.wait_s(5.0) == pytest.approx(1.0)
    assert bucket.wait_s(10.5) == pytest.approx(0.5)


def test_pieces_grow_with_the_rate_within_their_bounds() -> None:
    sizes = [piece_bytes(rate) for rate in (1, 9_600, 56_000, 1_000_000, 10_000_000, UNLIMITED)]
    assert sizes == [256, 300, 1514, 2500, 25_000, 65_536]
    assert all(one <= other for one, other in pairwise(sizes))
