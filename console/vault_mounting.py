"""`cdpfs vault mount` and `vault umount`: a replica as a tree to look at.

Duty: which volume and line are meant, and the process that serves the mount. Blocking.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from console import daemon
from console.control import error_from
from console.errors import ConsoleError, WrongUse
from console.exit_codes import ExitCode
from console.output import say
from fsd.mountpoint import FILESYSTEM_NAME, mounts
from replicator.errors import Sealed
from replicator.recover_disk import find_volume
from replicator.vault.root import VaultRoot
from replicator.wire import MAIN_LINE
from store.volume import Store

PID_XATTR = "user.cdpfs.pid"


def mount_replica(
    root: str, volume: str, mount_point: str, line: str | None, foreground: bool
) -> None:
    """Mount a line of a volume read-only; returns when the mount answers."""
    store = replica_store(Path(root), volume, line)
    place = os.path.realpath(mount_point)
    command = [sys.executable, "-P", "-m", "fsd.replica_mount", str(store.root), place]
    if foreground:
        os.execve(command[0], command, daemon.environment())
    daemon.clear_stale_mount(place)
    answer = daemon.start_detached(command, store.log_dir / "mount.log")
    if answer is None:
        raise ConsoleError(
            "the process ended before the mount answered",
            f"its log is {store.log_dir / 'mount.log'}",
        )
    if answer.get("ok") is not True:
        error = answer.get("error")
        raise error_from(error if isinstance(error, dict) else {})
    lsn, held = answer.get("lsn"), answer.get("held_lsn")
    say(f"{store.config.name} is at {place}, as of LSN {lsn} (LSN {held} has arrived)")


def unmount_replica(mount_point: str) -> None:
    """Take the mount away, and wait until its process has ended."""
    place = os.path.realpath(mount_point)
    if (place, FILESYSTEM_NAME) not in mounts():
        raise WrongUse(f"no replica is mounted at {place}", "findmnt -t fuse.cdpfs lists them")
    if daemon.clear_stale_mount(place):
        say(f"unmounted  {place} (its process was gone already)")
        return
    try:
        pid = int(os.getxattr(place, PID_XATTR))
    except OSError as error:
        raise WrongUse(
            f"what is mounted at {place} is no replica", f"cdpfs umount {place}"
        ) from error
    done = subprocess.run(
        ["fusermount3", "-u", "--", place], capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise ConsoleError(
            f"{place} can't be unmounted: {done.stderr.strip()}",
            "end the programs that work in it or leave it, then try again",
            code=ExitCode.BUSY,
        )
    daemon.wait_for_end(pid)
    say(f"unmounted  {place}")


def replica_store(root: Path, volume: str, line: str | None) -> Store:
    """The store of a volume that a vault keeps, named by UUID or by name. UnknownVolume."""
    vault = VaultRoot.open(root)
    uuid = find_volume(vault, volume)
    if vault.volume(uuid).description.sealed:
        raise Sealed(f"{volume} is sealed: this vault can't read it")
    return vault.store(uuid, line or MAIN_LINE)
