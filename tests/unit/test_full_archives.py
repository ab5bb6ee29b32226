"""A full of a view, unpacked by plain tar: the tree that the view shows, whatever is in it."""

from __future__ import annotations

import os
import re
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.format import Kind
from store.types import NO_NODE
from tape.archive_reader import ArchiveReader
from tape.errors import ArchiveTooLarge
from tape.layout import Cursor
from tape.readme import readme
from tests.mount.fingerprint import assert_equal, fingerprint
from tests.unit.archives import LABEL, STATE, blocks_of, full_archives, untar
from tests.unit.recorded_tree import RecordedTree
from timetravel.view import View

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")

ACL = struct.pack(
    "<I" + "HHI" * 5, 2,
    1, 6, 0xFFFFFFFF, 2, 4, 12345, 4, 4, 0xFFFFFFFF, 0x10, 6, 0xFFFFFFFF, 0x20, 0, 0xFFFFFFFF,
)  # fmt: skip
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    yield recorded
    recorded.close()


def unpacked(tree: RecordedTree, tmp_path: Path, archive_bytes: int = 64 << 20) -> Path:
    """The view's newest state, through archives and tar; tar must have nothing to say."""
    view = View(tree.journal, tree.commit())
    archives = full_archives(tree, view, archive_bytes)
    for data, written in archives:
        assert len(data) <= archive_bytes
        reader = ArchiveReader(blocks_of(data))
        assert reader.check() == written
    out = tmp_path / "out"
    assert untar([data for data, _ in archives], out) == ""
    return out / tree.store.config.name


def assert_same(tree: RecordedTree, found: Path) -> None:
    assert_equal(fingerprint(found), fingerprint(Path(os.fsdecode(tree.root))))


def test_tar_restores_a_tree_of_everything(tree: RecordedTree, tmp_path: Path) -> None:
    tree.mkdir(b"d")
    tree.mkdir(b"empty")
    tree.write(b"d/plain", b"hello")
    tree.write(b"nothing", b"")
    tree.write(b"d/owned", b"x")
    tree.chown(b"d/owned", 12345, 3_000_000)
    tree.chmod(b"d/owned", 0o4751)
    tree.symlink(b"/somewhere/else", b"d/absolute")
    tree.symlink(b"../" * 60 + b"long", b"d/far")
    tree.mkfifo(b"fifo")
    tree.link(b"d/plain", b"another")
    tree.link(b"d/far", b"a-link-to-a-link")
    tree.setxattr(b"d/plain", b"user.note", b"a\n=\0\xff")
    tree.setxattr(b"d/plain", b"user.odd=%name\xff", b"")
    tree.setxattr(b"d/owned", b"security.capability", CAPABILITY)
    tree.setxattr(b"d/plain", b"system.posix_acl_access", ACL)
    tree.chmod(b"d/plain", 0o660)
    tree.setxattr(b"empty", b"system.posix_acl_default", ACL)
    tree.utime(b"d/plain", 5, 1_500_000_001)
    tree.utime(b"empty", 5, 1_234_567_890_123_456_789)
    tree.chmod(b"d", 0o3700)
    tree.utime(b"d", 5, 987_654_321_000_000_001)
    tree.utime(b"", 5, 77)
    assert_same(tree, unpacked(tree, tmp_path))


def test_tar_restores_times_before_1970(tree: RecordedTree, tmp_path: Path) -> None:
    tree.write(b"f", b"old")
    tree.utime(b"f", 5, -1_500_000_001)
    view = View(tree.journal, tree.commit())
    said = untar([data for data, _ in full_archives(tree, view)], tmp_path / "out")
    assert "implausibly old time stamp" in said
    assert_same(tree, tmp_path / "out" / tree.store.config.name)


def test_tar_restores_devices(tree: RecordedTree, tmp_path: Path) -> None:
    try:
        os.mknod(tree.path(b"device"), stat.S_IFCHR | 0o640, os.makedev(1, 3))
        os.mknod(tree.path(b"block"), stat.S_IFBLK | 0o640, os.makedev(4001, 1_000_003))
    except PermissionError:
        pytest.skip("devices can't be made here")
    tree.created(b"device")
    tree.created(b"block")
    assert_same(tree, unpacked(tree, tmp_path))


def test_tar_restores_names_of_any_bytes(tree: RecordedTree, tmp_path: Path) -> None:
    names = (
        b"new\nline", b"\xff\xfe", b"-rf", "ä€".encode(), b"x" * 255, b"\xe4" * 255, b" ",
        b"\\", b"a" * 98, b"b" * 99, b"c" * 100, b"d" * 101, b"tab\t", b"%s {}",
    )  # fmt: skip
    for number, name in enumerate(names):
        tree.write(name, name)
        tree.link(name, name[:-2] + b"%02d" % number)
        tree.symlink(name * 3, name[:-2] + b"Y%c" % (65 + number))
    path = b""
    for number in range(8):
        path += b"%d" % number + b"deep" * 60
        tree.mkdir(path)
        path += b"/"
    tree.write(path + b"file", b"at the bottom")
    assert_same(tree, unpacked(tree, tmp_path))


def test_sparse_files_stay_sparse(tree: RecordedTree, tmp_path: Path) -> None:
    tree.write(b"only-hole", b"")
    tree.truncate(b"only-hole", 64 << 20)
    tree.write(b"start", os.urandom(300_001))
    tree.truncate(b"start", 32 << 20)
    tree.write(b"middle", os.urandom(5_000), 7 << 20)
    tree.write(b"middle", os.urandom(200_000), (20 << 20) + 17)
    tree.write(b"small-hole", b"x", 200_000)
    tree.write(b"huge", b"end", 1 << 29)
    found = unpacked(tree, tmp_path)
    assert_same(tree, found)
    for name in (b"only-hole", b"start", b"middle", b"huge"):
        status = os.stat(os.path.join(os.fsencode(found), name))
        assert status.st_blocks * 512 < 1 << 20


def test_a_full_in_many_archives_restores_the_same_tree(tree: RecordedTree, tmp_path: Path) -> None:
    for number in range(6):
        folder = b"d%d" % number
        tree.mkdir(folder)
        tree.mkdir(folder + b"/sub")
        for name in (b"/sub/a", b"/b"):
            tree.write(folder + name, os.urandom(150_000))
        tree.link(b"d0/b", folder + b"/linked")
        tree.chmod(folder, 0o500)
        tree.utime(folder, 1, 10**18 + number)
        tree.utime(folder + b"/sub", 1, 10**18 + 100 + number)
    view = View(tree.journal, tree.commit())
    assert len(full_archives(tree, view, 512 << 10)) >= 4
    assert_same(tree, unpacked(tree, tmp_path, 512 << 10))


def test_a_file_larger_than_an_archive_comes_in_parts_that_the_readme_joins(
    tree: RecordedTree, tmp_path: Path
) -> None:
    tree.mkdir(b"d")
    tree.write(b"d/large", os.urandom(2_500_000))
    tree.write(b"d/large", os.urandom(100_000), 6 << 20)
    tree.truncate(b"d/large", 9 << 20)
    tree.chmod(b"d/large", 0o640)
    tree.chown(b"d/large", 12, 34)
    tree.setxattr(b"d/large", b"user.note", b"kept")
    tree.utime(b"d/large", 1, 10**18 + 7)
    tree.link(b"d/large", b"z-other-name")
    tree.write(b"q" * 250, os.urandom(1_200_000))
    tree.utime(b"d", 1, 10**18 + 9)
    found = unpacked(tree, tmp_path, 1 << 20)
    assert list((found / "d").glob("*.cdpfs-part-0002-of-*"))
    script = re.search(r"^    find \..*?^    done\n", readme(LABEL), re.MULTILINE | re.DOTALL)
    assert script is not None
    os.utime(found, ns=(1, 2))
    subprocess.run(["bash", "-euc", script[0].replace("/tmp/", f"{tmp_path}/")], cwd=found,
                   check=True)  # fmt: skip
    long_name = next(entry for entry in found.iterdir() if "~" in entry.name)
    long_name.rename(found / ("q" * 250))
    wanted = fingerprint(Path(os.fsdecode(tree.root)))
    os.utime(found, ns=(1, wanted[b""].mtime_ns))
    assert_equal(fingerprint(found), wanted)


def test_any_archive_can_be_made_again_from_its_cursor(tree: RecordedTree, tmp_path: Path) -> None:
    for number in range(40):
        if number % 8 == 0:
            tree.mkdir(b"d%d" % number)
        tree.write(b"d%d/f%d" % (number // 8 * 8, number), os.urandom(50_000))
    tree.write(b"large", os.urandom(1_500_000))
    view = View(tree.journal, tree.commit())
    whole = full_archives(tree, view, 512 << 10)
    assert len(whole) > 6
    assert [data for data, _ in full_archives(tree, view, 512 << 10)] == [d for d, _ in whole]


def test_the_full_shows_the_past_and_not_the_present(tree: RecordedTree, tmp_path: Path) -> None:
    tree.write(b"f", b"then")
    view = View(tree.journal, tree.commit())
    wanted = fingerprint(Path(os.fsdecode(tree.root)))
    tree.write(b"f", b"NOW")
    tree.write(b"g", b"new")
    tree.commit()
    untar([data for data, _ in full_archives(tree, view)], tmp_path / "out")
    assert_equal(fingerprint(tmp_path / "out" / tree.store.config.name), wanted)


def test_a_socket_is_told_to_the_store_and_not_to_tar(tree: RecordedTree, tmp_path: Path) -> None:
    os.mknod(tree.path(b"socket"), stat.S_IFSOCK | 0o600)
    tree.created(b"socket")
    view = View(tree.journal, tree.commit())
    [(data, _)] = full_archives(tree, view)
    untar([data], tmp_path / "out")
    assert list((tmp_path / "out" / tree.store.config.name).iterdir()) == []
    members = list(ArchiveReader(blocks_of(data)).members())
    [found] = [m for m in members if stat.S_ISSOCK(m.header.facts.mode)]
    assert found.path == b"socket"


def test_the_last_archive_ends_with_the_state_of_the_store(tree: RecordedTree) -> None:
    tree.write(b"f", b"1")
    view = View(tree.journal, tree.commit())
    [(data, written)] = full_archives(tree, view)
    states = [m.data(100) for m in ArchiveReader(blocks_of(data)).members() if m.kind == "state"]
    assert states == [STATE]
    assert written.end.last_part
    assert written.end.needs_lsn == view.lsn + 7
    assert written.end.barrier_lsn == view.lsn


def test_what_cannot_be_cut_and_does_not_fit_is_refused_by_name(tree: RecordedTree) -> None:
    tree.write(b"f", b"1")
    for number in range(8):
        tree.log(Kind.SETXATTR, tree.node(b"f"), 6, b"user.%d" % number + b"v" * 60_000)
    view = View(tree.journal, tree.commit())
    with pytest.raises(ArchiveTooLarge, match="'f'"):
        full_archives(tree, view, 448 << 10)
    with pytest.raises(ArchiveTooLarge, match="too small"):
        full_archives(tree, view, 128 << 10)


def test_a_deep_tree_needs_no_path_that_the_system_could_not_open(
    tree: RecordedTree, tmp_path: Path
) -> None:
    parent = tree.node(b"")
    for number in range(30):
        parent = tree.log_directory(parent, b"%02d" % number + b"x" * 200)
    tree.log(Kind.MARK, NO_NODE, 0, b"done")
    view = View(tree.journal, tree.commit())
    archives = full_archives(tree, view)
    entries = [m for m in ArchiveReader(blocks_of(archives[0][0])).members() if m.kind == "entry"]
    assert len(entries[-1].path) > 6000
    assert entries[-1].header.note is not None and entries[-1].header.note.node == parent


def test_a_cursor_names_nothing(tree: RecordedTree) -> None:
    tree.mkdir(b"secret")
    for number in range(4):
        tree.write(b"secret/f%d" % number, os.urandom(200_000))
    view = View(tree.journal, tree.commit())
    _, written = full_archives(tree, view, 512 << 10)[0]
    assert written.end.next == Cursor(directory=tree.node(b"secret"), entry=2)
