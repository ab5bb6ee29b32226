"""Two machines that write under one volume's UUID: one history up to some batch, then two."""

from __future__ import annotations

import shutil
from pathlib import Path

from replicator.vault.ingest import LineWriter
from replicator.wire import Mark, NewLine
from store.indexer import Indexer
from store.volume import Store
from tests.unit.journal_workload import Workload, make_store
from tests.unit.shipping import all_batches, go_on, make_vault, shipments


class TwoMachines:
    """A machine and a copy of it, each of which wrote on. The vault has the first one's history."""

    def __init__(self, base: Path, rounds: int = 6) -> None:
        base.mkdir(exist_ok=True)
        self.one = make_store(base)
        workload = Workload(self.one)
        _write(self.one, workload, rounds, 60)
        self.shared = len(all_batches(self.one))
        workload.intake.close()
        self.other = Store.open(Path(shutil.copytree(self.one.root, base / "copy")))
        _write(self.one, Workload.of(self.one, 1), 3, 40)
        _write(self.other, Workload.of(self.other, 2), 4, 50)
        self.root, self.main = make_vault(base, self.one)
        self.root.lock()  # as the process that serves the vault has it
        receive(self.main, self.one)

    @property
    def uuid(self) -> str:
        return self.one.config.uuid

    def mark(self, number: int) -> Mark:
        """The end of the other machine's batch of that number."""
        batch = all_batches(self.other)[number - 1]
        return Mark(lsn=batch.ops[-1].lsn, digest=batch.digest.hex())

    def wish(self, mark: Mark | None = None, name: str = "fork-1") -> NewLine:
        mark = mark or self.mark(self.shared)
        return NewLine(parent="main", lsn=mark.lsn, digest=mark.digest, name=name)


def _write(store: Store, workload: Workload, rounds: int, changes: int) -> None:
    indexer = Indexer(store, segment_bytes=700 << 10)
    go_on(workload, indexer, rounds, changes)
    indexer.close()


def receive(line: Store, source: Store, start: int = 0) -> None:
    writer = LineWriter.open(line, segment_bytes=700 << 10)
    try:
        for shipment in shipments(source, size=2, start=start):
            writer.take(shipment)
    finally:
        writer.close()
