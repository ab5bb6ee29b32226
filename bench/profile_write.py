"""Where the time of a write goes: a sampling profile of fsd while a case of the benchmark runs.

Run it as `python -m bench.profile_write [CASE] [--target cdpfs|plain] [--seconds S]`, with the
environment that scripts/setup --dev made. py-spy samples the daemon from outside, so its code runs
as it always does. Printed are the rate, CPU per operation, and the samples by function: *self* is
time in the function itself, *total* includes what it called. Time that the loop waits for the next
request counts as idle and is left out.

`--native` also tells C extensions apart (pyfuse3, lmdb), at the price of slower sampling.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.__main__ import CASES
from bench.compare import settle
from bench.plan import Case, Scale
from bench.processes import cpu_seconds
from bench.report import table
from bench.targets import ROOT, TARGETS, Target
from console.control import Control
from store.volume import Store

RATE_HZ = 500
SHOWN = 25
_FRAME = re.compile(r"^(?P<what>.*) \((?P<where>[^()]*)\)$")


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for."""

    case: Case
    target: str
    seconds: float
    native: bool
    directory: Path


def parse(arguments: Sequence[str]) -> Wishes:
    """Read the command line."""
    cases = {case.name: case for case in CASES}
    parser = argparse.ArgumentParser(prog="python -m bench.profile_write", description=__doc__)
    parser.add_argument("case", nargs="?", default="write4k", choices=sorted(cases))
    parser.add_argument("--target", default="cdpfs", choices=["cdpfs", "plain"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"))
    wishes = parser.parse_args(arguments)
    return Wishes(cases[wishes.case], wishes.target, wishes.seconds, wishes.native, wishes.dir)


def main(arguments: Sequence[str]) -> int:
    """Profile one case on one target and print it; the exit code."""
    wishes = parse(arguments)
    beside_python = Path(sys.executable).with_name("py-spy")
    sampler = str(beside_python) if beside_python.exists() else shutil.which("py-spy")
    if sampler is None:
        print("py-spy is not installed; run scripts/setup --dev", file=sys.stderr)
        return 1
    work = Path(tempfile.mkdtemp(prefix="cdpfs-profile-", dir=wishes.directory))
    work.chmod(0o755)
    try:
        with TARGETS[wishes.target](wishes.target, work) as target:
            _profile(wishes, target, work, sampler)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def _profile(wishes: Wishes, target: Target, work: Path, sampler: str) -> None:
    case, scale = wishes.case, Scale(False, 1, wishes.seconds)
    place = target.path / case.name
    place.mkdir()
    place.chmod(0o755)
    try:
        case.prepare(place, scale)
        settle(target)
        processes = _processes(target, work)
        before = {name: cpu_seconds(pid) for name, pid in processes.items()}
        with _sampled(sampler, processes["fsd"], wishes.native, work) as stacks:
            rates = case.run(place, scale)
        used = {name: cpu_seconds(pid) - before[name] for name, pid in processes.items()}
    finally:
        case.finish(place)
    _show(rates, used, wishes.seconds)
    _show_stacks(stacks.read_text(encoding="utf-8", errors="replace"))


@contextmanager
def _sampled(sampler: str, pid: int, native: bool, work: Path) -> Iterator[Path]:
    """Sample a process while the block lasts; the file holds its stacks afterwards."""
    stacks = work / "stacks"
    command = [sampler, "record", "--nonblocking", "-r", str(RATE_HZ), "-f", "raw"]
    command += ["-o", str(stacks), "-d", "3600", *(["--native"] if native else [])]
    with open(work / "py-spy.log", "wb") as log:
        spy = subprocess.Popen([*command, "-p", str(pid)], stdout=log, stderr=log)
    try:
        yield stacks
    finally:
        # py-spy writes its file when it is interrupted.
        spy.send_signal(signal.SIGINT)
        spy.wait()
    if not stacks.exists():
        said = (work / "py-spy.log").read_text(errors="replace")
        raise RuntimeError(f"py-spy took no samples (may it trace other processes?):\n{said}")


def _processes(target: Target, work: Path) -> dict[str, int]:
    """The daemons by name; the plain passthrough counts as an fsd."""
    if target.name == "cdpfs":
        with Control(Store.open(work / "cdpfs-store")) as control:
            pids = control.call("status")["pids"]
        assert isinstance(pids, dict)
        return pids
    wanted = str(target.path).encode()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        words = entry.read_bytes().split(b"\0")
        if wanted in words and b"bench.plain_passthrough" in words:
            return {"fsd": int(entry.parent.name)}
    raise RuntimeError("the plain passthrough is not running")


def _show(rates: dict[str, float], used: dict[str, float], seconds: float) -> None:
    for key, value in rates.items():
        print(f"{key}: {value:,.0f} per second while sampled")
    for name, cpu_s in used.items():
        print(f"CPU of {name}: {cpu_s:.2f} s")
    # Meaningful for cases that do one thing for so many seconds, which is most of them.
    if len(rates) == 1:
        operations = next(iter(rates.values())) * seconds
        for name, cpu_s in used.items():
            print(f"CPU of {name} per operation: {cpu_s / operations * 1e6:.0f} µs")


def _show_stacks(stacks: str) -> None:
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks.splitlines():
        trace, _, count = line.rpartition(" ")
        frames = [_shorten(frame) for frame in trace.split(";")]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            total[frame] += int(count)
    samples = sum(own.values())
    print(f"{samples} samples at {RATE_HZ} Hz, idle left out\n")
    for title, counter in (("self", own), ("total", total)):
        rows = [[f"function, by {title}", "self", "total"]]
        rows += [
            [name, f"{own[name] / samples:.1%}", f"{total[name] / samples:.1%}"]
            for name, _ in counter.most_common(SHOWN)
        ]
        print(*table(rows), "", sep="\n")


def _shorten(frame: str) -> str:
    """A frame without its line, and without the path of this checkout or the environment."""
    found = _FRAME.match(frame)
    if found is None:
        return frame
    where = found["where"].removeprefix(f"{ROOT}/").rsplit("site-packages/", 1)[-1]
    return f"{re.sub(r':[0-9]+$', '', where)}: {found['what']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
