"""A full backing disk: whoever removes a file has its space for what comes next."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.volume import Volume

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0,
    reason="needs /dev/fuse, and root to mount a small disk",
)

MIB = 1 << 20
PWRITE64 = ("18", "68")
"""The system call's numbers on x86-64 and arm64."""


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Volume]:
    """A mounted volume whose tree is on a disk of a few MiB."""
    disk = tmp_path / "tree"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={8 * MIB}"]
    subprocess.run(["mount", *options, "tmpfs", str(disk)], check=True)
    volume = Volume(tmp_path)
    try:
        volume.mount()
        yield volume
    finally:
        volume.close()
        subprocess.run(["umount", str(disk)], check=True)


def fill(file: Path) -> None:
    """Until there is not a byte left."""
    with file.open("wb", buffering=0) as out, pytest.raises(OSError, match="space") as full:
        while out.write(bytes(MIB)):
            pass
    assert full.value.errno == errno.ENOSPC


def test_a_write_that_overtakes_the_kernels_forget_has_the_room(cramped: Volume) -> None:
    assert cramped.process is not None
    later = os.open(cramped.tree / "later", os.O_WRONLY | os.O_CREAT)
    fill(cramped.tree / "large")
    held = os.open(cramped.tree / "large", os.O_PATH)
    os.unlink(cramped.tree / "large")
    # While the daemon sleeps both the FORGET and the write come to the queue: the kernel hands
    # over what somebody waits for first.
    cramped.process.send_signal(signal.SIGSTOP)
    os.close(held)
    writer = Writer(later)
    writer.start()
    writer.wait_in_kernel()
    cramped.process.send_signal(signal.SIGCONT)
    writer.join()
    assert writer.result == MIB
    os.close(later)


class Writer(threading.Thread):
    """Writes a MiB; `result` is what that said."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self.result: int | str = ""

    def run(self) -> None:
        """One write."""
        try:
            self.result = os.pwrite(self._fd, bytes(MIB), 0)
        except OSError as error:
            self.result = str(error)

    def wait_in_kernel(self) -> None:
        """Return when the write has been handed to the daemon."""
        place = Path(f"/proc/self/task/{self.native_id}/syscall")
        while place.read_text().split()[0] not in PWRITE64:
            pass


def test_a_file_that_was_just_written_gives_its_space_back_at_once(cramped: Volume) -> None:
    for name in "abcdefgh":
        fill(cramped.tree / name)
        os.unlink(cramped.tree / name)
    (cramped.tree / "last").write_bytes(bytes(6 * MIB))


def test_space_that_an_open_file_still_needs_is_not_promised(cramped: Volume) -> None:
    fill(cramped.tree / "large")
    with (cramped.tree / "large").open("rb") as kept:
        os.unlink(cramped.tree / "large")
        with pytest.raises(OSError, match="space"):
            (cramped.tree / "more").write_bytes(bytes(MIB))
        assert kept.read(10) == bytes(10)


def test_a_removed_file_that_is_not_seeded_yet_makes_room_when_it_is_needed(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "tree"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={8 * MIB}"]
    subprocess.run(["mount", *options, "tmpfs", str(disk)], check=True)
    volume = Volume(tmp_path, seed_rate_bytes_s=1)
    try:
        before = b"1234567\n" * (7 * MIB // 8)
        (disk / "old").write_bytes(before)
        volume.mount()
        lsn = volume.sync()
        os.unlink(volume.tree / "old")
        (volume.tree / "new").write_bytes(bytes(7 * MIB))
        assert (volume.past(lsn) / "old").read_bytes() == before
    finally:
        volume.close()
        subprocess.run(["umount", str(disk)], check=True)
