"""The exceptions of the mounting daemon.

FsdError
├── MountRefused             the directory can't be protected or mounted as it is
│   ├── NotADirectory        missing, or something else
│   ├── AlreadyMounted       cdpfs (or another mount) covers it already
│   ├── NestedMount          a mount point lies inside the tree
│   ├── ReservedName         the tree has a `.snapshots` of its own
│   ├── BadStorePlace        the store lies in the tree or the tree in the store
│   ├── NoPermission         this user may not do it
│   ├── ReadOnlyPlace        read-only file system
│   └── NoFuse               /dev/fuse or fusermount3 is missing
├── BackingFails             the protected directory's disk fails or is full before the mount
├── MountBusy                it can't be unmounted: somebody works in it
└── IndexerFailed            the indexer does not come up
"""

from __future__ import annotations


class FsdError(Exception):
    """Something that the daemon could not do. `hint` says what the person can do next."""

    hint = "see log/fsd.log in the store"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class MountRefused(FsdError):
    """The directory can't be protected or mounted as it is."""


class NotADirectory(MountRefused):
    """It is missing, or something else."""

    hint = "name an existing directory"


class AlreadyMounted(MountRefused):
    """A mount covers it already."""

    hint = "see `cdpfs status`; to end it: cdpfs umount DIR"


class NestedMount(MountRefused):
    """A mount point lies inside the tree."""

    hint = "protect the file systems one by one, each as a volume of its own"


class ReservedName(MountRefused):
    """The tree has an entry of its own with a name that cdpfs needs."""

    hint = "rename that entry first"


class BadStorePlace(MountRefused):
    """The store lies in the tree or the tree in the store."""

    hint = "put the store outside the protected tree, best on another disk: --store DIR"


class NoPermission(MountRefused):
    """This user may not do it."""

    hint = "run it as root, or protect a directory of your own"


class ReadOnlyPlace(MountRefused):
    """The file system is mounted read-only."""

    hint = "remount it writable"


class NoFuse(MountRefused):
    """FUSE is not usable on this machine."""

    hint = "install the package fuse3 and load the kernel module: modprobe fuse"


class BackingFails(FsdError):
    """Recovery could not bring the tree to the journal's state: its disk does not let it."""

    hint = (
        "make room on the directory's disk or see to it (dmesg), then mount again; nothing is lost"
    )


class MountBusy(FsdError):
    """Somebody works in the mount. `holders` lists who, as "pid command"."""

    hint = "end these programs or leave the directory, then try again"

    def __init__(self, message: str, holders: list[str]) -> None:
        super().__init__(message)
        self.holders = holders


class IndexerFailed(FsdError):
    """The indexer process does not come up. `kind` is the class of its own error, if known."""

    def __init__(self, message: str, hint: str | None = None, kind: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind or type(self).__name__
