"""ENOSPC and EIO at every place where the daemon and the indexer touch the store or the tree."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.fault_bench import Fault, FaultBench

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

NUMBERS = (errno.ENOSPC, errno.EIO)
PERIOD_S = 40.0
"""In which everything that is done from time to time is done once."""

POLICIES = ("availability", "strict")


@pytest.fixture(params=POLICIES)
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FaultBench]:
    """A mounted volume of each policy."""
    made = FaultBench(tmp_path, protect=request.param)
    try:
        made.mount()
        made.check_newest()
        yield made
    finally:
        made.close()


def every_fault(sites: Counter[str]) -> list[Fault]:
    """At each site its first call, its last one and one between; the first one for good, too."""
    found = []
    for site, count in sorted(sites.items()):
        for number in NUMBERS:
            places = {0, count - 1, count // 2}
            found += [Fault(site, at, number, lasting=False) for at in sorted(places)]
            found.append(Fault(site, 0, number, lasting=True))
    return found


@pytest.mark.nightly
def test_every_call_fails_and_the_volume_comes_right(bench: FaultBench) -> None:
    faults = every_fault(bench.sites(seconds=PERIOD_S))
    for fault in faults:
        bench.suffer(fault)
    print(f"{len(faults)} faults at {len({fault.site for fault in faults})} sites; ", end="")
    print(f"{bench.hits} came to pass, {bench.refused} steps refused, ", end="")
    print(f"{bench.silent} faults unnoticed by the workload")
    bench.end()


def test_some_calls_fail_and_the_volume_comes_right(bench: FaultBench) -> None:
    faults = every_fault(bench.sites(seconds=0.0))
    chosen = random.Random(7).sample(faults, 8)
    chosen += [fault for fault in faults if "append pwritev" in fault.site and fault.lasting]
    for fault in chosen:
        bench.suffer(fault)
    bench.end()


@pytest.mark.nightly
@pytest.mark.parametrize("bench", ["availability"], indirect=True)
def test_every_call_of_a_mount_fails_and_the_next_one_finds_everything(bench: FaultBench) -> None:
    sites = sorted(bench.mount_sites())
    faults = [Fault(site, 0, number, lasting=False) for site in sites for number in NUMBERS]
    for fault in faults:
        bench.mount_with(fault)
    print(f"{len(faults)} faults at {len(sites)} sites; ", end="")
    print(f"{bench.hits} came to pass, {bench.refused} mounts refused")
    bench.end()
