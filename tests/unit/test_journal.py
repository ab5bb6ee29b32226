"""The journal as its readers see it: what lookups cost, how it is shared, how it fails."""

from __future__ import annotations

import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from store import index_env
from store.errors import (
    InconsistentLog,
    NeverCaptured,
    NotSeeded,
    RebuildIndex,
    StoreBusy,
    StoreError,
    StoreFull,
)
from store.format import CHUNK_BYTES, Flag, Kind
from store.index_env import IndexEnvironment
from store.index_rows import BaseState
from store.journal import Journal, Point, Snapshot
from store.ops import Adopted, Created, Op, Renamed, encode_entry
from store.types import ROOT, Lsn, NodeId, TimeNs
from store.volume import Store, new_config
from tests.model.journal_writer import JournalWriter

FILE, OTHER = NodeId(2), NodeId(3)
SLOTS = 40


class Log:
    """A log in the making, cut into batches by its user. LSN n has the time 1000 n."""

    def __init__(self) -> None:
        self.last = Lsn(0)

    def op(
        self, kind: int, node: int = 0, offset: int = 0, payload: bytes = b"", flags: int = 0
    ) -> Op:
        """The next op."""
        self.last = Lsn(self.last + 1)
        time_ns = TimeNs(1000 * self.last)
        return Op(self.last, time_ns, kind, flags, NodeId(node), offset, Lsn(0), 0, payload)

    def start(self) -> list[Op]:
        """A session that found an empty root: LSN 1 to 3."""
        return [
            self.op(Kind.MOUNT, payload=b"{}"),
            self.adopt(ROOT, 0, b"", stat.S_IFDIR),
            self.op(Kind.DIR_SEEDED, ROOT),
        ]

    def adopt(
        self,
        node: int,
        parent: int,
        name: bytes,
        mode: int = stat.S_IFREG,
        size: int = 0,
        since: int = 1,
        links: int = 1,
    ) -> Op:
        """Something that was there before; its inode is 1000 more than its node."""
        found = Adopted(
            NodeId(parent), name, mode | 0o700, 0, 0, 0, size, 1, 2, 3, node + 1000, links
        )
        return self.op(Kind.ADOPT, node, since, found.encode())

    def create(self, node: int, name: bytes, parent: int = ROOT, mode: int = stat.S_IFREG) -> Op:
        """A new node."""
        return self.op(Kind.CREATE, node, parent, Created(name, mode | 0o600, 0, 0).encode())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store", new_config("/nowhere", 1))


@pytest.fixture
def writer(store: Store) -> Iterator[JournalWriter]:
    found = JournalWriter(store)
    yield found
    found.close()


@pytest.fixture
def journal(writer: JournalWriter) -> Iterator[Journal]:
    with Journal(writer.store) as found:
        yield found


def add(writer: JournalWriter, *ops: Op) -> None:
    """One committed batch."""
    writer.add(ops)
    writer.commit()


# --- what lookups cost ---------------------------------------------------------------------------


def churn(log: Log, count: int, rng: random.Random) -> Iterator[list[Op]]:
    """Batches of a log that overwrites one file, renames one node and fills and empties root."""
    names = [b"slot%d" % number for number in range(SLOTS)]
    held: dict[bytes, int] = {}
    name, node = b"moving 0", 10
    while log.last < count:
        batch: list[Op] = []
        for _ in range(rng.choice([1, 30, 300])):
            batch += [
                log.op(Kind.WRITE, FILE, rng.randrange(SLOTS) * 100, b"x" * 100) for _ in range(6)
            ]
            old, name = name, b"moving %d" % (log.last % 7)
            if name != old:
                moved = Renamed(old, ROOT, name)
                batch.append(log.op(Kind.RENAME, OTHER, ROOT, moved.encode()))
            slot = rng.choice(names)
            if slot in held:
                batch.append(log.op(Kind.UNLINK, held.pop(slot), ROOT, slot))
            else:
                node += 1
                held[slot] = node
                batch.append(log.create(node, slot))
        yield batch


def visited(snapshot: Snapshot, before: int) -> int:
    return snapshot.rows_visited - before


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_the_cost_of_a_lookup_does_not_grow_with_history(
    writer: JournalWriter, journal: Journal, count: int
) -> None:
    rng, log = random.Random(count), Log()
    writer.add([*log.start(), log.create(FILE, b"file"), log.create(OTHER, b"moving 0")])
    for batch in churn(log, count, rng):
        writer.add(batch)
    writer.commit()
    with journal.snapshot() as snapshot:
        for _ in range(300):
            lsn = Lsn(rng.randrange(10, log.last + 1))
            before = snapshot.rows_visited
            pieces = snapshot.pieces(FILE, lsn, 0, CHUNK_BYTES)
            assert visited(snapshot, before) <= 2 * len(pieces) + 16
            before = snapshot.rows_visited
            names = list(snapshot.children(ROOT, lsn))
            assert visited(snapshot, before) <= 2 * len(names) + 16
            before = snapshot.rows_visited
            assert len(snapshot.names(OTHER, lsn)) == 1
            assert visited(snapshot, before) <= 2 + 16
            before = snapshot.rows_visited
            assert snapshot.child(ROOT, b"file", lsn) == FILE
            assert snapshot.state(ROOT, lsn) is not None
            assert visited(snapshot, before) <= 5


def test_the_index_takes_few_bytes_for_a_random_write(
    writer: JournalWriter, journal: Journal
) -> None:
    log, rng = Log(), random.Random(1)
    writer.add([*log.start(), log.create(FILE, b"file")])
    count, page = 30_000, bytes(4096)
    for _ in range(count // 500):
        offsets = [rng.randrange(1 << 17) * 4096 for _ in range(500)]
        writer.add([log.op(Kind.WRITE, FILE, offset, page) for offset in offsets])
    writer.commit()
    assert journal.stats()["index_bytes"] / count < 150


# --- seeding -------------------------------------------------------------------------------------


def test_content_is_missing_until_its_chunk_is_logged(
    writer: JournalWriter, journal: Journal
) -> None:
    log = Log()
    add(writer, *log.start(), log.adopt(FILE, ROOT, b"old", size=CHUNK_BYTES + 5))
    assert journal.base(FILE) == BaseState(Lsn(1), CHUNK_BYTES + 5, False)
    assert not journal.region_seeded(FILE, 1)
    assert journal.region_seeded(FILE, 2)
    with pytest.raises(NotSeeded) as caught:
        journal.read(FILE, Lsn(1), CHUNK_BYTES, CHUNK_BYTES + 5)
    assert (caught.value.node, caught.value.region) == (FILE, 1)

    add(writer, log.op(Kind.BASE, FILE, CHUNK_BYTES, b"tail!"))
    assert journal.region_seeded(FILE, 1)
    assert journal.read(FILE, Lsn(1), CHUNK_BYTES, 1 << 40) == b"tail!"
    with pytest.raises(NotSeeded):
        journal.read(FILE, Lsn(1), 0, 1)

    add(writer, log.op(Kind.BASE, FILE, 0, b"", Flag.LAST))
    assert journal.base(FILE) == BaseState(Lsn(1), CHUNK_BYTES + 5, True)
    assert journal.read(FILE, Lsn(1), CHUNK_BYTES - 3, 1 << 40) == b"\0\0\0tail!"


def test_the_first_base_of_a_chunk_counts(writer: JournalWriter, journal: Journal) -> None:
    log = Log()
    add(writer, *log.start(), log.adopt(FILE, ROOT, b"old", size=3))
    add(writer, log.op(Kind.BASE, FILE, 0, b"old"), log.op(Kind.WRITE, FILE, 0, b"new"))
    add(writer, log.op(Kind.BASE, FILE, 0, b"new"))
    assert journal.read(FILE, Lsn(1), 0, 9) == b"old"
    assert journal.read(FILE, log.last, 0, 9) == b"new"


def test_what_changed_outside_before_it_was_seeded_is_said_to_be_lost(
    writer: JournalWriter, journal: Journal
) -> None:
    log = Log()
    add(writer, *log.start(), log.adopt(FILE, ROOT, b"old", size=3))
    mount = log.op(Kind.MOUNT, payload=b"{}")
    add(writer, mount, log.adopt(FILE, ROOT, b"old", size=4, since=mount.lsn))
    with pytest.raises(NeverCaptured):
        journal.read(FILE, Lsn(1), 0, 9)
    with pytest.raises(NotSeeded):
        journal.read(FILE, mount.lsn, 0, 9)


def test_names_are_missing_until_their_directory_is_complete(
    writer: JournalWriter, journal: Journal
) -> None:
    log = Log()
    add(writer, log.op(Kind.MOUNT), log.adopt(ROOT, 0, b"", stat.S_IFDIR))
    assert not journal.dir_complete(ROOT)
    with pytest.raises(NotSeeded) as caught:
        journal.child(ROOT, b"x", Lsn(1))
    assert (caught.value.node, caught.value.name) == (ROOT, b"x")
    with pytest.raises(NotSeeded):
        journal.children(ROOT, Lsn(1))

    add(writer, log.create(FILE, b"new"), log.adopt(OTHER, ROOT, b"old"))
    assert journal.child(ROOT, b"old", Lsn(1)) == OTHER
    assert journal.child(ROOT, b"new", Lsn(1)) is None, "it was made later, so it was not there"

    add(writer, log.op(Kind.DIR_SEEDED, ROOT))
    assert list(journal.children(ROOT, Lsn(1))) == [(b"old", OTHER)]
    assert list(journal.children(ROOT, log.last)) == [(b"new", FILE), (b"old", OTHER)]
    assert journal.child(ROOT, b"x", Lsn(1)) is None


def test_a_name_that_changed_since_is_adopted_from_the_op_on(
    writer: JournalWriter, journal: Journal
) -> None:
    log = Log()
    add(writer, *log.start(), log.adopt(FILE, ROOT, b"twin", links=2))
    add(writer, log.op(Kind.UNLINK, FILE, ROOT, b"twin"))
    late = log.op(Kind.ADOPT_NAME, FILE, 1, encode_entry(ROOT, b"twin"))
    add(writer, late)
    for lsn, expected in [(3, FILE), (late.lsn - 1, None), (late.lsn, FILE)]:
        assert journal.child(ROOT, b"twin", Lsn(lsn)) == expected
        listed = [(b"twin", FILE)] if expected else []
        assert list(journal.children(ROOT, Lsn(lsn))) == listed
        assert journal.names(FILE, Lsn(lsn)) == [(ROOT, name) for name, _ in listed]


def test_a_complete_directory_stays_so_when_it_changed_outside(
    writer: JournalWriter, journal: Journal
) -> None:
    log = Log()
    add(writer, *log.start(), log.create(FILE, b"made", mode=stat.S_IFDIR))
    mount = log.op(Kind.MOUNT, payload=b"{}")
    add(writer, mount, log.adopt(FILE, ROOT, b"made", stat.S_IFDIR, since=mount.lsn))
    assert journal.dir_complete(FILE)
    add(writer, log.create(OTHER, b"inside", parent=FILE))
    assert list(journal.children(FILE, log.last)) == [(b"inside", OTHER)]


def test_many_renames_in_one_batch_are_told_apart(writer: JournalWriter, journal: Journal) -> None:
    """They take several rows of the directory's log, and some ops end up in two of them."""
    log, count = Log(), 90
    add(writer, *log.start(), *(log.create(10 + n, b"old %d" % n) for n in range(count)))
    batch = [log.create(FILE, b"shifts the pairs by one")]
    for number in range(count):
        moved = Renamed(b"old %d" % number, ROOT, b"new %d" % number)
        batch.append(log.op(Kind.RENAME, 10 + number, ROOT, moved.encode()))
    add(writer, *batch)
    for number in range(count):
        names = dict(journal.children(ROOT, batch[number + 1].lsn))
        assert len(names) == count + 1
        assert names[b"new %d" % number] == 10 + number
        assert b"old %d" % number not in names


def test_an_inode_with_several_names_is_found_until_they_are_gone(
    writer: JournalWriter, journal: Journal
) -> None:
    log = Log()
    single = log.start(), log.adopt(FILE, ROOT, b"single")
    add(writer, *single[0], single[1], log.adopt(OTHER, ROOT, b"twin", links=2))
    assert journal.node_by_inode(FILE + 1000) is None
    assert journal.node_by_inode(OTHER + 1000) == OTHER
    add(writer, log.op(Kind.UNLINK, OTHER, ROOT, b"twin"))
    assert journal.node_by_inode(OTHER + 1000) == OTHER
    add(writer, log.op(Kind.UNLINK, OTHER, ROOT, b"the other"))
    assert journal.node_by_inode(OTHER + 1000) is None


# --- the log as a whole --------------------------------------------------------------------------


def test_an_empty_journal_answers(journal: Journal) -> None:
    assert journal.first() is None
    assert journal.last() is None
    assert journal.op(Lsn(1)) is None
    assert journal.lsn_at(TimeNs(1 << 60)) == 0
    assert list(journal.ops(Lsn(0), Lsn(100))) == []
    assert journal.state(ROOT, Lsn(1)) is None
    assert journal.marks() == []
    assert list(journal.points(Lsn(0), Lsn(100))) == []
    assert journal.max_node() == 0
    assert not journal.dir_complete(ROOT)
    assert journal.stats()["ops"] == 0
    with pytest.raises(StoreError):
        journal.read_payload(Lsn(1))


def test_points_are_marks_what_is_inferred_and_ends_of_batches(
    writer: JournalWriter, journal: Journal
) -> None:
    log = Log()
    add(writer, *log.start())
    add(writer, log.op(Kind.MARK, payload="größer".encode()), log.create(FILE, b"file"))
    nobody = Lsn(0)
    crash = Point(Lsn(3), TimeNs(3000), "crash", nobody, "end of a batch", "", nobody)
    mark = Point(Lsn(4), TimeNs(4000), "mark", nobody, "set by name", "größer", nobody)
    newest = crash._replace(lsn=Lsn(5), time_ns=TimeNs(5000))
    assert list(journal.points(Lsn(1), Lsn(6))) == [mark]
    add(writer, log.op(Kind.CLOSE, FILE), log.op(Kind.WRITE, FILE, 0, b"x"))
    closed = Point(Lsn(6), TimeNs(6000), "sync", Lsn(1), "close of file", "", Lsn(7))
    assert list(journal.points(Lsn(1), Lsn(7))) == [mark, closed]
    assert list(journal.points(Lsn(4), Lsn(5))) == [mark]
    assert list(journal.points(Lsn(1), Lsn(7), group=Lsn(1))) == [closed]
    assert list(journal.points(Lsn(1), Lsn(6), "crash")) == [crash, newest]
    assert journal.marks() == [("größer", 4, 4000)]
    assert journal.max_node() == FILE


def test_times_lead_to_lsns(writer: JournalWriter, journal: Journal) -> None:
    log = Log()
    for _ in range(3):
        add(writer, *(log.op(Kind.FSYNC) for _ in range(50)))
    for asked, expected in [(999, 0), (1000, 1), (1999, 1), (77_000, 77), (10**9, 150)]:
        assert journal.lsn_at(TimeNs(asked)) == expected


# --- sharing -------------------------------------------------------------------------------------


def test_a_snapshot_stays_as_it_was_until_it_is_renewed(
    writer: JournalWriter, journal: Journal
) -> None:
    log = Log()
    add(writer, *log.start())
    with journal.snapshot() as snapshot:
        add(writer, log.create(FILE, b"file"))
        assert snapshot.indexed_lsn == 3
        assert snapshot.child(ROOT, b"file", log.last) is None
        snapshot.renew()
        assert snapshot.indexed_lsn == 4
        assert snapshot.child(ROOT, b"file", log.last) == FILE


def test_uncommitted_batches_are_not_seen(writer: JournalWriter, journal: Journal) -> None:
    log = Log()
    writer.add(log.start())
    assert journal.indexed_lsn == 0
    writer.commit()
    assert journal.indexed_lsn == 3


def test_another_process_reads_while_a_batch_is_being_written(writer: JournalWriter) -> None:
    log = Log()
    add(writer, *log.start())
    writer.add([log.create(FILE, b"file")])
    script = (
        "import sys, pathlib; from store.journal import Journal; from store.volume import Store;"
        "print(Journal(Store.open(pathlib.Path(sys.argv[1]))).indexed_lsn)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(writer.store.root)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3\n"


def test_readers_share_and_the_last_one_closes(store: Store) -> None:
    first, second = Journal(store), Journal(store)
    with pytest.raises(StoreBusy):
        JournalWriter(store)
    first.close()
    first.close()
    assert second.indexed_lsn == 0
    second.close()
    JournalWriter(store).close()


# --- failures ------------------------------------------------------------------------------------


def test_an_index_of_another_version_is_to_be_rebuilt(store: Store) -> None:
    env = IndexEnvironment(store.index_dir, write=True)
    with env.begin(write=True) as txn:
        txn.put(index_env.VERSION_KEY, b"\xff\0\0\0", db=env.tables.meta)
    env.close()
    with pytest.raises(RebuildIndex):
        Journal(store)
    with pytest.raises(RebuildIndex):
        JournalWriter(store)


def test_a_missing_index_says_what_to_do(store: Store) -> None:
    store.index_dir.rmdir()
    with pytest.raises(StoreError) as caught:
        Journal(store)
    assert "reindex" in caught.value.hint


def test_a_full_index_goes_back_to_its_last_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_env, "MAP_BYTES", (1 << 20,))
    writer, log = JournalWriter(store), Log()
    add(writer, *log.start())
    with pytest.raises(StoreFull):
        writer.add([log.create(node, b"%d" % node) for node in range(2, 9000)])
    assert writer.index.indexed_lsn == 3
    writer.close()
    with Journal(store) as journal:
        assert journal.indexed_lsn == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda log: [log.op(Kind.FSYNC), log.op(Kind.FSYNC)][1:],
        lambda log: [log.op(Kind.WRITE, 99, 0, b"x")],
        lambda log: [log.op(Kind.CREATE, 99, ROOT, b"short")],
        lambda log: [log.op(Kind.BASE, ROOT + 5, 0, b"x")],
        lambda log: [log.create(FILE, b"x"), log.adopt(FILE, ROOT, b"x")],
    ],
    ids=["gap", "unknown node", "malformed payload", "base of nothing", "late adoption"],
)
def test_an_impossible_log_is_refused_and_changes_nothing(
    writer: JournalWriter, journal: Journal, spoil: object
) -> None:
    log = Log()
    add(writer, *log.start())
    assert callable(spoil)
    with pytest.raises(InconsistentLog):
        writer.add(spoil(log))
    writer.roll_back()
    log.last = Lsn(3)
    add(writer, log.create(FILE, b"good"))
    assert list(journal.children(ROOT, log.last)) == [(b"good", FILE)]


def test_what_a_refused_batch_brought_is_forgotten(writer: JournalWriter) -> None:
    log = Log()
    add(writer, *log.start())
    with pytest.raises(InconsistentLog):
        writer.add([log.create(FILE, b"file"), log.op(Kind.WRITE, 99, 0, b"x")])
    writer.roll_back()
    log.last = Lsn(3)
    with pytest.raises(InconsistentLog, match="LSN 4: node 2 is not known"):
        writer.add([log.op(Kind.WRITE, FILE, 0, b"x")])


def test_errors_of_lmdb_become_those_of_the_store(store: Store) -> None:
    with pytest.raises(StoreFull), index_env.mapped_errors("x"):
        raise lmdb.DiskError("write")
    with pytest.raises(StoreError), index_env.mapped_errors("x"):
        raise lmdb.BadTxnError("txn")
