"""Random changes on a mount and on a plain directory, side by side.

After each change both trees must be equal, and a copy is kept under its LSN; every view of the
past must equal the copy of its LSN. Variants: a tree that was full before protection and is
seeded slowly, remounts, and crashes of the daemon and of the indexer.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.mount import changes
from tests.mount.changes import Change, full
from tests.mount.trees import Tree, copy_of, differences
from tests.mount.users import ANN, BEN, ROOT, TEAM, User, acting_as
from tests.volume import Volume

CHUNK = 1 << 20
AS_ROOT = os.geteuid() == 0
NOW_NS = 1_700_000_000 * 10**9
"""Times set by hand lie before this, those of the clock after."""


_BY_LETTER = {"o": b"\xff\xfe odd\n", "n": b"n" * 255, "u": "é€".encode(), "m": b"-x", "h": b".h"}
NAMES = st.sampled_from("abcdonumh")
"""Letters that stand for names (`_name_of`), so that a failing example can be read."""
PICKS = st.integers(0, 10**6)
MODES = st.integers(0, 0o7777)
UMASKS = st.sampled_from([0o022, 0o077, 0, 0o777])
OWNERS = st.sampled_from([0, 1234, ANN.uid, ANN.gid, BEN.uid, TEAM])
RIGHTS = st.integers(0, 7)
DATA = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda byte, count: byte * count,
        st.binary(min_size=1, max_size=1),
        st.sampled_from([4095, 4096, 70_000, 300_000]),
    ),
)
OFFSETS = st.one_of(
    st.integers(0, 200),
    st.sampled_from([4096, 65_536, CHUNK - 7, CHUNK, CHUNK + 5000, 2 * CHUNK - 3]),
)
TIMES = st.integers(0, NOW_NS - 1)
BETWEEN = 6
"""Mounting takes long, so so many changes come between two mounts."""
XATTRS = st.sampled_from(["user.a", "user.b", "user.of some length", "trusted.t"])
OPENING = st.sampled_from([os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_TRUNC])


def _name_of(letter: str) -> bytes:
    return _BY_LETTER.get(letter, letter.encode())


Step = Callable[..., None]


def step(method: Step) -> Step:
    """A rule after which live trees are compared and a copy is taken."""

    @wraps(method)
    def run(self: Machine, **choices: Any) -> None:
        method(self, **choices)
        self.changed += 1
        self.compare()

    return run


class Machine(RuleBasedStateMachine):
    """The rules. `copies` are the trees of the mount by LSN."""

    seeded = remounts = crashes = several_users = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cdpfs-machine-"))
        self.folder.chmod(0o755)
        rate = CHUNK if self.seeded else 0
        self.volume = Volume(self.folder / "volume", seed_rate_bytes_s=rate)
        self.plain = self.folder / "plain"
        self.plain.mkdir()
        self.roots = (os.fsencode(self.volume.tree), os.fsencode(self.plain))
        self.handles: list[tuple[int, int]] = []
        self.copies: dict[int, Tree] = {}
        self.paths: dict[bytes, int] = {}
        self.changed = 0
        self.user = ROOT

    @initialize(
        before=st.lists(
            st.tuples(PICKS, NAMES, st.sampled_from("ffffdlsSXL"), DATA, TIMES), max_size=14
        )
    )
    def protect(self, before: list[tuple[int, str, str, bytes, int]]) -> None:
        """Mount; in the seeded variant over a tree that is full already."""
        for root in self.roots:
            os.chmod(root, 0o777 if self.several_users else 0o755)
        if self.seeded:
            for found in before:
                self._there_before(*found)
        shutil.copystat(self.plain, self.volume.backing)
        self.volume.mount()
        self.compare()
        self.copies[1] = self.copies[max(self.copies)]

    def _there_before(self, where: int, name: str, kind: str, data: bytes, mtime_ns: int) -> None:
        path = self._new_path(where, name)
        file = self._pick(where, stat.S_IFREG)
        change: Change = {
            "f": changes.make_file(path, 0o644, 0, data),
            "d": lambda root: os.mkdir(full(root, path), 0o755),
            "l": lambda root: os.link(full(root, file), full(root, path)),
            "s": lambda root: os.symlink(data[:50].replace(b"\0", b"") or b"x", full(root, path)),
            "S": changes.make_file(path, 0o4755, 0, b"\0" * CHUNK + data * 40),
            "L": changes.make_file(
                path, 0o644, 0, (data[:100] + bytes(CHUNK))[:CHUNK] * 5 + b"end"
            ),
            "X": lambda root: os.setxattr(full(root, file), "user.x", data[:100]),
        }[kind]
        self._both(change)
        self._both(
            lambda root: os.utime(full(root, path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        )
        self.paths = {path: entry.mode for path, entry in copy_of(self.plain).items()}

    def teardown(self) -> None:
        """Compare every view with its copy, unless the run failed before."""
        try:
            if sys.exc_info()[0] is None and self.volume.process is not None:
                for lsn in self.copies:
                    self._compare_view(lsn)
                self._close_handles()
                log = self.volume.log_text()
                assert " ERROR " not in log, log
                assert "Traceback" not in log, log
        finally:
            self._close_handles()
            self.volume.close()
            shutil.rmtree(self.folder)

    # --- doing and comparing ----------------------------------------------------------------

    def _both(self, change: Change) -> Any:
        """Change both trees; the outcomes must be equal."""
        with acting_as(self.user):
            mounted, plain = (changes.outcome(change, root) for root in self.roots)
        assert mounted == plain, f"mount: {mounted}, plain directory: {plain}"
        return mounted[1]

    def compare(self) -> None:
        """The live trees are equal; keep a copy."""
        # Mostly without waiting for the index, so that it lags behind what is done next.
        lsn = self.volume.sync() if self.changed % 5 == 0 else self.volume.call("status")["lsn"]
        mounted, plain = copy_of(self.volume.tree), copy_of(self.plain)
        lines = differences(mounted, plain, times=False)
        for path, entry in plain.items():
            have = mounted[path].mtime_ns if path in mounted else 0
            by_hand = entry.mtime_ns < NOW_NS
            if have != entry.mtime_ns if by_hand else have < NOW_NS:
                lines.append(f"{path!r}: mtime is {have}, should be {entry.mtime_ns}")
        assert not lines, "live trees differ (found is the mount):\n" + "\n".join(lines)
        self.copies[lsn] = mounted
        self.paths = {path: entry.mode for path, entry in plain.items()}
        for mounted_fd, plain_fd in self.handles:
            self._compare_handles(mounted_fd, plain_fd)

    def _compare_handles(self, mounted: int, plain: int) -> None:
        """Open files, which may have no name any more."""
        seen = []
        for fd in (mounted, plain):
            status = os.fstat(fd)
            content = os.pread(fd, 4 * CHUNK, 0)
            seen.append((status.st_mode, status.st_nlink, status.st_uid, status.st_size, content))
        assert seen[0] == seen[1]

    def _compare_view(self, lsn: int) -> None:
        lines = differences(copy_of(self.volume.past(lsn)), self.copies[lsn])
        assert not lines, f"the view of LSN {lsn} differs from the copy:\n" + "\n".join(lines)

    def _pick(self, number: int, kind: int = 0) -> bytes:
        """A path that is there, of a kind if there is one."""
        wanted = [path for path, mode in self.paths.items() if stat.S_IFMT(mode) == kind]
        paths = sorted(wanted or self.paths or [b""])
        return paths[number % len(paths)]

    def _new_path(self, where: int, name: str) -> bytes:
        """A name in a directory that is there; perhaps the name is, too."""
        return os.path.join(self._pick(where, stat.S_IFDIR), _name_of(name))

    def _file_mode(self, mode: int) -> int:
        """Of several users' files, no setgid bits: without group execution a FUSE daemon can't tell
        whether the kernel would take them away at a write (see test_users.py)."""
        return mode & ~stat.S_ISGID if self.several_users else mode

    def _close_handles(self) -> None:
        for pair in self.handles:
            for fd in pair:
                os.close(fd)
        self.handles.clear()

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
