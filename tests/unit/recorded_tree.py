"""A real directory whose changes are made by OS calls and logged as fsd would log them.

The directory is the oracle: what `capture` saw at a moment is what a view of that moment must
give. Times are the log's: after each change the entries get the op's time, as in the volume.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import xxhash

from store.batch import encode_batch
from store.format import FRAME_BYTES, Kind
from store.index import BatchPlace, IndexWriter
from store.journal import Journal
from store.ops import (
    RENAME_EXCHANGE,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_UID,
    Actor,
    Adopted,
    Attributes,
    Created,
    Op,
    Renamed,
)
from store.segment import SegmentWriter
from store.types import NO_NODE, ROOT, Lsn, NodeId, TimeNs
from store.volume import Store, new_config
from timetravel.view import View

START_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000
BATCH_BYTES = 8 << 20


class Entry(NamedTuple):
    """What a person sees of one entry."""

    mode: int
    uid: int
    gid: int
    rdev: int
    mtime_ns: int
    content: bytes
    """Of files their bytes, of symbolic links their target."""
    xattrs: dict[str, bytes]
    links_of: bytes
    """The first path of the same file: equal for hard links."""


class RecordedTree:
    """`root` is the directory (bytes). Changes go through the methods; `commit` indexes them."""

    def __init__(self, base: Path) -> None:
        self.root = os.fsencode(base / "live")
        os.mkdir(self.root)
        self.store = Store.create(base / "store", new_config(os.fsdecode(self.root), START_NS))
        self._index = IndexWriter(self.store)
        self._segments = SegmentWriter(self.store)
        self.clock_ns = START_NS
        self.lsn = Lsn(0)
        self._actor = Lsn(0)
        self._ops: list[Op] = []
        self._nodes: dict[int, NodeId] = {}
        self._last_node = ROOT
        self.log(Kind.MOUNT, NO_NODE, 0, b"{}")
        self._adopt_root()
        self.journal = Journal(self.store)

    def close(self) -> None:
        """Give the files back."""
        self.journal.close()
        self._segments.close()
        self._index.close()

    # The log

    def log(
        self, kind: Kind, node: int, offset: int = 0, payload: bytes = b"", flags: int = 0
    ) -> Lsn:
        """Append an op as it is; the real tree is not touched."""
        self.lsn = Lsn(self.lsn + 1)
        self.clock_ns += STEP_NS
        op = Op(
            self.lsn,
            TimeNs(self.clock_ns),
            kind,
            flags,
            NodeId(node),
            offset,
            self._actor,
            xxhash.xxh3_64_intdigest(payload),
            payload,
        )
        self._ops.append(op)
        return self.lsn

    def _adopt_root(self) -> None:
        self._nodes[os.stat(self.root).st_ino] = ROOT
        self.adopt(b"", Lsn(1))
        self.log(Kind.DIR_SEEDED, ROOT)
        self.log(Kind.SEEDED, NO_NODE)

    def know(self, path: bytes) -> None:
        """Give what stands at `path` a node; `adopt` logs it."""
        self._last_node = NodeId(self._last_node + 1)
        self._nodes[os.lstat(self.path(path)).st_ino] = self._last_node

    def adopt(self, path: bytes, since: Lsn) -> None:
        """Log that what stands at `path` was found there by the mount at `since`."""
        found = os.lstat(self.path(path))
        parent = self._parent(path) if path else NO_NODE
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        adopted = Adopted(
            parent, os.path.basename(path), found.st_mode, found.st_uid, found.st_gid, 0, size,
            found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_nlink,
        )  # fmt: skip
        self.log(Kind.ADOPT, self.node(path), since, adopted.encode())

    def commit(self) -> Lsn:
        """Index everything logged, in one batch if it fits; returns the newest LSN."""
        batch: list[Op] = []
        size = 0
        for op in self._ops:
            if size + len(op.payload) > BATCH_BYTES:
                self._put(batch)
                batch, size = [], 0
            batch.append(op)
            size += len(op.payload)
        if batch:
            self._put(batch)
        self._ops = []
        return self.lsn

    def _put(self, ops: list[Op]) -> None:
        encoded = encode_batch(ops, self._index.last_digest)
        segment, offset = self._segments.append(encoded)
        header = encoded.header
        place = BatchPlace(
            header.first_lsn,
            header.last_lsn,
            header.first_time_ns,
            header.last_time_ns,
            segment,
            offset,
            header.total_bytes,
            header.payload_bytes,
            header.digest,
        )
        self._index.begin()
        self._index.apply(ops, place)
        self._index.commit()

    def wait(self, seconds: float) -> None:
        """Let the log's clock go on."""
        self.clock_ns += int(seconds * 1e9)

    def act_as(self, pid: int, command: bytes = b"tester") -> None:
        """The ops that follow are done by that process."""
        self._actor = Lsn(0)
        self._actor = self.log(Kind.ACTOR, NO_NODE, 0, Actor(7, 8, pid, 1, 1, command).encode())

    def mark(self, name: str) -> Lsn:
        """Set a mark."""
        return self.log(Kind.MARK, NO_NODE, 0, name.encode())

    # Changes

    def path(self, path: bytes) -> bytes:
        """The absolute path."""
        return os.path.join(self.root, path) if path else self.root

    def node(self, path: bytes) -> NodeId:
        """The node at a path."""
        return self._nodes[os.lstat(self.path(path)).st_ino]

    def _parent(self, path: bytes) -> NodeId:
        return self.node(os.path.dirname(path))

    def _stamp(self, *paths: bytes) -> None:
        """Give entries the time of the op that changed them."""
        for path in paths:
            full = self.path(path)
            atime_ns = os.lstat(full).st_atime_ns
            os.utime(full, ns=(atime_ns, self.clock_ns), follow_symlinks=False)

    def log_directory(self, parent: NodeId, name: bytes) -> NodeId:
        """Log a directory that no single path can name."""
        self._last_node = NodeId(self._last_node + 1)
        created = Created(name, 0o40755, os.geteuid(), os.getegid())
        self.log(Kind.CREATE, self._last_node, parent, created.encode())
        return self._last_node

    def created(self, path: bytes, target: bytes = b"") -> None:
        """Log that what stands at `path` was made there."""
        full = self.path(path)
        found = os.lstat(full)
        self._last_node = NodeId(self._last_node + 1)
        self._nodes[found.st_ino] = self._last_node
        created = Created(
            os.path.basename(path), found.st_mode, found.st_uid, found.st_gid, found.st_rdev, target
        )
        self.log(Kind.CREATE, self._last_node, self._parent(path), created.encode())
        os.utime(full, ns=(self.clock_ns, self.clock_ns), follow_symlinks=False)
        self._stamp(os.path.dirname(path))

    def mkdir(self, path: bytes) -> None:
        """Make a directory."""
        os.mkdir(self.path(path))
        self.created(path)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link."""
        os.symlink(target, self.path(path))
        self.created(path, target)

    def mkfifo(self, path: bytes) -> None:
        """Make a fifo."""
        os.mkfifo(self.path(path))
        self.created(path)

    def write(self, path: bytes, data: bytes, offset: int = 0) -> None:
        """Write into a file, which is created if need be."""
        full = self.path(path)
        if not os.path.lexists(full):
            os.close(os.open(full, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))
            self.created(path)
        if not data:
            return
        with open(full, "r+b") as file:
            os.pwrite(file.fileno(), data, offset)
        for start in range(0, len(data), FRAME_BYTES):
            piece = data[start : start + FRAME_BYTES]
            self.log(Kind.WRITE, self.node(path), offset + start, piece)
        self._stamp(path)

    def truncate(self, path: bytes, size: int) -> None:
        """Cut or extend a file."""
        os.truncate(self.path(path), size)
        self.log(Kind.TRUNCATE, self.node(path), size)
        self._stamp(path)

    def link(self, source: bytes, path: bytes) -> None:
        """Make a hard link."""
        os.link(self.path(source), self.path(path), follow_symlinks=False)
        self.log(Kind.LINK, self.node(path), self._parent(path), os.path.basename(path))
        self._stamp(os.path.dirname(path))

    def remove(self, path: bytes) -> None:
        """Remove a file or an empty directory."""
        found = os.lstat(self.path(path))
        node, parent = self.node(path), self._parent(path)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(self.path(path))
        else:
            os.unlink(self.path(path))
        if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:
            del self._nodes[found.st_ino]
        self.log(Kind.UNLINK, node, parent, os.path.basename(path))
        self._stamp(os.path.dirname(path))

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename, over what is there."""
        node, parent, new_parent = self.node(old), self._parent(old), self._parent(new)
        other = NO_NODE
        if os.path.lexists(self.path(new)):
            found = os.lstat(self.path(new))
            other = self.node(new)
            if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:
                del self._nodes[found.st_ino]
        os.rename(self.path(old), self.path(new))
        renamed = Renamed(os.path.basename(old), new_parent, os.path.basename(new), 0, other)
        self.log(Kind.RENAME, node, parent, renamed.encode())
        self._stamp(os.path.dirname(old), os.path.dirname(new))

    def exchange(self, one: bytes, two: bytes) -> None:
        """Swap two names."""
        node, other = self.node(one), self.node(two)
        renamed = Renamed(
            os.path.basename(one),
            self._parent(two),
            os.path.basename(two),
            RENAME_EXCHANGE,
            other,
        )
        parent = self._parent(one)
        spare = self.path(one) + b".swap"
        os.rename(self.path(one), spare)
        os.rename(self.path(two), self.path(one))
        os.rename(spare, self.path(two))
        self.log(Kind.RENAME, node, parent, renamed.encode())
        self._stamp(os.path.dirname(one), os.path.dirname(two))

    def chmod(self, path: bytes, mode: int) -> None:
        """Set permissions."""
        os.chmod(self.path(path), mode)
        self.log(Kind.SETATTR, self.node(path), 0, Attributes(SET_MODE, mode).encode())

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set the owner. Needs root."""
        os.chown(self.path(path), uid, gid, follow_symlinks=False)
        attributes = Attributes(SET_UID | SET_GID, 0, uid, gid)
        self.log(Kind.SETATTR, self.node(path), 0, attributes.encode())

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Set times."""
        os.utime(self.path(path), ns=(atime_ns, mtime_ns), follow_symlinks=False)
        attributes = Attributes(SET_ATIME | SET_MTIME, atime_ns=atime_ns, mtime_ns=mtime_ns)
        self.log(Kind.SETATTR, self.node(path), 0, attributes.encode())

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        """Set an extended attribute."""
        os.setxattr(self.path(path), name, value)
        self.log(Kind.SETXATTR, self.node(path), len(name), name + value)

    def removexattr(self, path: bytes, name: bytes) -> None:
        """Remove an extended attribute."""
        os.removexattr(self.path(path), name)
        self.log(Kind.REMOVEXATTR, self.node(path), 0, name)

    def remove_tree(self, path: bytes) -> None:
        """As `rm -r`."""
        full = self.path(path)
        if stat.S_ISDIR(os.lstat(full).st_mode):
            for name in sorted(os.listdir(full)):
                self.remove_tree(os.path.join(path, name))
        self.remove(path)

    def capture(self, path: bytes = b"") -> dict[bytes, Entry]:
        """What is at `path` and below it now."""
        return capture(self.path(path))


def capture(top: bytes) -> dict[bytes, Entry]:
    """Everything at and below `top`, by relative path (b"" for itself)."""
    found: dict[bytes, Entry] = {}
    first_paths: dict[int, bytes] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        full = os.path.join(top, path) if path else top
        state = os.lstat(full)
        content = b""
        if stat.S_ISREG(state.st_mode):
            with open(full, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(state.st_mode):
            content = os.readlink(full)
        elif stat.S_ISDIR(state.st_mode):
            names = sorted(os.listdir(full), reverse=True)
            pending.extend(os.path.join(path, name) for name in names)
        first = path if stat.S_ISDIR(state.st_mode) else first_paths.setdefault(state.st_ino, path)
        xattrs = {
            name: os.getxattr(full, name, follow_symlinks=False)
            for name in os.listxattr(full, follow_symlinks=False)
        }
        found[path] = Entry(
            state.st_mode,
            state.st_uid,
            state.st_gid,
            state.st_rdev,
            state.st_mtime_ns,
            content,
            xattrs,
            first,
        )
    return found


def capture_view(view: View, path: bytes = b"") -> dict[bytes, Entry]:
    """The same of a view."""
    found: dict[bytes, Entry] = {}
    first_paths: dict[int, bytes] = {}
    pending = [(b"", view.walk(path))]
    while pending:
        relative, state = pending.pop()
        content = state.target
        if stat.S_ISREG(state.mode):
            content = view.read(state.node, 0, state.size_bytes)
        elif stat.S_ISDIR(state.mode):
            for name, node in reversed(view.entries(state.node)):
                pending.append((os.path.join(relative, name), view.state(node)))
        is_directory = stat.S_ISDIR(state.mode)
        first = relative if is_directory else first_paths.setdefault(state.node, relative)
        found[relative] = Entry(
            state.mode,
            state.uid,
            state.gid,
            state.rdev,
            state.mtime_ns,
            content,
            {os.fsdecode(name): value for name, value in view.xattrs(state.node).items()},
            first,
        )
    return found
