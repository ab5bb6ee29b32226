"""Makes valid logs: what fsd would write while applications, seeding and outsiders change a tree.

It keeps fsd's promises: names are adopted before they are used, chunks are logged before they are
changed or cut, and adoptions carry the LSN of their session's MOUNT op. Choices come as integers
and are taken modulo what there is, so that any sequence of calls is a valid log.
"""

from __future__ import annotations

import itertools
import stat
from dataclasses import dataclass, field

import xxhash

from store.format import CHUNK_BYTES, Flag, Kind
from store.ops import RENAME_EXCHANGE, Adopted, Attributes, Created, Op, Renamed, encode_entry
from store.types import ROOT, Lsn, NodeId, TimeNs
from tests.model.oracle_tree import OracleHistory, OracleNode

NAMES = [b"a", b"b", b"c", b"d\xff", b"e" * 255, b"ab"]
SIZES = [0, 10, CHUNK_BYTES - 5, CHUNK_BYTES, CHUNK_BYTES + 7, 2 * CHUNK_BYTES + 100]
MODES = [stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO]


@dataclass
class Foreign:
    """Something in the backing tree that the log does not know yet."""

    mode: int
    seed: int
    size_bytes: int = 0
    links: int = 1
    inode: int = 0
    node: int = 0
    """Of a file with several links: its node once one of them is adopted."""
    entries: dict[bytes, Foreign] = field(default_factory=dict)


class LogMaker:
    """A growing log, and the oracle that knows what it means."""

    def __init__(self) -> None:
        self.history = OracleHistory()
        self.abort_next = False
        """The next change fails in the backing tree."""
        self._time = itertools.count(1_700_000_000_000_000_000, 1_000)
        self._node = itertools.count(2)
        self._inode = itertools.count(1000)
        self._foreign: dict[tuple[int, bytes], Foreign] = {}
        self._truth: dict[int, tuple[int, int]] = {}
        """(size, seed) of the content that adopted nodes had."""
        self.since = 0

    # --- the log ---------------------------------------------------------------------------------

    def emit(self, kind: Kind, node: int, offset: int, payload: bytes = b"", flags: int = 0) -> int:
        """The next op; followed by its ABORT when it was to fail. Returns its LSN."""
        lsn = self._append(kind, node, offset, payload, flags)
        if self.abort_next and kind in _CAN_FAIL:
            self.abort_next = False
            self._append(Kind.ABORT, 0, lsn, b"", 0)
        return lsn

    def _append(self, kind: Kind, node: int, offset: int, payload: bytes, flags: int) -> int:
        lsn = self.history.last_lsn + 1
        digest = xxhash.xxh3_64_intdigest(payload)
        time_ns = TimeNs(next(self._time))
        self.history.add(
            Op(Lsn(lsn), time_ns, kind, flags, NodeId(node), offset, Lsn(0), digest, payload)
        )
        return lsn

    def mount(self) -> None:
        """A session begins."""
        self.since = self.emit(Kind.MOUNT, 0, 0, b"{}")

    def start(self, seeds: list[int]) -> None:
        """The first session: the root is adopted; `seeds` make up what else is there."""
        self.mount()
        self._found(ROOT, 0, b"", Foreign(stat.S_IFDIR | 0o755, 1))
        for seed, name in zip(seeds, NAMES, strict=False):
            self._foreign[ROOT, name] = self._make_foreign(seed)
        if len(seeds) > 4:
            twin = Foreign(stat.S_IFREG | 0o600, 5, CHUNK_BYTES + 9, 2, next(self._inode))
            self._foreign[ROOT, b"twin-a"] = self._foreign[ROOT, b"twin-b"] = twin

    def _make_foreign(self, seed: int) -> Foreign:
        mode = MODES[seed % len(MODES)]
        size = SIZES[seed % len(SIZES)] if stat.S_ISREG(mode) else 0
        made = Foreign(mode | 0o640, seed, size, inode=next(self._inode))
        if stat.S_ISDIR(mode):
            made.entries = {
                name: self._make_foreign(seed // 3 + number)
                for number, name in enumerate(NAMES[: seed % 3])
            }
        return made

    # --- what there is ---------------------------------------------------------------------------

    def nodes(self, file_type: int | None = None, alive: bool = True) -> list[OracleNode]:
        """Nodes at the end of the log."""
        return [
            node
            for node in self.history.newest.nodes.values()
            if (node.links or not alive)
            and (file_type is None or stat.S_IFMT(node.mode) == file_type)
        ]

    def pick_file(self, choice: int) -> OracleNode | None:
        """A regular file, perhaps one that is unlinked and still open."""
        files = self.nodes(stat.S_IFREG, alive=False)
        return files[choice % len(files)] if files else None

    def pick_dir(self, choice: int) -> int:
        """A directory."""
        found = self.nodes(stat.S_IFDIR)
        return found[choice % len(found)].node

    def pick_name(self, choice: int) -> tuple[int, bytes, int] | None:
        """(directory, name, node) of a name."""
        found = sorted(self.history.newest.names.items())
        if not found:
            return None
        (directory, name), node = found[choice % len(found)]
        return directory, name, node

    def look_up(self, directory: int, name: bytes) -> int:
        """The node of a name, adopted if need be; 0 for none."""
        if (directory, name) in self._foreign:
            self.adopt(directory, name)
        return self.history.newest.names.get((directory, name), 0)

    # --- seeding ---------------------------------------------------------------------------------

    def adopt(self, directory: int, name: bytes) -> None:
        """A foreign name becomes known."""
        self._found(0, directory, name, self._foreign.pop((directory, name)))

    def adopt_some(self, choice: int) -> None:
        """Seeding comes to some name."""
        if self._foreign:
            self.adopt(*sorted(self._foreign)[choice % len(self._foreign)])

    def _found(self, node: int, directory: int, name: bytes, what: Foreign) -> None:
        if what.node:
            self.emit(Kind.ADOPT_NAME, what.node, self.since, encode_entry(NodeId(directory), name))
            return
        node = what.node = node or next(self._node)
        self._truth[node] = (what.size_bytes, what.seed)
        self._emit_adopt(node, directory, name, what)
        for entry, child in what.entries.items():
            self._foreign[node, entry] = child

    def _emit_adopt(self, node: int, directory: int, name: bytes, what: Foreign) -> None:
        seed = what.seed
        target = b"to/%d" % seed if stat.S_ISLNK(what.mode) else b""
        xattrs = tuple((b"user.%d" % n, b"x" * (n * seed % 700)) for n in range(seed % 3))
        adopted = Adopted(
            NodeId(directory),
            name,
            what.mode,
            seed,
            seed + 1,
            0,
            what.size_bytes,
            seed * 7,
            seed * 11,
            seed * 13,
            what.inode,
            what.links,
            target,
            xattrs,
        )
        self.emit(Kind.ADOPT, node, self.since, adopted.encode())

    def seed_dir(self, choice: int) -> None:
        """A directory's names are all adopted."""
        directory = self.pick_dir(choice)
        for parent, name in sorted(self._foreign):
            if parent == directory:
                self.adopt(parent, name)
        if not self.history.newest.nodes[directory].complete:
            self.emit(Kind.DIR_SEEDED, directory, 0)

    def seed_chunk(self, choice: int) -> None:
        """A chunk of some file, even of an unlinked one, is logged."""
        files = [node for node in self.nodes(alive=False) if node.missing]
        if files:
            node = files[choice % len(files)]
            chunks = sorted(node.missing)
            self._base(node.node, chunks[choice % len(chunks)])

    def ensure_based(self, node: OracleNode, start: int, stop: int) -> None:
        """Log every missing chunk that `[start, stop)` touches."""
        for chunk in sorted(node.missing):
            if chunk * CHUNK_BYTES < stop and start < (chunk + 1) * CHUNK_BYTES:
                self._base(node.node, chunk)

    def _base(self, node: int, chunk: int) -> None:
        size, seed = self._truth[node]
        length = min(CHUNK_BYTES, size - chunk * CHUNK_BYTES)
        data = b"" if (seed + chunk) % 4 == 3 else pattern(seed + chunk, length)
        last = self.history.newest.nodes[node].missing == {chunk}
        self.emit(Kind.BASE, node, chunk * CHUNK_BYTES, data, Flag.LAST if last else 0)

    # --- outsiders -------------------------------------------------------------------------------

    def new_session(self, changed: list[int], seeds: list[int]) -> None:
        """A mount that finds known nodes changed and names that nobody has seen."""
        self.mount()
        for choice in changed:
            found = self.pick_name(choice)
            if found is not None:
                self._changed_outside(*found, seed=choice)
        for seed in seeds:
            place = self.pick_dir(seed), NAMES[seed % len(NAMES)]
            if place not in self.history.newest.names and place not in self._foreign:
                self._foreign[place] = self._make_foreign(seed)

    def _changed_outside(self, directory: int, name: bytes, node: int, seed: int) -> None:
        known = self.history.newest.nodes[node]
        size = SIZES[seed % len(SIZES)] if stat.S_ISREG(known.mode) else 0
        what = Foreign(known.mode, seed % 200, size, known.links, known.inode or next(self._inode))
        self._truth[node] = (size, seed % 200)
        self._emit_adopt(node, directory, name, what)

    # --- applications ----------------------------------------------------------------------------

    def write(self, choice: int, offset: int, length: int) -> None:
        """A write to a file."""
        node = self.pick_file(choice)
        if node is not None:
            self.ensure_based(node, offset, offset + length)
            data = pattern(self.history.last_lsn, length)
            self.emit(Kind.WRITE, node.node, offset, data)

    def truncate(self, choice: int, size: int) -> None:
        """A file is cut or extended."""
        node = self.pick_file(choice)
        if node is not None:
            self.ensure_based(node, size, max(node.size_bytes, size))
            self.emit(Kind.TRUNCATE, node.node, size)

    def cut(self, choice: int, keep: int, extend: int) -> None:
        """A file loses its end and gets a new one."""
        node = self.pick_file(choice)
        if node is not None and node.size_bytes:
            self.truncate(choice, min(keep, node.size_bytes))
            self.truncate(choice, extend)

    def create(self, choice: int, name: bytes, kind: int) -> None:
        """A new node of some type, if the name is free."""
        directory = self.pick_dir(choice)
        if not self.look_up(directory, name):
            mode = MODES[kind % len(MODES)]
            target = b"target" * (kind + 1) if stat.S_ISLNK(mode) else b""
            made = Created(name, mode | 0o644, kind, kind + 1, kind if kind > 3 else 0, target)
            self.emit(Kind.CREATE, next(self._node), directory, made.encode())

    def link(self, choice: int, where: int, name: bytes) -> None:
        """A further hard link."""
        found, directory = self.pick_name(choice), self.pick_dir(where)
        if found is None or stat.S_ISDIR(self.history.newest.nodes[found[2]].mode):
            return
        if not self.look_up(directory, name):
            self.emit(Kind.LINK, found[2], directory, name)

    def unlink(self, choice: int) -> None:
        """A name goes; a directory's only if it is empty."""
        found = self.pick_name(choice)
        if found is not None and self._removable(found[2]):
            directory, name, node = found
            is_dir = stat.S_ISDIR(self.history.newest.nodes[node].mode)
            self.emit(Kind.UNLINK, node, directory, name, Flag.DIRECTORY if is_dir else 0)

    def _removable(self, node: int) -> bool:
        return not self.history.newest.children(node) and not any(
            parent == node for parent, _ in self._foreign
        )

    def rename(self, choice: int, where: int, name: bytes, exchange: bool) -> None:
        """A name moves, perhaps over another or in exchange for it."""
        found, parent = self.pick_name(choice), self.pick_dir(where)
        if found is None:
            return
        directory, old_name, node = found
        other = self.look_up(parent, name)
        if other == node or self._inside(parent, node) or (exchange and not other):
            return
        if exchange and self._inside(directory, other):
            return
        if other and not exchange and not self._replaceable(node, other):
            return
        flags = RENAME_EXCHANGE if exchange else 0
        moved = Renamed(old_name, NodeId(parent), name, flags, NodeId(other))
        self.emit(Kind.RENAME, node, directory, moved.encode())

    def _replaceable(self, node: int, other: int) -> bool:
        nodes = self.history.newest.nodes
        same = stat.S_ISDIR(nodes[node].mode) == stat.S_ISDIR(nodes[other].mode)
        return same and self._removable(other)

    def _inside(self, directory: int, node: int) -> bool:
        """Whether a directory is `node` or below it."""
        up = {child: parent for (parent, _), child in self.history.newest.names.items()}
        while directory:
            if directory == node:
                return True
            directory = up.get(directory, 0)
        return False

    def set_attributes(self, choice: int, mask: int) -> None:
        """chmod, chown, utimes."""
        nodes = self.nodes()
        node = nodes[choice % len(nodes)].node
        given = Attributes(mask, choice & 0o7777, choice, choice + 1, choice * 3, choice * 5)
        self.emit(Kind.SETATTR, node, 0, given.encode())

    def set_xattr(self, choice: int, name: bytes, length: int) -> None:
        """An extended attribute is set, or removed when `length` is negative."""
        nodes = self.nodes()
        node = nodes[choice % len(nodes)]
        if length >= 0:
            self.emit(Kind.SETXATTR, node.node, len(name), name + b"v" * length)
        elif name in node.xattrs:
            self.emit(Kind.REMOVEXATTR, node.node, 0, name)

    def noise(self, choice: int) -> None:
        """Ops that change no tree."""
        kind = [Kind.FSYNC, Kind.CLOSE, Kind.CHECKPOINT, Kind.MARK, Kind.SEEDED][choice % 5]
        files = self.nodes()
        node = files[choice % len(files)].node if kind in {Kind.FSYNC, Kind.CLOSE} else 0
        self.emit(kind, node, 0, b"mark %d" % choice if kind == Kind.MARK else b"")


def pattern(seed: int, length: int) -> bytes:
    """Bytes that tell where in which op they come from, and none of them a zero."""
    step = bytes((seed * 31 + number) % 251 + 1 for number in range(251))
    return (step * (length // 251 + 1))[:length]


_CAN_FAIL = {
    Kind.WRITE,
    Kind.TRUNCATE,
    Kind.CREATE,
    Kind.LINK,
    Kind.UNLINK,
    Kind.RENAME,
    Kind.SETATTR,
    Kind.SETXATTR,
    Kind.REMOVEXATTR,
}
