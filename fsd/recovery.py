"""After a crash: the backing tree is brought to the journal's state, by state and not by replay.

Duty: for every name and node that was touched since the last checkpoint, compare what the backing
tree has with what the journal says, and mend the difference. Doing it twice changes nothing more.
Runs before the mount, blocking, on the loop's thread. Nothing is logged: the journal is right.

Why it is enough: ops are logged before they are made, so the backing tree can only be behind; and
what was touched before the last checkpoint is on disk.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from fsd.adopt import read_xattrs
from fsd.capture import set_owner, set_times
from store.errors import NotSeeded
from store.format import Kind
from store.journal import Journal, NodeState, OpMeta, Snapshot
from store.ops import Created, Renamed
from store.types import ROOT, Lsn, NodeId
from timetravel.errors import NoSuchNode
from timetravel.view import View

log = logging.getLogger(__name__)

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WINDOW = 4096
_COPY_BYTES = 1 << 20


@dataclass
class Touched:
    """What changed since the checkpoint: names, and nodes with the ranges that were written."""

    names: dict[tuple[NodeId, bytes], list[NodeId]] = field(default_factory=dict)
    """(directory, name) → the nodes that stood there at some time."""
    nodes: dict[NodeId, list[tuple[int, int]]] = field(default_factory=dict)

    def name(self, directory: NodeId, name: bytes, node: NodeId) -> None:
        """The name was given to the node, or taken from it."""
        self.names.setdefault((directory, name), []).append(node)
        self.nodes.setdefault(node, [])
        self.nodes.setdefault(directory, [])


def last_checkpoint(snapshot: Snapshot, end: Lsn) -> Lsn:
    """The LSN up to which the backing tree is known to be on disk; 0 if never."""
    stop = int(end) + 1
    while stop > 1:
        start = max(stop - _WINDOW, 1)
        found = 0
        for op in snapshot.ops(Lsn(start), Lsn(stop)):
            if op.kind == Kind.CHECKPOINT:
                found = op.offset
            elif op.kind == Kind.CLEAN:
                found = op.lsn
        if found:
            return Lsn(found)
        stop = start
    return Lsn(0)


def collect(journal: Journal, snapshot: Snapshot, start: Lsn, end: Lsn) -> Touched:
    """Everything that the ops of (start, end] touched."""
    touched = Touched()
    for op in snapshot.ops(Lsn(start + 1), Lsn(end + 1)):
        if not op.aborted:
            _collect_op(journal, op, touched)
    return touched


def _collect_op(journal: Journal, op: OpMeta, touched: Touched) -> None:
    parent = NodeId(op.offset)
    if op.kind == Kind.WRITE:
        touched.nodes.setdefault(op.node, []).append((op.offset, op.offset + op.length))
    elif op.kind in (Kind.TRUNCATE, Kind.SETATTR, Kind.SETXATTR, Kind.REMOVEXATTR):
        touched.nodes.setdefault(op.node, [])
    elif op.kind == Kind.CREATE:
        touched.name(parent, Created.decode(journal.read_payload(op.lsn)).name, op.node)
    elif op.kind in (Kind.LINK, Kind.UNLINK):
        touched.name(parent, journal.read_payload(op.lsn), op.node)
    elif op.kind == Kind.RENAME:
        renamed = Renamed.decode(journal.read_payload(op.lsn))
        touched.name(parent, renamed.name, op.node)
        touched.name(renamed.new_parent, renamed.new_name, op.node)
        if renamed.other:
            touched.name(renamed.new_parent, renamed.new_name, renamed.other)


class Recovery:
    """One reconciliation, at the journal's end. `repairs` lists what was mended, for the log."""

    def __init__(self, journal: Journal, root_fd: int, end: Lsn) -> None:
        self._view = View(journal, end)
        self._journal = journal
        self._root_fd = root_fd
        self.repairs: list[str] = []

    def run(self, start: Lsn) -> None:
        """Mend everything that was touched after `start`."""
        with self._journal.snapshot() as snapshot:
            touched = collect(self._journal, snapshot, start, self._view.lsn)
        expected = {key: self._expected(*key) for key in touched.names}
        # Shallow names first: a directory must stand in its place before what is in it.
        wanted = [key for key, node in expected.items() if node is not None]
        for key in sorted(wanted, key=lambda key: self._depth(key[0])):
            self._guarded(self._put_in_place, key, expected, touched)
        gone = [key for key, node in expected.items() if node is None]
        for key in sorted(gone, key=lambda key: -self._depth(key[0])):
            self._guarded(self._take_away, key, expected, touched)
        nodes = sorted(touched.nodes, key=self._depth, reverse=True)
        for node in nodes:
            self._guarded(self._mend_node, node, touched.nodes[node])

    def _guarded(self, repair: object, *args: object) -> None:
        """One repair; what can't be mended is left to the search for external changes."""
        try:
            repair(*args)  # type: ignore[operator]
        except (OSError, NoSuchNode, NotSeeded) as error:
            log.error("recovery could not mend %r: %s", args[0], error)

    # --- where things are -------------------------------------------------------------------------

    def _expected(self, directory: NodeId, name: bytes) -> NodeState | None:
        try:
            return self._view.lookup(directory, name)
        except (NoSuchNode, NotSeeded):
            return None

    def _depth(self, node: NodeId) -> int:
        try:
            path = self._view.path_of(node)
        except NoSuchNode:
            return -1
        return path.count(b"/") + 1 if path else 0

    def _open_dir(self, node: NodeId) -> int:
        """The directory at its path in the journal; the caller closes it."""
        fd = os.dup(self._root_fd)
        path = self._view.path_of(node) if node != ROOT else b""
        for name in path.split(b"/") if path else ():
            try:
                below = os.open(name, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    # --- names -------------------------------------------------------------------------------

    def _put_in_place(
        self,
        key: tuple[NodeId, bytes],
        expected: dict[tuple[NodeId, bytes], NodeState | None],
        touched: Touched,
    ) -> None:
        state = expected[key]
        assert state is not None
        fd = self._open_dir(key[0])
        try:
            there = _lstat(fd, key[1])
            if there is not None and self._is_it(there, state, key, touched):
                return
            if self._fetch(state, key, fd, expected, touched):
                return
            if there is not None and stat.S_IFMT(there.st_mode) == stat.S_IFMT(state.mode):
                return  # the same kind of thing, its content is compared below
            if there is not None:
                _remove(fd, key[1], there)
            self._make_again(state, key, fd)
        finally:
            os.close(fd)

    @staticmethod
    def _is_it(
        there: os.stat_result,
        state: NodeState,
        key: tuple[NodeId, bytes],
        touched: Touched,
    ) -> bool:
        """Nothing else ever had this name since the checkpoint: then what is there is the node."""
        return set(touched.names[key]) == {state.node} and stat.S_IFMT(
            there.st_mode
        ) == stat.S_IFMT(state.mode)

    def _fetch(
        self,
        state: NodeState,
        key: tuple[NodeId, bytes],
        fd: int,
        expected: dict[tuple[NodeId, bytes], NodeState | None],
        touched: Touched,
    ) -> bool:
        """A rename or link that was not made: the node still has its old name."""
        for old, nodes in touched.names.items():
            if old == key or state.node not in nodes:
                continue
            still = expected[old]
            old_fd = self._try_open_dir(old[0])
            if old_fd < 0:
                continue
            try:
                there = _lstat(old_fd, old[1])
                if there is None or stat.S_IFMT(there.st_mode) != stat.S_IFMT(state.mode):
                    continue
                if still is None:
                    os.rename(old[1], key[1], src_dir_fd=old_fd, dst_dir_fd=fd)
                    self.repairs.append(f"renamed {old[1]!r} to {key[1]!r}")
                    return True
                if still.node == state.node and not stat.S_ISDIR(state.mode):
                    if not _same_file(fd, key[1], there):
                        _link_over(old_fd, old[1], fd, key[1])
                        self.repairs.append(f"linked {old[1]!r} to {key[1]!r}")
                    return True
            finally:
                os.close(old_fd)
        return False

    def _try_open_dir(self, node: NodeId) -> int:
        try:
            return self._open_dir(node)
        except (OSError, NoSuchNode):
            return -1

    def _make_again(self, state: NodeState, key: tuple[NodeId, bytes], fd: int) -> None:
        """The node's create op was not made, or its file is lost: make it from the journal."""
        name, kind = key[1], stat.S_IFMT(state.mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=fd)
        elif kind == stat.S_IFLNK:
            os.symlink(state.target, name, dir_fd=fd)
        elif kind == stat.S_IFREG:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o600, dir_fd=fd))
            self._mend_content(state, fd, name, [(0, state.size_bytes)])
        else:
            os.mknod(name, state.mode, state.rdev, dir_fd=fd)
        self.repairs.append(f"made {name!r} again")
        self._mend_attributes(state, fd, name)

    def _take_away(
        self,
        key: tuple[NodeId, bytes],
        expected: dict[tuple[NodeId, bytes], NodeState | None],
        touched: Touched,
    ) -> None:
        """A name that the journal has not: its unlink was not made."""
        fd = self._try_open_dir(key[0])
        if fd < 0:
            return  # the directory itself is gone
        try:
            there = _lstat(fd, key[1])
            if there is not None:
                _remove(fd, key[1], there)
                self.repairs.append(f"removed {key[1]!r}")
        finally:
            os.close(fd)

    # --- nodes -------------------------------------------------------------------------------

    def _mend_node(self, node: NodeId, ranges: list[tuple[int, int]]) -> None:
        try:
            state = self._view.state(node)
            places = self._view.names(node)
        except NoSuchNode:
            return
        if node == ROOT:
            self._mend_attributes(state, self._root_fd, b".")
            return
        for directory, name in places[:1]:
            fd = self._open_dir(directory)
            try:
                if stat.S_ISREG(state.mode):
                    self._mend_content(state, fd, name, ranges)
                self._mend_attributes(state, fd, name)
            finally:
                os.close(fd)

    def _mend_content(
        self, state: NodeState, fd: int, name: bytes, ranges: list[tuple[int, int]]
    ) -> None:
        """Size and written ranges of a regular file."""
        file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            size = os.fstat(file).st_size
            if size != state.size_bytes:
                os.ftruncate(file, state.size_bytes)
                self.repairs.append(f"size of {name!r}: {size} to {state.size_bytes}")
                if size < state.size_bytes:
                    ranges = [*ranges, (size, state.size_bytes)]
            for start, stop in _merged(ranges, state.size_bytes):
                self._mend_range(state.node, file, start, stop, name)
        finally:
            os.close(file)

    def _mend_range(self, node: NodeId, file: int, start: int, stop: int, name: bytes) -> None:
        for at in range(start, stop, _COPY_BYTES):
            length = min(_COPY_BYTES, stop - at)
            right = self._view.read(node, at, length)
            if os.pread(file, length, at) != right:
                os.pwrite(file, right, at)
                self.repairs.append(f"content of {name!r} at {at}")

    def _mend_attributes(self, state: NodeState, fd: int, name: bytes) -> None:
        """Owner, mode, xattrs, mtime; in this order, since each undoes some of the next."""
        there = os.stat(name, dir_fd=fd, follow_symlinks=False)
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            if (there.st_uid, there.st_gid) != (state.uid, state.gid) and os.geteuid() == 0:
                set_owner(held, state.uid, state.gid)
                there = os.stat(name, dir_fd=fd, follow_symlinks=False)
            is_link = stat.S_ISLNK(state.mode)
            self._mend_xattrs(state, fd, name)
            if not is_link and stat.S_IMODE(there.st_mode) != stat.S_IMODE(state.mode):
                os.chmod(b"/proc/self/fd/%d" % held, stat.S_IMODE(state.mode))
            if there.st_mtime_ns != state.mtime_ns:
                set_times(held, there.st_atime_ns, state.mtime_ns)
        finally:
            os.close(held)

    def _mend_xattrs(self, state: NodeState, fd: int, name: bytes) -> None:
        path = b"/proc/self/fd/%d/%b" % (fd, name)
        have = dict(read_xattrs(path, follow=False))
        want = self._view.xattrs(state.node)
        for key in have.keys() - want.keys():
            _ignoring(errno.EPERM, os.removexattr, path, key, follow_symlinks=False)
        for key, value in want.items():
            if have.get(key) != value:
                _ignoring(errno.EPERM, os.setxattr, path, key, value, follow_symlinks=False)


def _ignoring(number: int, call: object, *args: object, **options: object) -> None:
    """Security modules set attributes of their own that nobody may change."""
    try:
        call(*args, **options)  # type: ignore[operator]
    except OSError as error:
        if error.errno != number:
            raise


def _lstat(fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _remove(fd: int, name: bytes, there: os.stat_result) -> None:
    (os.rmdir if stat.S_ISDIR(there.st_mode) else os.unlink)(name, dir_fd=fd)


def _same_file(fd: int, name: bytes, other: os.stat_result) -> bool:
    there = _lstat(fd, name)
    return there is not None and (there.st_dev, there.st_ino) == (other.st_dev, other.st_ino)


def _link_over(old_fd: int, old: bytes, fd: int, name: bytes) -> None:
    there = _lstat(fd, name)
    if there is not None:
        _remove(fd, name, there)
    os.link(old, name, src_dir_fd=old_fd, dst_dir_fd=fd, follow_symlinks=False)


def _merged(ranges: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """The ranges sorted, joined and cut at `size`."""
    start = stop = 0
    for begin, end in sorted(ranges):
        end = min(end, size)
        if begin > stop:
            if stop > start:
                yield start, stop
            start, stop = begin, end
        else:
            stop = max(stop, end)
    if stop > start:
        yield start, stop
