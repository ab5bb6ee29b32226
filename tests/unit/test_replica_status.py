"""How far the vault is behind: bytes, seconds, and the file that says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.backlog import Backlog
from replicator.pace import LONGEST_PAUSE_S, Backoff
from replicator.report import Report
from replicator.status import (
    RateMeter,
    ReplicaStatus,
    eta_s,
    read_status,
    status_path,
    write_status,
)
from store.journal import Journal
from store.statepage import StatePage
from store.volume import Store
from tests.unit.shipping import all_batches, make_history


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"))


@pytest.fixture
def backlog(source: Store) -> Iterator[Backlog]:
    page = StatePage(source.state_path)
    with Journal(source) as journal:
        yield Backlog(journal, page)
    page.close()


def payload(source: Store, first: int) -> int:
    """Payload of the batches from number `first` on."""
    return sum(len(op.payload) for batch in all_batches(source)[first:] for op in batch.ops)


def test_the_backlog_is_the_payload_that_is_not_acknowledged(
    source: Store, backlog: Backlog
) -> None:
    backlog.begin(0)
    assert backlog.payload_bytes == payload(source, 0)
    for number, batch in enumerate(all_batches(source)):
        backlog.acknowledge(batch.ops[-1].lsn)
        assert backlog.payload_bytes == payload(source, number + 1)
    assert backlog.payload_bytes == 0
    assert backlog.lag_s() == 0.0


def test_a_vault_that_has_less_than_before_is_behind_again(source: Store, backlog: Backlog) -> None:
    batches = all_batches(source)
    backlog.begin(batches[-1].ops[-1].lsn)
    backlog.acknowledge(batches[0].ops[-1].lsn)
    assert backlog.payload_bytes == payload(source, 1)
    assert backlog.lag_s() > 0


def test_ops_that_are_not_indexed_yet_count_as_lag(source: Store, backlog: Backlog) -> None:
    newest = all_batches(source)[-1].ops[-1].lsn
    backlog.begin(newest)
    page = StatePage(source.state_path)
    before = page.appended_lsn
    page.appended_lsn = newest + 5
    backlog.note()
    first = backlog.lag_s()
    assert first > 0
    assert backlog.lag_s() > first
    page.appended_lsn = before
    page.close()


def test_the_status_is_read_as_written_and_is_private(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    status = ReplicaStatus(state="sending", acked_lsn=5, limit_bps=56_000)
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert status_path(tmp_path).stat().st_mode & 0o077 == 0


def test_a_damaged_status_is_none(tmp_path: Path) -> None:
    status_path(tmp_path).write_text("{")
    assert read_status(tmp_path) is None


def test_the_rate_is_over_the_last_seconds() -> None:
    meter = RateMeter()
    for second in range(20):
        meter.sample(float(second), 1000 * second)
    assert meter.bps == pytest.approx(8000)


def test_the_time_left_is_at_the_limit_or_at_the_rate() -> None:
    assert eta_s(0, 0.1, 0, None) == 0.0
    assert eta_s(1000, 0.1, 999, 800) == pytest.approx(1.0)
    assert eta_s(1000, 0.1, 800, None) == pytest.approx(1.0)
    assert eta_s(1000, 0.1, 800, 0) is None
    assert eta_s(1000, 0.1, 0, None) is None


def test_pauses_grow_to_a_bound_and_begin_anew_after_success() -> None:
    backoff = Backoff(draw=lambda: 1.0)
    pauses = [backoff.next_s() for _ in range(40)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    backoff.reset()
    assert backoff.next_s() == pauses[0]


def test_pauses_begin_anew_when_a_part_of_a_shipment_has_arrived() -> None:
    backoff = Backoff(draw=lambda: 1.0)
    backoff.reached(100, 5000)
    first = backoff.next_s()
    backoff.next_s()
    backoff.reached(100, 5000)
    assert backoff.next_s() > first
    backoff.reached(100, 5001)
    assert backoff.next_s() == first
    backoff.reached(101, 0)
    assert backoff.next_s() == first
    backoff.reached(101, 0)
    assert backoff.next_s() > first


def test_pauses_are_drawn_from_zero_on() -> None:
    assert Backoff(draw=lambda: 0.0).next_s() == 0.0


def test_a_new_connection_has_its_time_before_it_counts_as_still() -> None:
    report = Report()
    report.state = "sending"
    while report.still_s < 0.01:
        pass
    before = report.still_s
    report.state = "connecting"
    report.state = "sending"
    assert report.still_s < before
