"""Which volume, and which path in it, an argument of the command line names.

Duty: from what a person typed to a store and to a path relative to the volume's root, in bytes.
Blocking calls on names only; any thread. It opens nothing but `volume.toml`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from console.errors import WrongUse
from store.errors import NoSuchVolume
from store.volume import Store, find_store

SNAPSHOTS = b".snapshots"


@dataclass(frozen=True)
class Place:
    """A path in a volume: `path` relative to the volume's root, b"" for the root itself."""

    store: Store
    path: bytes

    @property
    def live(self) -> bytes:
        """Where the path is while the volume is mounted."""
        base = os.fsencode(self.store.config.mount_point)
        return os.path.join(base, self.path) if self.path else base


def volume_of(path: str, store: str | None) -> Store:
    """The volume that `path` lies in, or the one in the folder `store` when that is given."""
    if store is not None:
        return Store.open(Path(store))
    return find_store(resolved(os.fsencode(path)))


def place_of(path: str, store: str | None) -> Place:
    """The volume and the path inside it that `path` names.

    With `store`, a relative path that does not lead into the volume from the current directory
    counts from the volume's root: this is how a volume is read where its directory is not.
    """
    asked = resolved(os.fsencode(path))
    _refuse_views(path, asked)
    if store is None:
        volume = find_store(asked)
    else:
        volume = Store.open(Path(store))
    for base in {volume.config.mount_point, volume.config.directory}:
        relative = _relative(asked, resolved(os.fsencode(base)))
        if relative is not None:
            return Place(volume, relative)
    if store is not None and not os.path.isabs(path):
        return Place(volume, _normal(os.fsencode(path)))
    raise NoSuchVolume(
        f"{path} is not in the volume of {volume.config.directory}",
        f"name a path below {volume.config.directory}, or one relative to it",
    )


def relative_path(path: str, directory: bytes) -> bytes:
    """A path relative to the root of a volume whose `directory` is not on this machine.

    A relative path counts from the volume's root, an absolute one must lie below the directory.
    """
    if not os.path.isabs(path):
        return _normal(os.fsencode(path))
    relative = _relative(os.path.normpath(os.fsencode(path)), directory)
    if relative is None:
        shown = os.fsdecode(directory)
        raise WrongUse(
            f"{path} is not in the volume of {shown}",
            f"name a path below {shown}, or one relative to it",
        )
    return relative


def resolved(path: bytes) -> bytes:
    """The absolute path with every symlink resolved but the last name, which may be one itself."""
    absolute = os.path.abspath(path)
    parent, name = os.path.split(absolute)
    return os.path.join(os.path.realpath(parent), name)


def _relative(path: bytes, base: bytes) -> bytes | None:
    """`path` below `base`; b"" for `base` itself; None when it is elsewhere."""
    if path == base:
        return b""
    prefix = base.rstrip(b"/") + b"/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _normal(path: bytes) -> bytes:
    """A relative path without `.` and `..`; one that climbs out of the volume is refused."""
    normal = os.path.normpath(path)
    if normal == b".." or normal.startswith(b"../"):
        raise WrongUse(
            f"{os.fsdecode(path)} leads out of the volume",
            "with --store, a relative path counts from the volume's root",
        )
    return b"" if normal == b"." else normal


def _refuse_views(path: str, asked: bytes) -> None:
    """Past states are named by --at, not by a path through `.snapshots`; say how."""
    before, separator, inside = asked.partition(b"/" + SNAPSHOTS)
    if not separator or (inside and not inside.startswith(b"/")):
        return
    moment, _, rest = inside.lstrip(b"/").partition(b"/")
    live = os.fsdecode(os.path.join(before, rest) if rest else before)
    at = f" with the moment {os.fsdecode(moment)}" if moment else ""
    raise WrongUse(f"{path} is a view of the past", f"name the path as it is today, {live}{at}")
