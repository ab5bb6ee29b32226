"""`python -m fsd.replica_mount STORE MNT [--ready-fd N]`: a read-only mount of a replica.

Duty: from the store of a replica to the mount and back. It takes no lock and writes nothing but
its log, so that the store goes on receiving meanwhile, and as many mounts as wanted can stand. One
trio loop.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
from pathlib import Path

import pyfuse3
import trio

from fsd.errors import AlreadyMounted, BadStorePlace, FsdError, NotADirectory
from fsd.mountpoint import FILESYSTEM_NAME, check_fuse, mount_options, mounts
from fsd.replica import Replica
from fsd.replica_operations import ReplicaOperations
from fsd.snapshots import Snapshots
from fsd.starter import Starter, begin_process, describe_error, first_of
from fsd.unmount import unmount
from store.errors import BadSettings, StoreError
from store.volume import Store
from timetravel.errors import TimetravelError

log = logging.getLogger("fsd.replica_mount")


def main() -> None:
    """Run the mount; exits 0 after an unmount, 1 when it could not start."""
    parser = argparse.ArgumentParser(prog="python -m fsd.replica_mount", description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("mount_point")
    parser.add_argument("--ready-fd", type=int, default=-1)
    options = parser.parse_args()
    starter = begin_process(options.ready_fd)
    try:
        trio.run(_run, options.store, os.path.realpath(options.mount_point), starter)
    except* (FsdError, StoreError, TimetravelError, OSError) as group:
        error = first_of(group)
        log.error("%s; %s", error, getattr(error, "hint", ""))
        starter.say({"ok": False, "error": describe_error(error)})
        sys.exit(1)


async def _run(root: Path, mount_point: str, starter: Starter) -> None:
    store = Store.open(root)
    if not store.config.replica:
        raise BadSettings(
            f"{store.root} is no replica",
            "a volume of this machine is mounted with: cdpfs mount DIR",
        )
    _check_place(mount_point, store)
    replica = Replica(store)
    store_fd = os.open(store.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await replica.head()
        await _mounted(replica, store_fd, mount_point, starter)
    finally:
        replica.close()
        os.close(store_fd)


def _check_place(mount_point: str, store: Store) -> None:
    """MountRefused unless a mount can stand there."""
    check_fuse()
    if (mount_point, FILESYSTEM_NAME) in mounts():
        raise AlreadyMounted(
            f"something of cdpfs is mounted at {mount_point}", f"cdpfs vault umount {mount_point}"
        )
    if not os.path.isdir(mount_point):
        raise NotADirectory(f"the mount point {mount_point} is not a directory")
    if (mount_point + "/").startswith(os.path.realpath(store.root) + "/"):
        raise BadStorePlace(f"{mount_point} lies in the replica's store", "mount it elsewhere")


def _options(store: Store) -> set[str]:
    """Read-only; and what a site sent must not become a privileged program or device here."""
    chosen = mount_options(store.config.name) - {"suid", "dev"}
    chosen = {option for option in chosen if not option.startswith("fsname=")}
    name = re.sub(r"[^A-Za-z0-9._-]", "-", store.config.name)
    return chosen | {f"fsname=cdpfs-replica#{name}", "ro", "nosuid", "nodev"}


async def _mounted(replica: Replica, store_fd: int, mount_point: str, starter: Starter) -> None:
    snapshots = Snapshots(replica)
    operations = ReplicaOperations(replica, snapshots, store_fd)
    pyfuse3.init(operations, mount_point, _options(replica.store))
    try:
        async with trio.open_nursery() as nursery:
            snapshots.start_soon = nursery.start_soon
            nursery.start_soon(_stop_on_signal)
            nursery.start_soon(_announce, replica, mount_point, starter)
            await pyfuse3.main(min_tasks=4)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            pyfuse3.close(unmount=False)
            if (mount_point, FILESYSTEM_NAME) in mounts():
                await unmount(mount_point, lazily=True)
    log.info("the mount at %s ended", mount_point)


async def _announce(replica: Replica, mount_point: str, starter: Starter) -> None:
    """Tell the starter as soon as the mount answers."""
    await trio.to_thread.run_sync(os.stat, mount_point)
    head = await replica.head()
    log.info("mounted %s at %s, at LSN %d", replica.store.root, mount_point, head.lsn)
    starter.say({"ok": True, "pid": os.getpid(), "lsn": head.lsn, "held_lsn": head.held_lsn})
    starter.finish()


async def _stop_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("told to stop by signal %d", number)
            pyfuse3.terminate()
            return


if __name__ == "__main__":
    main()
