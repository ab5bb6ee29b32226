"""The initial backup beside applications: every view is right from the first second on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.changes import RENAME_EXCHANGE, rename2
from tests.mount.trees import Tree, assert_same, copy_of
from tests.volume import Volume

MIB = 1 << 20
SLOW = 256 << 10
"""Bytes a second: nothing large is seeded before it is asked for."""


LARGE = 5 * MIB + 1
"""Of so many chunks that the file is not seeded before it is unlinked, but kept."""


@pytest.fixture
def slow(tmp_path: Path) -> Volume:
    """A volume that is not mounted yet; what is put beneath is seeded slowly."""
    return Volume(tmp_path, seed_rate_bytes_s=SLOW)


def _fill(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    for number in range(3):
        (root / "a" / f"small{number}").write_bytes(b"%d" % number * 1000)
    (root / "a" / "b" / "middle").write_bytes(os.urandom(MIB + 77))
    (root / "large").write_bytes(os.urandom(LARGE))
    (root / "huge").write_bytes(os.urandom(LARGE))
    os.link(root / "a" / "small0", root / "linked")
    os.link(root / "huge", root / "a" / "huge too")
    with (root / "sparse").open("wb") as file:
        file.seek(7 * MIB)
        file.write(b"the end")
    os.setxattr(root / "large", "user.x", b"y")
    os.chmod(root / "large", 0o640)
    for path in sorted(root.rglob("*")):
        os.utime(path, ns=(10**18, 10**18 + 1))


Deed = Callable[[Path], object]


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _in_turn(*deeds: Deed) -> Deed:
    def deed(root: Path) -> None:
        for one in deeds:
            one(root)

    return deed


DEEDS: dict[str, Deed] = {
    "write into": lambda root: _write(root / "large", 3 * MIB - 5, b"0123456789"),
    "append": lambda root: _write(root / "large", LARGE, b"more"),
    "write far behind": lambda root: _write(root / "large", 8 * MIB, b"more"),
    "cut": lambda root: os.truncate(root / "large", 2 * MIB + 3),
    "cut and extend": _in_turn(
        lambda root: os.truncate(root / "large", 7),
        lambda root: os.truncate(root / "large", 3 * MIB),
    ),
    "extend": lambda root: os.truncate(root / "large", 9 * MIB),
    "empty": lambda root: (root / "large").write_bytes(b"new"),
    "unlink a small file": lambda root: os.unlink(root / "a" / "small1"),
    "unlink a large file": lambda root: os.unlink(root / "large"),
    "unlink one link": lambda root: os.unlink(root / "huge"),
    "unlink both links": _in_turn(
        lambda root: os.unlink(root / "huge"), lambda root: os.unlink(root / "a" / "huge too")
    ),
    "unlink one link, write the other": _in_turn(
        lambda root: os.unlink(root / "linked"),
        lambda root: _write(root / "a" / "small0", 5, b"changed"),
    ),
    "rename over a large file": lambda root: os.rename(root / "a" / "small1", root / "large"),
    "rename a large file away": lambda root: os.rename(root / "large", root / "a" / "b" / "moved"),
    "rename a large file over another": lambda root: os.rename(root / "large", root / "huge"),
    "exchange": lambda root: rename2(
        os.fsencode(root / "large"), os.fsencode(root / "a"), RENAME_EXCHANGE
    ),
    "rename a directory": lambda root: os.rename(root / "a", root / "other"),
    "rename a directory and write in it": _in_turn(
        lambda root: os.rename(root / "a", root / "other"),
        lambda root: _write(root / "other" / "b" / "middle", MIB, b"x"),
        lambda root: os.unlink(root / "other" / "small2"),
    ),
    "remove a tree": _in_turn(
        lambda root: os.unlink(root / "a" / "b" / "middle"), lambda root: os.rmdir(root / "a" / "b")
    ),
    "attributes": _in_turn(
        lambda root: os.chmod(root / "large", 0o600),
        lambda root: os.setxattr(root / "large", "user.x", b"z"),
        lambda root: os.utime(root / "sparse", ns=(1, 2)),
    ),
    "write into a hole": lambda root: _write(root / "sparse", 3 * MIB, b"not a hole any more"),
    "create beside": lambda root: (root / "a" / "new").write_bytes(b"new"),
}


def _seeding(volume: Volume) -> dict[str, int]:
    found: dict[str, int] = volume.call("status")["seeding"]
    return found


def _end(volume: Volume, *copies: tuple[int, Tree]) -> None:
    """Seed the rest and compare the views once more, and after a remount."""
    volume.call("seed_rate", bytes_s=0)
    volume.call("seed", node=1, subtree=True)
    volume.unmount()
    volume.mount()
    for lsn, copy in copies:
        assert_same(volume.past(lsn), copy)
    volume.close()
    volume.assert_foreseen()


@pytest.mark.parametrize("crash", [False, True])
def test_views_of_unseeded_files_are_right_whatever_happens_to_them(
    slow: Volume, crash: bool
) -> None:
    """Each deed in a directory of its own, whose name says which one it is."""
    for name in DEEDS:
        _fill(slow.backing / name)
    before = copy_of(slow.backing)
    try:
        slow.mount()
        for name, deed in DEEDS.items():
            deed(slow.tree / name)
        assert not _seeding(slow)["complete"]
        if crash:
            slow.kill()
            slow.mount()
        after = copy_of(slow.tree)
        now = slow.sync()
        assert_same(slow.past(1), before)
        assert_same(slow.past(now), after)
        _end(slow, (1, before), (now, after))
    finally:
        slow.close()


def test_views_meet_unseeded_directories_first(slow: Volume) -> None:
    _fill(slow.backing)
    before = copy_of(slow.backing)
    try:
        slow.mount()
        assert (slow.past(1) / "a" / "b" / "middle").read_bytes() == before[b"a/b/middle"].content
        assert sorted(os.listdir(slow.past(1) / "a" / "b")) == ["middle"]
        assert not (slow.past(1) / "a" / "never").exists()
        assert_same(slow.past(1), before)
        _end(slow, (1, before))
    finally:
        slow.close()


def test_a_large_file_removed_while_open_is_seeded_from_where_it_is_kept(slow: Volume) -> None:
    _fill(slow.backing)
    before = copy_of(slow.backing)
    try:
        slow.mount()
        with (slow.tree / "large").open("r+b") as file:
            os.unlink(slow.tree / "large")
            assert os.fstat(file.fileno()).st_nlink == 0
            file.seek(4 * MIB)
            file.write(b"still written to")
            assert_same(slow.past(1), before)
            file.seek(0)
            assert file.read(MIB) == before[b"large"].content[:MIB]
        assert sorted(os.listdir(slow.tree)) == ["a", "huge", "linked", "sparse"]
        _end(slow, (1, before))
    finally:
        slow.close()


def test_kept_files_are_not_seen_and_go_when_they_are_seeded(slow: Volume) -> None:
    _fill(slow.backing)
    try:
        slow.mount()
        os.unlink(slow.tree / "large")
        assert b".cdpfs-keep" not in os.listdir(os.fsencode(slow.tree))
        assert not (slow.tree / ".cdpfs-keep").exists()
        with pytest.raises(PermissionError):
            (slow.tree / ".cdpfs-keep").mkdir()
        slow.kill()
        slow.mount()
        assert not _seeding(slow)["complete"]
        slow.call("seed_rate", bytes_s=0)
        while not _seeding(slow)["complete"]:
            time.sleep(0.02)
        slow.unmount()
        assert sorted(os.listdir(slow.backing)) == ["a", "huge", "linked", "sparse"]
    finally:
        slow.close()


def test_progress_is_shown(slow: Volume) -> None:
    _fill(slow.backing)
    total = sum(path.stat().st_size for path in slow.backing.rglob("*") if path.is_file())
    total -= LARGE + 1000  # the second names of hard links
    try:
        slow.mount()
        found = _seeding(slow)
        assert found["done_bytes"] < total
        slow.call("seed", node=1, subtree=True)
        found = _seeding(slow)
        assert found["done_bytes"] == found["total_bytes"] == total
        assert found["done_files"] == found["total_files"] == 7
    finally:
        slow.close()


def test_a_tree_with_an_entry_of_our_name_is_refused(unmounted: Volume) -> None:
    (unmounted.backing / ".snapshots").mkdir()
    answer = unmounted.try_mount()
    assert unmounted.process is not None
    assert unmounted.process.wait() == 1
    assert not answer["ok"]
    assert ".snapshots" in json.dumps(answer["error"])
    os.rmdir(unmounted.backing / ".snapshots")
    unmounted.log.unlink()
    assert unmounted.try_mount()["ok"]
