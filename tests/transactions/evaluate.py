"""Judges the points of a recording: each is opened through `.snapshots`, copied out and checked.

Three things are counted. A *violation*: a copy of the whole folder breaks the program's check, or
lacks a transaction that was acknowledged before the point. *Precision*: the share of points that
are boundaries by the strict check, which allows no half transaction to be repaired. *Recall*: the
share of the client's transactions that have a point of their own, with exactly the transactions
up to that one in it. Cuts at random LSNs are the control: there the strict check must fail, and
cdpfs must know that the group is in the middle of a transaction.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from store.types import Lsn
from tests.transactions.copies import copy_of, scratch
from tests.transactions.program import Broken, Commit, Counts
from tests.transactions.recording import Boundary, Recording

SLACK_NS = 50_000_000
"""A point belongs to a transaction if it comes so long after the acknowledgement at the latest,
and before the client's next transaction begins."""

JOBS = 2


class Look(NamedTuple):
    """What a copy turned out to be."""

    lsn: Lsn
    counts: Counts | None
    """None if it is broken."""
    problem: str


@dataclass
class Verdict:
    """The figures of one program. Shares are None where nothing was to be counted."""

    program: str
    commits: int = 0
    points: int = 0
    checked: int = 0
    violations: list[str] = field(default_factory=list)
    imprecise: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    """Transactions without any point while they were under way."""
    claims: int = 0
    """Transactions with one that was looked at."""
    false_claims: list[str] = field(default_factory=list)
    """Those of them whose point does not have exactly the transactions up to theirs."""
    cuts: int = 0
    broken_cuts: int = 0
    unflagged: list[str] = field(default_factory=list)
    """Broken cuts of which cdpfs does not say that they are in the midst of a transaction."""

    @property
    def recall(self) -> float:
        """Share of transactions with a point of their own: those with a point, times those whose
        point is the right one, of those that were looked at."""
        if not self.claims:
            return 0.0
        right = 1 - len(self.false_claims) / self.claims
        return right * (1 - len(self.missed) / self.commits)

    @property
    def precision(self) -> float:
        """Share of checked points that are boundaries; 1 if there are none."""
        return 1 - len(self.imprecise) / self.checked if self.checked else 1.0


def judge(
    recording: Recording, points: list[Boundary], most: int, cuts: int, chance: random.Random
) -> Verdict:
    """Check the points, or a random `most` of them, and `cuts` random LSNs."""
    verdict = Verdict(recording.program.name, len(recording.commits), len(points))
    claims = {window.commit: _point_of(window, points) for window in _windows(recording.commits)}
    chosen = _chosen(points, [point for point in claims.values() if point], most, chance)
    program, lsns = recording.program, [point.lsn for point in chosen]
    with scratch() as folder:
        look = partial(_look, recording, folder)
        strict = _every(partial(look, True), lsns)
        whole = dict(strict)
        # Where the strict check is made on the whole folder, it says all that the other one does.
        again = [lsn for lsn in lsns if program.strict_files or strict[lsn].counts is None]
        if program.has_strict_check:
            whole |= _every(partial(look, False), again)
        cut_looks = _every(
            partial(look, True), recording.cuts(cuts * program.has_strict_check, chance)
        )
    verdict.checked = len(chosen)
    for point in chosen:
        verdict.violations += violations(recording.commits, point, whole[point.lsn])
        verdict.imprecise += imprecise(whole[point.lsn], strict[point.lsn], point)
    _recall(verdict, claims, whole)
    _judge_cuts(verdict, recording, cut_looks.values())
    return verdict


# --- looking -------------------------------------------------------------------------------------


def _every(look: Callable[[Lsn], Look], lsns: Iterable[Lsn]) -> dict[Lsn, Look]:
    with ThreadPoolExecutor(JOBS) as pool:
        return {found.lsn: found for found in pool.map(look, dict.fromkeys(lsns))}


def _look(recording: Recording, folder: Path, strictly: bool, lsn: Lsn) -> Look:
    program = recording.program
    names = program.strict_files if strictly else ()
    with copy_of(recording.past(lsn), names, folder) as copy:
        try:
            counts = program.check_strict(copy) if strictly else program.check(copy)
        except Broken as broken:
            return Look(lsn, None, str(broken))
    return Look(lsn, counts, "")


# --- what is right -------------------------------------------------------------------------------


class Window(NamedTuple):
    """When a transaction's own point may lie: `(begin_ns, end_ns]`."""

    commit: Commit
    end_ns: int


def _windows(commits: list[Commit]) -> list[Window]:
    following = {(c.client, c.number): c.begin_ns for c in commits}
    return [
        Window(c, min(c.ack_ns + SLACK_NS, following.get((c.client, c.number + 1), 1 << 63)))
        for c in commits
    ]


def _point_of(window: Window, points: list[Boundary]) -> Boundary | None:
    """The newest point in a window."""
    at = bisect_right(points, window.end_ns, key=lambda point: point.time_ns)
    if at and points[at - 1].time_ns > window.commit.begin_ns:
        return points[at - 1]
    return None


def _chosen(
    points: list[Boundary], wanted: list[Boundary], most: int, chance: random.Random
) -> list[Boundary]:
    """All points, or `most` of them: half of these are some that a transaction claims."""
    if len(points) <= most:
        return points
    claimed = set(chance.sample(wanted, min(len(wanted), most // 2)))
    others = [point for point in points if point not in claimed]
    return sorted(claimed.union(chance.sample(others, min(most - len(claimed), len(others)))))


def violations(commits: list[Commit], point: Boundary, look: Look) -> list[str]:
    """How a copy of a point breaks the invariant, or what was acknowledged and is not in it."""
    where = f"LSN {point.lsn} ({point.reason})"
    if look.counts is None:
        return [f"{where}: {look.problem}"]
    found = []
    for client, count in enumerate(look.counts):
        mine = [commit for commit in commits if commit.client == client]
        acknowledged = sum(commit.ack_ns <= point.time_ns for commit in mine)
        begun = sum(commit.begin_ns <= point.time_ns for commit in mine)
        if not acknowledged <= count <= begun:
            found.append(
                f"{where}: {count} transactions of client {client}, {acknowledged} were "
                f"acknowledged and {begun} begun"
            )
    return found


def imprecise(whole: Look, strict: Look, point: Boundary) -> list[str]:
    """How a point is no boundary by the strict check."""
    where = f"LSN {point.lsn} ({point.reason})"
    if strict.counts is None:
        return [f"{where}: {strict.problem}"]
    if strict.counts != whole.counts:
        return [f"{where}: alone it has {strict.counts}, with the rest {whole.counts}"]
    return []


def _recall(
    verdict: Verdict, claims: dict[Commit, Boundary | None], whole: dict[Lsn, Look]
) -> None:
    for commit, point in claims.items():
        name = f"transaction {commit.number} of client {commit.client}"
        if point is None:
            verdict.missed.append(f"{name} has no point")
        elif point.lsn in whole:
            verdict.claims += 1
            counts = whole[point.lsn].counts
            if counts is None or counts[commit.client] != commit.number:
                verdict.false_claims.append(f"{name}: LSN {point.lsn} has {counts}")


def _judge_cuts(verdict: Verdict, recording: Recording, looks: Iterable[Look]) -> None:
    for look in looks:
        verdict.cuts += 1
        if look.counts is None:
            verdict.broken_cuts += 1
            if not recording.is_mid_transaction(look.lsn):
                verdict.unflagged.append(f"LSN {look.lsn}: {look.problem}")
