"""A site whose applications work: a ledger with transactions, and files that come and go.

`Site` plays a protected volume without a mount: it numbers ops and nodes as fsd does and brings
them into the store's journal in batches that end anywhere, also amid a transaction. What a tree
should be is what the site's own journal says of it (`fingerprint`), and the ledger keeps an
invariant that half a transaction breaks (`assert_consistent`).
"""

from __future__ import annotations

import hashlib
import random
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from store.format import Kind
from store.ops import SET_MODE, SET_MTIME, Actor, Adopted, Attributes, Created, Op, Renamed
from store.types import NO_LSN, ROOT, Lsn, NodeId, TimeNs
from store.volume import Store, new_config
from tests.model.journal_writer import JournalWriter
from tests.tape.clock import NS_PER_S, Clock
from timetravel.view import View

PAGE_BYTES = 2048
PAGES = 32
LEDGER, JOURNAL = b"ledger", b"ledger-journal"
_PAGE = struct.Struct("<qQ")
_STEP_NS = 20_000


class Point(NamedTuple):
    """Where everything is at rest."""

    lsn: int
    time_ns: int


class Site:
    """A new volume in the folder `root`, whose files take about `tree_bytes`."""

    def __init__(self, root: Path, seed: int, clock: Clock, tree_bytes: int) -> None:
        config = new_config("/srv/books", 1, ring_files=4, ring_file_bytes=8 << 20)
        self.store = Store.create(root, config)
        self.rng = random.Random(seed)
        self.clock = clock
        self.points: list[Point] = []
        self._tree_bytes = tree_bytes
        self._journal = JournalWriter(self.store)
        self._pending: list[Op] = []
        self._lsn = 0
        self._actor = NO_LSN
        self._last_node = 1
        self._files: dict[bytes, tuple[NodeId, int]] = {}
        """Name in `files` → node, size."""
        self._balances = [0] * PAGES
        self._transactions = 0
        self._rest: list[Callable[[], object]] = []
        """What completes the transaction that is under way."""
        self._begin()

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    # --- a day ----------------------------------------------------------------------------------

    def work(self, change_bytes: int, until_ns: int, unfinished: bool = False) -> None:
        """So many bytes of changes, spread over the time up to `until_ns`, and committed.

        `unfinished`: the last transaction is still under way at the end.
        """
        start_ns, done = self.clock.now_ns(), 0
        while done < change_bytes:
            done += self._activity()
            ahead_ns = (until_ns - start_ns) * min(done, change_bytes) // change_bytes
            self.clock.go_to(start_ns + ahead_ns)
        if unfinished:
            self._transfer(stop_amid=True)
        self.commit()

    def finish_transaction(self) -> None:
        """What was left under way by `work` is completed."""
        if self._rest:
            rest, self._rest = self._rest, []
            for step in rest:
                step()
            self._at_rest()

    def commit(self) -> None:
        """What was done is in the journal."""
        self._cut()
        self._journal.commit()

    def _activity(self) -> int:
        self.finish_transaction()
        roll = self.rng.random()
        if roll < 0.5:
            return self._transfer()
        total = sum(size for _, size in self._files.values())
        if total > self._tree_bytes or (roll < 0.55 and len(self._files) > 4):
            return self._remove()
        if roll < 0.75 and self._files:
            return self._replace()
        return self._new_file()

    # --- the ledger: a rollback journal, as SQLite's ----------------------------------------------

    def _transfer(self, stop_amid: bool = False) -> int:
        self._as_program(100)
        one, other = self.rng.sample(range(PAGES), 2)
        amount = self.rng.randrange(1, 10**6)
        self._transactions += 1
        before = [self._page(one), self._page(other)]
        self._balances[one] -= amount
        self._balances[other] += amount
        journal = self._node()
        self._op(Kind.CREATE, journal, ROOT, Created(JOURNAL, 0o100600, 7, 8).encode())
        self._op(Kind.WRITE, journal, 0, b"".join(before))
        self._op(Kind.FSYNC, journal)
        self._op(Kind.WRITE, self._ledger, one * PAGE_BYTES, self._page(one))
        page = self._page(other)
        self._rest = [
            lambda: self._op(Kind.WRITE, self._ledger, other * PAGE_BYTES, page),
            lambda: self._op(Kind.FSYNC, self._ledger),
            lambda: self._op(Kind.UNLINK, journal, ROOT, JOURNAL),
        ]
        if not stop_amid:
            self.finish_transaction()
        return 4 * PAGE_BYTES

    def _page(self, number: int) -> bytes:
        filler = random.Random(self._transactions * PAGES + number).randbytes(
            PAGE_BYTES - _PAGE.size
        )
        return _PAGE.pack(self._balances[number], self._transactions) + filler

    # --- other files ----------------------------------------------------------------------------

    def _new_file(self) -> int:
        self._as_program(200)
        name, node = b"%06d" % self._last_node, self._node()
        size = self._written(name, node)
        if self.rng.random() < 0.2:
            self._op(Kind.SETXATTR, node, 9, b"user.kind" + name)
            self._op(
                Kind.SETATTR,
                node,
                0,
                Attributes(SET_MODE | SET_MTIME, mode=0o640, mtime_ns=1_600_000_000).encode(),
            )
        if self.rng.random() < 0.1:
            self._op(Kind.LINK, node, self._folder, name + b"-too")
            self._op(Kind.UNLINK, node, self._folder, name)
            name += b"-too"
        self._files[name] = (node, size)
        self._at_rest()
        return size

    def _replace(self) -> int:
        """Write a new file, fsync it, rename it over the old one."""
        self._as_program(300)
        name = self.rng.choice(sorted(self._files))
        old, _ = self._files[name]
        node = self._node()
        size = self._written(b".saving", node)
        self._op(
            Kind.RENAME,
            node,
            self._folder,
            Renamed(b".saving", self._folder, name, 0, old).encode(),
        )
        self._files[name] = (node, size)
        self._at_rest()
        return size

    def _remove(self) -> int:
        self._as_program(200)
        name = self.rng.choice(sorted(self._files))
        node, _ = self._files.pop(name)
        self._op(Kind.UNLINK, node, self._folder, name)
        self._at_rest()
        return 0

    def _written(self, name: bytes, node: NodeId) -> int:
        self._op(Kind.CREATE, node, self._folder, Created(name, 0o100644, 7, 8).encode())
        offset = self.rng.choice([0, 0, 0, 40_000])
        data = self.rng.randbytes(self.rng.randrange(1, 24_000))
        self._op(Kind.WRITE, node, offset, data)
        self._op(Kind.FSYNC, node)
        self._op(Kind.CLOSE, node)
        return len(data)

    # --- the log --------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._op(Kind.MOUNT, 0, 0, b"{}")
        times = (TimeNs(self.clock.now_ns()),) * 3
        root = Adopted(NodeId(0), b"", 0o40755, 7, 8, 0, 0, *times, 2, 2)
        self._op(Kind.ADOPT, ROOT, 1, root.encode())
        self._op(Kind.DIR_SEEDED, ROOT)
        self._op(Kind.SEEDED)
        self._as_program(100)
        self._folder = self._node()
        self._op(Kind.CREATE, self._folder, ROOT, Created(b"files", 0o40750, 7, 8).encode())
        link = self._node()
        self._op(Kind.CREATE, link, ROOT, Created(b"latest", 0o120777, 7, 8, 0, b"files").encode())
        self._ledger = self._node()
        self._op(Kind.CREATE, self._ledger, ROOT, Created(LEDGER, 0o100600, 7, 8).encode())
        pages = b"".join(self._page(number) for number in range(PAGES))
        self._op(Kind.WRITE, self._ledger, 0, pages)
        self._op(Kind.FSYNC, self._ledger)
        self._at_rest()
        self.clock.pause(60)
        self.commit()

    def _node(self) -> NodeId:
        self._last_node += 1
        return NodeId(self._last_node)

    def _as_program(self, pid: int) -> None:
        actor = Actor(7, 8, pid, 1, pid, b"program%d" % pid)
        self._actor = NO_LSN
        self._actor = self._op(Kind.ACTOR, 0, 0, actor.encode())

    def _op(self, kind: Kind, node: int = 0, offset: int = 0, payload: bytes = b"") -> Lsn:
        self._lsn += 1
        self.clock.pause(_STEP_NS / NS_PER_S)
        time_ns = TimeNs(self.clock.now_ns())
        op = Op(
            Lsn(self._lsn),
            time_ns,
            kind,
            0,
            NodeId(node),
            offset,
            self._actor,
            xxh3_64_intdigest(payload),
            payload,
        )
        self._pending.append(op)
        # Batches end anywhere: whole ones are the unit of what goes on tape, not transactions.
        if self.rng.random() < 0.04:
            self._cut()
        return op.lsn

    def _cut(self) -> None:
        if self._pending:
            self._journal.add(self._pending)
            self._pending = []

    def _at_rest(self) -> None:
        self.points.append(Point(self._lsn, self.clock.now_ns()))


# --- what a tree is -------------------------------------------------------------------------------


def fingerprint(view: View) -> str:
    """Everything that a tree is: names, attributes, xattrs, contents."""
    digest = hashlib.sha256()
    folders = [(b"", ROOT)]
    while folders:
        path, folder = folders.pop()
        for name, state in view.listing(folder):
            below = path + b"/" + name
            # A directory's count of links is what the file system makes of it.
            facts = (state.mode, state.uid, state.gid, state.rdev, state.size_bytes, state.node)
            times = (state.mtime_ns, state.ctime_ns)
            xattrs = sorted(view.xattrs(state.node).items())
            digest.update(repr((below, facts, times, state.target, xattrs)).encode())
            if stat.S_ISDIR(state.mode):
                folders.append((below, state.node))
            elif stat.S_ISREG(state.mode):
                digest.update(view.read(state.node, 0, state.size_bytes))
    return digest.hexdigest()


def assert_consistent(view: View) -> None:
    """No half transaction: the ledger's balances add up, and no rollback journal is hot."""
    assert view.find(JOURNAL) is None, "a transaction is under way"
    ledger = view.walk(LEDGER)
    data = view.read(ledger.node, 0, ledger.size_bytes)
    assert len(data) == PAGES * PAGE_BYTES
    balances = [_PAGE.unpack_from(data, at)[0] for at in range(0, len(data), PAGE_BYTES)]
    assert sum(balances) == 0, "half a transaction"
