"""Cases of writing and reading file content, by fio. One thread per job; psync, page cache."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.content import Content
from bench.plan import DESIGN, FIRST, Aim, Case, Metric, Scale

JOBS = 4
_SMALL_AIMS = (
    Aim("plain", 0.85, FIRST),
    Aim("bindfs", 0.7, DESIGN),
    Aim("mergerfs", 0.7, DESIGN),
)


def fio(place: Path, scale: Scale, **options: object) -> dict[str, float]:
    """Run one fio job group in `place`; the rates of reading and writing.

    Buffers are half compressible and never the same, as data is; without that the journal would
    look better than it is.
    """
    settings = {
        "name": "job",
        "directory": place,
        "ioengine": "psync",
        "direct": 0,
        "fsync": 0,
        "randrepeat": 0,
        "norandommap": 1,
        "refill_buffers": 1,
        "buffer_compress_percentage": 50,
        "group_reporting": 1,
        "thread": 1,
        "output-format": "json",
        "time_based": 1,
        "runtime": f"{max(scale.seconds * 1000, 200):.0f}ms",
        "size": scale.file_bytes,
        "overwrite": 1,
        **options,
    }
    command = ["fio", *(f"--{key}={value}" for key, value in settings.items() if value is not None)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return {
        "write_iops": job["write"]["iops"],
        "read_iops": job["read"]["iops"],
        "write_mb_s": job["write"]["bw_bytes"] / 1e6,
    }


def fill(place: Path, scale: Scale) -> None:
    """Make the files that the jobs overwrite: every block allocated and written."""
    content = Content()
    for job in range(JOBS):
        content.write_file(place / f"f.{job}", "mixed", scale.file_bytes // (1 if job == 0 else 4))


def _random_writes(place: Path, scale: Scale) -> dict[str, float]:
    rates = fio(place, scale, rw="randwrite", bs="4k", filename="f.0")
    return {"write4k_qd1": rates["write_iops"]}


def _random_writes_4(place: Path, scale: Scale) -> dict[str, float]:
    rates = fio(
        place,
        scale,
        rw="randwrite",
        bs="4k",
        numjobs=JOBS,
        filename_format="f.$jobnum",
        size=scale.file_bytes // 4,
    )
    return {"write4k_4jobs": rates["write_iops"]}


def _sequential(place: Path, scale: Scale) -> dict[str, float]:
    whole = {"rw": "write", "bs": "1m", "filename": "f.0", "time_based": 0, "runtime": None}
    passes = 2 if scale.short else 4
    cached = fio(place, scale, **whole, loops=passes)
    synced = fio(place, scale, **whole, loops=passes, end_fsync=1)
    return {"write1m": cached["write_mb_s"], "write1m_fsync": synced["write_mb_s"]}


def _cached_reads(place: Path, scale: Scale) -> dict[str, float]:
    rates = fio(place, scale, rw="randread", bs="4k", filename="f.0", invalidate=0, pre_read=1)
    return {"read4k_cached": rates["read_iops"]}


CASES = (
    Case(
        "write4k",
        (Metric("write4k_qd1", "4 KiB random writes, QD1", "/s", _SMALL_AIMS),),
        _random_writes,
        fill,
    ),
    Case(
        "write4k-4jobs",
        (Metric("write4k_4jobs", "4 KiB random writes, 4 jobs", "/s", _SMALL_AIMS),),
        _random_writes_4,
        fill,
    ),
    Case(
        "write1m",
        (
            Metric(
                "write1m",
                "1 MiB sequential writes",
                "MB/s",
                (
                    Aim("mergerfs", 0.6, FIRST),
                    Aim("bindfs", 0.8, DESIGN),
                    Aim("mergerfs", 0.8, DESIGN),
                ),
            ),
            Metric("write1m_fsync", "1 MiB sequential writes, one fsync at the end", "MB/s"),
        ),
        _sequential,
        fill,
    ),
    Case(
        "read4k",
        (Metric("read4k_cached", "4 KiB random reads, cached", "/s", (Aim("ext4", 0.9, DESIGN),)),),
        _cached_reads,
        fill,
    ),
)
