"""The limit of a real volume that replicates to a real vault, TLS and all, on a shaped line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.network.line import Counter, Line
from tests.network.test_transport import CHANGE_S, ENOUGH, KBIT, MBIT, TOO_MUCH, WINDOW_S, check
from tests.network.two_hosts import TwoHosts


@contextmanager
def two_hosts(line_bps: int, top: Path) -> Iterator[TwoHosts]:
    with Line(line_bps) as line:
        hosts = TwoHosts(line, top)
        try:
            hosts.serve()
            hosts.protect()
            yield hosts
        finally:
            hosts.end()


def replicate_at(top: Path, line_bps: int, limit: str, limit_bps: int, length_s: float) -> None:
    with two_hosts(line_bps, top) as hosts:
        hosts.replicate()
        hosts.wait()
        with Counter(hosts.line.site) as counter:
            hosts.throttle(limit)
            hosts.until("limit_bps", limit_bps)
            hosts.work("work", int(2 * limit_bps / 8 * length_s))
            hosts.until("state", "sending")
            begun_s = time.monotonic()
            time.sleep(length_s)
            stop_s = time.monotonic()
    check(counter, limit_bps, begun_s, stop_s)
    assert counter.most(WINDOW_S, begun_s) <= TOO_MUCH * limit_bps


@pytest.mark.parametrize(
    ("line_bps", "limit", "limit_bps"),
    [
        pytest.param(56 * KBIT, "40k", 40 * KBIT, id="40k-of-56k"),
        pytest.param(1 * MBIT, "600k", 600 * KBIT, id="600k-of-1M", marks=pytest.mark.nightly),
        pytest.param(100 * MBIT, "20M", 20 * MBIT, id="20M-of-100M", marks=pytest.mark.nightly),
    ],
)
def test_a_replicating_volume_holds_its_limit_and_uses_it(
    tmp_path: Path, line_bps: int, limit: str, limit_bps: int
) -> None:
    replicate_at(tmp_path, line_bps, limit, limit_bps, 13.0)


def test_a_command_changes_the_limit_within_two_seconds(tmp_path: Path) -> None:
    with two_hosts(10 * MBIT, tmp_path) as hosts:
        hosts.replicate()
        hosts.wait()
        with Counter(hosts.line.site) as counter:
            hosts.throttle("2M")
            hosts.work("work", 8 << 20)
            hosts.until("state", "sending")
            changes = []
            for limit, limit_bps in (("200k", 200 * KBIT), ("pause", 0), ("1M", 1 * MBIT)):
                at_s = hosts.throttle(limit)
                time.sleep(CHANGE_S + 5.0)
                changes.append((limit_bps, at_s + CHANGE_S, time.monotonic()))
    for limit_bps, start_s, stop_s in changes:
        rate = counter.rate(start_s, stop_s)
        print(f"changed to {limit_bps}: {rate:.0f}")
        assert rate <= TOO_MUCH * limit_bps + 500
        assert rate >= ENOUGH * limit_bps


def test_after_a_pause_and_a_cut_the_same_shipment_goes_on(tmp_path: Path) -> None:
    with two_hosts(1 * MBIT, tmp_path) as hosts:
        hosts.replicate()
        hosts.throttle("200k")
        hosts.work("work", 200_000)
        hosts.until("state", "sending")
        time.sleep(2.0)
        hosts.throttle("pause")
        hosts.until("state", "paused")
        hosts.line.cut()
        time.sleep(2.0)
        hosts.line.mend()
        hosts.throttle("off")
        hosts.wait()
        said = hosts.status()
    # One unit of resuming may go twice, and no more.
    assert said["wire_sent_bytes"] < 1.5 * 200_000 + 50_000


def test_two_volumes_share_the_hosts_limit_by_weight_and_one_alone_gets_all(tmp_path: Path) -> None:
    limit_bps = 400 * KBIT
    with two_hosts(1 * MBIT, tmp_path) as hosts:
        other = hosts.second_tree("other")
        try:
            hosts.replicate()
            hosts.replicate(other)
            hosts.run("throttle", "weight", "3", str(other))
            hosts.run("throttle", "400k", "--host")
            with Counter(hosts.line.site) as counter:
                for tree in (hosts.tree, other):
                    hosts.work("work", 3 << 20, tree)
                for tree in (hosts.tree, other):
                    hosts.until("state", "sending", tree)
                time.sleep(CHANGE_S)
                both_s, before = time.monotonic(), sent_by(hosts, other)
                time.sleep(WINDOW_S + 2)
                alone_s, after = time.monotonic(), sent_by(hosts, other)
                hosts.run("throttle", "pause", str(other))
                paused_s = time.monotonic()
                time.sleep(CHANGE_S + 8)
                stop_s = time.monotonic()
        finally:
            hosts.leave(other)
    assert counter.most(WINDOW_S) <= TOO_MUCH * limit_bps
    check(counter, limit_bps, both_s, alone_s)
    mine, others = (later - sooner for sooner, later in zip(before, after, strict=True))
    print(f"by weight 1 and 3: {mine} and {others} bytes")
    assert 2.5 < others / mine < 3.5
    assert counter.rate(paused_s + CHANGE_S, stop_s) >= ENOUGH * limit_bps


def sent_by(hosts: TwoHosts, other: Path) -> tuple[int, int]:
    """What each of the two volumes has put on the line."""
    return hosts.status()["wire_sent_bytes"], hosts.status(other)["wire_sent_bytes"]
