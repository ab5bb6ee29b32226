"""After a power cut: the whole backing tree is brought to the journal's state.

Duty: walk the journal's tree and the backing tree side by side, give every name the file that the
journal has there, take away what it does not have, and compare the content and attributes of all
that may differ. Doing it twice changes nothing more, and it may be cut anywhere. Runs before the
mount, blocking, in one thread. Nothing is logged: the journal is right.

The backing tree may be behind the log since the last checkpoint, and ahead of it by what was never
synced, in any mixture: its file system writes when it likes. So it is not enough to look at what
the log speaks of. Every name is looked at, and the content of every file that the log speaks of
since the checkpoint, or whose inode was changed since then, or differs in size or time.

Which file is which: of one that was there before protection the journal has the inode number, and
the ctime, which its birth is no later than. All content of the others is in the journal, so that
any file of the right kind will do.

What somebody changed in the bare directory after the machine was up again, and before the first
recovery began, is left alone (see `PowerCut.run`); the search for external changes logs it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from fsd.adopt import OWN_NAMES
from fsd.capture import DISK_FAILS
from fsd.errors import BackingFails
from fsd.mending import Mender, birth_ns, lstat
from fsd.strays import Strays
from fsd.touched import collect
from store.errors import NotSeeded
from store.journal import Journal, NodeState
from store.statepage import StatePage
from store.types import ROOT, Lsn, NodeId
from timetravel.errors import NoSuchNode, TimetravelError
from timetravel.view import View

log = logging.getLogger(__name__)

_TICK_NS = 20_000_000
"""File systems take times from a clock that is this much behind at the most."""


MOST_FETCHES = 8
"""Of one node's file. Where births are unknown, two nodes may lay claim to one inode number."""


class Place(NamedTuple):
    """A name that the journal has, with what must stand there."""

    directory: NodeId
    name: bytes
    state: NodeState


class Adopted(NamedTuple):
    """A node that was there before cdpfs saw it, with the ctime that its inode had then."""

    node: NodeId
    ctime_ns: int


class PowerCut:
    """One recovery, at the journal's end. `repairs` lists what was mended, for the log."""

    def __init__(self, journal: Journal, root_fd: int, end: Lsn, page: StatePage) -> None:
        self._view = View(journal, end)
        self._journal = journal
        self._page = page
        self._root_fd = root_fd
        self._mender = Mender(self._view, page, root_fd)
        self._strays = Strays(root_fd, self._mender)
        self.repairs = self._mender.repairs
        self._touched: set[NodeId] = set()
        self._inodes: dict[int, Adopted] = {}
        """Touched nodes that were there before protection, by backing inode."""
        self._unseeded: dict[int, NodeId] = {}
        """Of those, the ones without a name left whose content the journal lacks."""
        self._since_ns = self._limit_ns = self._began_ns = 0
        self._directories: list[NodeId] = []
        self._unlike: list[Place] = []
        self._missing: list[Place] = []
        self._doubtful: dict[NodeId, Place] = {}
        self._first: dict[NodeId, int] = {}
        """Nodes with several names → the inode that stands under the first of them."""
        self._claimed: dict[int, NodeId] = {}
        self._fetched: Counter[NodeId] = Counter()

    def run(self, start: Lsn, limit_ns: int) -> None:
        """Mend everything; ops up to `start` are on disk.

        What was changed after `limit_ns` and before the first recovery began is not ours.
        """
        if not self._page.recovering_ns:
            self._page.recovering_ns = time.time_ns()
            self._page.flush()
        self._began_ns, self._limit_ns = self._page.recovering_ns, limit_ns
        self._learn(start)
        self._doubtful[ROOT] = Place(ROOT, b".", self._view.root())
        self._directories.append(ROOT)
        self._strays.find_parked()
        while True:
            if self._directories:
                self._guarded(self._compare, self._directories.pop())
            elif self._unlike:
                self._guarded(self._judge, self._unlike.pop(0))
            elif self._missing:
                self._missing.sort(key=lambda place: self._depth(place.directory))
                self._guarded(self._provide, self._missing.pop(0))
            else:
                break
        self._strays.remove(self._unseeded)
        for node in sorted(self._doubtful, key=self._depth, reverse=True):
            self._guarded(self._mend, self._doubtful[node])

    def finish(self) -> None:
        """What was mended is on disk: the recovery is over."""
        self._page.mended_node = self._page.recovering_ns = 0
        self._page.flush()

    def _guarded(self, repair: Callable[..., None], about: object) -> None:
        """One repair; what can't be mended is left to the search for external changes."""
        try:
            repair(about)
        except (FileNotFoundError, NotSeeded, TimetravelError) as error:
            log.info("left as it is: %r: %s", about, error)
        except OSError as error:
            if error.errno in DISK_FAILS:
                # Going on would take the tree as it is for what somebody changed it to.
                raise BackingFails(f"recovery could not mend {about!r}: {error}") from error
            log.error("recovery could not mend %r: %s", about, error)

    def _learn(self, start: Lsn) -> None:
        """What the ops after `start` speak of."""
        with self._journal.snapshot() as snapshot:
            op = snapshot.op(start) if start else snapshot.first()
            self._since_ns = op.time_ns - _TICK_NS if op is not None else 0
            touched = collect(self._journal, snapshot, start, start, self._view.lsn)
            named = {node for nodes in touched.names.values() for node in nodes}
            self._touched = touched.nodes.keys() | named
            for node in self._touched:
                base = snapshot.base(node)
                state = snapshot.state(node, base.since) if base is not None else None
                if base is None or state is None or not state.inode:
                    continue
                self._inodes[state.inode] = Adopted(node, state.ctime_ns)
                if not base.complete and not self._view.names(node):
                    self._unseeded[state.inode] = node

    def _depth(self, node: NodeId) -> int:
        try:
            path = self._view.path_of(node)
        except NoSuchNode:
            return -1
        return path.count(b"/") + 1 if path else 0

    def _is_foreign(self, there: os.stat_result) -> bool:
        return self._limit_ns < there.st_ctime_ns < self._began_ns

    # --- names --------------------------------------------------------------------------------

    def _compare(self, directory: NodeId) -> None:
        """One directory: note what is not as it must be, and go on below."""
        fd = self._mender.open_dir(directory)
        try:
            listing = os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                present = {os.fsencode(name) for name in os.listdir(listing)}
            finally:
                os.close(listing)
            if directory == ROOT:
                present -= OWN_NAMES
            known, strays = self._expected(directory, present)
            foreign = self._is_foreign(os.fstat(fd))
            for name in strays:
                there = lstat(fd, name)
                if there is not None and not self._is_foreign(there):
                    self._park(directory, fd, name, there)
            for name, state in known:
                place = Place(directory, name, state)
                there = lstat(fd, name)
                if there is not None:
                    self._look(place, fd, there)
                elif not foreign:
                    self._missing.append(place)
        finally:
            os.close(fd)

    def _expected(
        self, directory: NodeId, present: set[bytes]
    ) -> tuple[list[tuple[bytes, NodeState]], list[bytes]]:
        """The journal's names, and those of `present` that must not be there.

        Of a directory whose listing it does not have: names may be old that it does not know.
        """
        try:
            known = self._view.listing(directory)
            return known, sorted(present - {name for name, _ in known})
        except NotSeeded:
            pass
        with self._journal.snapshot() as snapshot:
            names = list(snapshot.known_names(directory, self._view.lsn))
        known = [(name, self._view.state(node)) for name, node in names]
        strays = []
        for name in sorted(present - {name for name, _ in names}):
            with contextlib.suppress(NotSeeded):
                if self._view.lookup(directory, name) is None:
                    strays.append(name)
        return known, strays

    def _look(self, place: Place, fd: int, there: os.stat_result) -> None:
        """What stands under a name that must be there: right, wrong, or to be judged later."""
        state = place.state
        adopted = self._inodes.get(there.st_ino)
        # The number alone may be another file's by now.
        old = adopted is not None and birth_ns(fd, place.name) <= adopted.ctime_ns
        wrong_node = adopted is not None and old and adopted.node != state.node
        reused = adopted is not None and not old and adopted.node == state.node
        same_kind = stat.S_IFMT(there.st_mode) == stat.S_IFMT(state.mode)
        if same_kind and not wrong_node and self._is_free(state, there):
            if state.inode and (reused or state.inode != there.st_ino):
                self._unlike.append(place)
            else:
                self._accept(place, there)
        elif not self._is_foreign(there):
            self._park(place.directory, fd, place.name, there)
            self._missing.append(place)

    def _is_free(self, state: NodeState, there: os.stat_result) -> bool:
        """No other node has this file as its own, and this node has no other file."""
        return stat.S_ISDIR(state.mode) or (
            self._first.get(state.node, there.st_ino) == there.st_ino
            and self._claimed.get(there.st_ino, state.node) == state.node
        )

    def _accept(self, place: Place, there: os.stat_result) -> None:
        """This is the node, by its name. Its content and attributes may still be wrong."""
        state = place.state
        if stat.S_ISDIR(state.mode):
            self._directories.append(state.node)
        elif state.links > 1 or there.st_nlink > 1:
            self._first.setdefault(state.node, there.st_ino)
            self._claimed.setdefault(there.st_ino, state.node)
        if self._is_foreign(there):
            log.info("%r was changed after the power cut; it stays as it is", place.name)
        elif self._may_differ(state, there):
            self._doubtful.setdefault(state.node, place)

    def _may_differ(self, state: NodeState, there: os.stat_result) -> bool:
        return (
            state.node in self._touched
            or there.st_ctime_ns >= self._since_ns
            or there.st_mtime_ns != state.mtime_ns
            or there.st_mode != state.mode
            or (there.st_uid, there.st_gid) != (state.uid, state.gid)
            or (stat.S_ISREG(state.mode) and there.st_size != state.size_bytes)
        )

    def _judge(self, place: Place) -> None:
        """Another inode than the journal's: made again once, or the right one is elsewhere."""
        fd = self._mender.open_dir(place.directory)
        try:
            there = lstat(fd, place.name)
            if there is None:
                self._missing.append(place)
                return
            path = self._path(place)
            found = self._locate(place.state)
            alone = found is None or found == path
            if self._is_foreign(there) or (alone and self._is_free(place.state, there)):
                self._accept(place, there)
                return
            self._park(place.directory, fd, place.name, there)
            self._missing.append(place)
        finally:
            os.close(fd)

    def _locate(self, state: NodeState) -> bytes | None:
        """Where the file of a node that was there before protection is."""
        if not state.inode:
            return None
        with self._journal.snapshot() as snapshot:
            base = snapshot.base(state.node)
            was = snapshot.state(state.node, base.since) if base is not None else None
        return self._strays.locate(state.inode, state.mode, was.ctime_ns if was else 0)

    def _path(self, place: Place) -> bytes:
        path = self._view.path_of(place.directory) if place.directory != ROOT else b""
        return os.path.join(path, place.name) if path else place.name

    def _park(self, directory: NodeId, fd: int, name: bytes, there: os.stat_result) -> None:
        """Out of the way, until it is known whether it belongs anywhere."""
        self._strays.park(fd, name, there)
        self._doubt(directory)

    def _doubt(self, directory: NodeId) -> None:
        """We changed its entries, and by that its mtime."""
        place = Place(directory, b".", self._view.state(directory))
        self._doubtful.setdefault(directory, place)

    def _provide(self, place: Place) -> None:
        """Put the node where it belongs: its file from elsewhere, or one made from the journal."""
        state = place.state
        fd = self._mender.open_dir(place.directory)
        try:
            there = lstat(fd, place.name)
            if there is None:
                self._doubt(place.directory)
                if not self._link(place, fd) and not self._fetch(place, fd):
                    self._mender.make_again(state, fd, place.name)
                there = os.stat(place.name, dir_fd=fd, follow_symlinks=False)
            self._accept(place, there)
            self._doubtful.setdefault(state.node, place)
        finally:
            os.close(fd)

    def _link(self, place: Place, fd: int) -> bool:
        """A further name of a node that stands in its place already."""
        node = place.state.node
        if node not in self._first or stat.S_ISDIR(place.state.mode):
            return False
        for other in self._view.names(node):
            if other == (place.directory, place.name):
                continue
            try:
                other_fd = self._mender.open_dir(other[0])
            except (OSError, NoSuchNode):
                continue
            try:
                there = lstat(other_fd, other[1])
                if there is not None and there.st_ino == self._first[node]:
                    os.link(
                        other[1],
                        place.name,
                        src_dir_fd=other_fd,
                        dst_dir_fd=fd,
                        follow_symlinks=False,
                    )
                    self.repairs.append(f"linked {other[1]!r} to {place.name!r}")
                    return True
            finally:
                os.close(other_fd)
        return False

    def _fetch(self, place: Place, fd: int) -> bool:
        """Its own file by the inode, from wherever it is; or one of those that belong nowhere."""
        state = place.state
        self._fetched[state.node] += 1
        if self._fetched[state.node] > MOST_FETCHES:
            return False
        found = self._locate(state)
        taken_from = None if found is None else self._place_at(found)
        if taken_from is not None and taken_from.state.node == state.node:
            found = taken_from = None  # a further name of it that is left alone
        if found is None:
            found = self._strays.like(state)
        if found is None:
            return False
        self._strays.move(found, fd, place.name)
        if taken_from is not None:
            self._doubt(taken_from.directory)
            self._missing.append(taken_from)
            if not stat.S_ISDIR(state.mode):
                self._disown(taken_from.state, state.inode)
        return True

    def _disown(self, state: NodeState, inode: int) -> None:
        """A node had another one's file: it goes from all its names."""
        self._first.pop(state.node, None)
        self._claimed.pop(inode, None)
        for directory, name in self._view.names(state.node):
            fd = self._mender.open_dir(directory)
            try:
                there = lstat(fd, name)
                if there is not None and there.st_ino == inode:
                    self._park(directory, fd, name, there)
                    self._missing.append(Place(directory, name, state))
            finally:
                os.close(fd)

    def _place_at(self, path: bytes) -> Place | None:
        """The name that the journal has at a path, if it was taken for in its place."""
        try:
            state = self._view.find(path)
            if state is None:
                return None
            folder = self._view.find(os.path.dirname(path)) if b"/" in path else self._view.root()
            return None if folder is None else Place(folder.node, os.path.basename(path), state)
        except (TimetravelError, NotSeeded):
            return None

    # --- nodes --------------------------------------------------------------------------------

    def _mend(self, place: Place) -> None:
        """Content and attributes."""
        state = place.state
        fd = self._mender.open_dir(place.directory)
        try:
            self._page.mended_node = state.node
            there = os.stat(place.name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(state.mode):
                self._mender.mend_whole(state, fd, place.name)
            elif not stat.S_ISDIR(state.mode) and not self._is_same(state, fd, place.name, there):
                os.unlink(place.name, dir_fd=fd)
                self._mender.make_again(state, fd, place.name)
            self._mender.mend_attributes(state, fd, place.name)
        finally:
            os.close(fd)

    @staticmethod
    def _is_same(state: NodeState, fd: int, name: bytes, there: os.stat_result) -> bool:
        """Has a symlink its target, a special file its device?"""
        if stat.S_ISLNK(state.mode):
            return os.readlink(name, dir_fd=fd) == state.target
        return there.st_rdev == state.rdev
