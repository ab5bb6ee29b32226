"""Protecting a tree of many existing files: at once usable, seeded behind, right from the start."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.fingerprint import Fingerprint, assert_equal, fingerprint
from tests.mount.peers import POLL_S
from tests.volume import Volume

MEMORY_BYTES = 150 << 20
FILES_PER_FOLDER = 250
SLOW_BYTES_S = 20_000
"""So slow that seeding can't be through before the test has looked at the first seconds."""


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """Not mounted yet; the initial backup is set to a crawl."""
    made = Volume(tmp_path, seed_rate_bytes_s=SLOW_BYTES_S, ring_file_bytes=32 << 20)
    try:
        yield made
    finally:
        made.close()
    made.assert_foreseen()


def _fill(root: Path, count: int) -> None:
    """Many small files, a few large ones, and some hard links, symlinks and attributes."""
    for number in range(count):
        folder = root / f"area{number // FILES_PER_FOLDER // 20}" / f"{number // FILES_PER_FOLDER}"
        if number % FILES_PER_FOLDER == 0:
            folder.mkdir(parents=True)
        path = folder / f"file {number}"
        path.write_bytes(b"%d " % number * (number % 97))
        if number % 50 == 1:
            path.chmod(0o640)
            os.link(path, folder / f"link {number}")
            os.symlink(path.name, folder / f"symlink {number}")
        if number % 50 == 2:
            os.setxattr(path, "user.number", b"%d" % number)
    for number in range(3):
        (root / f"large{number}").write_bytes(os.urandom(1 << 20) * 9)


def _spoil(root: Path, area: Path) -> None:
    """Damage what is not seeded yet, in every way: change, cut, replace, remove, move."""
    with (root / "large0").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"changed in the middle")
    os.truncate(root / "large1", 12345)
    (root / "large2").unlink()
    folders = sorted(area.iterdir())
    shutil.rmtree(folders[0])
    folders[1].rename(root / "moved")
    for number, path in enumerate(sorted((root / "moved").iterdir())):
        if number % 3 == 0:
            path.unlink()
        elif number % 3 == 1 and path.is_file() and not path.is_symlink():
            path.write_text("overwritten")
            path.chmod(0o600)
    (folders[2] / "new").write_text("new")
    os.replace(folders[2] / "new", sorted(folders[2].iterdir())[0])


def _memory_bytes(volume: Volume) -> int:
    """The most memory that the daemon ever had resident."""
    assert volume.process is not None
    status = Path(f"/proc/{volume.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def _wait_complete(volume: Volume) -> dict[str, Any]:
    """Wait until seeding says that it is through; returns what it says."""
    while not (seeding := volume.call("status")["seeding"])["complete"]:
        assert seeding["done_bytes"] <= seeding["total_bytes"]
        time.sleep(POLL_S)
    return dict(seeding)


def _seed_all(volume: Volume) -> None:
    """Wait for the whole backup; its progress must grow up to the end."""
    before = volume.call("status")["seeding"]
    assert not before["complete"]
    assert before["done_files"] < before["total_files"]
    volume.call("seed_rate", bytes_s=0)
    volume.call("seed", node=1, subtree=True)
    after = _wait_complete(volume)
    assert after["done_bytes"] == after["total_bytes"] > before["done_bytes"]
    assert after["done_files"] == after["total_files"]
    assert after["unreadable"] == 0


def _protect_and_spoil(volume: Volume, count: int) -> tuple[int, Fingerprint, Fingerprint]:
    """Returns the first LSN that a user saw, what was there then, and what is there now."""
    _fill(volume.backing, count)
    then = fingerprint(volume.backing)
    volume.mount()
    assert not volume.call("status")["seeding"]["complete"], "seeding held up the mount"
    assert (volume.tree / "area0" / "0" / "file 7").read_bytes() == b"7 " * 7
    first = volume.call("status")["lsn"]
    _spoil(volume.tree, volume.tree / "area0")
    assert (volume.past(first) / "large2").stat().st_size == 9 << 20
    now = fingerprint(volume.tree)
    return first, then, now


def _below(part: bytes, whole: Fingerprint) -> Fingerprint:
    """The facts of a subtree, as if it were a tree of its own."""
    inside = {path: facts for path, facts in whole.items() if path.startswith(part + b"/")}
    inside[part] = whole[part]
    cut = len(part) + 1
    return {
        path[cut:]: facts._replace(same_as=facts.same_as[cut:]) for path, facts in inside.items()
    }


def _check_unseeded(volume: Volume, lsn: int, then: Fingerprint) -> None:
    """What was damaged before seeding came to it, and a part that nobody touched."""
    for part in (b"large0", b"large1", b"large2", b"area0/0", b"area0/1", b"area0/4"):
        found = fingerprint(volume.past(lsn) / os.fsdecode(part))
        assert_equal(found, _below(part, then))


def _check_many(volume: Volume, count: int) -> None:
    first, then, now = _protect_and_spoil(volume, count)
    _check_unseeded(volume, first, then)
    _seed_all(volume)
    assert_equal(fingerprint(volume.past(1)), then)
    assert_equal(fingerprint(volume.tree), now)
    volume.unmount()
    assert_equal(fingerprint(volume.backing), now)
    volume.mount()
    assert _wait_complete(volume)["done_bytes"] == 0, "something was seeded twice"
    assert_equal(fingerprint(volume.past(first)), then)
    assert_equal(fingerprint(volume.tree), now)


def test_many_files_are_protected_at_once_and_seeded_behind(volume: Volume) -> None:
    _check_many(volume, 5_000)


@pytest.mark.nightly
def test_a_hundred_thousand_files_are_protected_at_once(volume: Volume) -> None:
    _check_many(volume, 100_000)


@pytest.mark.parametrize(
    "count", [5_000, pytest.param(100_000, marks=pytest.mark.nightly, id="100,000")]
)
def test_protecting_takes_little_memory(volume: Volume, count: int) -> None:
    """Also when applications look at every file, so that the kernel remembers all of them."""
    _fill(volume.backing, count)
    volume.mount()
    _spoil(volume.tree, volume.tree / "area0")
    fingerprint(volume.tree)
    assert _memory_bytes(volume) < MEMORY_BYTES
    _seed_all(volume)
    assert _memory_bytes(volume) < MEMORY_BYTES


def test_seeding_goes_on_where_it_was_after_the_daemon_was_killed(volume: Volume) -> None:
    first, then, now = _protect_and_spoil(volume, 1_000)
    volume.kill()
    volume.mount()
    assert_equal(fingerprint(volume.tree), now)
    _seed_all(volume)
    assert_equal(fingerprint(volume.past(first)), then)
