"""What must hold of each program's verdict."""

from __future__ import annotations

from tests.transactions.evaluate import Verdict

LEAST_RECALL = 0.95
RECALL_OF = ("sqlite-", "postgresql-", "pair-")
"""Programs by the start of their names."""

WHOLE_AT_ANY_LSN = ("sed",)
"""A rename replaces the file in one step, so no cut can break it."""
MANY_CUTS = 100
"""Of so many at least one must be broken: else the check can't fail."""


def shortcomings(verdict: Verdict) -> list[str]:
    """What the verdict falls short of; [] if it is as it must be."""
    found = []
    if not verdict.points:
        found.append("no transaction point was found")
    if verdict.violations:
        found.append(f"{len(verdict.violations)} points break the invariant")
    if verdict.imprecise:
        found.append(f"precision is {verdict.precision:.3f}")
    if verdict.program.startswith(RECALL_OF) and verdict.recall < LEAST_RECALL:
        found.append(f"recall is {verdict.recall:.3f}, {LEAST_RECALL} is wanted")
    if verdict.unflagged:
        found.append(f"{len(verdict.unflagged)} broken cuts are taken for clean")
    can_break = verdict.cuts >= MANY_CUTS and verdict.program not in WHOLE_AT_ANY_LSN
    if can_break and not verdict.broken_cuts:
        found.append("no cut was broken, so the check can't fail")
    return found
