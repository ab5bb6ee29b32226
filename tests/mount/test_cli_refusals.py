"""Bad input to the command line: each gets a clear message, a next step, and its exit code."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from console.exit_codes import ExitCode
from tests.commandline import RING, ROOT, ProtectedTree

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount or change user")

NOBODY = 65534


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[ProtectedTree]:
    """A directory with one file, not protected yet; it must be as it was in the end."""
    made = ProtectedTree(tmp_path)
    (made.tree / "file").write_text("as it was")
    try:
        yield made
        assert not made.is_mounted
        assert (made.tree / "file").read_text() == "as it was"
    finally:
        made.end()


@contextmanager
def tmpfs(place: Path, options: str = "size=4m") -> Iterator[None]:
    """A small file system mounted at `place`."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def no_store_was_left(tree: ProtectedTree) -> bool:
    home = tree.top / "home"
    return not home.exists() or not list(home.iterdir())


def test_a_directory_that_is_missing_or_none(tree: ProtectedTree) -> None:
    tree.run("protect", str(tree.top / "nothing"), code=ExitCode.USAGE)
    tree.run("protect", tree.path("file"), code=ExitCode.USAGE)
    assert no_store_was_left(tree)


def test_a_directory_with_an_entry_called_snapshots(tree: ProtectedTree) -> None:
    (tree.tree / ".snapshots").mkdir()
    refusal = tree.run("protect", str(tree.tree), code=ExitCode.USAGE)
    assert b".snapshots" in refusal.stderr
    assert no_store_was_left(tree)


def test_a_store_inside_the_directory_or_around_it(tree: ProtectedTree) -> None:
    tree.run("protect", str(tree.tree), "--store", tree.path("store"), code=ExitCode.USAGE)
    tree.run("protect", str(tree.tree), "--store", str(tree.top), code=ExitCode.USAGE)
    assert os.listdir(tree.tree) == ["file"]


def test_a_mount_point_that_can_be_none(tree: ProtectedTree) -> None:
    (tree.tree / "sub").mkdir()
    (tree.top / "full").mkdir()
    (tree.top / "full" / "something").touch()
    for place in (tree.top / "nothing", tree.tree / "file", tree.tree / "sub", tree.top / "full"):
        tree.run("protect", str(tree.tree), "--at", str(place), code=ExitCode.USAGE)
    assert no_store_was_left(tree)


@as_root
def test_a_directory_with_a_file_system_mounted_inside(tree: ProtectedTree) -> None:
    with tmpfs(tree.tree / "nested"):
        refusal = tree.run("protect", str(tree.tree), code=ExitCode.USAGE)
        assert tree.path("nested").encode() in refusal.stderr
    assert no_store_was_left(tree)


@as_root
def test_a_directory_on_a_read_only_disk(tree: ProtectedTree) -> None:
    place = tree.top / "disk"
    with tmpfs(place):
        (place / "data").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        tree.run("protect", str(place / "data"), code=ExitCode.SPACE)
        tree.run("protect", str(tree.tree), "--store", str(place / "s"), code=ExitCode.SPACE)
    assert no_store_was_left(tree)


@as_root
def test_a_store_on_a_disk_without_room(tree: ProtectedTree) -> None:
    place = tree.top / "disk"
    with tmpfs(place):
        refusal = tree.run(
            "protect", str(tree.tree), "--store", str(place / "s"), *RING, code=ExitCode.SPACE
        )
        assert b"--store" in refusal.stderr
        assert os.listdir(place) == []
    assert no_store_was_left(tree)


@as_root
def test_a_machine_without_dev_fuse(tree: ProtectedTree) -> None:
    hide = 'mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"'
    command = [sys.executable, "-P", "-m", "console", "protect", str(tree.tree)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, "sh", *command],
        env=tree.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.ENVIRONMENT, done.stderr
    assert "/dev/fuse" in done.stderr
    assert "\n  next: " in done.stderr
    assert no_store_was_left(tree)


@as_root
def test_somebody_elses_directory(tree: ProtectedTree) -> None:
    # A first run imports everything: this user may not be able to read where the modules are.
    program = (
        "import os, sys\n"
        "from console.cli import main\n"
        "sys.argv = ['cdpfs', 'protect', '/nothing/there']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"sys.argv[2] = {str(tree.tree)!r}\n"
        "main()"
    )
    for place in (tree.top.parent.parent, tree.top.parent, tree.top):
        place.chmod(place.stat().st_mode | 0o005)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=tree.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.PERMISSION, done.stderr
    assert "\n  next: " in done.stderr


def test_a_second_store_for_one_directory_and_a_second_directory_for_one_store(
    tree: ProtectedTree,
) -> None:
    store = str(tree.top / "store")
    tree.run("protect", str(tree.tree), "--store", store, *RING)
    tree.run("umount", str(tree.tree))
    second = ("protect", str(tree.tree), "--store", str(tree.top / "second"))
    refusal = tree.run(*second, code=ExitCode.BUSY)
    assert store.encode() in refusal.stderr
    other = tree.top / "other"
    other.mkdir()
    tree.run("protect", str(other), "--store", store, code=ExitCode.BUSY)


def test_a_store_of_a_newer_version_is_not_mounted(tree: ProtectedTree) -> None:
    tree.run("protect", str(tree.tree), *RING)
    tree.run("umount", str(tree.tree))
    config = Path(tree.json("status", str(tree.tree))["store"]) / "volume.toml"
    text = config.read_text()
    config.write_text(text.replace("format_version = 1", "format_version = 2"))
    refusal = tree.run("mount", "--store", str(config.parent), code=ExitCode.FORMAT)
    assert b"format 2" in refusal.stderr
    config.write_text(text)
    tree.run("mount", str(tree.tree))
    tree.run("umount", str(tree.tree))


def test_what_a_volume_was_made_with_stays_and_what_can_change_changes(
    tree: ProtectedTree,
) -> None:
    tree.run("protect", str(tree.tree), *RING)
    tree.run("umount", str(tree.tree))
    tree.run("protect", str(tree.tree), "--ring-files", "5", code=ExitCode.USAGE)
    mount_point = tree.top / "elsewhere"
    mount_point.mkdir()
    tree.run("protect", str(tree.tree), "--at", str(mount_point), "--seed-rate", "20M")
    try:
        assert tree.json("status", str(mount_point))["mount_point"] == str(mount_point)
        assert (mount_point / "file").read_text() == "as it was"
    finally:
        tree.run("umount", str(mount_point))


def test_a_flipped_bit_is_an_error_and_never_content(tree: ProtectedTree) -> None:
    tree.run("protect", str(tree.tree), *RING)
    content = os.urandom(1 << 20)
    (tree.tree / "random").write_bytes(content)
    tree.run("umount", str(tree.tree))
    (segment,) = (Path(tree.json("status", str(tree.tree))["store"]) / "segments").iterdir()
    data = bytearray(segment.read_bytes())
    at = data.find(content[500_000:500_100])
    data[at] ^= 4
    segment.write_bytes(data)
    done = tree.run("cat", tree.path("random"), "--at", "@now", code=ExitCode.DAMAGE)
    assert content.startswith(done.stdout)
    place = tree.top / "out"
    tree.run("restore", str(tree.tree), "--at", "@now", "--to", str(place), code=ExitCode.FAILURE)
    assert (place / "file").read_text() == "as it was"
    assert not (place / "random").exists()
