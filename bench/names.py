"""The case of many small files: create, list, stat and unlink them in one directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from bench.plan import DESIGN, Aim, Case, Metric, Scale

_AIMS = (Aim("bindfs", 0.7, DESIGN),)


def _many_names(place: Path, scale: Scale) -> dict[str, float]:
    directory = place / "many"
    directory.mkdir()
    count = scale.name_count
    paths = [os.fsencode(directory / f"file-{number:06}") for number in range(count)]

    def create() -> None:
        for path in paths:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))

    def listing() -> None:
        found = len(os.listdir(directory))
        if found != count:
            raise RuntimeError(f"{directory} lists {found} of {count} names")

    def stat() -> None:
        for path in paths:
            os.stat(path)

    def unlink() -> None:
        for path in paths:
            os.unlink(path)

    steps = {"create": create, "readdir": listing, "stat": stat, "unlink": unlink}
    took_s = {name: _seconds(step) for name, step in steps.items()}
    directory.rmdir()
    rates = {f"names_{name}": count / seconds for name, seconds in took_s.items()}
    return {**rates, "names_all": count / sum(took_s.values())}


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


CASES = (
    Case(
        "names",
        (
            *(
                Metric(f"names_{step}", f"many files in a directory: {step}", "/s", _AIMS)
                for step in ("create", "readdir", "stat", "unlink")
            ),
            Metric("names_all", "many files in a directory: all four together", "/s", _AIMS),
        ),
        _many_names,
        max_rounds=3,
    ),
)
