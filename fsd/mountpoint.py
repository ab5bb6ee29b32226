"""Can this directory be protected, and mounted?

Duty: the checks before a mount, each with its own error, and the options of the mount. Blocking;
any thread. It changes nothing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from fsd.errors import (
    AlreadyMounted,
    BadStorePlace,
    NestedMount,
    NoFuse,
    NoPermission,
    NotADirectory,
    ReadOnlyPlace,
    ReservedName,
)

FILESYSTEM_NAME = "fuse.cdpfs"
_RESERVED = ".snapshots"


def mounts() -> list[tuple[str, str]]:
    """(mount point, file system type) of everything that is mounted, innermost last."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            place = re.sub(r"\\([0-7]{3})", lambda o: chr(int(o[1], 8)), before.split()[4])
            raw = place.encode("utf-8", "surrogateescape")
            found.append((os.fsdecode(raw), after.split()[0]))
    return found


def check_directory(directory: str) -> None:
    """MountRefused in one of its kinds, unless the directory can be protected."""
    try:
        status = os.stat(directory)
    except FileNotFoundError:
        raise NotADirectory(f"{directory} does not exist") from None
    except PermissionError:
        raise NoPermission(f"{directory} is not accessible to this user") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise AlreadyMounted(
                f"{directory} has a dead mount over it", f"fusermount3 -uz {directory}"
            ) from None
        raise NotADirectory(f"{directory}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectory(f"{directory} is not a directory")
    _check_mounts(directory)
    if os.path.lexists(os.path.join(directory, _RESERVED)):
        raise ReservedName(f"{directory} has an entry called {_RESERVED} of its own")
    if os.geteuid() and status.st_uid != os.geteuid():
        raise NoPermission(f"{directory} belongs to somebody else")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            raise ReadOnlyPlace(f"{directory} is on a read-only file system")
        raise NoPermission(f"{directory} is not writable for this user")
    check_fuse()


def _check_mounts(directory: str) -> None:
    real = os.path.realpath(directory)
    for place, kind in mounts():
        if place == real and kind.startswith("fuse"):
            raise AlreadyMounted(f"{directory} is a FUSE mount already ({kind})")
        if place.startswith(real.rstrip("/") + "/"):
            raise NestedMount(f"{place} ({kind}) is mounted inside {directory}")


def check_store_place(directory: str, store_root: str | Path) -> None:
    """BadStorePlace or another MountRefused, unless the store may stand there."""
    tree, root = os.path.realpath(directory), os.path.realpath(store_root)
    if (root + "/").startswith(tree.rstrip("/") + "/"):
        raise BadStorePlace(f"the store {root} lies inside the protected tree {tree}")
    if (tree + "/").startswith(root.rstrip("/") + "/"):
        raise BadStorePlace(f"the tree {tree} lies inside the store {root}")
    above = root
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if os.statvfs(above).f_flag & os.ST_RDONLY:
        raise ReadOnlyPlace(f"the store's place {root} is on a read-only file system")
    if not os.access(above, os.W_OK | os.X_OK):
        raise NoPermission(f"the store can't be made in {above}", "name another place: --store DIR")


def check_fuse() -> None:
    """NoFuse unless this machine can mount."""
    if not os.path.exists("/dev/fuse"):
        raise NoFuse("/dev/fuse is missing")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise NoPermission(
            "/dev/fuse is not accessible to this user", "run it as root, or chmod 666 /dev/fuse"
        )


def check_mount_point(directory: str, mount_point: str) -> None:
    """MountRefused unless the tree can be shown there; in place is always fine."""
    tree, place = os.path.realpath(directory), os.path.realpath(mount_point)
    if place == tree:
        return
    if not os.path.isdir(place):
        raise NotADirectory(f"the mount point {mount_point} is not a directory")
    if (place + "/").startswith(tree.rstrip("/") + "/"):
        raise NestedMount(
            f"the mount point {mount_point} lies inside the tree {directory}",
            "mount in place (leave --at away), or name a directory elsewhere",
        )


def check_reserved(root_fd: int, names: tuple[bytes, ...] = (os.fsencode(_RESERVED),)) -> None:
    """ReservedName when the covered tree's top has an entry that cdpfs needs."""
    for name in names:
        try:
            os.stat(name, dir_fd=root_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        raise ReservedName(f"the tree has an entry called {os.fsdecode(name)} of its own")


def mount_options(volume_name: str) -> set[str]:
    """Options for fusermount3."""
    options = {
        "default_permissions",
        f"fsname=cdpfs#{re.sub(r'[^A-Za-z0-9._-]', '-', volume_name)}",
        "subtype=cdpfs",
    }
    if os.geteuid() == 0:
        options |= {"allow_other", "suid", "dev"}
    elif _user_allow_other():
        options.add("allow_other")
    return options


def _user_allow_other() -> bool:
    """Does /etc/fuse.conf let ordinary users show their mounts to others?"""
    try:
        lines = Path("/etc/fuse.conf").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


__all__ = [
    "FILESYSTEM_NAME",
    "check_directory",
    "check_fuse",
    "check_mount_point",
    "check_reserved",
    "check_store_place",
    "mount_options",
    "mounts",
]
