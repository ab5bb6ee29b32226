"""A person who has the cartridges, GNU tar, and nothing else of ours."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tape.archive_reader import read_head
from tests.commandline import RING, ProtectedTree
from tests.mount.fingerprint import assert_equal, fingerprint

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")

ACL = struct.pack(
    "<I" + "HHI" * 5, 2,
    1, 6, 0xFFFFFFFF, 2, 4, 12345, 4, 4, 0xFFFFFFFF, 0x10, 6, 0xFFFFFFFF, 0x20, 0, 0xFFFFFFFF,
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ProtectedTree]:
    made = ProtectedTree(tmp_path)
    yield made
    made.end()


def fill(tree: Path) -> None:
    """What there was before cdpfs, or comes after."""
    (tree / "d" / "empty").mkdir(parents=True)
    (tree / "d" / "text").write_text("words\n" * 1000)
    (tree / "d" / "noise").write_bytes(os.urandom(300_001))
    with (tree / "sparse").open("wb") as file:
        file.seek(40 << 20)
        file.write(b"x" * 5000)
        file.truncate(80 << 20)
    (tree / "z-link").hardlink_to(tree / "d" / "noise")
    (tree / "pointer").symlink_to("d/text")
    os.mkfifo(tree / "pipe", 0o640)
    (tree / os.fsdecode(b"odd\n\xff")).write_bytes(b"")
    os.setxattr(tree / "d" / "text", "user.a=%", b"\0b")
    os.setxattr(tree / "d" / "text", "system.posix_acl_access", ACL)
    os.chown(tree / "d" / "noise", 12345, 54321)
    os.chmod(tree / "d" / "noise", 0o4710)
    os.utime(tree / "d" / "empty", ns=(1, 1_234_567_890_123_456_789))


def fulls(library: Path) -> list[Path]:
    """The tape files of kind full, in their order, as they lie in the cartridges' folders."""
    found = []
    for cartridge in (library / "cartridges").iterdir():
        for path in cartridge.glob("[0-9]" * 6):
            if path.name != "000000":
                head = read_head([path.read_bytes()])
                if head.kind == "full":
                    found.append((head.sequence, path))
    return [path for _, path in sorted(found)]


def unpack(archive: Path | bytes, folder: Path) -> None:
    data = archive if isinstance(archive, bytes) else archive.read_bytes()
    done = subprocess.run(
        ["tar", "--numeric-owner", "-p", "--xattrs", "--xattrs-include=*", "-xf", "-"],
        cwd=folder, input=data, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == b"", done.stderr


@pytest.mark.parametrize("sealed", [False, True])
def test_tar_alone_gives_back_the_full_from_the_cartridges(
    place: ProtectedTree, tmp_path: Path, sealed: bool
) -> None:
    library = tmp_path / "library"
    fill(place.tree)
    place.run("protect", str(place.tree), *RING)
    (place.tree / "after").mkdir()
    fill(place.tree / "after")
    place.run("tape", "create-library", str(library), "--slots", "6", "--capacity", "128M")
    options = ["--archive-size", "16M"]
    if sealed:
        place.run("key", "create", str(tmp_path / "key"), "--backup", str(tmp_path / "paper"))
        options += ["--seal", str(tmp_path / "key"), "--key-backup", str(tmp_path / "paper")]
    place.run("tape", "attach", str(place.tree), "--library", str(library), *options)
    place.run("tape", "spool", str(place.tree))
    out = tmp_path / "out"
    out.mkdir()
    archives = fulls(library)
    assert archives
    for path in archives:
        if sealed:
            done = place.run("tape", "open", str(path), "--key-file", str(tmp_path / "key"))
            unpack(done.stdout, out)
        else:
            unpack(path, out)
    [tree] = [entry for entry in out.iterdir() if entry.name != "cdpfs"]
    # The barrier of the full may lie before the last change: the tree has just been made.
    barrier = read_head([archives[0].read_bytes()]).last_lsn
    then = place.tree / ".snapshots" / f"@lsn:{barrier}"
    assert_equal(fingerprint(tree), fingerprint(then))
