"""A mount and a plain directory side by side, for a machine that changes both at random.

Holds the two trees, the open handles and the copies of the past, and compares them; the random
choices that rules are made of stand at the top. The rules themselves are in test_machine.py.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
)

from tests.mount import changes
from tests.mount.changes import Change, full
from tests.mount.trees import Tree, copy_of, differences
from tests.mount.users import ANN, BEN, ROOT, TEAM, acting_as
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
    def run(self: SideBySide, **choices: Any) -> None:
        method(self, **choices)
        self.changed += 1
        self.compare()

    return run


class SideBySide(RuleBasedStateMachine):
    """The two trees, and what is known of the past. `copies` are the mount's trees by LSN."""

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
