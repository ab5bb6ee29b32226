"""Taking the mount away, politely.

Duty: unmount with fusermount3 and, when that is refused, find out who is in the way. Loop's thread;
the looking runs in a worker thread.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import trio

from fsd.errors import FsdError, MountBusy

MAX_HOLDERS = 20


async def unmount(mount_point: str, lazily: bool = False) -> None:
    """Unmount; MountBusy with those who hold it, when somebody does."""
    option = "-uz" if lazily else "-u"
    done = await trio.run_process(
        ["fusermount3", option, "--", mount_point],
        check=False,
        capture_stderr=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode == 0:
        return
    words = (done.stderr or b"").decode(errors="replace").strip()
    if "busy" not in words.lower():
        raise FsdError(f"can't unmount {mount_point}: {words}")
    holders = await trio.to_thread.run_sync(find_holders, mount_point)
    who = ", ".join(holders) or "somebody (not visible to this user)"
    raise MountBusy(f"{mount_point} is in use by {who}", holders)


def find_holders(mount_point: str) -> list[str]:
    """Processes with a working directory, an open file or a mapping below, as "pid command"."""
    below = mount_point.rstrip("/") + "/"
    found = []
    own = str(os.getpid())
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != own and _holds(folder, mount_point, below):
            try:
                command = (folder / "comm").read_text(errors="replace").strip()
            except OSError:
                continue
            found.append(f"{folder.name} {command}")
            if len(found) >= MAX_HOLDERS:
                break
    return found


def _holds(folder: Path, place: str, below: str) -> bool:
    links = [folder / "cwd", folder / "root"]
    for kind in ("fd", "map_files"):
        try:
            links += (folder / kind).iterdir()
        except OSError:
            continue
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target == place or target.startswith(below):
            return True
    return False
