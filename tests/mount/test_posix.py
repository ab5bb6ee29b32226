"""The mount behaves as the file system beneath: writing, mappings, sparse files, directories."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.mount.calls import MIB, Call, libc, opened, refused
from tests.mount.trees import assert_same
from tests.volume import Volume

# --- writing ------------------------------------------------------------------------------------


def test_appends_of_two_processes_never_overwrite_each_other(volume: Volume) -> None:
    log = volume.tree / "log"
    program = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "for n in range(300): os.write(fd, f'{sys.argv[2]}{n:04}\\n'.encode())\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(log), letter]) for letter in "ab"
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = log.read_text().splitlines()
    assert sorted(lines) == [f"{letter}{n:04}" for letter in "ab" for n in range(300)]
    for letter in "ab":
        assert [line for line in lines if line[0] == letter] == sorted(
            line for line in lines if line[0] == letter
        )
    assert (volume.past(volume.sync()) / "log").read_text().splitlines() == lines


def test_direct_io_reads_and_writes(volume: Volume) -> None:
    path = volume.tree / "direct"
    block = mmap.mmap(-1, 8192)
    block.write(b"x" * 8192)
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
        assert os.pwrite(fd, block, 4096) == 8192
        got = mmap.mmap(-1, 12288)
        assert os.preadv(fd, [got], 0) == 12288
        assert got[:] == bytes(4096) + b"x" * 8192
    assert path.read_bytes() == bytes(4096) + b"x" * 8192


def test_direct_writes_are_seen_by_cached_readers_and_mappings(volume: Volume) -> None:
    path = volume.tree / "both"
    path.write_bytes(b"a" * 8192)
    block = mmap.mmap(-1, 4096)
    block.write(b"b" * 4096)
    with opened(path, os.O_RDWR) as cached, opened(path, os.O_RDWR | os.O_DIRECT) as direct:
        assert os.pread(cached, 8192, 0) == b"a" * 8192
        os.pwrite(direct, block, 4096)
        assert os.pread(cached, 8192, 0) == b"a" * 4096 + b"b" * 4096


def test_open_with_truncation_empties_and_the_old_content_stays_in_the_past(
    volume: Volume,
) -> None:
    path = volume.tree / "f"
    path.write_bytes(b"old")
    before = volume.sync()
    with opened(path, os.O_WRONLY | os.O_TRUNC):
        assert path.stat().st_size == 0
    assert (volume.past(before) / "f").read_bytes() == b"old"


def test_exclusive_creation_fails_when_the_name_is_taken(volume: Volume) -> None:
    (volume.tree / "f").touch()
    (volume.tree / "dangling").symlink_to("nowhere")
    for name in ("f", "dangling"):
        with refused(errno.EEXIST):
            os.open(volume.tree / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_exclusive_creation_by_many_threads_succeeds_once(volume: Volume) -> None:
    won: list[int] = []

    def race(number: int) -> None:
        try:
            os.close(os.open(volume.tree / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_file_opened_read_only_first_sees_what_another_handle_writes_later(
    volume: Volume,
) -> None:
    path = volume.tree / "f"
    path.write_bytes(b"first")
    with opened(path, os.O_RDONLY) as reader:
        assert os.pread(reader, 99, 0) == b"first"
        with opened(path, os.O_RDWR) as writer:
            os.pwrite(writer, b"FIRST and more", 0)
            assert os.pread(reader, 99, 0) == b"FIRST and more"
            assert os.fstat(reader).st_size == 14
        with refused(errno.EBADF):
            os.write(reader, b"no")


def test_a_read_only_file_stays_writable_through_the_handle_that_made_it(volume: Volume) -> None:
    path = volume.tree / "f"
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o400) as fd:
        os.write(fd, b"written")
        os.ftruncate(fd, 3)
    assert path.read_bytes() == b"wri"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_shared_mappings_write_and_see_what_write_wrote(volume: Volume) -> None:
    path = volume.tree / "mapped"
    path.write_bytes(bytes(3 * 4096))
    with opened(path, os.O_RDWR) as fd:
        first, second = mmap.mmap(fd, 3 * 4096), mmap.mmap(fd, 3 * 4096)
        first[5000:5005] = b"hello"
        assert second[5000:5005] == b"hello"
        assert os.pread(fd, 5, 5000) == b"hello"
        os.pwrite(fd, b"world", 9000)
        assert first[9000:9005] == b"world"
        first.flush()
        at = volume.sync()
        first[5000:5005] = b"later"
        first.flush()
        first.close()
        second.close()
    wanted = bytearray(3 * 4096)
    wanted[5000:5005], wanted[9000:9005] = b"hello", b"world"
    assert (volume.past(at) / "mapped").read_bytes() == wanted
    wanted[5000:5005] = b"later"
    assert (volume.past(volume.sync()) / "mapped").read_bytes() == wanted


def test_a_mapping_outlives_its_descriptor_and_its_name(volume: Volume) -> None:
    path = volume.tree / "f"
    path.write_bytes(bytes(4096))
    with opened(path, os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, 4096)
    os.unlink(path)
    mapped[:3] = b"abc"
    mapped.flush()
    assert mapped[:3] == b"abc"
    mapped.close()


def test_synchronous_files_write_like_others(volume: Volume) -> None:
    for flag in (os.O_SYNC, os.O_DSYNC):
        with opened(volume.tree / "s", os.O_WRONLY | os.O_CREAT | flag) as fd:
            for number in range(20):
                assert os.pwrite(fd, b"%04d" % number, 4 * number) == 4
    assert (volume.tree / "s").read_bytes() == b"".join(b"%04d" % number for number in range(20))


def test_vectors_and_large_writes_arrive_whole(volume: Volume) -> None:
    data = os.urandom(3 * MIB + 17)
    with opened(volume.tree / "f", os.O_RDWR | os.O_CREAT) as fd:
        assert os.pwritev(fd, [data[:100], data[100:MIB], data[MIB:]], 7) == len(data)
    assert (volume.tree / "f").read_bytes() == bytes(7) + data
    assert (volume.past(volume.sync()) / "f").read_bytes() == bytes(7) + data


# --- sparse files, space ------------------------------------------------------------------------


def test_sparse_files_take_no_space_and_read_as_zeros(volume: Volume) -> None:
    path = volume.tree / "sparse"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"end", 100 * MIB)
        assert os.fstat(fd).st_size == 100 * MIB + 3
        assert os.fstat(fd).st_blocks * 512 < MIB
        assert os.pread(fd, 8, 50 * MIB) == bytes(8)
        # Without a handler of its own for lseek, a file system tells of data everywhere: allowed.
        assert os.lseek(fd, 0, os.SEEK_DATA) in (0, 100 * MIB)
        assert os.lseek(fd, 0, os.SEEK_HOLE) in (0, 100 * MIB + 3)


def test_fallocate_and_punching_holes_are_refused_or_right(volume: Volume) -> None:
    path = volume.tree / "f"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"x" * 8192)
        keep_size_punch_hole = 3
        place = (ctypes.c_int(fd), keep_size_punch_hole, ctypes.c_long(0), ctypes.c_long(4096))
        if libc.fallocate(*place):
            assert ctypes.get_errno() == errno.EOPNOTSUPP
            assert path.read_bytes() == b"x" * 8192
        # glibc writes zeros where the file system can't: what posix_fallocate promises holds.
        os.posix_fallocate(fd, 0, 20_000)
        assert os.fstat(fd).st_size == 20_000
    content = path.read_bytes()
    assert (volume.past(volume.sync()) / "f").read_bytes() == content


def test_copy_file_range_and_sendfile_copy(volume: Volume) -> None:
    data = os.urandom(300_000)
    (volume.tree / "from").write_bytes(data)
    with opened(volume.tree / "from", os.O_RDONLY) as source:
        with opened(volume.tree / "copied", os.O_WRONLY | os.O_CREAT) as target:
            done = 0
            while count := os.copy_file_range(source, target, len(data) - done):
                done += count
        with opened(volume.tree / "sent", os.O_WRONLY | os.O_CREAT) as target:
            done = 0
            while count := os.sendfile(target, source, done, len(data)):
                done += count
    assert (volume.tree / "copied").read_bytes() == data
    assert (volume.tree / "sent").read_bytes() == data
    assert (volume.past(volume.sync()) / "copied").read_bytes() == data


def test_statfs_is_that_of_the_file_system_beneath(volume: Volume, tmp_path: Path) -> None:
    here, beneath = os.statvfs(volume.tree), os.statvfs(tmp_path)
    for field in ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax"):
        assert getattr(here, field) == getattr(beneath, field)


# --- directories --------------------------------------------------------------------------------


def _check_big_directory(volume: Volume, count: int) -> Path:
    """Entries that stay are listed exactly once, whatever comes and goes meanwhile."""
    (volume.backing / "big").mkdir()
    folder = volume.tree / "big"
    for number in range(count):
        if number == count * 9 // 10:
            volume.mount()  # most are faster to make beneath
        os.mknod(folder / f"stays-{number}")
    stop = threading.Event()

    def come_and_go() -> None:
        number = 0
        while not stop.is_set():
            os.mknod(folder / f"goes-{number}")
            if number >= 50:
                os.unlink(folder / f"goes-{number - 50}")
            number += 1

    worker = threading.Thread(target=come_and_go)
    worker.start()
    try:
        for _ in range(3):
            names = os.listdir(folder)
            stayed = [name for name in names if name.startswith("stays-")]
            assert len(stayed) == len(set(stayed)) == count
            assert len(names) == len(set(names))
    finally:
        stop.set()
        worker.join()
    return folder


def test_large_directory_lists_each_entry_once_while_others_come_and_go(
    unmounted: Volume,
) -> None:
    folder = _check_big_directory(unmounted, 20_000)
    at = unmounted.sync()
    assert sorted(os.listdir(unmounted.past(at) / "big")) == sorted(os.listdir(folder))


@pytest.mark.nightly
def test_very_large_directory_lists_each_entry_once(unmounted: Volume) -> None:
    _check_big_directory(unmounted, 100_000)


def test_rewinding_a_listing_shows_what_came_meanwhile(volume: Volume) -> None:
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.readdir.argtypes = libc.rewinddir.argtypes = [ctypes.c_void_p]
    (volume.tree / "old").touch()
    listing = libc.opendir(os.fsencode(volume.tree))

    def names() -> set[bytes]:
        found = set()
        while entry := libc.readdir(listing):
            found.add(ctypes.string_at(entry + 19))
        return found

    assert names() == {b".", b"..", b"old"}
    (volume.tree / "new").touch()
    (volume.tree / "old").unlink()
    libc.rewinddir(listing)
    assert names() == {b".", b"..", b"new"}
    libc.closedir.argtypes = [ctypes.c_void_p]
    libc.closedir(listing)


def test_names_of_any_bytes(volume: Volume) -> None:
    names = [bytes([byte]) * 3 for byte in range(1, 256) if byte != ord("/")]
    names += [b"\xff" * 255, b"\n", b" ", b"-rf"]
    root = os.fsencode(volume.tree)
    for name in names:
        with opened(os.path.join(root, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            os.write(fd, name)
    assert sorted(os.listdir(root)) == sorted(names)
    assert_same(volume.past(volume.sync()), volume.tree)


def test_names_have_at_most_255_bytes(volume: Volume) -> None:
    root = os.fsencode(volume.tree)
    long, too_long = os.path.join(root, b"n" * 255), os.path.join(root, b"n" * 256)
    os.mkdir(long)
    for call in (os.mkdir, os.mknod, os.rmdir, os.unlink, os.lstat):
        with refused(errno.ENAMETOOLONG):
            call(too_long)
    for call2 in (os.rename, os.link, os.symlink):
        with refused(errno.ENAMETOOLONG):
            call2(long, too_long)


def test_paths_deeper_than_path_max(volume: Volume) -> None:
    name, depth = b"d" * 200, 40
    fds = [os.open(volume.tree, os.O_RDONLY | os.O_DIRECTORY)]
    for _ in range(depth):
        os.mkdir(name, dir_fd=fds[-1])
        fds.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fds[-1]))
    with open(os.open(b"deep", os.O_WRONLY | os.O_CREAT, dir_fd=fds[-1]), "wb") as file:
        file.write(b"down here")
    at = volume.sync()
    os.unlink(b"deep", dir_fd=fds[-1])
    for fd in fds:
        os.close(fd)
    here = os.open(volume.past(at), os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    with open(os.open(b"deep", os.O_RDONLY, dir_fd=here), "rb") as file:
        assert file.read() == b"down here"
    os.close(here)


def test_directories_that_are_not_empty_or_not_directories(volume: Volume) -> None:
    tree = volume.tree
    (tree / "d" / "inner").mkdir(parents=True)
    (tree / "empty").mkdir()
    (tree / "f").touch()
    expected: list[tuple[int, Call]] = [
        (errno.ENOTEMPTY, lambda: os.rmdir(tree / "d")),
        (errno.ENOTEMPTY, lambda: os.rename(tree / "empty", tree / "d")),
        (errno.ENOTDIR, lambda: os.rmdir(tree / "f")),
        (errno.ENOTDIR, lambda: os.rename(tree / "empty", tree / "f")),
        (errno.ENOTDIR, lambda: os.listdir(tree / "f")),
        (errno.ENOTDIR, lambda: os.stat(tree / "f" / "below")),
        (errno.EISDIR, lambda: os.unlink(tree / "d")),
        (errno.EISDIR, lambda: os.rename(tree / "f", tree / "empty")),
        (errno.EISDIR, lambda: os.open(tree / "d", os.O_WRONLY)),
        (errno.EEXIST, lambda: os.mkdir(tree / "f")),
        (errno.EEXIST, lambda: os.symlink("x", tree / "d")),
        (errno.EEXIST, lambda: os.link(tree / "f", tree / "empty")),
        (errno.EINVAL, lambda: os.rename(tree / "d", tree / "d" / "inner" / "d")),
        (errno.ENOENT, lambda: os.rename(tree / "missing", tree / "x")),
        (errno.ENOENT, lambda: os.unlink(tree / "missing")),
        (errno.ENOENT, lambda: os.symlink("", tree / "x")),
        (errno.EPERM, lambda: os.link(tree / "d", tree / "x")),
    ]
    for number, call in expected:
        with refused(number):
            call()
    at = volume.sync()
    assert_same(volume.past(at), tree)


def test_a_removed_working_directory_is_empty_and_takes_nothing_new(volume: Volume) -> None:
    folder = volume.tree / "d"
    folder.mkdir()
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rmdir(folder)
        assert os.listdir(fd) == []
        assert os.fstat(fd).st_nlink == 0
        with refused(errno.ENOENT):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        with refused(errno.ENOENT):
            os.mkdir("new", dir_fd=fd)


def test_renamed_directories_keep_their_open_files_and_their_content(volume: Volume) -> None:
    tree = volume.tree
    (tree / "old" / "sub").mkdir(parents=True)
    with opened(tree / "old" / "sub" / "f", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"before")
        before = volume.sync()
        os.rename(tree / "old", tree / "new")
        os.write(fd, b" and after")
        assert (tree / "new" / "sub" / "f").read_bytes() == b"before and after"
        os.rename(tree / "new" / "sub", tree / "up")
        os.rmdir(tree / "new")
        os.fchmod(fd, 0o600)
        os.write(fd, b" all")
    assert (tree / "up" / "f").read_bytes() == b"before and after all"
    assert (volume.past(before) / "old" / "sub" / "f").read_bytes() == b"before"
