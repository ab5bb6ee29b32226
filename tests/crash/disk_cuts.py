"""Scripted workloads on the fault disk, cut at every sync, recovered, and checked.

What must hold for each cut: every op that was promised is in the log, every op in it is one that
was logged, the journal takes all of them up and is sound, a second recovery finds what the first
left, and the log can be gone on with. Recoveries are cut in the same way.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fsd.opening import end_of_log, indexed_lsn
from store.errors import NoSuchVolume
from store.format import Kind
from store.indexer import Indexer
from store.intake import Intake
from store.journal import Journal
from store.ops import Adopted, Created
from store.statepage import StatePage
from store.types import ROOT, Lsn, NodeId
from store.verify import verify
from store.volume import Store, new_config
from tests.crash.fault_disk import Cut, FaultDisk, Mode

RING_FILES = 4
RING_FILE_BYTES = 48 << 10
"""Small, so that the ring goes round several times."""

SEGMENT_BYTES = 64 << 10
UUID = "11" * 16
SECOND_NS = 1_000_000_000

Logged = tuple[int, int, int, bytes]
"""Kind, node, offset and payload of an op."""


class DiskFailure(AssertionError):
    """What was left by a cut is not what it must be."""


@dataclass
class Script:
    """One workload: what it logged, on a store below `root`."""

    root: Path
    rng: random.Random
    logged: list[Logged]
    """By LSN, from 1 on."""

    def run(self, disk: FaultDisk, steps: int) -> None:
        """Make a store and work in it: ops, syncs, the indexer, and restarts of the session."""
        config = new_config(
            "/nowhere", 1, uuid=UUID, ring_files=RING_FILES, ring_file_bytes=RING_FILE_BYTES
        )
        store = Store.create(self.root, config)
        disk.promise(0)
        session = _Session(store, self, disk)
        if not self.logged:
            session.begin()
        for _ in range(steps):
            roll = self.rng.random()
            if roll < 0.72:
                session.change()
            elif roll < 0.86:
                session.sync()
            elif roll < 0.98:
                session.index(everything=self.rng.random() < 0.7)
            else:
                session.close()
                session = _Session(store, self, disk)
        session.close()


class _Session:
    """The intake log and the indexer of a store, as fsd drives them."""

    def __init__(self, store: Store, script: Script, disk: FaultDisk | None) -> None:
        self._store = store
        self._script = script
        self._disk = disk
        self._page = StatePage(store.state_path)
        self._page.reset()
        indexed = indexed_lsn(store)
        if disk is not None:
            disk.note_index(store.index_dir)
        end = end_of_log(store, indexed)
        self._now = itertools.count((end.lsn + 1) * SECOND_NS)
        self.intake = Intake.open(store, end, indexed, lambda: next(self._now) * 1000)
        self._indexer = Indexer(store, SEGMENT_BYTES, wall_ns=lambda: 0)
        self._steps = itertools.count()

    def begin(self) -> None:
        root = Adopted(NodeId(0), b"", 0o40755, 0, 0, 0, 0, 1, 1, 1, 2, 2)
        self.log(Kind.MOUNT, 0, 0, b"{}")
        self.log(Kind.ADOPT, ROOT, 1, root.encode())
        self.log(Kind.DIR_SEEDED, ROOT)
        self.log(Kind.CREATE, 2, ROOT, Created(b"file", 0o100644, 7, 8).encode())

    def change(self) -> None:
        rng = self._script.rng
        size = rng.choice((0, 100, 512, 4096, 9000, rng.randrange(12_000)))
        self.log(Kind.WRITE, 2, rng.randrange(1 << 20), rng.randbytes(size))

    def log(self, kind: int, node: int, offset: int = 0, payload: bytes = b"") -> None:
        intake = self.intake
        if intake.needs_next and not intake.prepare_next(Lsn(self._page.indexed_lsn)):
            self.index(everything=True)
            assert intake.prepare_next(Lsn(self._page.indexed_lsn))
        lsn = intake.append(kind, node, offset, payload)
        del self._script.logged[lsn - 1 :]
        self._script.logged.append((kind, node, offset, payload))

    def sync(self) -> None:
        lsn = self.intake.sync()
        if self._disk is not None:
            self._disk.promise(lsn)

    def index(self, everything: bool) -> None:
        self._page.applied_lsn = self.intake.lsn
        self._indexer.step(next(self._steps) * SECOND_NS, everything)

    def close(self) -> None:
        self._indexer.close()
        self.intake.close()
        self._page.close()


def check(
    root: Path, histories: Sequence[list[Logged]], promised: int, again: FaultDisk | None = None
) -> list[Logged]:
    """Recover what a cut left at `root`, and go on; DiskFailure. Returns what the log has then.

    What is found must be the beginning of one of the `histories`.
    """
    try:
        store = Store.open(root)
    except NoSuchVolume:
        if promised >= 0:
            raise DiskFailure("the store is gone") from None
        return []
    script = Script(root, random.Random(1), [])
    session = _Session(store, script, again)
    found = session.intake.lsn
    if found < promised:
        raise DiskFailure(f"the log ends at LSN {found}, promised was {promised}")
    session.index(everything=True)
    session.close()
    script.logged = _ops(store)
    if not any(script.logged == history[:found] for history in histories):
        raise DiskFailure(f"the {found} ops of the journal are not the first ones that were logged")
    session = _Session(store, script, again)
    if session.intake.lsn != found:
        raise DiskFailure(f"a second recovery ends at {session.intake.lsn}, the first at {found}")
    has_file = any(kind == Kind.CREATE for kind, _, _, _ in script.logged)
    for number in range(4):
        if has_file:
            session.change()
        else:
            session.log(Kind.MARK, 0, 0, b"%d" % number)
    session.sync()
    session.close()
    session = _Session(store, script, again)
    session.index(everything=True)
    session.close()
    if _ops(store) != script.logged:
        raise DiskFailure("the log goes on with other ops than those that were logged")
    findings = verify(store).findings
    if findings:
        raise DiskFailure("\n".join(map(str, findings)))
    return script.logged


def _ops(store: Store) -> list[Logged]:
    with Journal(store) as journal, journal.snapshot() as snapshot:
        return [
            (op.kind, op.node, op.offset, snapshot.payload(op.lsn))
            for op in snapshot.ops(Lsn(1), Lsn(snapshot.indexed_lsn + 1))
        ]


def campaign(base: Path, seed: int, steps: int, share: float = 1.0) -> Iterator[tuple[str, Cut]]:
    """Run a workload, and yield each cut that was survived, in every mode.

    `share`: of the cuts, how many are made. Some of the recoveries are cut as well. DiskFailure.
    """
    rng = random.Random(seed)
    root = base / "store"
    script = Script(root, rng, [])
    with FaultDisk(root) as disk:
        disk.promise(-1)
        script.run(disk, steps)
    for cut, lay_down in disk.cuts():
        for mode in Mode:
            if rng.random() >= share:
                continue
            what = f"seed {seed}, {mode.value} before event {cut.event} ({cut.what})"
            folder = base / "cut"
            lay_down(folder, mode, rng)
            nested = rng.random() < 0.1
            try:
                if nested:
                    yield from _cut_recovery(base, folder, script.logged, cut, rng)
                else:
                    check(folder, [script.logged], cut.promised)
            except DiskFailure as error:
                raise DiskFailure(f"{what}: {error}") from error
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            yield mode.value, cut


def _cut_recovery(
    base: Path, root: Path, logged: list[Logged], cut: Cut, rng: random.Random
) -> Iterator[tuple[str, Cut]]:
    """The power goes again during a recovery, and during what came after it."""
    with FaultDisk(root) as disk:
        disk.promise(cut.promised)
        after = check(root, [logged], cut.promised, disk)
    for second, lay_down in disk.cuts():
        mode = rng.choice(list(Mode))
        folder = base / "again"
        lay_down(folder, mode, rng)
        try:
            check(folder, [logged, after], second.promised)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        yield f"{mode.value} of a recovery", second
