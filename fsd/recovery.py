"""After the death of cdpfs: the backing tree is brought to the journal's state, by state.

Duty: for every name and node that may not be as the journal says, compare what the backing tree has
with it, and mend the difference. Doing it twice changes nothing more. Runs before the mount,
blocking, in one thread. Nothing is logged: the journal is right.

What may differ: an op is logged and made in one synchronous section, so when only processes died,
of all ops the very last alone may not have been made, or in part; and deferred mtimes are missing.
What somebody changed behind our back after that has a later mtime: it is left alone here, and the
search for external changes finds it. When the machine went down as well, see `fsd/power_cut.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat

from fsd.adopt import HIDDEN
from fsd.capture import DISK_FAILS, swap_names
from fsd.errors import BackingFails
from fsd.likeness import Likeness
from fsd.mending import Mender, lstat
from fsd.touched import Name, Touched, collect
from store.errors import NotSeeded
from store.journal import Journal, NodeState
from store.statepage import StatePage
from store.types import ROOT, Lsn, NodeId
from timetravel.errors import NoSuchNode
from timetravel.view import View

log = logging.getLogger(__name__)

_TICK_NS = 20_000_000
"""File systems take times from a clock that is this much behind at the most."""


class Recovery:
    """One reconciliation, at the journal's end. `repairs` lists what was mended, for the log."""

    def __init__(self, journal: Journal, root_fd: int, end: Lsn, page: StatePage) -> None:
        self._view = View(journal, end)
        self._page = page
        self._journal = journal
        self._root_fd = root_fd
        self._likeness = Likeness(self._view)
        self._crash_ns = 0
        self._mender = Mender(self._view, page, root_fd)
        self.repairs = self._mender.repairs

    def run(self, start: Lsn, crash_ns: int) -> None:
        """Mend what the last op touched, and the mtimes of what was touched after `start`.

        `crash_ns`: nothing of ours is from later than that, so what changed later is left alone.
        """
        end = self._view.lsn
        doubtful = Lsn(end - 1)
        self._crash_ns = crash_ns
        with self._journal.snapshot() as snapshot:
            touched = collect(self._journal, snapshot, start, doubtful, end)
        if touched.exchange is not None:
            self._guarded(self._finish_exchange, *touched.exchange)
        expected = {key: self._expected(*key) for key in touched.names}
        # Shallow names first: a directory must stand in its place before what is in it.
        wanted = [key for key, node in expected.items() if node is not None]
        for key in sorted(wanted, key=lambda key: self._depth(key[0])):
            self._guarded(self._put_in_place, key, expected, touched)
        gone = [key for key, node in expected.items() if node is None]
        for key in sorted(gone, key=lambda key: -self._depth(key[0])):
            self._guarded(self._take_away, key, touched)
        for node in sorted(touched.nodes, key=self._depth, reverse=True):
            self._guarded(self._mend_node, node, touched.nodes[node])
        for node in touched.timed - touched.nodes.keys():
            self._guarded(self._mend_time, node)
        self._page.mended_node = 0

    def _guarded(self, repair: object, *args: object) -> None:
        """One repair; what can't be mended is left to the search for external changes."""
        try:
            repair(*args)  # type: ignore[operator]
        except FileNotFoundError as error:
            log.info("%r was removed by somebody else after the crash: %s", args[0], error)
        except (OSError, NoSuchNode, NotSeeded) as error:
            if isinstance(error, OSError) and error.errno in DISK_FAILS:
                # Going on would take the tree as it is for what somebody changed it to.
                raise BackingFails(f"recovery could not mend {args[0]!r}: {error}") from error
            log.error("recovery could not mend %r: %s", args[0], error)

    # --- where things are -------------------------------------------------------------------------

    def _expected(self, directory: NodeId, name: bytes) -> NodeState | None:
        try:
            return self._view.lookup(directory, name)
        except NoSuchNode:
            return None

    def _depth(self, node: NodeId) -> int:
        try:
            path = self._view.path_of(node)
        except NoSuchNode:
            return -1
        return path.count(b"/") + 1 if path else 0

    # --- names -------------------------------------------------------------------------------

    def _finish_exchange(self, one: Name, other: Name) -> None:
        """Swap two names if they still stand as before: both exist either way."""
        states = self._expected(*one), self._expected(*other)
        if states[0] is None or states[1] is None:
            return
        one_fd = self._mender.open_dir(one[0])
        other_fd = self._mender.open_dir(other[0])
        try:
            looks = self._likeness.of
            swapped = looks(states[0], one_fd, one[1]) and looks(states[1], other_fd, other[1])
            if not swapped and (
                looks(states[0], other_fd, other[1]) and looks(states[1], one_fd, one[1])
            ):
                swap_names(one_fd, one[1], other_fd, other[1])
                self.repairs.append(f"exchanged {one[1]!r} and {other[1]!r}")
        finally:
            os.close(one_fd)
            os.close(other_fd)

    def _put_in_place(
        self,
        key: Name,
        expected: dict[Name, NodeState | None],
        touched: Touched,
    ) -> None:
        state = expected[key]
        assert state is not None
        fd = self._mender.open_dir(key[0])
        try:
            there = lstat(fd, key[1])
            if there is not None and (
                self._is_later(key, there, touched) or self._is_it(there, state, key, touched)
            ):
                return
            if self._fetch(state, key, fd, expected, touched):
                return
            if there is not None and stat.S_IFMT(there.st_mode) == stat.S_IFMT(state.mode):
                return  # the same kind of thing, its content is compared below
            if there is not None:
                self._remove(key, fd, there, touched)
            self._mender.make_again(state, fd, key[1])
        finally:
            os.close(fd)

    @staticmethod
    def _is_it(
        there: os.stat_result,
        state: NodeState,
        key: Name,
        touched: Touched,
    ) -> bool:
        """Nothing else ever had this name since the checkpoint: then what is there is the node."""
        return set(touched.names[key]) == {state.node} and stat.S_IFMT(
            there.st_mode
        ) == stat.S_IFMT(state.mode)

    def _fetch(
        self,
        state: NodeState,
        key: Name,
        fd: int,
        expected: dict[Name, NodeState | None],
        touched: Touched,
    ) -> bool:
        """A rename or link that was not made: the node still has another name."""
        others = [old for old, nodes in touched.names.items() if state.node in nodes]
        others += [name for name in self._view.names(state.node) if name not in touched.names]
        for old in others:
            old_fd = self._try_open_dir(old[0]) if old != key else -1
            if old_fd < 0:
                continue
            try:
                there = lstat(old_fd, old[1])
                if there is None or stat.S_IFMT(there.st_mode) != stat.S_IFMT(state.mode):
                    continue
                still = expected[old] if old in touched.names else state
                if still is None:
                    self._move(old_fd, old[1], fd, key, touched)
                    return True
                if still.node == state.node and not stat.S_ISDIR(state.mode):
                    self._link(old_fd, old[1], there, fd, key, touched)
                    return True
            finally:
                os.close(old_fd)
        return False

    def _move(self, old_fd: int, old: bytes, fd: int, key: Name, touched: Touched) -> None:
        """Rename to the name `key` in `fd`, over what is there."""
        there = lstat(fd, key[1])
        if there is not None:
            self._keep(key, fd, there, touched)
        os.rename(old, key[1], src_dir_fd=old_fd, dst_dir_fd=fd)
        self.repairs.append(f"renamed {old!r} to {key[1]!r}")

    def _link(
        self, old_fd: int, old: bytes, file: os.stat_result, fd: int, key: Name, touched: Touched
    ) -> None:
        """Make the name `key` in `fd` a link to the file, unless it is one."""
        there = lstat(fd, key[1])
        if there is not None and (there.st_dev, there.st_ino) == (file.st_dev, file.st_ino):
            return
        if there is not None:
            self._remove(key, fd, there, touched)
        os.link(old, key[1], src_dir_fd=old_fd, dst_dir_fd=fd, follow_symlinks=False)
        self.repairs.append(f"linked {old!r} to {key[1]!r}")

    def _try_open_dir(self, node: NodeId) -> int:
        try:
            return self._mender.open_dir(node)
        except (OSError, NoSuchNode):
            return -1

    def _take_away(self, key: Name, touched: Touched) -> None:
        """A name that the journal has not: its unlink was not made."""
        fd = self._try_open_dir(key[0])
        if fd < 0:
            return  # the directory itself is gone
        try:
            there = lstat(fd, key[1])
            if there is not None and not self._is_later(key, there, touched):
                self._remove(key, fd, there, touched)
                self.repairs.append(f"removed {key[1]!r}")
        finally:
            os.close(fd)

    def _remove(self, key: Name, fd: int, there: os.stat_result, touched: Touched) -> None:
        if stat.S_ISDIR(there.st_mode):
            os.rmdir(key[1], dir_fd=fd)
        elif not self._keep(key, fd, there, touched):
            os.unlink(key[1], dir_fd=fd)

    def _keep(self, key: Name, fd: int, there: os.stat_result, touched: Touched) -> bool:
        """A file's last name goes and the journal lacks some of its content: put it where the
        seeding finds it (see `Seeder.before_destroy`)."""
        if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:
            return False
        for node in touched.names[key]:
            with self._journal.snapshot() as snapshot:
                base = snapshot.base(node)
                if base is None or base.complete:
                    continue
                was = snapshot.state(node, base.since)
            if was is not None and was.inode == there.st_ino:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(HIDDEN, 0o700, dir_fd=self._root_fd)
                hidden = b"%b/%d" % (HIDDEN, node)
                os.rename(key[1], hidden, src_dir_fd=fd, dst_dir_fd=self._root_fd)
                self.repairs.append(f"kept {key[1]!r} for seeding")
                return True
        return False

    # --- nodes -------------------------------------------------------------------------------

    def _mend_node(self, node: NodeId, ranges: list[tuple[int, int]]) -> None:
        """Content and attributes."""
        found = self._find(node)
        if found is None:
            return
        state, fd, name = found
        try:
            there = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(state.mode):
                if self._is_foreign(state, there):
                    log.info("%r was changed after the crash; it stays as it is", name)
                    return
                self._page.mended_node = node
                self._mender.mend_content(state, fd, name, ranges)
            self._mender.mend_attributes(state, fd, name)
        finally:
            os.close(fd)

    def _is_later(self, key: Name, there: os.stat_result, touched: Touched) -> bool:
        """Did somebody put it there after the crash? Directories show that by their names.

        A later mtime can also be one that an application has set: the journal knows those.
        """
        if there.st_mtime_ns <= self._crash_ns or stat.S_ISDIR(there.st_mode):
            return False
        with self._journal.snapshot() as snapshot:
            before = Lsn(self._view.lsn - 1)
            known = [snapshot.state(node, before) for node in touched.names[key]]
        return there.st_mtime_ns not in {state.mtime_ns for state in known if state is not None}

    def _is_foreign(self, state: NodeState, there: os.stat_result) -> bool:
        """Was the file changed after the crash, by somebody else than an interrupted recovery?"""
        ours = there.st_mtime_ns == state.mtime_ns or self._page.mended_node == state.node
        return there.st_mtime_ns > self._crash_ns and not ours

    def _mend_time(self, node: NodeId) -> None:
        """A deferred mtime. Until it is set, a file has the kernel's of the same change."""
        found = self._find(node)
        if found is None:
            return
        state, fd, name = found
        try:
            there = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if there.st_mtime_ns == state.mtime_ns:
                return
            if state.mtime_ns - _TICK_NS <= there.st_mtime_ns <= self._crash_ns:
                self._mender.set_mtime(fd, name, there.st_atime_ns, state.mtime_ns)
        finally:
            os.close(fd)

    def _find(self, node: NodeId) -> tuple[NodeState, int, bytes] | None:
        """The node's state, and (descriptor of its directory, name) for the caller to close."""
        try:
            state = self._view.state(node)
            places = self._view.names(node)
        except NoSuchNode:
            return None
        if node == ROOT:
            return state, os.dup(self._root_fd), b"."
        if not places:
            return None
        directory, name = places[0]
        return state, self._mender.open_dir(directory), name
