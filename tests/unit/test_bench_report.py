"""The benchmark's tables: what they show, which aims count as missed, where they go in the page."""

import pytest

from bench import report
from bench.plan import Aim, Case, Comparison, Figure, Metric

CASE = Case(
    "write",
    (
        Metric(
            "w", "writes", "/s", (Aim("plain", 0.85, "this release"), Aim("ext4", 0.5, "design"))
        ),
    ),
    lambda _place, _scale: {},
)


def compared(**medians: float) -> str:
    values = {"w": {name: [value, value * 1.1] for name, value in medians.items()}}
    return "\n".join(report.comparison((CASE,), tuple(medians), Comparison({"w": medians}, values)))


def test_a_ratio_below_its_aim_is_listed_with_how_much_is_missing() -> None:
    text = compared(ext4=100.0, plain=100.0, cdpfs=68.0)
    assert "writes: 0.68 of plain, wanted ≥ 0.85 (this release); short by 20 %" in text
    assert "Short of the aim in 1 places" in text


def test_nothing_is_listed_when_all_aims_are_met() -> None:
    assert "All aims met." in compared(ext4=100.0, plain=100.0, cdpfs=85.0)


def test_a_target_that_failed_leaves_a_gap_and_no_verdict() -> None:
    text = compared(ext4=100.0, cdpfs=60.0)
    assert "All aims met." in text
    assert "0.60" in text


def test_figures_say_which_aims_are_met() -> None:
    lines = report.figures([Figure("a", "1"), Figure("b", "2", "≥ 3", False)])
    assert lines[2].split("|")[4].strip() == ""
    assert lines[3].split("|")[4].strip() == "**no**"


def test_a_section_of_the_page_is_replaced_and_the_others_stay() -> None:
    page = "x\n<!-- bench:a -->\nold\n<!-- /bench:a -->\n<!-- bench:b -->\nb\n<!-- /bench:b -->\n"
    changed = report.replace_section(page, "a", ["new \\1"])
    assert changed == page.replace("old", "\nnew \\1\n")


def test_a_page_without_the_section_is_refused() -> None:
    with pytest.raises(ValueError, match="0 sections"):
        report.replace_section("nothing", "a", [])
