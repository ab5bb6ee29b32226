"""Adopting: giving a NodeId to what was in the directory before cdpfs saw it.

Duty: turn (directory, name) into a `Node`, from memory, from the journal, or, when neither knows
the name, by logging an ADOPT op. Loop's thread only; every method is one synchronous section.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from fsd.names import Names
from fsd.nodes import Node, NodeTable
from store.format import CHUNK_BYTES, Flag, Kind
from store.intake import Intake
from store.ops import Adopted, encode_entry
from store.types import ROOT, Lsn, NodeId

HIDDEN = b".cdpfs-keep"
"""Directory at the root of the covered tree for files that wait to be seeded after their unlink."""

GAP_NOTE = b".cdpfs-gap"
"""File at the root of the covered tree that is there while changes go unlogged."""

OWN_NAMES = frozenset((HIDDEN, GAP_NOTE))
"""What cdpfs itself puts there, and nobody sees."""

PURGE_AT_MOST = 20_000


@dataclass(slots=True)
class Unseeded:
    """Base content of a node that is not (or not wholly) in the journal yet.

    `size_bytes` is its size at `since`; `done` holds the numbers of seeded chunks that the index
    may not know yet; `lsn` is the newest op about it.
    """

    since: int
    size_bytes: int
    lsn: int
    done: Collection[int] = frozenset()
    complete: bool = False

    @property
    def regions(self) -> int:
        """Number of chunks."""
        return -(-self.size_bytes // CHUNK_BYTES)

    def mark_done(self, region: int) -> None:
        """The log holds this chunk. Most states never get so far in memory, and have no set."""
        if isinstance(self.done, set):
            self.done.add(region)
        else:
            self.done = {region}


class Adopter:
    """Names of the live tree as nodes.

    `since` is the LSN of this session's MOUNT op, `first` that of the volume's first session, which
    began at `protected_ns`. `all_seeded`: nothing is left to adopt or to seed.
    """

    def __init__(self, intake: Intake, nodes: NodeTable, names: Names) -> None:
        self._intake = intake
        self._nodes = nodes
        self._names = names
        self.since = Lsn(1)
        self.first = Lsn(1)
        self.protected_ns = 0
        self.all_seeded = False
        self.unseeded: dict[int, Unseeded] = {}
        self._linked: dict[int, tuple[Lsn, Lsn]] = {}
        """Adopted with several links and maybe not indexed yet: (since, LSN of the op)."""
        self._order: deque[tuple[int, int]] = deque()
        self.adopted_files = 0
        self.adopted_bytes = 0

    def resolve(self, parent: Node, name: bytes) -> Node | None:
        """The node under a name of the live tree; None when there is nothing."""
        known = self._nodes.child(parent, name)
        if known is not None:
            return known
        found = self.look(parent, name)
        return None if found is None else found[0]

    def look(self, parent: Node, name: bytes) -> tuple[Node, os.stat_result] | None:
        """As `resolve`, with the attributes of the backing file."""
        known = self._nodes.child(parent, name)
        try:
            if known is not None:
                return known, self._nodes.stat(known)
            if parent.id == ROOT and name in OWN_NAMES:
                return None
            dir_fd = self._nodes.dir_fd(parent)
            status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        node_id = self._names.child(parent.id, name)
        if node_id is None:
            return self._adopt(parent, name, status), status
        return self._enter(node_id, parent, name, status), status

    def _enter(self, node_id: NodeId, parent: Node, name: bytes, status: os.stat_result) -> Node:
        """The node in memory; what is still to be seeded of it is looked up."""
        known = self._nodes.by_id.get(node_id)
        if known is not None:
            if not known.linked:
                self._nodes.move(known, parent, name)
            return known
        node = self._nodes.add(node_id, parent, name, stat.S_ISDIR(status.st_mode))
        if stat.S_ISREG(status.st_mode):
            node.privileged = bool(status.st_mode & (stat.S_ISUID | stat.S_ISGID))
            if not self.all_seeded:
                node.unseeded = self.unseeded_of(node_id)
        return node

    def unseeded_of(self, node_id: NodeId) -> Unseeded | None:
        """What is left to seed of a node, None when nothing is."""
        known = self.unseeded.get(node_id)
        if known is not None:
            return None if known.complete else known
        base = self._names.base(node_id)
        if base is None or base.complete:
            return None
        found = Unseeded(base.since, base.size_bytes, 0)
        self._remember(node_id, found)
        return found

    def _remember(self, node_id: NodeId, state: Unseeded) -> None:
        self.unseeded[node_id] = state
        self._order.append((state.lsn, node_id))

    def _adopt(self, parent: Node, name: bytes, status: os.stat_result) -> Node:
        """Log what was found under a name, and enter it."""
        known = self.known_link(status)
        if known is not None:
            since, _ = self._since(parent, name, self._since_of(known))
            lsn = self._intake.append(Kind.ADOPT_NAME, known, since, encode_entry(parent.id, name))
            self._names.set(parent.id, name, known, lsn)
            return self._enter(known, parent, name, status)
        node_id = self._names.new_node()
        # Its inode has not changed since protection began: then it was there.
        was_there = status.st_ctime_ns <= self.protected_ns
        since, flags = self._since(parent, name, self.first if was_there else self.since)
        self.log_adoption(node_id, parent, name, status, since, flags)
        return self._enter(node_id, parent, name, status)

    def known_link(self, status: os.stat_result) -> NodeId | None:
        """The node that has this file by another name.

        Not only while several links are left: the others may be gone, through the mount, by now.
        """
        return None if stat.S_ISDIR(status.st_mode) else self._names.node_by_inode(status.st_ino)

    def _since_of(self, node: NodeId) -> Lsn:
        """As old as its other names, whose use may have moved the file's ctime."""
        found = self._linked.get(node)
        if found is not None:
            return found[0]
        base = self._names.base(node)
        assert base is not None
        return base.since

    def _since(self, parent: Node, name: bytes, likely: Lsn) -> tuple[Lsn, int]:
        """(LSN, flags): from when on what was found under a name has been there.

        A name that the log knows to have been free was filled behind our back: from now on, as
        far as we can tell. Otherwise it is `likely`.
        """
        if self._names.may_be_old(parent.id, name):
            return likely, 0
        return Lsn(self._intake.lsn + 1), int(Flag.EXTERNAL)

    def log_adoption(
        self,
        node_id: NodeId,
        parent: Node | None,
        name: bytes,
        status: os.stat_result,
        since: Lsn,
        flags: int = 0,
        links: int = 0,
    ) -> None:
        """Log that this is what stands under a name, since op `since`.

        `links`: the number of links that counts, 0 for that of `status`.
        """
        adopted = self._describe(parent, name, status, links or status.st_nlink)
        lsn = self._intake.append(Kind.ADOPT, node_id, since, adopted.encode(), flags)
        if parent is not None:
            self._names.set(parent.id, name, node_id, lsn)
        if max(links, status.st_nlink) > 1 and not stat.S_ISDIR(status.st_mode):
            self._names.set_inode(status.st_ino, node_id, lsn)
            self._linked[node_id] = since, lsn
        if stat.S_ISREG(status.st_mode) and status.st_size:
            self._remember(node_id, Unseeded(since, status.st_size, lsn))
            self.all_seeded = False
            self.adopted_files += 1
            self.adopted_bytes += status.st_size

    def _describe(
        self, parent: Node | None, name: bytes, status: os.stat_result, links: int
    ) -> Adopted:
        if parent is None:
            path, parent_id = b"/proc/self/fd/%d" % self._nodes.root.fd, NodeId(0)
        else:
            path = b"/proc/self/fd/%d/%b" % (self._nodes.dir_fd(parent), name)
            parent_id = parent.id
        is_link = stat.S_ISLNK(status.st_mode)
        return Adopted(
            parent=parent_id,
            name=name,
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            rdev=status.st_rdev,
            size_bytes=status.st_size if stat.S_ISREG(status.st_mode) or is_link else 0,
            atime_ns=status.st_atime_ns,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
            inode=status.st_ino,
            links=1 if stat.S_ISDIR(status.st_mode) else links,
            target=os.readlink(path) if is_link else b"",
            xattrs=read_xattrs(path, follow=parent is None),
        )

    def mark_dir_seeded(self, node: Node) -> None:
        """Every name of the directory is adopted."""
        self._intake.append(Kind.DIR_SEEDED, node.id)

    def purge(self) -> None:
        """Drop what the index knows by now, oldest first, a bounded number at a time.

        What a node in memory refers to must stay: there may be only one state of a node.
        """
        indexed, order = self._names.indexed_lsn, self._order
        for _ in range(min(len(order), PURGE_AT_MOST)):
            lsn, node_id = order.popleft()
            state = self.unseeded.get(node_id)
            if state is None:
                continue
            if state.lsn <= indexed and (state.complete or node_id not in self._nodes.by_id):
                del self.unseeded[node_id]
            else:
                order.append((lsn, node_id))
        for node_id in [
            node_id
            for node_id, (_, lsn) in islice(self._linked.items(), PURGE_AT_MOST)
            if lsn <= indexed
        ]:
            del self._linked[node_id]


def read_xattrs(path: bytes, follow: bool) -> tuple[tuple[bytes, bytes], ...]:
    """All extended attributes; () where the file system has none."""
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            return ()
        raise
    if not names:
        return ()
    return tuple(
        (os.fsencode(name), os.getxattr(path, name, follow_symlinks=follow)) for name in names
    )


@contextlib.contextmanager
def times_kept(directory: int) -> Iterator[None]:
    """What is done in the directory inside does not show in its mtime: it is none of the user's."""
    before = os.fstat(directory)
    yield
    os.utime(f"/proc/self/fd/{directory}", ns=(before.st_atime_ns, before.st_mtime_ns))
