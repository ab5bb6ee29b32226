"""A verdict as text: a row of the table, and the first complaints."""

from __future__ import annotations

from tests.transactions.evaluate import Verdict

HEAD = ("program", "transactions", "points", "opened", "violations", "precision", "recall", "cuts")
SHOWN = 5
"""Complaints of a kind."""


def row(verdict: Verdict) -> tuple[str, ...]:
    """The cells of a table's row."""
    return (
        verdict.program,
        str(verdict.commits),
        str(verdict.points),
        str(verdict.checked),
        str(len(verdict.violations)),
        f"{verdict.precision:.3f}",
        f"{verdict.recall:.3f}",
        f"{verdict.broken_cuts} of {verdict.cuts} broken, {len(verdict.unflagged)} unflagged",
    )


def excerpts(verdict: Verdict) -> list[str]:
    """The first complaints of each kind."""
    kinds = {
        "violation": verdict.violations,
        "no boundary": verdict.imprecise,
        "missed": verdict.missed,
        "false": verdict.false_claims,
        "unflagged": verdict.unflagged,
    }
    return [f"{kind}: {text}" for kind, texts in kinds.items() for text in texts[:SHOWN]]
