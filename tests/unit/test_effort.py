"""How much work is put into a shipment: as much as gets most of the journal to the vault."""

import pytest

from replicator.effort import TELLING_BYTES, Chooser, Effort, effort_for


@pytest.mark.parametrize(
    ("line_bps", "effort"),
    [
        (56e3, Effort.BEST),
        (1e6, Effort.BEST),
        (100e6, Effort.FAST),
        (1e9, Effort.FAST),
    ],
)
def test_a_thin_line_is_worth_more_work(line_bps: float, effort: Effort) -> None:
    assert effort_for(line_bps) is effort


def test_a_line_that_turns_out_fast_gets_what_is_quickly_made() -> None:
    chooser = Chooser()
    for _ in range(8):
        effort = chooser.choose()
        chooser.built(effort, 4 << 20, 200_000, 0.02 if effort is Effort.FAST else 0.4)
        chooser.shipped(200_000, 0.002)
    assert chooser.choose() is Effort.FAST


def test_a_throttled_line_is_a_thin_line() -> None:
    chooser = Chooser()
    for _ in range(8):
        chooser.shipped(1 << 20, 0.01)
    assert chooser.choose() is Effort.FAST
    chooser.limit_bps = 56_000
    assert chooser.choose() is Effort.BEST


def test_a_line_that_has_become_thin_is_known_by_its_first_shipment() -> None:
    chooser = Chooser()
    for _ in range(8):
        chooser.shipped(1 << 20, 0.01)
    chooser.shipped(70_000, 10.0)
    assert chooser.choose() is Effort.BEST


def test_a_line_is_known_by_what_it_carried_last_however_long_ago() -> None:
    chooser = Chooser()
    assert chooser.line_bps < 2e6
    chooser.shipped(70_000, 10.0)
    assert chooser.line_bps == 56_000
    chooser.limit_bps = 20_000
    assert chooser.line_bps == 20_000


def test_other_content_on_a_thin_line_gets_the_fewest_bytes_again() -> None:
    """What was learned of the efforts from a database's texts says nothing of its transactions."""
    chooser, raw = Chooser(), 2 << 20
    speed = {Effort.FAST: 100e6, Effort.GOOD: 10e6, Effort.BEST: 3e6}

    def ship(ratios: dict[Effort, float]) -> Effort:
        effort = chooser.choose()
        wire = int(raw * ratios[effort])
        chooser.built(effort, raw, wire, raw / speed[effort])
        chooser.shipped(max(wire, TELLING_BYTES), max(wire, TELLING_BYTES) * 8 / 56_000)
        return effort

    for effort in (Effort.BEST, Effort.GOOD) * 3:
        chooser.built(effort, raw, raw // 2, raw / speed[effort])
    seen = [ship({Effort.BEST: 0.005, Effort.GOOD: 0.006, Effort.FAST: 0.07}) for _ in range(6)]
    assert seen[-3:] == [Effort.BEST] * 3


def test_content_that_can_not_be_made_smaller_is_not_worth_much_work() -> None:
    chooser = Chooser()
    seen = []
    for _ in range(12):
        effort = chooser.choose()
        seen.append(effort)
        speed = {Effort.FAST: 200e6, Effort.GOOD: 20e6, Effort.BEST: 3e6}[effort]
        chooser.built(effort, 4 << 20, 4 << 20, (4 << 20) / speed)
        chooser.shipped(4 << 20, (4 << 20) * 8 / 50e6)
    assert seen[-1] is not Effort.BEST


def test_what_the_vault_could_not_read_goes_out_plain_the_next_time() -> None:
    chooser = Chooser()
    assert chooser.choose() is not Effort.FAST
    chooser.refused()
    assert chooser.choose() is Effort.FAST
    chooser.shipped(1000, 0.001)
    assert chooser.choose() is not Effort.FAST


def test_refusals_in_a_row_make_more_and_more_go_out_plain() -> None:
    chooser = Chooser()
    plain = []
    for _ in range(3):
        chooser.refused()
        plain.append(0)
        while chooser.choose() is Effort.FAST:
            plain[-1] += 1
            chooser.shipped(1000, 0.001)
    assert plain == [1, 2, 4]
