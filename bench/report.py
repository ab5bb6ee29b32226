"""Tables for people: to the terminal, and between markers in docs/performance.md. Pure.

The same Markdown serves both. A section is a list of lines; its markers in the page are
`<!-- bench:NAME -->` and `<!-- /bench:NAME -->`, so that a run of some measures leaves the others'
tables alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.plan import Aim, Case, Comparison, Figure, Metric, at_least

OURS = "cdpfs"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first row is its head, all but the first column are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
        if number == 0:
            rule = ["-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)]
            lines.append(f"|{'|'.join(rule)}|")
    return lines


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def comparison(cases: Sequence[Case], names: Sequence[str], found: Comparison) -> list[str]:
    """The rates, the ratios, and the aims that were missed."""
    metrics = [metric for case in cases for metric in case.metrics if found.medians.get(metric.key)]
    others = [name for name in names if name != OURS]
    rates = [["median rate", *names]]
    ratios = [["cdpfs ÷", *others, "aims"]]
    for metric in metrics:
        medians = found.medians[metric.key]
        cells = [number(medians[name]) if name in medians else "—" for name in names]
        rates.append([f"{metric.title} ({metric.unit})", *cells])
        ratios.append(
            [
                metric.title,
                *(_ratio_text(medians, name) for name in others),
                "; ".join(f"{aim.against} ≥ {aim.ratio} ({aim.by})" for aim in metric.aims),
            ]
        )
    lines = table(rates)
    if OURS in names:
        lines += ["", *table(ratios), "", *_misses(metrics, found)]
    return [*lines, "", *_spread(metrics, found)]


def _ratio(medians: dict[str, float], name: str) -> float | None:
    if not medians.get(name) or OURS not in medians:
        return None
    return medians[OURS] / medians[name]


def _ratio_text(medians: dict[str, float], name: str) -> str:
    ratio = _ratio(medians, name)
    return "—" if ratio is None else f"{ratio:.2f}"


def _misses(metrics: Sequence[Metric], found: Comparison) -> list[str]:
    lines = []
    for metric in metrics:
        for aim in metric.aims:
            text = _miss(metric, aim, found.medians[metric.key])
            if text:
                lines.append(f"- {text}")
    return [f"Short of the aim in {len(lines)} places:", "", *lines] if lines else ["All aims met."]


def _miss(metric: Metric, aim: Aim, medians: dict[str, float]) -> str:
    ratio = _ratio(medians, aim.against)
    if ratio is None or at_least(ratio, aim.ratio):
        return ""
    short = (1 - ratio / aim.ratio) * 100
    return (
        f"{metric.title}: {ratio:.2f} of {aim.against}, wanted ≥ {aim.ratio} ({aim.by}); "
        f"short by {short:.0f} %"
    )


def _spread(metrics: Sequence[Metric], found: Comparison) -> list[str]:
    """How much cdpfs's rounds differed, the measure of the noise."""
    parts = []
    rounds = 0
    for metric in metrics:
        values = found.values.get(metric.key, {}).get(OURS, [])
        rounds = max(rounds, len(values))
        if len(values) > 1:
            parts.append((max(values) - min(values)) / found.medians[metric.key][OURS])
    if not parts:
        return [f"Rounds: {rounds or 1}."]
    worst = max(parts) * 100
    typical = sorted(parts)[len(parts) // 2] * 100
    text = (
        f"Rounds: {rounds}. Between the best and the worst of cdpfs's rounds lie typically "
        f"{typical:.0f} % of the median, at most {worst:.0f} %."
    )
    return [text]


def figures(found: Sequence[Figure]) -> list[str]:
    """A study's table, and what it missed."""
    rows = [["measure", "value", "aim", "met"]]
    rows += [[figure.title, figure.value, figure.aim, _met(figure.met)] for figure in found]
    return table(rows)


def _met(met: bool | None) -> str:
    return {None: "", True: "yes", False: "**no**"}[met]


def replace_section(page: str, name: str, lines: Sequence[str]) -> str:
    """The page with the section between its markers replaced; ValueError without markers."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    text = "\n".join([begin, "", *lines, "", end])
    page, count = pattern.subn(lambda _: text, page)
    if count != 1:
        raise ValueError(f"the page has {count} sections {begin} … {end} instead of one")
    return page
