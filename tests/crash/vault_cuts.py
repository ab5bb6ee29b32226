"""The vault's disk loses its power while shipments come in: cut at every sync, and gone on with.

A line takes a site's shipments, some in pieces. What must hold for each cut: the line stands at the
end of a batch of the site's, with the site's digest, and not before what it had answered for; sent
everything from there on, it holds the site's journal batch by batch, and is sound.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from replicator.vault.ingest import LineWriter
from replicator.vault.line import Line
from replicator.vault.spool import Spool
from replicator.wire import shipment_id
from store.errors import NoSuchVolume
from store.indexer import Indexer
from store.journal import Journal
from store.verify import verify
from store.volume import Store, new_config
from tests.crash.disk_cuts import DiskFailure
from tests.crash.fault_disk import Cut, FaultDisk, Mode
from tests.unit.journal_workload import Workload, make_store
from tests.unit.shipping import SECOND, ShippedBatch, all_batches, ship

SEGMENT_BYTES = 64 << 10


@dataclass
class Site:
    """A site's history, and where each of its batches ends."""

    store: Store
    batches: list[ShippedBatch]

    @classmethod
    def make(cls, folder: Path, seed: int, rounds: int) -> Site:
        """A history of small batches."""
        folder.mkdir()
        store = make_store(folder)
        workload, indexer = Workload(store, seed), Indexer(store, SEGMENT_BYTES)
        for now in range(rounds):
            workload.run(6)
            indexer.step(now * SECOND, everything=True)
        indexer.close()
        return cls(store, all_batches(store))

    def end(self, number: int) -> tuple[int, str]:
        """LSN after the first `number` batches, and the digest there."""
        if not number:
            return 1, bytes(32).hex()
        batch = self.batches[number - 1]
        return batch.ops[-1].lsn + 1, batch.digest.hex()

    def number_at(self, next_lsn: int, digest: str) -> int:
        """How many batches end there; DiskFailure when none does."""
        for number in range(len(self.batches) + 1):
            if self.end(number) == (next_lsn, digest):
                return number
        raise DiskFailure(f"the line ends at LSN {next_lsn} with digest {digest}, no batch does")


@contextlib.contextmanager
def open_line(store: Store, disk: FaultDisk | None = None) -> Iterator[Line]:
    """The receiving end of a line, without a vault around it."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(LineWriter.open(store, SEGMENT_BYTES)))
        if disk is not None:
            disk.note_index(store.index_dir)
        journal = stack.enter_context(Journal(store))
        line = Line("main", store, writer, Spool.open(store.root / "incoming"), journal)
        yield stack.enter_context(contextlib.closing(line))


def send_all(line: Line, site: Site, rng: random.Random, disk: FaultDisk | None = None) -> None:
    """Send everything that the line does not hold, as a sender does; promises what is answered."""
    while True:
        position = line.position()
        number = site.number_at(position.next_lsn, position.digest)
        if disk is not None:
            disk.promise(number)
        if number == len(site.batches):
            return
        stop = min(number + rng.randrange(1, 4), len(site.batches))
        data = ship(site.store, site.batches, number, stop)
        partial = position.partial
        known = partial is not None and partial.shipment == shipment_id(data)
        at = partial.received_bytes if known and partial is not None else 0
        if rng.random() < 0.4:
            _in_pieces(line, data, at, rng)
        else:
            line.begin(shipment_id(data), len(data), at)
            line.append(data[at:])
        line.finish()


def _in_pieces(line: Line, data: bytes, at: int, rng: random.Random) -> None:
    """From byte `at` on, over several connections."""
    line.begin(shipment_id(data), len(data), at)
    while at < len(data):
        stop = min(at + rng.randrange(1, len(data) // 2 + 2), len(data))
        line.append(data[at:stop])
        line.save()
        at = stop
        if rng.random() < 0.5 and at < len(data):
            line.pause()
            line.begin(shipment_id(data), len(data), at)


def check(
    root: Path, site: Site, promised: int, rng: random.Random, disk: FaultDisk | None = None
) -> None:
    """What a cut left at `root` is the site's history up to some batch, and becomes all of it."""
    try:
        store = Store.open(root)
    except NoSuchVolume:
        if promised >= 0:
            raise DiskFailure("the line is gone") from None
        return
    with open_line(store, disk) as line:
        position = line.position()
        number = site.number_at(position.next_lsn, position.digest)
        if number < promised:
            raise DiskFailure(f"the line holds {number} batches, answered for were {promised}")
        send_all(line, site, rng, disk)
    if all_batches(store) != site.batches:
        raise DiskFailure("the line holds other batches than the site")
    findings = verify(store).findings
    if findings:
        raise DiskFailure("\n".join(map(str, findings)))


def campaign(base: Path, seed: int, rounds: int, share: float = 1.0) -> Iterator[tuple[str, Cut]]:
    """Ship a history, and yield each cut that was survived; some of the recoveries are cut too.

    `share`: of the cuts, how many are made. DiskFailure.
    """
    rng = random.Random(seed)
    site = Site.make(base / "site", seed, rounds)
    root = base / "line"
    with FaultDisk(root) as disk:
        disk.promise(-1)
        config = new_config("/nowhere", 1, uuid=site.store.config.uuid)
        with open_line(Store.create(root, config), disk) as line:
            send_all(line, site, rng, disk)
    for cut, lay_down in disk.cuts():
        for mode in Mode:
            if rng.random() >= share:
                continue
            what = f"seed {seed}, {mode.value} before event {cut.event} ({cut.what})"
            folder = base / "cut"
            lay_down(folder, mode, rng)
            try:
                if rng.random() < 0.1:
                    yield from _cut_again(base, folder, site, cut, rng)
                else:
                    check(folder, site, cut.promised, rng)
            except Exception as error:
                raise DiskFailure(f"{what}: {error}") from error
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            yield mode.value, cut


def _cut_again(
    base: Path, root: Path, site: Site, cut: Cut, rng: random.Random
) -> Iterator[tuple[str, Cut]]:
    """The power goes again while the line is opened, and while the rest is sent."""
    with FaultDisk(root) as disk:
        disk.promise(cut.promised)
        check(root, site, cut.promised, rng, disk)
    for second, lay_down in disk.cuts():
        mode = rng.choice(list(Mode))
        folder = base / "again"
        lay_down(folder, mode, rng)
        try:
            check(folder, site, second.promised, rng)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        yield f"{mode.value} of a recovery", second
