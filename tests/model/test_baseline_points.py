"""Points and groups of a copy that begins in the midst of a history are those of the whole."""

from __future__ import annotations

import random
import stat
import tempfile
from pathlib import Path

import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from store.baseline import BaselineWriter
from store.baseline_state import CollectedState, collect_state
from store.format import Kind
from store.journal import Journal, Snapshot
from store.ops import Adopted, Op
from store.reindex import reindex
from store.types import NO_NODE, ROOT, Lsn
from store.verify import verify
from store.volume import Store, new_config
from tests.model.baseline_copy import batches_from, describe, new_copy
from tests.model.journal_writer import JournalWriter
from tests.model.test_barriers_model import Play
from tests.unit.program_log import START_NS, ProgramLog
from timetravel.barrier_search import BarrierSearch
from timetravel.groups import GroupTable
from timetravel.view import View


class RootedLog(ProgramLog):
    """A log that an index takes: the root was found, and there was nothing in it."""

    def __init__(self) -> None:
        super().__init__()
        self.op(Kind.MOUNT, payload=b"{}")
        mode = stat.S_IFDIR | 0o755
        root = Adopted(NO_NODE, b"", mode, 0, 0, 0, 0, START_NS, START_NS, START_NS, 9, 1)
        self.op(Kind.ADOPT, ROOT, 1, root.encode())
        self.op(Kind.DIR_SEEDED, ROOT)
        self.op(Kind.SEEDED)


def whole(op: Op) -> Op:
    """With the checksum that an op of a real log has."""
    return op._replace(payload_xxh3=xxhash.xxh3_64_intdigest(op.payload))


class Site:
    """A store, and a log that is cut into batches at random."""

    def __init__(self, base: Path, chance: random.Random) -> None:
        self.store = Store.create(base / "site", new_config("/site", 1))
        self._writer = JournalWriter(self.store)
        self._chance = chance
        self._log = RootedLog()
        self._play = Play(chance, self._log)

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self._play.step()
        ops = [whole(op) for op in self._log.ops[self._writer.next_lsn - 1 :]]
        while ops:
            count = self._chance.choice((3, 10, 40))
            self._writer.add(ops[:count])
            ops = ops[count:]
        self._writer.commit()

    def close(self) -> None:
        self._writer.close()


def copied(site: Store, lsn: Lsn, state: CollectedState, base: Path) -> Store:
    """What a set of the site gives that begins at `lsn`."""
    copy = new_copy(site, base / "copy")
    with (
        Journal(site) as journal,
        journal.snapshot() as snapshot,
        BaselineWriter.open(copy) as writer,
    ):
        view = View(journal, lsn)
        writer.start(lsn, view.time_ns)
        describe(writer, view)
        first, *rest = batches_from(snapshot, lsn)
        writer.finish(first, state.data)
        for data in rest:
            writer.append(data)
        writer.commit()
    return copy


def standings(snapshot: Snapshot, lsn: Lsn) -> list[tuple[object, ...]]:
    """How every group stands at an LSN; a point from before `first` says nothing of when."""
    now_ns = START_NS + 10**15
    table = GroupTable(snapshot, now_ns=now_ns, quiet_ns=2 * 10**9)
    groups = list(table.groups())
    search = BarrierSearch(table, groups, limit_ns=0, quiet_ns=0, end_ns=now_ns)
    found = []
    for group in groups:
        standing = search.standing(group, lsn)
        grade = standing.point.grade if standing.clean and standing.point is not None else ""
        found.append((group, search.counts(group, lsn), standing.clean, grade))
    return found


def compare(here: Snapshot, there: Snapshot, first: Lsn) -> None:
    stop = Lsn(here.indexed_lsn + 1)
    assert there.indexed_lsn == here.indexed_lsn
    since = Lsn(first + 1)
    assert list(there.points(since, stop)) == list(here.points(since, stop))
    assert all(point.lsn >= first for point in there.points(Lsn(1), stop))
    assert list(there.groups()) == list(here.groups())
    for lsn in range(first, stop, max((stop - first) // 12, 1)):
        ours = [each for each in standings(here, Lsn(lsn)) if each[1]]
        assert [each for each in standings(there, Lsn(lsn)) if each[1]] == ours


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_points_behind_the_beginning_are_those_of_the_site(seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), chance)
        site.go_on(chance.choice((30, 150)))
        with Journal(site.store) as journal, journal.snapshot() as snapshot:
            lsn = Lsn(chance.randint(snapshot.indexed_lsn // 2, snapshot.indexed_lsn))
            state = collect_state(snapshot, lsn)
            assert state.end_lsn == snapshot.indexed_lsn
        site.go_on(chance.choice((0, 30, 150)))
        site.close()
        copy = copied(site.store, lsn, state, Path(folder))
        for _ in range(2):
            with (
                Journal(site.store) as ours,
                Journal(copy) as theirs,
                ours.snapshot() as here,
                theirs.snapshot() as there,
            ):
                compare(here, there, lsn)
            assert verify(copy).sound
            reindex(copy)
