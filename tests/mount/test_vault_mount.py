"""A mounted replica: the source's own states, moving from barrier to barrier, read-only."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from console.exit_codes import ExitCode
from tests.commandline import run_cdpfs
from tests.mount.arena import open_arena
from tests.mount.fingerprint import assert_equal, fingerprint
from tests.mount.users import ANN, acting_as, needs_root
from tests.replica import Replica
from tests.volume import Volume, is_mounted

ACL = struct.pack(
    "<I" + "HHI" * 5,
    2,
    *(1, 6, 0xFFFFFFFF),
    *(2, 4, 1337),
    *(4, 4, 0xFFFFFFFF),
    *(16, 6, 0xFFFFFFFF),
    *(32, 0, 0xFFFFFFFF),
)
"""rw for the owner, r for user 1337, r for the group, mask rw, nothing for others."""


@pytest.fixture
def replica(volume: Volume, tmp_path: Path) -> Iterator[Replica]:
    made = Replica(tmp_path, volume.store)
    try:
        yield made
    finally:
        made.close()
    assert "Traceback" not in made.log_text(), made.log_text()


def fill(tree: Path) -> None:
    """One of everything that a tree can have."""
    (tree / "d" / "deeper").mkdir(parents=True)
    (tree / "d" / "f").write_bytes(os.urandom(3_000_000))
    (tree / "d" / "empty").touch()
    with (tree / "d" / "sparse").open("wb") as file:
        file.truncate(40 << 20)
        os.pwrite(file.fileno(), b"in the midst", 20 << 20)
    os.symlink("../d/f", tree / "d" / "deeper" / "link")
    os.symlink(b"not \xff utf-8", tree / "d" / "dangling")
    os.link(tree / "d" / "f", tree / "second name")
    os.mkfifo(tree / "fifo", 0o640)
    Path(os.fsdecode(os.fsencode(tree) + b"/b\xff\xfe\n")).write_bytes(b"odd name")
    os.setxattr(tree / "d" / "f", "user.colour", b"gr\0n")
    os.setxattr(tree / "d", "system.posix_acl_default", ACL)
    os.setxattr(tree / "d" / "empty", "system.posix_acl_access", ACL)
    os.chown(tree / "d" / "empty", 1234, 4321)
    os.chmod(tree / "d" / "deeper", 0o1750)
    os.utime(tree / "d" / "sparse", ns=(10**18, 10**18 + 1))


def rest(volume: Volume, replica: Replica) -> int:
    """Everything is at rest, said so by the log, and shipped; returns the newest LSN."""
    time.sleep(volume.store.config.quiet_s + 0.2)
    volume.call("mark", name=f"rest-{time.time_ns()}")
    volume.sync()
    return replica.ship()


def wait_for_head(replica: Replica, lsn: int) -> None:
    while replica.shown_lsn() < lsn:
        time.sleep(0.05)


def test_the_replica_shows_what_the_source_has(volume: Volume, replica: Replica) -> None:
    fill(volume.tree)
    first = volume.sync()
    rest(volume, replica)
    replica.mount()
    assert_equal(fingerprint(replica.mount_point), fingerprint(volume.tree))
    (volume.tree / "d" / "f").write_bytes(b"short")
    shutil.rmtree(volume.tree / "d" / "deeper")
    os.rename(volume.tree / "d" / "empty", volume.tree / "moved")
    newest = rest(volume, replica)
    wait_for_head(replica, newest)
    assert_equal(fingerprint(replica.mount_point), fingerprint(volume.tree))
    for lsn in (first, (first + newest) // 2, newest):
        assert_equal(fingerprint(replica.past(lsn)), fingerprint(volume.past(lsn)))
    below = Path("d") / ".snapshots" / f"@lsn:{first}"
    assert_equal(fingerprint(replica.mount_point / below), fingerprint(volume.tree / below))
    point = os.getxattr(replica.past(first), "user.cdpfs.point")
    assert point == os.getxattr(volume.past(first), "user.cdpfs.point")


def test_snapshots_are_in_every_directory_and_in_no_listing(
    volume: Volume, replica: Replica
) -> None:
    fill(volume.tree)
    volume.call("mark", name="filled")
    rest(volume, replica)
    replica.mount()
    for place in (".", "d", "d/deeper"):
        directory = replica.mount_point / place
        assert ".snapshots" not in os.listdir(directory)
        assert stat.S_ISDIR((directory / ".snapshots").stat().st_mode)
        at_mark = directory / ".snapshots" / "@mark:filled"
        assert sorted(os.listdir(at_mark)) == sorted(os.listdir(volume.tree / place))
        assert not (at_mark / ".snapshots").exists()
    assert "@mark:filled" in os.listdir(replica.mount_point / ".snapshots")
    with pytest.raises(FileNotFoundError):
        os.stat(replica.mount_point / ".snapshots" / "@2100-01-01T00:00Z")
    with pytest.raises(FileNotFoundError):
        os.stat(replica.mount_point / ".snapshots" / "@lsn:999999")


def test_nothing_can_be_changed(volume: Volume, replica: Replica) -> None:
    (volume.tree / "f").write_bytes(b"f")
    (volume.tree / "d").mkdir()
    at = rest(volume, replica)
    replica.mount()
    for top in (replica.mount_point, replica.past(at)):
        for change in (
            lambda: os.open(top / "f", os.O_WRONLY),  # noqa: B023  (called at once)
            lambda: os.open(top / "new", os.O_CREAT | os.O_WRONLY),  # noqa: B023
            lambda: os.mkdir(top / "new"),  # noqa: B023
            lambda: os.unlink(top / "f"),  # noqa: B023
            lambda: os.rmdir(top / "d"),  # noqa: B023
            lambda: os.rename(top / "f", top / "g"),  # noqa: B023
            lambda: os.chmod(top / "f", 0o777),  # noqa: B023
            lambda: os.truncate(top / "f", 0),  # noqa: B023
            lambda: os.setxattr(top / "f", "user.x", b""),  # noqa: B023
        ):
            with pytest.raises(OSError) as caught:  # noqa: PT011  (the number is checked below)
                change()
            assert caught.value.errno == errno.EROFS
    flags = os.statvfs(replica.mount_point).f_flag
    assert flags & os.ST_RDONLY
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV


def test_what_is_open_stays_while_the_top_moves_on(volume: Volume, replica: Replica) -> None:
    (volume.tree / "d").mkdir()
    (volume.tree / "d" / "f").write_bytes(b"old" * 1_000_000)
    rest(volume, replica)
    replica.mount()
    mounted = replica.mount_point
    directory = os.open(mounted / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with (mounted / "d" / "f").open("rb") as file:
            assert file.read(3) == b"old"
            (volume.tree / "d" / "f").write_bytes(b"new")
            (volume.tree / "d" / "g").write_bytes(b"another")
            newest = rest(volume, replica)
            wait_for_head(replica, newest)
            while (mounted / "d" / "f").stat().st_size != 3:
                time.sleep(0.05)  # the kernel knows the name for up to a second
            file.seek(0)
            assert file.read() == b"old" * 1_000_000
        assert os.listdir(directory) == ["f"]
        assert os.stat("f", dir_fd=directory).st_size == 3_000_000
        assert sorted(os.listdir(mounted / "d")) == ["f", "g"]
    finally:
        os.close(directory)


def test_an_empty_replica_can_be_mounted_and_fills(volume: Volume, replica: Replica) -> None:
    replica.mount()
    assert os.listdir(replica.mount_point) == []
    assert os.listxattr(replica.mount_point) == []
    (volume.tree / "f").write_bytes(b"f")
    rest(volume, replica)
    while os.listdir(replica.mount_point) != ["f"]:
        time.sleep(0.05)


@needs_root
def test_past_permissions_apply() -> None:
    with open_arena() as arena:
        volume = arena.volume
        replica = Replica(volume.store.root.parent, volume.store)
        try:
            for name, mode in (("secret", 0o600), ("open", 0o644)):
                (volume.tree / name).write_bytes(name.encode())
                (volume.tree / name).chmod(mode)
            volume.tree.chmod(0o755)
            at = rest(volume, replica)
            replica.mount()
            for top in (replica.mount_point, replica.past(at)):
                with acting_as(ANN):
                    assert (top / "open").read_bytes() == b"open"
                    with pytest.raises(PermissionError):
                        (top / "secret").read_bytes()
        finally:
            replica.close()


def test_content_that_never_arrived_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    volume = Volume(tmp_path, seed_rate_bytes_s=1)
    replica = None
    try:
        (volume.backing / "old").write_bytes(b"there before protection" * 100_000)
        volume.mount()
        (volume.tree / "new").write_bytes(b"new")
        volume.sync()
        replica = Replica(tmp_path, volume.store)
        replica.ship()
        replica.mount()
        at = replica.past(replica.ship())
        with pytest.raises(OSError) as caught:  # noqa: PT011  (the number is checked below)
            (at / "old").read_bytes()
        assert caught.value.errno == errno.EIO
        assert "initial backup had not come to it" in replica.log_text()
        assert (at / "new").read_bytes() == b"new"
    finally:
        if replica is not None:
            replica.close()
        volume.close()


BANK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(f"pragma journal_mode = {sys.argv[2]}").fetchone()
database.execute("pragma synchronous = full")
print("ready", flush=True)
for number in range(100000):
    database.execute("begin immediate")
    database.execute("update account set sum = sum - 1 where id = ?", (number % 50,))
    database.execute("insert into moved values (?, ?)", (number, "x" * 300))
    database.execute("update account set sum = sum + 1 where id = ?", ((number * 7 + 1) % 50,))
    database.execute("commit")
"""


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_copy_of_the_head_under_load_is_whole(
    volume: Volume, replica: Replica, tmp_path: Path, mode: str
) -> None:
    path = volume.tree / "bank" / "bank.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("create table account (id primary key, sum)")
        database.execute("create table moved (number, text)")
        database.executemany("insert into account values (?, 100)", [(i,) for i in range(50)])
    rest(volume, replica)
    replica.mount()
    bank = subprocess.Popen([sys.executable, "-c", BANK, str(path), mode], stdout=subprocess.PIPE)
    try:
        assert bank.stdout is not None
        assert bank.stdout.readline() == b"ready\n"
        seen: set[int] = set()
        for number in count():
            replica.ship(at_once=1)
            copy = tmp_path / f"copy-{number}"
            head = replica.shown_lsn()
            shutil.copytree(replica.mount_point / "bank", copy)
            seen.add(_check(copy / "bank.db"))
            assert replica.shown_lsn() >= head
            if number >= 10 and len(seen) > 4:
                break
            time.sleep(0.3)
    finally:
        bank.kill()
        bank.communicate()


def _check(path: Path) -> int:
    """How many transfers a whole bank has seen."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("select sum(sum) from account").fetchone() == (5000,)
        rows, last = database.execute("select count(*), max(number) from moved").fetchone()
        assert rows == (0 if last is None else last + 1)
        return int(rows)


def test_the_commands_mount_a_volume_by_name_and_read_its_store(
    volume: Volume, replica: Replica, tmp_path: Path
) -> None:
    fill(volume.tree)
    volume.call("mark", name="filled")
    (volume.tree / "d" / "f").write_bytes(b"later")
    rest(volume, replica)
    root, name, place = str(replica.vault), volume.store.config.name, str(replica.mount_point)
    said = run_cdpfs("vault", "mount", "--root", root, name, place)
    assert f"{name} is at {place}".encode() in said.stdout
    assert_equal(fingerprint(replica.mount_point), fingerprint(volume.tree))
    run_cdpfs("vault", "mount", "--root", root, name, place, code=ExitCode.BUSY)
    run_cdpfs("vault", "umount", place)
    assert not is_mounted(replica.mount_point)
    run_cdpfs("vault", "mount", "--root", root, "nobody", place, code=ExitCode.NO_VOLUME)
    run_cdpfs("vault", "umount", place, code=ExitCode.USAGE)


def test_the_commands_read_a_replica_as_they_read_its_source(
    volume: Volume, replica: Replica, tmp_path: Path
) -> None:
    fill(volume.tree)
    volume.call("mark", name="filled")
    (volume.tree / "d" / "f").write_bytes(b"later")
    (volume.tree / "second name").unlink()
    rest(volume, replica)
    replica.stop_writing()
    here, there = str(replica.store.root), str(volume.store.root)
    for command in (
        ("history", "d/f", "--json"),
        ("points", ".", "--grade", "mark", "--json"),
        ("diff", ".", "--from", "@mark:filled", "--json"),
        ("deleted", ".", "--json"),
        ("cat", "d/f", "--at", "@mark:filled"),
    ):
        found = run_cdpfs(*command, "--store", here, cwd=volume.tree).stdout
        assert found == run_cdpfs(*command, "--store", there, cwd=volume.tree).stdout, command
    folder = ("--root", str(replica.vault), "--volume", volume.store.config.name)
    found = run_cdpfs("history", "d/f", "--json", *folder, cwd=volume.tree).stdout
    assert found == run_cdpfs("history", "d/f", "--json", "--store", there, cwd=volume.tree).stdout
    back, at = tmp_path / "back", ("--at", "@mark:filled", "--store", here)
    run_cdpfs("restore", ".", *at, "--to", str(back), cwd=volume.tree)
    then = fingerprint(volume.tree / ".snapshots" / "@mark:filled")
    assert_equal(fingerprint(back), then)
    run_cdpfs("restore", ".", *at, cwd=volume.tree, code=ExitCode.USAGE)
    volume.unmount()
    refused = run_cdpfs("mount", "--store", here, code=ExitCode.USAGE)
    assert b"is a replica" in refused.stderr
