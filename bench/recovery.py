"""Study: how long a mount takes after a crash, with a log that the journal has not taken up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from bench.content import Content
from bench.plan import Figure, Scale, Study
from bench.targets import Volume, unmount_lazily

FILES = 16


def _measure(work: Path, scale: Scale) -> list[Figure]:
    size = scale.restore_bytes
    killed_s = _mount_after(work / "killed", size, power_cut=False)
    cut_s = _mount_after(work / "cut", size, power_cut=True)
    mib = size >> 20
    return [
        Figure(f"processes killed with {mib} MiB in the log alone", f"{killed_s:.1f} s"),
        Figure(
            f"power cut with {mib} MiB in the log alone, none of it in the tree", f"{cut_s:.1f} s"
        ),
    ]


def _mount_after(work: Path, size: int, power_cut: bool) -> float:
    """Seconds until a mount answers whose log holds `size` bytes of new content."""
    work.mkdir()
    directory, ring_file_bytes = work / "volume", size // 6 + (16 << 20)
    directory.mkdir()
    with Volume(directory, work / "store", work / "home", ring_file_bytes) as volume:
        volume.mount()
        pids = volume.pids()
        os.kill(pids["indexer"], signal.SIGSTOP)
        _write(directory, size)
        os.kill(pids["fsd"], signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # it may go with fsd
            os.kill(pids["indexer"], signal.SIGKILL)
        while any(Path(f"/proc/{pid}").exists() for pid in pids.values()):
            time.sleep(0.01)
        unmount_lazily(directory)
        if not power_cut:
            return volume.mount()
        for path in directory.iterdir():
            os.truncate(path, 0)
        # Under another mount of the same folder the page caches count as lost: see `boot_of`.
        subprocess.run(["mount", "--bind", directory, directory], check=True)
        try:
            return volume.mount()
        finally:
            volume.unmount()
            subprocess.run(["umount", directory], check=True)


def _write(directory: Path, size: int) -> None:
    for number in range(FILES):
        path = directory / f"file{number}"
        Content(number).write_file(path, "random", size // FILES)
        with open(path, "rb") as file:
            os.fsync(file.fileno())


STUDIES = (Study("recovery", "Mounting after a crash", _measure),)
