"""A pretended fsd for the tests of the journal: it logs ops and knows what they should lead to."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from store.format import MAX_PAYLOAD_BYTES, Kind
from store.intake import Intake
from store.journal import Journal
from store.ops import Adopted, Created, Renamed
from store.statepage import StatePage
from store.tail import IntakeTail
from store.types import ROOT, Lsn, NodeId
from store.volume import Store, new_config


def make_store(root: Path) -> Store:
    """A new store whose volume does not exist: nothing here touches a mount."""
    return Store.create(
        root / "store", new_config("/nowhere", 1, ring_files=4, ring_file_bytes=8 << 20)
    )


class Workload:
    """Files in the root directory, changed at random (seeded) through the intake log."""

    def __init__(self, store: Store, seed: int = 0) -> None:
        self._store = store
        self.rng = random.Random(seed)
        self.page = StatePage(store.state_path)
        self._now = itertools.count(1_700_000_000_000_000_000, 1_000_003)
        self.intake = self._open(Lsn(0))
        self.contents: dict[int, bytearray] = {}
        """Node → its bytes, for files that have a name."""
        self.names: dict[bytes, int] = {}
        self._next_node = 2
        self.log(Kind.MOUNT, 0, 0, b"{}")
        root = Adopted(NodeId(0), b"", 0o40755, 0, 0, 0, 0, 1, 1, 1, 2, 2)
        self.log(Kind.ADOPT, ROOT, 1, root.encode())
        self.log(Kind.DIR_SEEDED, ROOT)
        self.log(Kind.SEEDED, 0)
        self.publish()

    def _open(self, indexed: Lsn) -> Intake:
        end = IntakeTail(self._store).end_of_log()
        return Intake.open(self._store, end, indexed, clock_ns=lambda: next(self._now))

    @classmethod
    def of(cls, store: Store, seed: int) -> Workload:
        """Goes on with what a store's journal has, on whatever machine that was written."""
        found = cls.__new__(cls)
        found._store, found.rng = store, random.Random(seed)
        found.page = StatePage(store.state_path)
        with Journal(store) as journal, journal.snapshot() as snapshot:
            end, last = snapshot.indexed_lsn, snapshot.last()
            found.names = dict(snapshot.children(ROOT, end))
            found.contents = {
                node: bytearray(snapshot.read(NodeId(node), end, 0, 1 << 40))
                for node in found.names.values()
            }
            found._next_node = snapshot.max_node() + 1
        assert last is not None
        found._now = itertools.count(last.time_ns + 1, 1_000_003)
        found.intake = found._open(end)
        return found

    def lose_log(self) -> None:
        """The ring files go; a new log starts behind the newest op."""
        lsn = self.intake.lsn
        self.intake.close()
        for path in self._store.intake_dir.iterdir():
            path.unlink()
        self.intake = self._open(lsn)

    def log(self, kind: int, node: int, offset: int = 0, payload: bytes = b"") -> Lsn:
        """Append one op."""
        assert len(payload) <= MAX_PAYLOAD_BYTES
        if self.intake.needs_next:
            self.intake.prepare_next(Lsn(self.page.indexed_lsn))
        return self.intake.append(kind, node, offset, payload)

    def publish(self) -> Lsn:
        """Tell the indexer that everything logged is applied."""
        self.page.applied_lsn = self.intake.lsn
        return self.intake.lsn

    def run(self, count: int) -> None:
        """That many random changes, published now and then."""
        for _ in range(count):
            self.change()
            if self.rng.random() < 0.3:
                self.publish()
        self.publish()

    def change(self) -> None:
        """One random change."""
        actions = [self.write, self.write, self.write, self.truncate, self.sync, self.fail]
        actions += [self.rename, self.unlink, self.create]
        if len(self.names) < 3:
            actions = [self.create]
        self.rng.choice(actions)()

    def create(self) -> None:
        """A new file."""
        name, node = b"file%d" % self._next_node, self._next_node
        self._next_node += 1
        self.log(Kind.CREATE, node, ROOT, Created(name, 0o100644, 7, 8).encode())
        self.names[name] = node
        self.contents[node] = bytearray()

    def write(self) -> None:
        """Some bytes somewhere in a file."""
        node = self.rng.choice(list(self.contents))
        offset = self.rng.choice([0, 4096, 1 << 20, self.rng.randrange(300_000)])
        data = self.rng.randbytes(self.rng.choice([1, 100, 4096, 140_000]))
        self.log(Kind.WRITE, node, offset, data)
        content = self.contents[node]
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    def truncate(self) -> None:
        """Another size for a file."""
        node = self.rng.choice(list(self.contents))
        size = self.rng.choice([0, 5000, 200_000])
        self.log(Kind.TRUNCATE, node, size)
        content = self.contents[node]
        del content[size:]
        content.extend(bytes(size - len(content)))

    def sync(self) -> None:
        """A barrier."""
        self.log(Kind.FSYNC, self.rng.choice(list(self.contents)))

    def fail(self) -> None:
        """A write that the backing file system refused."""
        node = self.rng.choice(list(self.contents))
        lsn = self.log(Kind.WRITE, node, 0, b"never happened")
        self.log(Kind.ABORT, 0, lsn)

    def rename(self) -> None:
        """A file's name replaces another's."""
        old, new = self.rng.sample(list(self.names), 2)
        node, other = NodeId(self.names.pop(old)), NodeId(self.names[new])
        self.log(Kind.RENAME, node, ROOT, Renamed(old, ROOT, new, 0, other).encode())
        self.names[new] = node
        del self.contents[other]

    def unlink(self) -> None:
        """A file goes."""
        name = self.rng.choice(list(self.names))
        node = self.names.pop(name)
        self.log(Kind.UNLINK, node, ROOT, name)
        del self.contents[node]

    def check(self, journal: Journal) -> None:
        """The journal's newest state is what the changes led to."""
        lsn = self.intake.lsn
        with journal.snapshot() as snapshot:
            assert snapshot.indexed_lsn == lsn
            assert dict(snapshot.children(ROOT, lsn)) == self.names
            for node, content in self.contents.items():
                assert snapshot.read(NodeId(node), lsn, 0, 1 << 40) == content, node


def answers(journal: Journal) -> dict[str, object]:
    """What a journal says about everything, to compare two of them."""
    with journal.snapshot() as snapshot:
        end = snapshot.indexed_lsn
        samples = [Lsn(lsn) for lsn in range(1, end + 1, max(1, end // 12))]
        files = {
            (lsn, name): (snapshot.state(node, lsn), snapshot.read(node, lsn, 0, 1 << 40))
            for lsn in samples
            if lsn > 1
            for name, node in snapshot.children(ROOT, lsn)
        }
        stats = {key: value for key, value in snapshot.stats().items() if key != "index_bytes"}
        return {
            # Where a payload stands in its batch depends on where that was cut.
            "ops": [op._replace(position=0) for op in snapshot.ops(Lsn(1), Lsn(end + 1))],
            "payloads": [journal.read_payload(lsn) for lsn in samples],
            "files": files,
            "points": list(snapshot.points(Lsn(1), Lsn(end + 1))),
            "stats": stats,
            "max_node": snapshot.max_node(),
        }
