"""Running cases on all targets, interleaved, and comparing the medians.

Duty: rounds of every case in turn on every target, the order rotated from round to round, so that
whatever disturbs the machine disturbs all alike. Before each measurement the target has settled
and what is dirty in the page cache is on disk; nothing else is dropped or tuned.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median

from bench.plan import Case, Comparison, Scale
from bench.targets import TARGETS, Target, cdpfs

Step = Callable[[Case, Target], None]


class Comparer:
    """Cases on targets; `failures` says what went wrong, the rest is measured all the same."""

    def __init__(self, work: Path, scale: Scale, target_names: Sequence[str]) -> None:
        self._work = work
        self._scale = scale
        self._names = target_names
        self.failures: list[str] = []
        self.result = Comparison()

    def run(self, cases: Sequence[Case]) -> None:
        """Mount every target, measure every case, unmount."""
        with ExitStack() as stack:
            targets = []
            for name in self._names:
                try:
                    targets.append(stack.enter_context(self._open(name)))
                except Exception as error:  # noqa: BLE001  (the other columns are still of use)
                    self.failures.append(f"{name} did not mount: {error}")
                    traceback.print_exc()
            for case in cases:
                self._measure(case, targets)

    def _open(self, name: str) -> AbstractContextManager[Target]:
        if name == "cdpfs":
            return cdpfs(name, self._work, self._scale.ring_file_bytes)
        return TARGETS[name](name, self._work)

    def _measure(self, case: Case, targets: Sequence[Target]) -> None:
        start = time.monotonic()
        try:
            ready = [target for target in targets if self._attempt(case, target, self._prepare)]
            for number in range(min(self._scale.rounds, case.max_rounds)):
                turn = number % max(len(ready), 1)
                for target in [*ready[turn:], *ready[:turn]]:
                    self._attempt(case, target, self._round)
        finally:
            for target in targets:
                self._attempt(case, target, self._finish)
        self._compute(case)
        print(f"  {case.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    def _attempt(self, case: Case, target: Target, step: Step) -> bool:
        try:
            step(case, target)
        except Exception as error:  # noqa: BLE001  (reported at the end; others go on)
            self.failures.append(f"{case.name} on {target.name}: {error}")
            traceback.print_exc()
            return False
        return True

    def _place(self, case: Case, target: Target) -> Path:
        return target.path / case.name

    def _prepare(self, case: Case, target: Target) -> None:
        place = self._place(case, target)
        place.mkdir()
        place.chmod(0o755)
        case.prepare(place, self._scale)

    def _round(self, case: Case, target: Target) -> None:
        settle(target)
        for key, value in case.run(self._place(case, target), self._scale).items():
            rounds = self.result.values.setdefault(key, {})
            rounds.setdefault(target.name, []).append(value)

    def _finish(self, case: Case, target: Target) -> None:
        place = self._place(case, target)
        try:
            case.finish(place)
        finally:
            if place.exists():
                shutil.rmtree(place)
            settle(target)

    def _compute(self, case: Case) -> None:
        for metric in case.metrics:
            rounds = self.result.values.get(metric.key, {})
            self.result.medians[metric.key] = {
                name: median(values) for name, values in rounds.items()
            }


def settle(target: Target) -> None:
    """Let the target finish what it does behind, and the disk what the kernel still holds."""
    target.settle()
    os.sync()
