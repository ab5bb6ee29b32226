"""A naive model of what a log means: plain dictionaries, and a copy of the whole tree per LSN.

Pure. It shares nothing with the index but the ops. Content is the list of things done to a file,
painted anew for every read, so that its rightness can be seen.
"""

from __future__ import annotations

import copy
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from store import ops as payloads
from store.format import CHUNK_BYTES, Flag, Kind
from store.ops import Op


@dataclass
class OracleNode:
    """A node at some LSN."""

    node: int
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    size_bytes: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    links: int = 1
    target: bytes = b""
    generation: int = 0
    inode: int = 0
    complete: bool = True
    """Of a directory: every name is known."""
    base_bytes: int = 0
    """Size of the content that was there before; 0 when there was none or it is cut off."""
    missing: frozenset[int] = frozenset()
    """Chunks of that content which no op has brought yet."""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    paints: tuple[tuple[int, bytes | None], ...] = ()
    """(offset, bytes written there) or (size, None) for a cut, oldest first."""

    def read(self, start: int, stop: int) -> bytes:
        """Content of `[start, min(stop, size))`."""
        stop = max(min(stop, self.size_bytes), start)
        canvas = bytearray(stop - start)
        for offset, data in self.paints:
            if data is None:
                keep = min(max(offset - start, 0), len(canvas))
                canvas[keep:] = bytes(len(canvas) - keep)
                continue
            low, high = max(offset, start), min(offset + len(data), stop)
            if low < high:
                canvas[low - start : high - start] = data[low - offset : high - offset]
        return bytes(canvas)

    def copied(self) -> OracleNode:
        """An independent copy."""
        other = copy.copy(self)
        other.xattrs = dict(self.xattrs)
        return other


class OracleTree:
    """A tree at some LSN; `apply` moves it to the next."""

    def __init__(self) -> None:
        self.nodes: dict[int, OracleNode] = {}
        self.names: dict[tuple[int, bytes], int] = {}

    def copied(self) -> OracleTree:
        """An independent copy."""
        other = OracleTree()
        other.nodes = {number: node.copied() for number, node in self.nodes.items()}
        other.names = dict(self.names)
        return other

    def children(self, directory: int) -> dict[bytes, int]:
        """Names in a directory."""
        return {name: node for (parent, name), node in self.names.items() if parent == directory}

    def links_of(self, node: int) -> list[tuple[int, bytes]]:
        """(directory, name) of every link of a node."""
        return sorted(place for place, number in self.names.items() if number == node)

    def apply(self, op: Op) -> None:
        """One op (for adoptions and base content: at their `since`)."""
        handler = _HANDLERS.get(op.kind)
        if handler is not None:
            handler(self, op)

    def _write(self, op: Op) -> None:
        node, data = self.nodes[op.node], bytes(op.payload)
        node.size_bytes = max(node.size_bytes, op.offset + len(data))
        node.paints += ((op.offset, data),)
        node.mtime_ns = node.ctime_ns = op.time_ns

    def _truncate(self, op: Op) -> None:
        node = self.nodes[op.node]
        if op.offset == 0 and node.size_bytes:
            node.generation = op.lsn
            node.base_bytes, node.missing = 0, frozenset()
        node.size_bytes = op.offset
        node.paints += ((op.offset, None),)
        node.mtime_ns = node.ctime_ns = op.time_ns

    def _create(self, op: Op) -> None:
        made = payloads.Created.decode(op.payload)
        self.nodes[op.node] = OracleNode(
            op.node,
            made.mode,
            made.uid,
            made.gid,
            made.rdev,
            len(made.target) if stat.S_ISLNK(made.mode) else 0,
            op.time_ns,
            op.time_ns,
            op.time_ns,
            target=made.target,
            generation=op.lsn,
        )
        self._set_name(op, op.offset, made.name, op.node)

    def _set_name(self, op: Op, directory: int, name: bytes, node: int) -> None:
        if node:
            self.names[directory, name] = node
        else:
            del self.names[directory, name]
        parent = self.nodes[directory]
        parent.mtime_ns = parent.ctime_ns = op.time_ns

    def _link(self, op: Op) -> None:
        self.nodes[op.node].links += 1
        self.nodes[op.node].ctime_ns = op.time_ns
        self._set_name(op, op.offset, bytes(op.payload), op.node)

    def _unlink(self, op: Op) -> None:
        self._lose(op, op.node)
        self._set_name(op, op.offset, bytes(op.payload), 0)

    def _lose(self, op: Op, number: int) -> None:
        self.nodes[number].links -= 1
        self.nodes[number].ctime_ns = op.time_ns

    def _rename(self, op: Op) -> None:
        moved = payloads.Renamed.decode(op.payload)
        exchange = bool(moved.flags & payloads.RENAME_EXCHANGE)
        if moved.other and not exchange:
            self._lose(op, moved.other)
        elif moved.other:
            self.nodes[moved.other].ctime_ns = op.time_ns
        self._set_name(op, op.offset, moved.name, moved.other if exchange else 0)
        self._set_name(op, moved.new_parent, moved.new_name, op.node)
        self.nodes[op.node].ctime_ns = op.time_ns

    def _setattr(self, op: Op) -> None:
        node, given = self.nodes[op.node], payloads.Attributes.decode(op.payload)
        if given.mask & payloads.SET_MODE:
            node.mode = stat.S_IFMT(node.mode) | given.mode
        if given.mask & payloads.SET_UID:
            node.uid = given.uid
        if given.mask & payloads.SET_GID:
            node.gid = given.gid
        if given.mask & payloads.SET_ATIME:
            node.atime_ns = given.atime_ns
        if given.mask & payloads.SET_MTIME:
            node.mtime_ns = given.mtime_ns
        node.ctime_ns = op.time_ns

    def _setxattr(self, op: Op) -> None:
        data = bytes(op.payload)
        self.nodes[op.node].xattrs[data[: op.offset]] = data[op.offset :]
        self.nodes[op.node].ctime_ns = op.time_ns

    def _removexattr(self, op: Op) -> None:
        del self.nodes[op.node].xattrs[bytes(op.payload)]
        self.nodes[op.node].ctime_ns = op.time_ns

    def _adopt(self, op: Op) -> None:
        found = payloads.Adopted.decode(op.payload)
        known = self.nodes.get(op.node)
        is_file, is_dir = stat.S_ISREG(found.mode), stat.S_ISDIR(found.mode)
        size = found.size_bytes if is_file else len(found.target)
        self.nodes[op.node] = OracleNode(
            op.node,
            found.mode,
            found.uid,
            found.gid,
            found.rdev,
            size,
            found.atime_ns,
            found.mtime_ns,
            found.ctime_ns,
            1 if is_dir else found.links,
            found.target,
            op.offset,
            found.inode,
            complete=known is not None and known.complete if is_dir else True,
            base_bytes=size if is_file else 0,
            missing=frozenset(range(-(-size // CHUNK_BYTES))) if is_file else frozenset(),
            xattrs=dict(found.xattrs),
        )
        if found.parent:
            self.names[found.parent, found.name] = op.node

    def _adopt_name(self, op: Op) -> None:
        parent, name = payloads.decode_entry(op.payload)
        self.names[parent, name] = op.node

    def _base(self, op: Op) -> None:
        node = self.nodes[op.node]
        node.missing -= {op.offset // CHUNK_BYTES}
        if op.flags & Flag.LAST:
            node.missing = frozenset()
        node.paints = ((op.offset, bytes(op.payload)), *node.paints)

    def _dir_seeded(self, op: Op) -> None:
        self.nodes[op.node].complete = True


_HANDLERS: dict[int, Callable[[OracleTree, Op], None]] = {
    Kind.WRITE: OracleTree._write,
    Kind.TRUNCATE: OracleTree._truncate,
    Kind.CREATE: OracleTree._create,
    Kind.LINK: OracleTree._link,
    Kind.UNLINK: OracleTree._unlink,
    Kind.RENAME: OracleTree._rename,
    Kind.SETATTR: OracleTree._setattr,
    Kind.SETXATTR: OracleTree._setxattr,
    Kind.REMOVEXATTR: OracleTree._removexattr,
    Kind.ADOPT: OracleTree._adopt,
    Kind.ADOPT_NAME: OracleTree._adopt_name,
    Kind.BASE: OracleTree._base,
    Kind.DIR_SEEDED: OracleTree._dir_seeded,
}

RETROACTIVE = {Kind.ADOPT, Kind.ADOPT_NAME, Kind.BASE, Kind.DIR_SEEDED}
"""Ops that happen at the `since` of what they are about."""


class OracleHistory:
    """The tree after every LSN, by all that the log says up to its end."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._trees: list[OracleTree] = [OracleTree()]
        """After the op of LSN `index`, with what happened late at that LSN."""
        self._late: dict[int, list[Op]] = {}
        self._since: dict[int, int] = {}
        self._aborted: set[int] = set()

    @property
    def last_lsn(self) -> int:
        """LSN of the newest op."""
        return len(self.ops)

    def tree(self, lsn: int) -> OracleTree:
        """The tree at an LSN."""
        return self._trees[lsn]

    @property
    def newest(self) -> OracleTree:
        """The tree at the end."""
        return self._trees[-1]

    def names_ever(self) -> set[tuple[int, bytes]]:
        """Every (directory, name) that ever led somewhere."""
        return {place for tree in self._trees for place in tree.names}

    def since(self, node: int) -> int:
        """When a node was last adopted; 0 if it never was."""
        return self._since.get(node, 0)

    def changes(self, node: int) -> list[int]:
        """LSNs at which a node changed."""
        versions = [tree.nodes.get(node) for tree in self._trees]
        return [lsn for lsn in range(1, len(versions)) if versions[lsn] != versions[lsn - 1]]

    def dead_names(self, directory: int, lsn: int) -> list[tuple[bytes, int, int]]:
        """(name, last node, LSN of the removal) of names that were there and are not at `lsn`."""
        last: dict[bytes, tuple[int, int]] = {}
        for number, tree in enumerate(self._trees[: lsn + 1]):
            for name, node in tree.children(directory).items():
                last[name] = (node, number + 1)
        now = self._trees[lsn].children(directory)
        return sorted((name, *found) for name, found in last.items() if name not in now)

    def add_all(self, ops: Iterable[Op]) -> None:
        """The next ops of the log."""
        for op in ops:
            self.add(op)

    def add(self, op: Op) -> None:
        """The next op of the log."""
        assert op.lsn == self.last_lsn + 1
        self.ops.append(op)
        if op.kind == Kind.ABORT:
            self._aborted.add(op.offset)
            self._replay(op.offset)
        elif op.kind in RETROACTIVE:
            since = self._since_of(op)
            self._late.setdefault(since, []).append(op)
            self._replay(since)
        else:
            self._step(op)

    def _since_of(self, op: Op) -> int:
        if op.kind == Kind.ADOPT:
            self._since[op.node] = op.offset
        if op.kind == Kind.ADOPT_NAME:
            return op.offset
        return self._since[op.node]

    def _replay(self, start: int) -> None:
        del self._trees[start:]
        for op in self.ops[start - 1 :]:
            self._step(op)

    def _step(self, op: Op) -> None:
        tree = self._trees[-1].copied()
        if op.lsn not in self._aborted and op.kind not in RETROACTIVE:
            tree.apply(op)
        for late in self._late.get(op.lsn, ()):
            tree.apply(late)
        self._trees.append(tree)
