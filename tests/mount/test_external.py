"""Changes made to the tree while it was not mounted: history has them, and what was before them."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from store.format import Flag
from store.journal import Journal
from store.types import Lsn
from tests.mount.trees import assert_same, copy_of
from tests.volume import Volume

MIB = 1 << 20
OLD_NS = 1_600_000_000_123_456_789


def _fill(root: Path) -> None:
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"in d")
    (root / "d" / "sub" / "deep").write_bytes(b"deep")
    (root / "f").write_bytes(b"content")
    (root / "big").write_bytes(os.urandom(MIB + 5))
    (root / "one").write_bytes(b"linked")
    os.link(root / "one", root / "d" / "two")
    (root / "link").symlink_to("f")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "f", "user.x", b"old")
    os.utime(root / "f", ns=(OLD_NS, OLD_NS))


def _same_size_and_mtime(root: Path) -> None:
    (root / "f").write_bytes(b"CONTENT")
    os.utime(root / "f", ns=(OLD_NS, OLD_NS))


def _another_inode_with_same_size_and_mtime(root: Path) -> None:
    (root / "new").write_bytes(b"CONTENT")
    os.setxattr(root / "new", "user.x", b"old")
    os.utime(root / "new", ns=(OLD_NS, OLD_NS))
    os.rename(root / "new", root / "f")


def _symlink_elsewhere(root: Path) -> None:
    os.unlink(root / "link")
    (root / "link").symlink_to("d")


def _kinds(root: Path) -> None:
    os.unlink(root / "f")
    (root / "f").mkdir()
    (root / "f" / "inner").write_bytes(b"inner")
    shutil.rmtree(root / "d")
    (root / "d").write_bytes(b"a file now")


def _replaced_directory(root: Path) -> None:
    shutil.rmtree(root / "d")
    (root / "d").mkdir(0o700)
    (root / "d" / "f").write_bytes(b"another")


def _link_and_write(root: Path) -> None:
    os.unlink(root / "one")
    (root / "d" / "two").write_bytes(b"one name left, other content")


def _all_links_replaced(root: Path) -> None:
    """The inode number of a file that is gone may be given to the next one."""
    os.unlink(root / "one")
    os.unlink(root / "d" / "two")
    for number in range(20):
        (root / "d" / f"new{number}").write_bytes(b"x" * number)
        os.link(root / "d" / f"new{number}", root / f"a{number}")


CHANGES: dict[str, Callable[[Path], object]] = {
    "new file": lambda root: (root / "new").write_bytes(b"new"),
    "new tree": lambda root: shutil.copytree(root / "d", root / "copy"),
    "deleted file": lambda root: os.unlink(root / "f"),
    "deleted tree": lambda root: shutil.rmtree(root / "d"),
    "written": lambda root: (root / "f").write_bytes(b"other content"),
    "same size and mtime": _same_size_and_mtime,
    "another inode, same size and mtime": _another_inode_with_same_size_and_mtime,
    "cut": lambda root: os.truncate(root / "big", MIB - 3),
    "emptied": lambda root: os.truncate(root / "big", 0),
    "chmod": lambda root: os.chmod(root / "f", 0o600),
    "chmod of a directory": lambda root: os.chmod(root / "d", 0o700),
    "touched": lambda root: os.utime(root / "f", ns=(5, 6)),
    "xattr": lambda root: os.setxattr(root / "f", "user.x", b"new"),
    "xattr removed": lambda root: os.removexattr(root / "f", "user.x"),
    "renamed": lambda root: os.rename(root / "f", root / "d" / "renamed"),
    "renamed over": lambda root: os.rename(root / "f", root / "big"),
    "renamed directory": lambda root: os.rename(root / "d", root / "moved"),
    "replaced directory": _replaced_directory,
    "other kinds": _kinds,
    "another target": _symlink_elsewhere,
    "linked": lambda root: os.link(root / "one", root / "three"),
    "linked for the first time": lambda root: os.link(root / "f", root / "d" / "g"),
    "unlinked one of two": lambda root: os.unlink(root / "d" / "two"),
    "moved one of two": lambda root: os.rename(root / "one", root / "d" / "sub" / "moved"),
    "unlinked one of two and wrote": _link_and_write,
    "replaced files with several links": _all_links_replaced,
}


@pytest.mark.parametrize("origin", ["made through the mount", "there before", "there, not seeded"])
def test_changes_made_while_unmounted_are_in_history(unmounted: Volume, origin: str) -> None:
    """Each change in a directory of its own, whose name says which one it is."""
    volume = unmounted
    if origin == "made through the mount":
        volume.mount()
    for name in CHANGES:
        _fill(volume.tree / name)
    if origin != "made through the mount":
        volume.mount()
    if origin == "there before":
        volume.call("seed", node=1, subtree=True)
    before, then = volume.sync(), copy_of(volume.tree)
    volume.unmount()
    for name, change in CHANGES.items():
        change(volume.backing / name)
    now = copy_of(volume.backing)
    volume.mount()
    assert_same(volume.tree, now)
    found = volume.sync()
    assert_same(volume.past(found), now)
    assert_same(volume.past(before), then)
    with Journal(volume.store).snapshot() as snapshot:
        ops = list(snapshot.ops(Lsn(before + 1), Lsn(found + 1)))
    assert any(op.flags & Flag.EXTERNAL for op in ops)
    # Once found, they are not found again.
    volume.unmount()
    volume.mount()
    assert_same(volume.tree, now)
    assert volume.log_text().count("external changes found") == 1


def test_changes_of_the_root_are_in_history(volume: Volume) -> None:
    (volume.tree / "f").write_bytes(b"f")
    before, then = volume.sync(), copy_of(volume.tree)
    volume.unmount()
    os.chmod(volume.backing, 0o700)
    os.setxattr(volume.backing, "user.x", b"x")
    now = copy_of(volume.backing)
    volume.mount()
    assert_same(volume.past(volume.sync()), now)
    assert_same(volume.past(before), then)


def test_content_that_was_spoiled_before_it_was_backed_up_is_refused_and_not_invented(
    tmp_path: Path,
) -> None:
    volume = Volume(tmp_path, seed_rate_bytes_s=1)
    (volume.backing / "f").write_bytes(b"old" * MIB)
    (volume.backing / "g").write_bytes(b"g")
    try:
        volume.mount()
        volume.unmount()
        (volume.backing / "f").write_bytes(b"new" * MIB)
        volume.mount()
        with pytest.raises(OSError, match="Input/output error"):
            (volume.past(1) / "f").read_bytes()
        assert (volume.past(1) / "f").stat().st_size == 3 * MIB
        assert (volume.past(1) / "g").read_bytes() == b"g"
        assert (volume.past(volume.sync()) / "f").read_bytes() == b"new" * MIB
        assert "it changed outside the mount before" in volume.log_text()
    finally:
        volume.close()


def test_nothing_is_found_when_nothing_changed(unmounted: Volume) -> None:
    _fill(unmounted.backing)
    unmounted.mount()
    (unmounted.tree / "more").write_bytes(b"more")
    (unmounted.tree / "f").read_bytes()
    shutil.rmtree(unmounted.tree / "d")
    for _ in range(3):
        unmounted.unmount()
        unmounted.mount()
    assert "external" not in unmounted.log_text()


def test_changes_are_found_after_a_crash_too(volume: Volume) -> None:
    _fill(volume.tree)
    before, then = volume.sync(), copy_of(volume.tree)
    volume.kill()
    (volume.backing / "new").write_bytes(b"new")
    os.truncate(volume.backing / "f", 3)
    os.unlink(volume.backing / "fifo")
    now = copy_of(volume.backing)
    volume.mount()
    assert_same(volume.past(before), then)
    # The journal rules over what it had logged itself; the rest is as it was found.
    assert (volume.tree / "new").read_bytes() == b"new"
    assert stat.S_ISREG((volume.tree / "f").stat().st_mode)
    assert set(now) - {b"fifo"} <= set(copy_of(volume.tree))
    assert_same(volume.past(volume.sync()), volume.tree)


def test_a_directory_stays_known_while_the_walk_goes_on_after_a_remount(volume: Volume) -> None:
    """A search that forgot a directory which it had yet to visit took it from the kernel later."""
    inner = volume.tree / "a" / "b"
    (inner / "empty").mkdir(parents=True)
    (inner / "a file").write_text("")
    for number in range(3000):  # the walk is busy with these while the test goes on
        (volume.tree / f"file {number}").touch()
    volume.unmount()
    volume.mount()
    fd = os.open(inner, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not volume.call("status")["seeding"]["complete"]:
            pass
        assert os.listxattr(fd) == []
        assert sorted(os.listdir(fd)) == ["a file", "empty"]
    finally:
        os.close(fd)
