"""The mount behaves as the file system beneath: links, locks, special files, attributes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.calls import MIB, libc, needs_root, opened, refused
from tests.mount.changes import RENAME_EXCHANGE, RENAME_NOREPLACE, rename2
from tests.mount.trees import assert_same, copy_of
from tests.volume import Volume

# --- links, renames -----------------------------------------------------------------------------


def test_hard_links_share_everything(volume: Volume) -> None:
    a, b = volume.tree / "a", volume.tree / "d" / "b"
    b.parent.mkdir()
    a.write_bytes(b"1")
    os.link(a, b)
    assert a.stat().st_ino == b.stat().st_ino
    assert b.stat().st_nlink == 2
    b.write_bytes(b"22")
    os.chmod(a, 0o640)
    assert a.read_bytes() == b"22"
    assert stat.S_IMODE(b.stat().st_mode) == 0o640
    two = volume.sync()
    os.unlink(a)
    assert b.stat().st_nlink == 1
    b.write_bytes(b"333")
    past = volume.past(two)
    assert (past / "a").stat().st_ino == (past / "d" / "b").stat().st_ino
    assert (past / "a").stat().st_nlink == 2
    assert (past / "a").read_bytes() == b"22"


def test_renaming_onto_another_link_of_the_same_file_does_nothing(volume: Volume) -> None:
    a, b = volume.tree / "a", volume.tree / "b"
    a.write_bytes(b"1")
    os.link(a, b)
    before = volume.sync()
    os.rename(a, b)
    assert a.exists()
    assert b.stat().st_nlink == 2
    assert volume.sync() == before


def test_rename_without_replacing(volume: Volume) -> None:
    a, b, c = (os.fsencode(volume.tree / name) for name in "abc")
    Path(os.fsdecode(a)).write_bytes(b"a")
    Path(os.fsdecode(b)).write_bytes(b"b")
    with refused(errno.EEXIST):
        rename2(a, b, RENAME_NOREPLACE)
    rename2(a, c, RENAME_NOREPLACE)
    assert sorted(os.listdir(volume.tree)) == ["b", "c"]


def test_exchange_of_a_file_and_a_full_directory(volume: Volume) -> None:
    tree = volume.tree
    (tree / "d").mkdir()
    (tree / "d" / "inner").write_bytes(b"inner")
    (tree / "f").write_bytes(b"f")
    before = volume.sync()
    with refused(errno.ENOENT):
        rename2(os.fsencode(tree / "f"), os.fsencode(tree / "missing"), RENAME_EXCHANGE)
    rename2(os.fsencode(tree / "f"), os.fsencode(tree / "d"), RENAME_EXCHANGE)
    assert (tree / "d").read_bytes() == b"f"
    assert (tree / "f" / "inner").read_bytes() == b"inner"
    after = volume.sync()
    assert (volume.past(before) / "d" / "inner").read_bytes() == b"inner"
    assert (volume.past(after) / "f" / "inner").read_bytes() == b"inner"


def test_whiteouts_are_refused(volume: Volume) -> None:
    (volume.tree / "f").touch()
    with refused(errno.EINVAL):
        rename2(os.fsencode(volume.tree / "f"), os.fsencode(volume.tree / "g"), 4)


# --- unlinked files -----------------------------------------------------------------------------


def test_open_unlinked_files_live_on(volume: Volume) -> None:
    path = volume.tree / "f"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"0123456789")
        os.unlink(path)
        assert os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"AB", 4)
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 8)
        os.utime(fd, ns=(1, 2))
        os.setxattr(fd, "user.x", b"y")
        os.fsync(fd)
        status = os.fstat(fd)
        assert (stat.S_IMODE(status.st_mode), status.st_size, status.st_mtime_ns) == (0o600, 8, 2)
        assert os.getxattr(fd, "user.x") == b"y"
        assert os.pread(fd, 99, 0) == b"0123AB67"
        path.write_bytes(b"another file")
        assert os.pread(fd, 99, 0) == b"0123AB67"
    assert_same(volume.past(volume.sync()), volume.tree)


def test_replaced_open_files_live_on(volume: Volume) -> None:
    path, new = volume.tree / "f", volume.tree / "new"
    path.write_bytes(b"old")
    new.write_bytes(b"new")
    with opened(path, os.O_RDWR) as fd:
        os.rename(new, path)
        os.pwrite(fd, b"OLD!", 0)
        assert os.pread(fd, 99, 0) == b"OLD!"
        assert path.read_bytes() == b"new"


@pytest.mark.parametrize("content", [b"", b"content"])
def test_unnamed_files_are_refused_or_can_be_given_a_name(volume: Volume, content: bytes) -> None:
    try:
        fd = os.open(volume.tree, os.O_TMPFILE | os.O_RDWR)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return  # applications then make a named file
        raise
    os.write(fd, content)
    os.link(f"/proc/self/fd/{fd}", volume.tree / "named", follow_symlinks=True)
    os.close(fd)
    assert (volume.tree / "named").read_bytes() == content


# --- locks --------------------------------------------------------------------------------------


def test_flock_and_record_locks_exclude_other_processes(volume: Volume) -> None:
    path = volume.tree / "lock"
    path.write_bytes(bytes(100))
    program = (
        "import errno, fcntl, sys\n"
        "f = open(sys.argv[1], 'r+b')\n"
        "def free(lock):\n"
        "    try: lock()\n"
        "    except OSError as e: assert e.errno in (errno.EAGAIN, errno.EACCES); return 0\n"
        "    return 1\n"
        "print(free(lambda: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)),\n"
        "      free(lambda: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)),\n"
        "      free(lambda: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50)))\n"
    )

    def seen() -> str:
        command = [sys.executable, "-c", program, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        assert seen() == "1 0 1"
        fcntl.flock(file, fcntl.LOCK_EX)
        assert seen() == "0 0 1"
        fcntl.lockf(file, fcntl.LOCK_UN, 10, 0)
        fcntl.flock(file, fcntl.LOCK_UN)
        assert seen() == "1 1 1"


# --- special files ------------------------------------------------------------------------------


def test_fifos_pass_data(volume: Volume) -> None:
    path = volume.tree / "fifo"
    os.mkfifo(path, 0o600)
    assert stat.S_ISFIFO(path.stat().st_mode)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with opened(path, os.O_WRONLY) as writer:
        os.write(writer, b"through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)


def test_sockets_can_be_bound_and_connected(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(volume.tree)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("socket")
        server.listen()
        assert stat.S_ISSOCK(os.lstat("socket").st_mode)
        client.connect("socket")
        client.sendall(b"hello")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(99) == b"hello"
    assert_same(volume.past(volume.sync()), volume.tree)


@needs_root
def test_device_nodes_work_and_are_in_the_past(volume: Volume) -> None:
    path = volume.tree / "zero"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with opened(path, os.O_RDONLY) as fd:
        assert os.read(fd, 4) == bytes(4)
    past = (volume.past(volume.sync()) / "zero").lstat()
    assert past.st_rdev == os.makedev(1, 5)
    assert stat.S_ISCHR(past.st_mode)


# --- attributes ---------------------------------------------------------------------------------


def test_times_have_nanoseconds_now_and_in_the_past(volume: Volume) -> None:
    path = volume.tree / "f"
    path.touch()
    cases = [
        (1_234_567_890_123_456_789, 987_654_321_987_654_321),
        (0, 1),
        (4_000_000_000 * 10**9,) * 2,
    ]
    lsns = []
    for times in cases:
        os.utime(path, ns=times)
        assert path.stat().st_mtime_ns == times[1]
        lsns.append(volume.sync())
    for lsn, (atime_ns, mtime_ns) in zip(lsns, cases, strict=True):
        past = (volume.past(lsn) / "f").stat()
        assert (past.st_atime_ns, past.st_mtime_ns) == (atime_ns, mtime_ns)


def test_times_before_1970(volume: Volume) -> None:
    path = volume.tree / "f"
    path.touch()
    os.utime(path, ns=(-1, -1_000_000_001))
    assert path.stat().st_mtime_ns == -1_000_000_001
    assert (volume.past(volume.sync()) / "f").stat().st_mtime_ns == -1_000_000_001


def test_setting_one_time_leaves_the_other(volume: Volume) -> None:
    path = volume.tree / "f"
    path.touch()
    os.utime(path, ns=(5, 6))
    omit, now = (1 << 30) - 2, (1 << 30) - 1

    def utimens(atime: int, mtime: int) -> None:
        times = (ctypes.c_long * 4)(0, atime, 0, mtime)
        assert libc.utimensat(ctypes.c_int(-100), os.fsencode(path), times, 0) == 0

    utimens(7, omit)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (7, 6)
    utimens(omit, now)
    assert path.stat().st_atime_ns == 7
    assert path.stat().st_mtime_ns > 10**18
    assert_same(volume.past(volume.sync()), volume.tree)


def test_a_write_moves_mtime_forward_and_a_rename_does_not(volume: Volume) -> None:
    path = volume.tree / "f"
    path.write_bytes(b"1")
    os.utime(path, ns=(5, 6))
    os.rename(path, volume.tree / "g")
    assert (volume.tree / "g").stat().st_mtime_ns == 6
    (volume.tree / "g").open("ab").close()
    assert (volume.tree / "g").stat().st_mtime_ns == 6
    with (volume.tree / "g").open("ab") as file:
        file.write(b"2")
    assert (volume.tree / "g").stat().st_mtime_ns > 10**18


def test_extended_attributes_up_to_their_limits(volume: Volume) -> None:
    path = volume.tree / "f"
    path.touch()
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.big", b"v" * 3000)
    with refused(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 251, b"")
    with refused(errno.ENODATA):
        os.getxattr(path, "user.none")
    with refused(errno.EEXIST):
        os.setxattr(path, "user.empty", b"", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr(path, "user.none", b"", os.XATTR_REPLACE)
    assert sorted(os.listxattr(path)) == ["user.big", "user.empty"]
    past = volume.past(volume.sync()) / "f"
    assert os.getxattr(past, "user.big") == b"v" * 3000
    assert sorted(os.listxattr(past)) == ["user.big", "user.empty"]


def test_inode_numbers_are_unique_and_stay_across_remounts(volume: Volume) -> None:
    for number in range(20):
        (volume.tree / f"d{number}").mkdir()
        (volume.tree / f"d{number}" / "f").write_bytes(b"x")
    os.rename(volume.tree / "d3", volume.tree / "moved")

    def numbers() -> dict[bytes, int]:
        root = os.fsencode(volume.tree)
        return {path: os.lstat(os.path.join(root, path)).st_ino for path in copy_of(volume.tree)}

    before = numbers()
    assert len(set(before.values())) == len(before)
    volume.unmount()
    volume.mount()
    assert numbers() == before
    volume.kill()
    volume.mount()
    assert numbers() == before


# --- failures -----------------------------------------------------------------------------------


@pytest.fixture
def full_volume(tmp_path: Path) -> Iterator[Volume]:
    """A volume over a file system of 8 MiB of its own."""
    image, tree = tmp_path / "image", tmp_path / "tree"
    tree.mkdir()
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(tree)], check=True)
    volume = Volume(tmp_path)
    try:
        volume.mount()
        yield volume
    finally:
        volume.close()
        subprocess.run(["umount", str(tree)], check=True)
    volume.assert_foreseen()


def _fill(tree: Path) -> None:
    """Write until nothing fits any more: content, names, attributes."""
    with opened(tree / "grows", os.O_WRONLY | os.O_CREAT) as fd, refused(errno.ENOSPC):
        while True:
            os.write(fd, os.urandom(100_000))
    with refused(errno.ENOSPC):
        for number in range(10_000):
            (tree / f"d{number}").mkdir()
            os.setxattr(tree / f"d{number}", "user.x", b"x" * 2000)


@needs_root
def test_a_full_disk_beneath_gives_enospc_and_the_log_stays_true(full_volume: Volume) -> None:
    volume, kept = full_volume, full_volume.tree / "kept"
    kept.write_bytes(b"kept")
    _fill(volume.tree)
    full, then = volume.sync(), copy_of(volume.tree)
    assert_same(volume.past(full), then)
    os.unlink(volume.tree / "grows")
    kept.write_bytes(b"there is room again")
    now, newest = volume.sync(), copy_of(volume.tree)
    volume.kill()
    volume.mount()
    assert_same(volume.tree, newest)
    assert_same(volume.past(full), then)
    assert_same(volume.past(now), newest)
