"""Random changes on a mount and on a plain directory, side by side.

After each change both trees must be equal, and a copy is kept under its LSN; every view of the
past must equal the copy of its LSN. Variants: a tree that was full before protection and is
seeded slowly, remounts, and crashes of the daemon and of the indexer.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.mount import changes
from tests.mount.changes import full
from tests.mount.side_by_side import (
    AS_ROOT,
    BETWEEN,
    DATA,
    MODES,
    NAMES,
    OFFSETS,
    OPENING,
    OWNERS,
    PICKS,
    RIGHTS,
    TIMES,
    UMASKS,
    XATTRS,
    SideBySide,
    step,
)
from tests.mount.trees import copy_of, differences
from tests.mount.users import ANN, BEN, ROOT, User


class Machine(SideBySide):
    """The rules."""

    # --- names --------------------------------------------------------------------------------

    @rule(where=PICKS, name=NAMES, mode=MODES, umask=UMASKS, data=DATA, exclusive=st.booleans())
    @step
    def create(
        self, where: int, name: str, mode: int, umask: int, data: bytes, exclusive: bool
    ) -> None:
        """A regular file."""
        flags = os.O_EXCL if exclusive else 0
        path = self._new_path(where, name)
        self._both(changes.make_file(path, self._file_mode(mode), umask, data, flags))

    @rule(where=PICKS, name=NAMES, mode=MODES, umask=UMASKS)
    @step
    def mkdir(self, where: int, name: str, mode: int, umask: int) -> None:
        """A directory."""
        path = self._new_path(where, name)
        if path.count(b"/") < 4:
            with changes.umask(umask):
                self._both(lambda root: os.mkdir(full(root, path), mode))

    @rule(
        where=PICKS,
        name=NAMES,
        mode=MODES,
        kind=st.sampled_from([stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK]),
    )
    @step
    def mknod(self, where: int, name: str, mode: int, kind: int) -> None:
        """A FIFO, a socket, or a file made the old way."""
        path = self._new_path(where, name)
        self._both(lambda root: os.mknod(full(root, path), self._file_mode(mode) | kind))

    @rule(
        where=PICKS,
        name=NAMES,
        points_to=st.sampled_from(["a", "../b", "/nowhere", "long"]),
    )
    @step
    def symlink(self, where: int, name: str, points_to: str) -> None:
        """A symbolic link."""
        target = b"t" * 3000 if points_to == "long" else points_to.encode()
        path = self._new_path(where, name)
        self._both(lambda root: os.symlink(target, full(root, path)))

    @rule(
        what=PICKS,
        kind=st.sampled_from([stat.S_IFREG, stat.S_IFREG, stat.S_IFLNK]),
        where=PICKS,
        name=NAMES,
    )
    @step
    def link(self, what: int, kind: int, where: int, name: str) -> None:
        """A hard link."""
        source, path = self._pick(what, kind), self._new_path(where, name)
        self._both(
            lambda root: os.link(full(root, source), full(root, path), follow_symlinks=False)
        )

    @rule(what=PICKS, any_kind=st.booleans())
    @step
    def unlink(self, what: int, any_kind: bool) -> None:
        """Remove a file."""
        path = self._pick(what, 0 if any_kind else stat.S_IFREG)
        if path:
            self._both(lambda root: os.unlink(full(root, path)))

    @rule(what=PICKS)
    @step
    def rmdir(self, what: int) -> None:
        """Remove a directory."""
        path = self._pick(what, stat.S_IFDIR)
        if path:
            self._both(lambda root: os.rmdir(full(root, path)))

    @rule(
        what=PICKS, where=PICKS, name=NAMES, flags=st.sampled_from([0, 0, changes.RENAME_NOREPLACE])
    )
    @step
    def rename(self, what: int, where: int, name: str, flags: int) -> None:
        """Move something, perhaps over something else."""
        old, new = self._pick(what), self._new_path(where, name)
        if old:
            self._both(lambda root: changes.rename2(full(root, old), full(root, new), flags))

    @rule(what=PICKS, other=PICKS, flags=st.sampled_from([0, changes.RENAME_EXCHANGE]))
    @step
    def rename_to_existing(self, what: int, other: int, flags: int) -> None:
        """Move one thing over another, or exchange the two."""
        old, new = self._pick(what), self._pick(other)
        if old and new:
            self._both(lambda root: changes.rename2(full(root, old), full(root, new), flags))

    # --- content ------------------------------------------------------------------------------

    @rule(
        what=PICKS,
        offset=OFFSETS,
        data=DATA,
        flags=st.sampled_from([0, 0, os.O_APPEND, os.O_TRUNC, os.O_SYNC]),
    )
    @step
    def write(self, what: int, offset: int, data: bytes, flags: int) -> None:
        """Write anywhere, at the end, or after truncating."""
        self._both(changes.write_at(self._pick(what, stat.S_IFREG), offset, data, flags))

    @rule(what=PICKS, offset=OFFSETS, data=DATA)
    @step
    def write_mapped(self, what: int, offset: int, data: bytes) -> None:
        """Write through a mapping.

        Not into files with capabilities: ext4 lets them stay, a FUSE daemon can't tell.
        """
        path = self._pick(what, stat.S_IFREG)
        if changes.CAPABILITY not in os.listxattr(full(self.roots[1], path), follow_symlinks=False):
            self._both(changes.write_mapped(path, offset, data))

    @rule(what=PICKS, size=OFFSETS)
    @step
    def truncate(self, what: int, size: int) -> None:
        """Cut or extend."""
        path = self._pick(what, stat.S_IFREG)
        if stat.S_ISREG(self.paths[path]):
            self._both(lambda root: os.truncate(full(root, path), size))

    # --- open files -----------------------------------------------------------------------------

    @precondition(lambda self: len(self.handles) < 4)
    @rule(what=PICKS, flags=OPENING)
    @step
    def open(self, what: int, flags: int) -> None:
        """Keep a file open."""
        opened: list[int] = []
        path = self._pick(what, stat.S_IFREG)
        if stat.S_ISREG(self.paths[path]):
            self._both(lambda root: opened.append(os.open(full(root, path), flags)))
            if opened:
                self.handles.append((opened[0], opened[1]))

    @precondition(lambda self: self.handles)
    @rule(which=PICKS, offset=OFFSETS, data=DATA)
    @step
    def write_open(self, which: int, offset: int, data: bytes) -> None:
        """Write through an open file, which may be unlinked or renamed by now."""
        self._on_handles(which, lambda fd: os.pwrite(fd, data, offset))

    @precondition(lambda self: self.handles)
    @rule(which=PICKS, size=OFFSETS, mode=MODES, mtime_ns=TIMES, what=st.sampled_from("tmuxsy"))
    @step
    def change_open(self, which: int, size: int, mode: int, mtime_ns: int, what: str) -> None:
        """Change an open file's size, mode, times or attributes; or sync it."""
        call: Callable[[int], object] = {
            "t": lambda fd: os.ftruncate(fd, size),
            "m": lambda fd: os.fchmod(fd, self._file_mode(mode)),
            "u": lambda fd: os.utime(fd, ns=(mtime_ns, mtime_ns)),
            "x": lambda fd: os.setxattr(fd, "user.open", b"%d" % size),
            "s": os.fsync,
            "y": os.fdatasync,
        }[what]
        self._on_handles(which, call)

    @precondition(lambda self: self.handles)
    @rule(which=PICKS)
    @step
    def close(self, which: int) -> None:
        """Close one."""
        for fd in self.handles.pop(which % len(self.handles)):
            os.close(fd)

    def _on_handles(self, which: int, call: Callable[[int], object]) -> None:
        pair = dict(zip(self.roots, self.handles[which % len(self.handles)], strict=True))
        self._both(lambda root: call(pair[root]))

    # --- attributes -----------------------------------------------------------------------------

    @rule(what=PICKS, mode=MODES)
    @step
    def chmod(self, what: int, mode: int) -> None:
        """Change the mode."""
        path = self._pick(what)
        if not stat.S_ISDIR(self.paths[path]):
            mode = self._file_mode(mode)
        if not stat.S_ISLNK(self.paths[path]):
            self._both(lambda root: os.chmod(full(root, path), mode))

    @precondition(lambda self: AS_ROOT)
    @rule(what=PICKS, uid=OWNERS, gid=OWNERS)
    @step
    def chown(self, what: int, uid: int, gid: int) -> None:
        """Change the owner."""
        path = self._pick(what)
        self._both(lambda root: os.chown(full(root, path), uid, gid, follow_symlinks=False))

    @rule(what=PICKS, atime_ns=TIMES, mtime_ns=TIMES)
    @step
    def utimens(self, what: int, atime_ns: int, mtime_ns: int) -> None:
        """Set the times."""
        path, times = self._pick(what), (atime_ns, mtime_ns)
        self._both(lambda root: os.utime(full(root, path), ns=times, follow_symlinks=False))

    @rule(
        what=PICKS,
        name=XATTRS,
        value=st.binary(max_size=300),
        flags=st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE]),
    )
    @step
    def setxattr(self, what: int, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        path = self._pick(what)
        self._both(
            lambda root: os.setxattr(full(root, path), name, value, flags, follow_symlinks=False)
        )

    @rule(
        what=PICKS,
        name=st.one_of(XATTRS, st.sampled_from([changes.ACCESS_ACL, changes.DEFAULT_ACL])),
    )
    @step
    def removexattr(self, what: int, name: str) -> None:
        """Remove one."""
        path = self._pick(what)
        self._both(lambda root: os.removexattr(full(root, path), name, follow_symlinks=False))

    @rule(
        what=PICKS,
        default=st.booleans(),
        rights=st.tuples(RIGHTS, RIGHTS, RIGHTS, RIGHTS),
        named=st.lists(st.tuples(OWNERS, RIGHTS), max_size=2),
    )
    @step
    def set_acl(
        self,
        what: int,
        default: bool,
        rights: tuple[int, int, int, int],
        named: list[tuple[int, int]],
    ) -> None:
        """Set an access ACL, or a default ACL of a directory."""
        path = self._pick(what, stat.S_IFDIR if default else 0)
        kind = changes.DEFAULT_ACL if default else changes.ACCESS_ACL
        self._both(changes.set_acl(path, kind, changes.acl_entries(*rights, named)))

    @precondition(lambda self: AS_ROOT)
    @rule(what=PICKS)
    @step
    def set_capability(self, what: int) -> None:
        """Give a file capabilities, which a write or a chown takes away."""
        path = self._pick(what, stat.S_IFREG)
        if stat.S_ISREG(self.paths[path]):
            self._both(
                lambda root: os.setxattr(
                    full(root, path), changes.CAPABILITY, changes.CAPABILITY_VALUE
                )
            )

    @precondition(lambda self: self.several_users)
    @rule(user=st.sampled_from([ROOT, ANN, ANN, BEN]))
    def act_as(self, user: User) -> None:
        """Somebody else makes the next changes, through files that he opens himself: a write is
        taken for one of the user who opened."""
        self._close_handles()
        self.user = user

    # --- sessions -------------------------------------------------------------------------------

    @precondition(lambda self: self.remounts and self.changed >= BETWEEN)
    @rule()
    @step
    def remount(self) -> None:
        """Unmount in order and mount again."""
        self._close_handles()
        self.volume.unmount()
        self.volume.mount()
        self._compare_with_newest_copy()

    @precondition(lambda self: self.crashes and self.changed >= BETWEEN)
    @rule()
    @step
    def crash(self) -> None:
        """The daemon is killed."""
        self._close_handles()
        self.volume.kill()
        self.volume.mount()
        self._compare_with_newest_copy()

    def _compare_with_newest_copy(self) -> None:
        """Nothing changed meanwhile, not even a time."""
        self.changed = 0
        lines = differences(copy_of(self.volume.tree), self.copies[max(self.copies)])
        assert not lines, "the tree came back different:\n" + "\n".join(lines)

    @precondition(lambda self: self.crashes and self.changed >= BETWEEN)
    @rule()
    @step
    def crash_of_the_indexer(self) -> None:
        """The indexer is killed; the mount goes on."""
        pid = self.volume.indexer_pid()
        assert pid > 0
        os.kill(pid, signal.SIGKILL)
        self.changed = 0

    @rule(which=PICKS)
    def look_back(self, which: int) -> None:
        """Any view of the past equals the copy taken then."""
        lsns = sorted(self.copies)
        self._compare_view(lsns[which % len(lsns)])


class SeededMachine(Machine):
    """Over a tree that was full, seeded slowly."""

    seeded = True


class RemountingMachine(SeededMachine):
    """With clean ends in between."""

    remounts = True


class CrashingMachine(SeededMachine):
    """With crashes in between."""

    crashes = True


class SharedMachine(SeededMachine):
    """With several users."""

    several_users = True


MACHINES = [Machine, SeededMachine, RemountingMachine, CrashingMachine]
if AS_ROOT:
    MACHINES.append(SharedMachine)


def _run(machine: type[Machine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=steps)
    )


@pytest.mark.parametrize("machine", MACHINES)
def test_the_mount_is_a_directory_and_every_view_is_what_it_was(machine: type[Machine]) -> None:
    _run(machine, examples=10 if machine is Machine else 5, steps=35)


@pytest.mark.nightly
@pytest.mark.parametrize("machine", MACHINES)
def test_thousands_of_steps(machine: type[Machine]) -> None:
    _run(machine, examples=60, steps=100)
