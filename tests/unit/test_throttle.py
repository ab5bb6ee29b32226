"""The limit of a volume and of its host: what the meter gets, and what is said of it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from replicator.calendar import NO_LIMIT
from replicator.errors import BadSettings
from replicator.host_limit import HostLimit, host_limit_path, load_host_limit, save_host_limit
from replicator.settings import (
    LinkSettings,
    OverrideSettings,
    ReplicaSettings,
    ThrottleSettings,
    load_settings,
    save_settings,
)
from replicator.throttle import Throttle

HOUR_NS = 3600 * 10**9
INF = float("inf")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("CDPFS_HOME", str(folder))
    return folder


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.ns = 1_700_000_000 * 10**9

    def __call__(self) -> int:
        return self.ns


class Told:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def throttle(clock: Clock, told: Told) -> Iterator[Throttle]:
    it = Throttle(told, clock)
    try:
        yield it
    finally:
        it.close()


def settings(
    rate: str | None = None, until_ns: int = 0, *rules: ThrottleSettings
) -> ReplicaSettings:
    override = None if rate is None else OverrideSettings(rate=rate, until_ns=until_ns)
    link = LinkSettings(url="https://vault.example")
    return ReplicaSettings(link=link, override=override, throttle=list(rules))


async def work(throttle: Throttle) -> None:
    """Somebody wants to send more than may go."""
    with trio.move_on_after(0.02):
        while True:
            await throttle.meter.acquire(10_000)


async def test_without_settings_nothing_is_limited(throttle: Throttle) -> None:
    throttle.look()
    assert (throttle.meter.rate_bps, throttle.standing) == (INF, NO_LIMIT)


async def test_a_limit_by_hand_ends_by_itself(throttle: Throttle, clock: Clock, told: Told) -> None:
    throttle.follow(settings("56k", clock.ns + HOUR_NS))
    assert throttle.meter.rate_bps == 56_000
    assert throttle.standing == (56_000, "set by hand", clock.ns + HOUR_NS)
    clock.ns += HOUR_NS
    throttle.look()
    assert (throttle.meter.rate_bps, told.times) == (INF, 2)


async def test_a_clock_that_is_set_back_changes_the_hours_too(
    throttle: Throttle, clock: Clock
) -> None:
    at = time.strftime("%H:%M", time.localtime(clock.ns // 10**9 // 60 * 60))
    hours = f"{at}-{'00:00' if at != '00:00' else '23:59'}"
    throttle.follow(settings(None, 0, ThrottleSettings(hours=hours, rate="pause")))
    assert throttle.meter.rate_bps == 0
    clock.ns -= 120 * 10**9
    throttle.look()
    assert throttle.meter.rate_bps == INF


async def test_the_least_of_the_volumes_and_the_hosts_limit_holds(throttle: Throttle) -> None:
    save_host_limit(HostLimit(override=OverrideSettings(rate="1M")))
    throttle.follow(settings("2M"))
    await work(throttle)
    throttle.look()
    assert throttle.meter.rate_bps == 1_000_000
    assert throttle.standing.reason == "limit of the host: set by hand"
    throttle.follow(settings("200k"))
    await work(throttle)
    throttle.look()
    assert throttle.meter.rate_bps == 200_000
    assert throttle.standing.reason == "set by hand"


async def test_without_work_the_limit_is_left_to_others_and_status_tells_what_may_be_used(
    throttle: Throttle,
) -> None:
    save_host_limit(HostLimit(override=OverrideSettings(rate="1M")))
    throttle.look()
    assert throttle.meter.rate_bps == 0
    assert throttle.standing.rate_bps == 1_000_000


async def test_who_begins_to_work_gets_a_share_at_once(throttle: Throttle) -> None:
    save_host_limit(HostLimit(override=OverrideSettings(rate="1M")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(throttle.run)
        await trio.testing.wait_all_tasks_blocked()
        await throttle.meter.acquire(1000)
        assert throttle.meter.rate_bps == 1_000_000
        nursery.cancel_scope.cancel()


async def test_the_end_of_the_hosts_limit_is_noticed(throttle: Throttle) -> None:
    save_host_limit(HostLimit(override=OverrideSettings(rate="pause")))
    throttle.look()
    assert throttle.meter.rate_bps == 0
    save_host_limit(HostLimit())
    throttle.look()
    assert throttle.meter.rate_bps == INF


async def test_a_hosts_limit_that_can_not_be_read_leaves_the_one_before(throttle: Throttle) -> None:
    save_host_limit(HostLimit(override=OverrideSettings(rate="pause")))
    throttle.look()
    host_limit_path().write_text("throttle = 3")
    with pytest.raises(BadSettings):
        load_host_limit()
    throttle.look()
    assert throttle.standing.rate_bps == 0


async def test_settings_with_an_impossible_rule_are_refused_by_its_number(tmp_path: Path) -> None:
    good, bad = ThrottleSettings(rate="1M"), ThrottleSettings(days="noday", rate="1M")
    with pytest.raises(BadSettings, match=r"number 2: 'noday' are no days"):
        save_settings(tmp_path, settings(None, 0, good, bad))
    save_settings(tmp_path, settings("56k", 5, good))
    assert load_settings(tmp_path) == settings("56k", 5, good)
