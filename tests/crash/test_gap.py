"""The store is full, and applications go on: what went unlogged is found, and the gap is told."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.doctor import volume_findings, worst
from console.exit_codes import ExitCode
from store.journal import GapSpan, Journal
from store.types import ROOT, Lsn, TimeNs
from store.verify import verify
from tests.crash import copies
from tests.crash.far_end import FarVault
from tests.crash.replica import differences, wait_until_replicated
from tests.crash.victim import Victim
from timetravel.grade import Grade
from timetravel.history import Event, history
from timetravel.moment import AtLsn, AtTime
from timetravel.points import points
from timetravel.resolve import resolve
from timetravel.view import View

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0,
    reason="needs /dev/fuse, and root to mount a small disk",
)

SMALL, LARGE = 34 << 20, 300 << 20


def furnish(tree: Path) -> None:
    """What was there before."""
    (tree / "old").write_bytes(random.Random(3).randbytes(3 << 20))
    for name in ("kept", "emptied", "dir/inner", "dir/deep/leaf", "gone/a", "gone/sub/b", "swap1"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"{name}\n" * 100)
    (tree / "swap2").write_text("other")


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Victim]:
    """A mounted volume, fully seeded, whose store has little more room than for the log."""
    disk = tmp_path / "store"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SMALL}"]
    subprocess.run(["mount", *options, "tmpfs", str(disk)], check=True)
    made = Victim(tmp_path, ring_files=3)
    try:
        furnish(made.backing)
        made.mount()
        while not made.call("status")["seeding"]["complete"]:
            pass
        yield made
    finally:
        made.close()
        subprocess.run(["umount", str(disk)], check=True)


def protection(victim: Victim) -> str:
    return str(victim.call("status")["protection"]["state"])


def make_space(victim: Victim, size: int = LARGE) -> None:
    options = f"remount,size={size}"
    subprocess.run(["mount", "-o", options, str(victim.store.root)], check=True)


def into_the_gap(victim: Victim) -> None:
    """Write until nothing more can be logged; every write succeeds."""
    noise = random.Random(1)
    number = 0
    while protection(victim) == "logged":
        (victim.tree / f"f{number % 40}").write_bytes(noise.randbytes(1 << 20))
        number += 1


def change_everything(tree: Path) -> None:
    """One of each kind of change, while nothing is logged."""
    (tree / "kept").chmod(0o640)
    os.setxattr(tree / "kept", "user.a", b"1")
    with (tree / "old").open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"in the gap")
    times = (tree / "dir/inner").stat()
    (tree / "dir/inner").write_text("INNER\n" * 117)
    (tree / "dir/inner").write_text("dir/INNER\n"[:10] * 100)
    os.utime(tree / "dir/inner", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tree / "emptied").write_text("")
    (tree / "new").write_text("made in the gap")
    (tree / "newdir/below").mkdir(parents=True)
    (tree / "newdir/below/file").write_text("below")
    os.link(tree / "new", tree / "newdir/linked")
    os.symlink("nowhere", tree / "newdir/symlink")
    os.mkfifo(tree / "newdir/fifo")
    (tree / "dir").rename(tree / "newdir/moved")
    (tree / "newdir/moved/deep/leaf").rename(tree / "leaf")
    subprocess.run(["rm", "-r", str(tree / "gone")], check=True)
    (tree / "temporary").write_text("replaces")
    (tree / "temporary").rename(tree / "f0")
    (tree / "f1").unlink()
    (tree / "swap1").rename(tree / "swap")
    (tree / "swap2").rename(tree / "swap1")
    (tree / "swap").rename(tree / "swap2")


def settle(victim: Victim) -> None:
    """There is space again: wait until changes are logged again."""
    make_space(victim)
    while protection(victim) != "logged":
        pass


def check_newest(victim: Victim) -> None:
    live = copies.of_tree(victim.tree)
    newest = Lsn(victim.sync())
    with Journal(victim.store) as journal:
        view = copies.of_view(View(journal, newest, victim.demand))
    assert copies.differences(view, live) == []


def check_the_end(victim: Victim) -> None:
    """After an unmount in order."""
    victim.unmount()
    with Journal(victim.store) as journal:
        newest = copies.of_view(View(journal, journal.indexed_lsn))
    assert copies.differences(newest, copies.of_tree(victim.backing)) == []
    assert verify(victim.store).findings == []


def test_what_changed_in_a_gap_is_found_and_the_gap_is_told(cramped: Victim) -> None:
    into_the_gap(cramped)
    status = cramped.call("status")
    assert status["protection"]["state"] in ("entering", "unlogged")
    assert any("NOT LOGGED" in alarm for alarm in status["alarms"])
    before = Lsn(status["lsn"])
    change_everything(cramped.tree)
    with (cramped.tree / "kept").open("a") as file:
        file.write("synced")
        os.fsync(file.fileno())
    settle(cramped)
    assert cramped.call("status")["lsn"] > before
    check_newest(cramped)
    (cramped.tree / "new").write_text("after the gap")
    (cramped.tree / "newdir/moved/deep").rename(cramped.tree / "deep")
    check_newest(cramped)
    with Journal(cramped.store) as journal:
        (gap,) = journal.gaps()
    assert gap.started_ns < gap.ended_ns
    assert "full" in gap.reason
    assert gap.lsn > before
    check_what_is_told(cramped, gap)
    check_the_end(cramped)


def check_what_is_told(victim: Victim, gap: GapSpan) -> None:
    """By the moments inside the gap, the points, and the history of a file."""
    middle = AtTime(TimeNs((gap.started_ns + gap.ended_ns) // 2))
    with Journal(victim.store) as journal:
        point = resolve(journal, middle, now_ns=time.time_ns())
        assert point.lsn < gap.lsn
        assert "this is the state before them" in point.note
        behind = resolve(journal, AtLsn(gap.lsn), now_ns=time.time_ns())
        assert "only some of them" in behind.note
        assert behind.grade is Grade.CRASH
        after = resolve(journal, AtTime(TimeNs(time.time_ns())), now_ns=time.time_ns())
        assert after.note == ""
        reasons = [found.reason for found in points(journal)]
        assert sum("went unlogged" in reason for reason in reasons) == 1
        versions = list(history(journal, b"old"))
        assert Event.UNLOGGED in versions[-1].events


def test_a_replica_has_the_gap_and_what_was_found_after_it(cramped: Victim, tmp_path: Path) -> None:
    vault = FarVault(tmp_path / "far")
    try:
        vault.start()
        vault.keep(cramped.store)
        into_the_gap(cramped)
        change_everything(cramped.tree)
        settle(cramped)
        wait_until_replicated(cramped)
        (cramped.tree / "new").write_text("after the gap")
        cramped.call("seed", node=ROOT, subtree=True)
        wait_until_replicated(cramped)
        replica = vault.store(cramped.store)
        assert differences(cramped.store, replica) == []
        with Journal(replica) as journal, Journal(cramped.store) as source:
            assert list(journal.gaps()) == list(source.gaps()) != []
            newest = copies.of_view(View(journal, journal.indexed_lsn))
        assert copies.differences(newest, copies.of_tree(cramped.tree)) == []
        assert verify(replica).findings == []
        vault.stop()
    finally:
        vault.close()


def test_doctor_tells_a_gap_by_its_exit_code(cramped: Victim) -> None:
    into_the_gap(cramped)
    findings = list(volume_findings(cramped.store))
    assert worst(findings) is ExitCode.UNPROTECTED
    settle(cramped)
    make_space(cramped)
    assert worst(list(volume_findings(cramped.store))) is ExitCode.OK


def test_a_file_that_stays_open_through_a_gap_stays_the_same_file(cramped: Victim) -> None:
    with (cramped.tree / "log").open("wb", buffering=0) as out:
        out.write(b"before\n")
        into_the_gap(cramped)
        out.write(b"inside\n")
        with (cramped.tree / "inside").open("wb", buffering=0) as born:
            born.write(b"born in the gap\n")
            inode = os.fstat(born.fileno()).st_ino
            settle(cramped)
            out.write(b"after\n")
            born.write(b"and goes on\n")
            os.fsync(born.fileno())
        assert os.stat(cramped.tree / "inside").st_ino == inode
    assert (cramped.tree / "log").read_bytes() == b"before\ninside\nafter\n"
    check_newest(cramped)
    check_the_end(cramped)


def test_the_past_can_be_read_in_a_gap(cramped: Victim) -> None:
    before = cramped.sync()
    into_the_gap(cramped)
    assert os.listdir(cramped.tree / ".snapshots")
    assert (cramped.past(before) / "kept").read_text() == "kept\n" * 100
    assert (cramped.tree / ".snapshots/@now/kept").read_text() == "kept\n" * 100
    assert not cramped.call("sync")["complete"]


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "unmounted"])
def test_a_gap_that_the_daemon_does_not_survive_is_found_at_the_next_mount(
    cramped: Victim, killed: bool
) -> None:
    into_the_gap(cramped)
    while protection(cramped) != "unlogged":
        pass
    change_everything(cramped.tree)
    live = copies.of_tree(cramped.tree)
    if killed:
        cramped.kill_daemon()
        cramped.clear()
    else:
        cramped.unmount()
    make_space(cramped)
    cramped.mount()
    assert copies.differences(copies.of_tree(cramped.tree), live, times=False) == []
    check_newest(cramped)
    with Journal(cramped.store) as journal:
        (gap,) = journal.gaps()
    assert gap.found
    check_the_end(cramped)


@pytest.fixture(params=["availability", "strict"])
def movable(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Victim]:
    """A mounted volume whose store can be taken away."""
    made = Victim(tmp_path, at=True, ring_files=3, protect=request.param)
    try:
        furnish(made.backing)
        made.mount()
        made.sync()
        yield made
    finally:
        made.close()


def test_a_store_that_is_taken_away_is_told_and_taken_back(movable: Victim) -> None:
    away = movable.store.root.with_name("away")
    movable.store.root.rename(away)
    strict = movable.store.config.protect == "strict"
    wanted = "refusing" if strict else "unlogged"
    while protection_by(away) != wanted:
        pass
    if strict:
        with pytest.raises(OSError, match="Input/output error"):
            (movable.tree / "new").write_text("refused")
    else:
        change_everything_but_replaced(movable.tree)
    assert (movable.tree / "kept").read_text().startswith("kept")
    away.rename(movable.store.root)
    while protection(movable) != "logged":
        pass
    (movable.tree / "again").write_text("logged")
    check_newest(movable)
    check_the_end(movable)


def protection_by(root: Path) -> str:
    """As `protection`, of a store that stands elsewhere for now."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(root / "control.sock"))
        connection.sendall(b'{"v": 1, "call": "status", "args": {}}\n')
        with connection.makefile("rb") as lines:
            return str(json.loads(lines.readline())["result"]["protection"]["state"])


def change_everything_but_replaced(tree: Path) -> None:
    """As `change_everything`, which wants files of the test's own."""
    for name in ("f0", "f1"):
        (tree / name).write_text(name)
    change_everything(tree)


@pytest.mark.nightly
def test_more_changes_than_can_be_remembered_are_found_as_well(cramped: Victim) -> None:
    into_the_gap(cramped)
    for number in range(51_000):
        folder = cramped.tree / f"many{number // 1000}"
        if not number % 1000:
            folder.mkdir()
        (folder / f"{number}").touch()
    change_everything(cramped.tree)
    with (cramped.tree / "many7/7000").open("wb", buffering=0) as out:
        inode = os.fstat(out.fileno()).st_ino
        out.write(b"inside\n")
        settle(cramped)
        out.write(b"after\n")
    assert os.stat(cramped.tree / "many7/7000").st_ino == inode
    check_newest(cramped)
    check_the_end(cramped)
