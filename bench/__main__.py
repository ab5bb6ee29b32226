"""`scripts/bench`: measure cdpfs and others side by side, print the tables, write the page.

Duty: what to run, on what, and where the results go. No measurement is ever an assertion: the exit
code is 1 only when something did not work.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bench import (
    commits,
    history,
    journal_size,
    names,
    postgres,
    recovery,
    replication_latency,
    report,
    restoring,
    seeding,
    shipping,
    tape,
    tpcb,
    vault,
    vault_restoring,
    wan,
    writes,
)
from bench.compare import Comparer
from bench.machine import describe, filesystem
from bench.plan import Case, Figure, Scale, Study
from bench.targets import ROOT, TARGETS, missing_programs

CASES: tuple[Case, ...] = (
    *writes.CASES,
    *commits.CASES,
    *postgres.CASES,
    *names.CASES,
)
STUDIES: tuple[Study, ...] = (
    *restoring.STUDIES,
    *vault_restoring.STUDIES,
    *history.STUDIES,
    *journal_size.STUDIES,
    *seeding.STUDIES,
    *recovery.STUDIES,
    *replication_latency.STUDIES,
    *shipping.STUDIES,
    *tape.STUDIES,
    *tpcb.STUDIES,
    *vault.STUDIES,
    *wan.STUDIES,
)
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench-out" / "results.json"
COMPARE = "compare"


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for."""

    cases: tuple[Case, ...]
    studies: tuple[Study, ...]
    targets: tuple[str, ...]
    scale: Scale
    directory: Path
    write_docs: bool
    command: str


def parse(arguments: Sequence[str]) -> Wishes:
    """Read the command line."""
    known = [case.name for case in CASES] + [study.name for study in STUDIES] + [COMPARE]
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure cdpfs beside bare disk, bindfs, mergerfs and a plain passthrough.",
        epilog=f"NAMES: {', '.join(known)} (compare: all cases that run on every target). "
        f"Targets: {', '.join(TARGETS)}.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="measure only these")
    parser.add_argument("--short", action="store_true", help="tiny amounts: does it all work?")
    parser.add_argument("--rounds", type=int, help="of each measurement; medians are shown")
    parser.add_argument("--seconds", type=float, help="of each time-bound measurement")
    parser.add_argument("--targets", help="only these, separated by commas")
    parser.add_argument("--dir", type=Path, help="where to work; default: $TMPDIR or /var/tmp")
    parser.add_argument("--write-docs", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    wishes = parser.parse_args(arguments)
    unknown = set(wishes.names) - set(known)
    targets = tuple(wishes.targets.split(",")) if wishes.targets else tuple(TARGETS)
    if unknown or set(targets) - set(TARGETS):
        parser.error(f"unknown: {', '.join(sorted(unknown | (set(targets) - set(TARGETS))))}")
    if wishes.write_docs and wishes.short:
        parser.error("a short run has no figures worth writing down")
    named = set(wishes.names) or set(known)
    short = wishes.short
    return Wishes(
        tuple(
            case
            for case in CASES
            if case.name in wishes.names or (COMPARE in named and (case.in_short or not short))
        ),
        tuple(study for study in STUDIES if study.name in named),
        targets,
        Scale(
            short,
            wishes.rounds or (1 if short else 5),
            wishes.seconds or (0.5 if short else 4.0),
        ),
        (wishes.dir or Path(os.environ.get("TMPDIR", "/var/tmp"))).resolve(),
        wishes.write_docs,
        shlex.join(["scripts/bench", *arguments]),
    )


class Run:
    """One run: sections for people, `failures` for the exit code."""

    def __init__(self, wishes: Wishes, work: Path) -> None:
        self._wishes = wishes
        self._work = work
        self.failures: list[str] = []
        self.sections: dict[str, list[str]] = {}
        self.raw: dict[str, object] = {}

    def everything(self) -> None:
        """All that was asked for."""
        wishes = self._wishes
        machine = describe(self._work, wishes.command, wishes.targets)
        self.sections["machine"] = [f"- {line}" for line in machine]
        self.raw["machine"] = machine
        self._say("machine", "The machine")
        if filesystem(self._work) != "ext4":
            print(f"note: {self._work} is not on ext4; the column “ext4” is what it is on\n")
        if wishes.cases:
            self._compare()
        for study in wishes.studies:
            self._study(study)

    def _compare(self) -> None:
        wishes = self._wishes
        comparer = Comparer(_folder(self._work / COMPARE), wishes.scale, wishes.targets)
        comparer.run(wishes.cases)
        self.failures += comparer.failures
        self.sections[COMPARE] = report.comparison(wishes.cases, wishes.targets, comparer.result)
        self.raw[COMPARE] = {"median": comparer.result.medians, "rounds": comparer.result.values}
        self._say(COMPARE, "Side by side")
        shutil.rmtree(self._work / COMPARE)

    def _study(self, study: Study) -> None:
        start = time.monotonic()
        work = _folder(self._work / study.name)
        try:
            found: list[Figure] = study.run(work, self._wishes.scale)
        except Exception as error:  # noqa: BLE001  (the other studies go on)
            traceback.print_exc()
            self.failures.append(f"{study.name}: {error}")
            return
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self.sections[study.name] = report.figures(found)
        self.raw[study.name] = [(one.title, one.value, one.aim, one.met) for one in found]
        self._say(study.name, study.title)
        print(f"  {study.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    def _say(self, section: str, title: str) -> None:
        print(f"\n## {title}\n", *self.sections[section], sep="\n", flush=True)

    def write_docs(self) -> None:
        """Replace the sections of this run in the page; a partial comparison leaves its own."""
        page = PAGE.read_text(encoding="utf-8")
        for name, lines in self.sections.items():
            if name == COMPARE and len(self._wishes.cases) < len(CASES):
                print(f"note: not all cases were run, so the table “{name}” stays as it was")
            else:
                page = report.replace_section(page, name, lines)
        PAGE.write_text(page, encoding="utf-8")


def _folder(path: Path) -> Path:
    path.mkdir()
    # A database server that is not root works below it.
    path.chmod(0o755)
    return path


def _on_signal(_number: int, _frame: object) -> NoReturn:
    """End as by Ctrl-C, so that every mount is taken away on the way out."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Run; the exit code."""
    signal.signal(signal.SIGTERM, _on_signal)
    wishes = parse(arguments)
    missing = missing_programs(list(wishes.targets))
    if missing:
        print(f"scripts/bench: not installed: {', '.join(missing.values())}", file=sys.stderr)
        return 1
    work = Path(tempfile.mkdtemp(prefix="cdpfs-bench-", dir=wishes.directory))
    work.chmod(0o755)
    run = Run(wishes, work)
    try:
        run.everything()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(run.raw, indent=1), encoding="utf-8")
    print(f"\nall values: {RESULTS.relative_to(ROOT)}")
    if wishes.write_docs:
        run.write_docs()
    for failure in run.failures:
        print(f"FAILED  {failure}", file=sys.stderr)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
