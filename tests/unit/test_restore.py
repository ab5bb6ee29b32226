"""Restoring: every kind of entry, what is in the way, and what can't be had."""

from __future__ import annotations

import os
import random
import stat
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store.journal import NodeState
from store.types import Lsn, NodeId
from tests.unit.recorded_tree import RecordedTree, capture, capture_view
from timetravel.attributes import apply_attributes
from timetravel.content import HOLE_BYTES, fill, nonzero_runs
from timetravel.errors import NoSuchPath, RestoreRefused, VerificationFailed
from timetravel.place import Place
from timetravel.restore import Existing, plan_restore, restore
from timetravel.steps import Action, Report, Step, carry_out
from timetravel.view import View

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    yield recorded
    recorded.close()


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "out").mkdir()
    with Place(os.fsencode(tmp_path / "out")) as place:
        yield place


def view_of(tree: RecordedTree) -> View:
    return View(tree.journal, tree.commit())


def inside(place: Place, path: bytes) -> bytes:
    return os.path.join(place.root, path)


def bring_back(view: View, place: Place, source: bytes = b"", at: bytes = b"x") -> Report:
    return restore(view, source, place, at, durable=False)


# --- what comes back ---------------------------------------------------------------------------


def test_every_kind_of_entry_comes_back(tree: RecordedTree, out: Place) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/file \xff\n", random.Random(1).randbytes(3_000_000))
    tree.write(b"empty", b"")
    tree.symlink(b"/nowhere/\xfe", b"d/link")
    tree.mkfifo(b"d/fifo")
    tree.link(b"d/file \xff\n", b"second name")
    tree.link(b"d/link", b"second link")
    tree.setxattr(b"d", b"user.note", b"\0\1")
    tree.chmod(b"d", 0o2750)
    tree.utime(b"d", 5, 1_000_000_007)
    view = view_of(tree)
    report = bring_back(view, out)
    assert report.ok
    assert os.stat(inside(out, b"x/d")).st_atime_ns == 5  # before it is listed
    assert capture(inside(out, b"x")) == tree.capture()
    assert report.done[Action.LINK] == 2
    assert report.written_bytes == 3_000_000


@needs_root
def test_owners_and_devices_come_back(tree: RecordedTree, out: Place) -> None:
    tree.write(b"f", b"#!/bin/sh")
    tree.chown(b"f", 7, 8)
    tree.chmod(b"f", 0o6755)
    tree.symlink(b"f", b"l")
    tree.chown(b"l", 9, 9)
    os.mknod(tree.path(b"null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    tree.created(b"null")
    assert bring_back(view_of(tree), out).ok
    assert capture(inside(out, b"x")) == tree.capture()
    assert stat.S_IMODE(os.stat(inside(out, b"x/f")).st_mode) == 0o6755


def test_acls_come_back_and_inherited_ones_do_not_stay(tree: RecordedTree, out: Place) -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permissions, who)
        for tag, permissions, who in [
            (1, 6, 0xFFFFFFFF),
            (2, 7, 12),
            (4, 4, 0xFFFFFFFF),
            (16, 7, 0xFFFFFFFF),
            (32, 0, 0xFFFFFFFF),
        ]
    )
    tree.write(b"with", b"x")
    try:
        tree.setxattr(b"with", b"system.posix_acl_access", acl)
    except OSError:
        pytest.skip("this file system has no ACLs")
    tree.chmod(b"with", stat.S_IMODE(os.stat(tree.path(b"with")).st_mode))
    tree.write(b"without", b"x")
    os.setxattr(out.root, "system.posix_acl_default", acl)
    report = bring_back(view_of(tree), out)
    assert report.ok
    found = capture(inside(out, b"x"))
    assert found[b"with"] == tree.capture()[b"with"]
    assert found[b"without"] == tree.capture()[b"without"]


def test_a_single_file_comes_back_under_another_name(tree: RecordedTree, out: Place) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"old")
    view = view_of(tree)
    tree.remove_tree(b"d")
    tree.commit()
    assert bring_back(view, out, b"d/f", b"g").ok
    assert Path(os.fsdecode(inside(out, b"g"))).read_bytes() == b"old"
    with pytest.raises(NoSuchPath):
        bring_back(view, out, b"d/nothing")


def test_holes_come_back_and_long_zeros_become_holes(tree: RecordedTree, out: Place) -> None:
    tree.write(b"f", b"start")
    tree.truncate(b"f", 512 << 20)
    tree.write(b"f", b"middle", 300 << 20)
    tree.write(b"f", bytes(8 << 20), 400 << 20)
    report = bring_back(view_of(tree), out, b"f")
    found = os.stat(inside(out, b"x"))
    assert report.ok
    assert found.st_size == 512 << 20
    assert found.st_blocks * 512 < 1 << 20
    with open(inside(out, b"x"), "rb") as file:
        assert os.pread(file.fileno(), 5, 0) == b"start"
        assert os.pread(file.fileno(), 8, (300 << 20) - 1) == b"\0middle\0"


def test_a_tree_deeper_than_path_max_comes_back(tree: RecordedTree, out: Place) -> None:
    levels = 60
    name = b"n" * 200
    # Made where names are short, then read as a view: the OS can't name it by one path.
    fd = os.open(tree.root, os.O_RDONLY)
    node = tree.node(b"")
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        node = tree.log_directory(node, name)
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    report = bring_back(view_of(tree), out)
    assert report.ok
    assert report.done[Action.MAKE_DIRECTORY] == levels + 1
    bottom = b"x" + (b"/" + name) * levels
    assert len(bottom) > 10_000
    with Place(out.root) as place:
        found = place.stat(bottom)
        assert found is not None and found.st_mtime_ns == tree.clock_ns
        assert place.names(bottom) == []


def test_progress_reaches_the_total(tree: RecordedTree, out: Place) -> None:
    tree.write(b"a", b"x" * 3_000_000)
    tree.write(b"b", b"y" * 10)
    tree.truncate(b"b", 5 << 20)
    seen: list[tuple[int, int, int]] = []
    restore(
        view_of(tree), b"", out, b"x", durable=False, progress=lambda *state: seen.append(state)
    )
    assert [state[0] for state in seen] == sorted(state[0] for state in seen)
    assert seen[-1] == (3_000_000 + (5 << 20), 3_000_000 + (5 << 20), 2)


def test_what_was_written_is_read_back(tree: RecordedTree, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(4 << 20)
    tree.write(b"f", data)
    view = view_of(tree)
    target = tmp_path / "target"
    fd = os.open(target, os.O_RDWR | os.O_CREAT)

    def spoil(_done: int) -> None:
        os.pwrite(fd, b"X", 17)

    with ThreadPoolExecutor(1) as readers, pytest.raises(VerificationFailed):
        fill(view, tree.node(b"f"), len(data), fd, verify=True, readers=readers, advance=spoil)
    os.close(fd)


# --- what is there already ---------------------------------------------------------------------


def test_new_things_stay_unless_they_shall_go(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"old")
    view = view_of(tree)
    was = tree.capture(b"d")
    tree.write(b"d/f", b"newer")
    tree.write(b"d/new", b"new")
    tree.mkdir(b"d/newdir")
    tree.write(b"d/newdir/x", b"new")
    now = view_of(tree)
    with Place(tree.root) as place:
        report = restore(view, b"d", place, b"d", now=now, durable=False)
        assert report.ok
        assert Path(os.fsdecode(tree.path(b"d/f"))).read_bytes() == b"old"
        assert os.path.exists(tree.path(b"d/newdir/x"))
        report = restore(view, b"d", place, b"d", delete_new=True, durable=False)
    assert report.done[Action.REMOVE] == 3
    assert tree.capture(b"d") == was


def test_in_place_what_did_not_change_is_not_touched(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/same", b"same")
    tree.mkdir(b"d/quiet")
    tree.write(b"d/changed", b"before")
    view = view_of(tree)
    was = tree.capture()
    tree.write(b"d/changed", b"after!")
    now = view_of(tree)
    before = os.stat(tree.path(b"d/same"))
    with Place(tree.root) as place:
        plan = plan_restore(view, b"d", place, b"d", now=now)
        assert [step for step in plan.steps if step.action is not Action.KEEP] == [
            Step(Action.REPLACE, b"d/changed", tree.node(b"d/changed"), 6)
        ]
        assert carry_out(view, place, plan.steps, durable=False).ok
    after = os.stat(tree.path(b"d/same"))
    assert (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)
    assert tree.capture() == was


def test_a_plan_changes_nothing(tree: RecordedTree) -> None:
    tree.write(b"f", b"old")
    view = view_of(tree)
    tree.write(b"f", b"new")
    tree.write(b"g", b"new")
    before = tree.capture()
    with Place(tree.root) as place:
        plan = plan_restore(view, b"", place, b"", delete_new=True, now=view_of(tree))
    assert plan.counts()[Action.REPLACE] == 1
    assert plan.total_bytes == 3
    assert tree.capture() == before


def test_in_place_missing_directories_above_come_back_too(tree: RecordedTree) -> None:
    tree.mkdir(b"a")
    tree.mkdir(b"a/b")
    tree.write(b"a/b/f", b"x")
    tree.chmod(b"a/b", 0o711)
    view = view_of(tree)
    was = tree.capture(b"a")
    tree.remove_tree(b"a")
    now = view_of(tree)
    with Place(tree.root) as place:
        assert restore(view, b"a/b/f", place, b"a/b/f", now=now, durable=False).ok
    assert tree.capture(b"a") == was


def test_a_file_with_further_links_goes_on_being_one_file(tree: RecordedTree) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/f", b"old content")
    tree.link(b"d/f", b"elsewhere")
    view = view_of(tree)
    was = tree.capture()
    tree.write(b"d/f", b"NEW CONTENT and more")
    now = view_of(tree)
    inode = os.stat(tree.path(b"elsewhere")).st_ino
    with Place(tree.root) as place:
        report = restore(view, b"d/f", place, b"d/f", now=now, durable=False)
    assert report.done == {Action.REWRITE: 1}
    assert tree.capture() == was
    assert os.stat(tree.path(b"d/f")).st_ino == inode


def test_files_that_have_become_one_are_separate_again(tree: RecordedTree) -> None:
    tree.write(b"a", b"a")
    tree.write(b"b", b"b")
    view = view_of(tree)
    was = tree.capture()
    tree.remove(b"b")
    tree.link(b"a", b"b")
    tree.write(b"a", b"both")
    with Place(tree.root) as place:
        assert restore(view, b"", place, b"", durable=False).ok
    assert tree.capture() == was


def test_existing_files_are_kept_or_refused_when_asked_for(tree: RecordedTree, out: Place) -> None:
    tree.write(b"a", b"past")
    tree.write(b"b", b"past")
    view = view_of(tree)
    os.mkdir(inside(out, b"x"))
    Path(os.fsdecode(inside(out, b"x/a"))).write_bytes(b"present")
    with pytest.raises(RestoreRefused) as caught:
        restore(view, b"", out, b"x", existing=Existing.REFUSE)
    assert caught.value.paths == [b"x/a"]
    assert os.listdir(inside(out, b"x")) == [b"a"]
    report = restore(view, b"", out, b"x", existing=Existing.KEEP, durable=False)
    assert report.ok
    assert Path(os.fsdecode(inside(out, b"x/a"))).read_bytes() == b"present"
    assert Path(os.fsdecode(inside(out, b"x/b"))).read_bytes() == b"past"


def test_other_types_in_the_way(tree: RecordedTree) -> None:
    tree.mkdir(b"dir")
    tree.write(b"dir/f", b"x")
    tree.write(b"file", b"y")
    tree.symlink(b"t", b"link")
    view = view_of(tree)
    was = tree.capture()
    tree.remove_tree(b"dir")
    tree.write(b"dir", b"a file now")
    tree.remove(b"file")
    tree.mkdir(b"file")
    tree.write(b"file/inside", b"z")
    tree.remove(b"link")
    tree.write(b"link", b"no link now")
    now = view_of(tree)
    with Place(tree.root) as place:
        report = restore(view, b"", place, b"", now=now, durable=False)
        assert [failure.path for failure in report.failures] == [b"file"]
        assert "directory" in report.failures[0].reason
        assert os.listdir(tree.path(b"dir")) == [b"f"]
        assert restore(view, b"", place, b"", delete_new=True, durable=False).ok
    assert tree.capture() == was


def test_a_planted_link_leads_nowhere(tree: RecordedTree, out: Place, tmp_path: Path) -> None:
    tree.mkdir(b"d")
    tree.mkdir(b"d/e")
    tree.write(b"d/e/f", b"secret")
    victim = tmp_path / "victim"
    victim.mkdir()
    os.mkdir(inside(out, b"x"))
    os.symlink(victim, inside(out, b"x/e"))
    view = view_of(tree)
    plan = plan_restore(view, b"d/e", out, b"new")
    os.symlink(victim, inside(out, b"new"))
    assert not carry_out(view, out, plan.steps, durable=False).ok
    assert bring_back(view, out, b"d").ok
    assert os.listdir(victim) == []
    assert not os.path.islink(inside(out, b"x/e"))


def test_a_file_that_appears_meanwhile_is_not_overwritten(tree: RecordedTree, out: Place) -> None:
    tree.write(b"f", b"past")
    view = view_of(tree)
    plan = plan_restore(view, b"f", out, b"x")
    Path(os.fsdecode(inside(out, b"x"))).write_bytes(b"present")
    report = carry_out(view, out, plan.steps, durable=False)
    assert report.failure_count == 1
    assert os.listdir(out.root) == [b"x"]
    assert Path(os.fsdecode(inside(out, b"x"))).read_bytes() == b"present"


def test_one_failure_does_not_keep_the_rest_from_coming_back(
    tree: RecordedTree, out: Place
) -> None:
    tree.mkdir(b"a")
    tree.write(b"a/f", b"x")
    tree.write(b"b", b"y")
    view = view_of(tree)
    plan = plan_restore(view, b"", out, b"x")
    steps = [step for step in plan.steps if step.path != b"x/a"]
    report = carry_out(view, out, steps, durable=False)
    assert [failure.path for failure in report.failures] == [b"x/a/f"]
    assert Path(os.fsdecode(inside(out, b"x/b"))).read_bytes() == b"y"


def test_damage_costs_the_damaged_file_only(tree: RecordedTree, out: Place) -> None:
    tree.write(b"good", b"g" * 1000)
    tree.commit()
    tree.write(b"bad", random.Random(3).randbytes(100_000))
    view = view_of(tree)
    (segment,) = tree.store.segments_dir.iterdir()
    raw = bytearray(segment.read_bytes())
    raw[-1000] ^= 1
    segment.write_bytes(raw)
    report = bring_back(view, out)
    assert [failure.path for failure in report.failures] == [b"x/bad"]
    assert "verify" in report.failures[0].reason
    assert os.listdir(inside(out, b"x")) == [b"good"]


def test_blocks_of_zeros_are_found_at_their_places() -> None:
    block = HOLE_BYTES
    data = b"a" + bytes(2 * block) + b"b"
    assert list(nonzero_runs(data, 0)) == [(0, block), (2 * block, 2 * block + 2)]
    assert list(nonzero_runs(bytes(block), 0)) == []
    assert list(nonzero_runs(bytes(block), 5)) == [(5, 5 + block)]
    assert list(nonzero_runs(b"", 7)) == []
    assert list(nonzero_runs(bytes(10), 0)) == [(0, 10)]


def test_a_view_restored_equals_the_view(tree: RecordedTree, out: Place) -> None:
    tree.write(b"f", b"x")
    view = view_of(tree)
    bring_back(view, out)
    assert capture_view(view) == capture(inside(out, b"x"))


@needs_root
def test_what_a_user_may_not_set_is_noted_and_never_a_privilege(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    place = tmp_path / "mine"
    place.mkdir()
    target = place / "f"
    target.write_bytes(b"x")
    for path in (place, target):
        os.chown(path, 65534, 65534)
    state = NodeState(
        NodeId(5), stat.S_IFREG | 0o6755, 0, 0, 0, 1, 7, 8, 9, 1, b"", 0, Lsn(1), 0
    )  # fmt: skip
    notes: list[str] = []
    fd = os.open(target, os.O_RDWR)
    os.seteuid(65534)
    try:
        apply_attributes(fd, state, {b"trusted.x": b"1", b"user.y": b"2"}, notes.append)
    finally:
        os.seteuid(0)
        os.close(fd)
    found = target.stat()
    assert stat.S_IMODE(found.st_mode) == 0o755
    assert (found.st_atime_ns, found.st_mtime_ns) == (7, 8)
    assert os.getxattr(target, "user.y") == b"2"
    assert [note.split(":")[0] for note in notes] == [
        "the owner could not be set",
        "set-id bits were left out because the owner could not be set",
        "the extended attribute trusted.x was refused",
    ]
