"""fio writes blocks with checksums through several engines, and checks them: now and in the past.

The content differs from run to run (fio stamps the time into each block), so what is compared
with the plain directory is that both pass, and which files of which sizes there are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.arena import Arena, open_arena
from tests.mount.fingerprint import assert_equal, fingerprint
from tests.mount.peers import run

ENGINES = {
    "psync": ("--ioengine=psync",),
    "psync, fsync": ("--ioengine=psync", "--fsync=16"),
    "psync, appended": ("--ioengine=psync", "--file_append=1", "--fallocate=none"),
    "psync, O_DIRECT": ("--ioengine=psync", "--direct=1"),
    "psync, O_SYNC": ("--ioengine=psync", "--sync=1", "--size=256k"),
    "mmap": ("--ioengine=mmap", "--fsync=32"),
    "libaio, O_DIRECT": ("--ioengine=libaio", "--direct=1", "--iodepth=8"),
    "io_uring": ("--ioengine=io_uring", "--iodepth=8"),
}


@pytest.fixture
def arena() -> Iterator[Arena]:
    """An empty pair of places."""
    with open_arena() as made:
        yield made


def _fio(place: Path, *options: str) -> int:
    """One fio run with three jobs, each with a file of its own; returns the bytes written."""
    place.mkdir(exist_ok=True)
    command = (
        "fio",
        "--name=job",
        "--numjobs=3",
        "--size=1m",
        "--bs=4k",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--output-format=json",
        "--thread",
        *options,
    )
    printed = run(*command, cwd=place)  # --directory would cut the path at its colon
    report = json.loads(printed[printed.index("{") :])
    assert all(job["error"] == 0 for job in report["jobs"])
    return sum(job["write"]["io_bytes"] for job in report["jobs"])


def _check(place: Path, *options: str) -> None:
    """fio checks every block's checksum, without writing."""
    _fio(place, "--rw=read", "--ioengine=psync", *options)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_random_writes_are_verified(arena: Arena, engine: str) -> None:
    options = ENGINES[engine]
    seeds = ("--randseed=1", "--randseed=2")
    written = [_fio(arena.plain / "fio", "--rw=randwrite", *options, seed) for seed in seeds]
    tree = arena.volume.tree / "fio"
    assert _fio(tree, "--rw=randwrite", *options, seeds[0]) == written[0]
    lsn = arena.pause()
    assert _fio(tree, "--rw=randwrite", *options, seeds[1]) == written[1]
    assert_equal(fingerprint(tree), fingerprint(arena.plain / "fio"), varies=_content, times=False)
    _check(tree, *_size(options))
    _check(arena.volume.past(lsn) / "fio", *_size(options))
    assert fingerprint(tree) != fingerprint(arena.volume.past(lsn) / "fio")
    arena.check_moments()
    arena.check_after_remount()


def _size(options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(option for option in options if option.startswith("--size="))


def _content(path: bytes) -> bool:
    """What fio writes, and its note of the blocks that were done last, in the order of that."""
    return path.startswith((b"job", b"local-job"))


@pytest.mark.nightly
@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("blocks", ["odd", "1m"])
def test_larger_files_with_odd_blocks_are_verified(arena: Arena, engine: str, blocks: str) -> None:
    least = 4096 if engine == "mmap" else 512  # fio's mmap engine takes whole pages only
    odd = (f"--bsrange={least}-64k", f"--blockalign={least}")
    options = (*ENGINES[engine], *(odd if blocks == "odd" else ("--bs=1m",)), "--size=16m")
    tree = arena.volume.tree / "fio"
    for seed in range(3):
        _fio(tree, "--rw=randwrite", f"--randseed={seed}", *options)
        arena.pause()
    arena.check_moments()
    arena.check_after_remount()


def test_holes_that_are_punched_and_ranges_that_are_allocated(arena: Arena) -> None:
    """What fallocate(2) does or refuses is the same as on the plain directory, byte for byte."""

    def work(place: Path) -> list[str]:
        answers = []
        path = place / "holes"
        path.write_bytes(bytes(range(256)) * 4096)
        for options in (("-p", "-o", "8192", "-l", "65536"), ("-o", "1048576", "-l", "100000")):
            answers.append(run("sh", "-c", f'fallocate "$@" {path} || echo refused', "-", *options))
            answers.append(str(os.stat(path).st_size))
        return answers

    wanted, found = work(arena.plain), work(arena.volume.tree)
    plain, tree = arena.plain / "holes", arena.volume.tree / "holes"
    if found == wanted:
        assert tree.read_bytes() == plain.read_bytes()
    else:
        # FUSE file systems may leave fallocate out: then nothing at all must have happened.
        assert found == ["refused\n", "1048576", "refused\n", "1048576"]
        assert tree.read_bytes() == bytes(range(256)) * 4096
