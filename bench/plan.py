"""What is measured, and how much of it: the vocabulary of the benchmark. Pure; any thread.

A *case* runs on every target alike and yields values by *metric*; higher is better. An *aim* says
what a metric's ratio to another target should be. A *study* looks at cdpfs alone, or beside other
backup programs, and yields *figures*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Scale:
    """How much work a run does. `short` only shows that everything works."""

    short: bool
    rounds: int
    seconds: float
    """Of each time-bound measurement."""

    @property
    def file_bytes(self) -> int:
        """Of the files that are written at random or in sequence."""
        return (8 if self.short else 128) << 20

    @property
    def name_count(self) -> int:
        """Files in one directory."""
        return 2_000 if self.short else 100_000

    @property
    def restore_bytes(self) -> int:
        """Of the file that is restored."""
        return (32 if self.short else 1024) << 20

    @property
    def history_ops(self) -> tuple[int, int]:
        """A short and a long history."""
        return (1_000, 10_000) if self.short else (10_000, 1_000_000)

    @property
    def journal_bytes(self) -> int:
        """Payload whose journal is weighed."""
        return (8 if self.short else 256) << 20

    @property
    def existing_files(self) -> int:
        """Files that are there before cdpfs."""
        return 2_000 if self.short else 100_000

    @property
    def ring_file_bytes(self) -> int:
        """Of the intake log's files."""
        return (16 if self.short else 128) << 20


@dataclass(frozen=True)
class Aim:
    """cdpfs's value divided by `against`'s should be at least `ratio`; `by` is who wants it."""

    against: str
    ratio: float
    by: str


@dataclass(frozen=True)
class Metric:
    """One value of a case, in `unit` (per second: higher is better)."""

    key: str
    title: str
    unit: str
    aims: tuple[Aim, ...] = ()


@dataclass(frozen=True)
class Case:
    """Work that every target does. `run` gets a directory that is its own, kept between rounds."""

    name: str
    metrics: tuple[Metric, ...]
    run: Callable[[Path, Scale], dict[str, float]]
    prepare: Callable[[Path, Scale], None] = lambda _place, _scale: None
    """Makes what `run` needs, before the first round; not measured."""
    finish: Callable[[Path], None] = lambda _place: None
    """After the last round, also when something failed."""
    max_rounds: int = 99
    in_short: bool = True


@dataclass(frozen=True)
class Figure:
    """One line of a study's table. `met` is None where there is nothing to aim at."""

    title: str
    value: str
    aim: str = ""
    met: bool | None = None


@dataclass
class Study:
    """Measurements of their own making, in a work directory of their own."""

    name: str
    title: str
    run: Callable[[Path, Scale], list[Figure]]
    peers: bool = False
    """Whether it wants the peer backup programs installed."""


@dataclass
class Comparison:
    """Medians by metric and target, and every round's value behind them."""

    medians: dict[str, dict[str, float]] = field(default_factory=dict)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)


FIRST = "this release"
DESIGN = "design"


def at_least(value: float, limit: float) -> bool:
    """Whether a ratio meets its aim, as precisely as the tables show it."""
    return round(value, 2) >= limit
