"""Study: bytes that a transaction takes in shipments, by the TPC-B-like SQLite run.

The run goes through a real mount, at the pace that a thin line keeps up with, so that times and
batches are those of a working site. Then the journal's batches are made into shipments of several
sizes, without a network. What HTTP, TLS and TCP add is measured by the study of peers.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.plan import DESIGN, Figure, Scale, Study
from bench.targets import Volume
from bench.tpcb_workload import SHAPES, TRANSACTIONS, Shape, create, transactions
from replicator.effort import Effort
from replicator.held import JournalHeld
from replicator.outgoing import Outgoing
from replicator.shipment import (
    HEADER_BYTES,
    SHIPMENT_BATCH,
    Known,
    ShippedBatch,
    decode_shipment,
    encode_shipment,
)
from replicator.sketch import Sketch
from replicator.streams import sizes
from store.batch import NO_DIGEST
from store.journal import Journal, Snapshot
from store.types import Lsn
from store.volume import Store

PACE_HZ = 30.0
_SHORT = 60
_AIMS = {False: 200, True: 1500}
_FOLDED_AIM = 60
_FOLDED_BYTES = 8 << 20
"""Raw bytes of a shipment, as on a thin line that has much to send."""

_SORTS = {
    "metadata": ("symbols", "new_symbols", "values"),
    "times": ("times_low", "times_high", "times_rest"),
    "references": ("modes", "references"),
    "places": ("runs", "moves"),
    "content": ("small", "literals"),
}


@dataclass
class _Tally:
    """What shipments came to."""

    wire_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0

    def __post_init__(self) -> None:
        self.by_sort: Counter[str] = Counter()

    def add(self, data: bytes, batches: int) -> None:
        """A packed shipment."""
        self.wire_bytes += len(data)
        head = HEADER_BYTES + batches * SHIPMENT_BATCH.size_bytes
        self.by_sort["headers"] += head
        stored = {name: size for name, (_, size) in sizes(data[head:]).items()}
        for sort, names in _SORTS.items():
            self.by_sort[sort] += sum(stored[name] for name in names)


def _measure(work: Path, scale: Scale) -> list[Figure]:
    count = _SHORT if scale.short else TRANSACTIONS
    found = []
    for number, shape in enumerate(SHAPES):
        folder = work / str(number)
        directory = folder / "volume"
        directory.mkdir(parents=True)
        store = folder / "store"
        with Volume(directory, store, folder / "home", scale.ring_file_bytes) as volume:
            volume.mount()
            create(directory / "bank.db", shape)
            before = Lsn(volume.sync())
            _run(directory / "bank.db", shape, count)
            volume.sync()
        for size in (_SHORT,) if scale.short else (30, 120, 1000):
            found += _weigh(Store.open(store), before, shape, (count, size))
        if shape.mode == "DELETE":
            found.append(_weigh_folded(Store.open(store), before, shape, count))
    return found


def _weigh_folded(store: Store, before: Lsn, shape: Shape, count: int) -> Figure:
    """As a sender that has fallen behind would ship it."""
    wire_bytes = 0
    with Journal(store) as journal:
        outgoing = Outgoing(store, journal)
        first = int(before + 1)
        outgoing.build(1, 1 << 30, before, Effort.BEST)
        outgoing.folding = True
        while first <= journal.indexed_lsn:
            ready = outgoing.build(first, _FOLDED_BYTES, effort=Effort.BEST)
            wire_bytes += len(ready.data)
            first = ready.kept.last_lsn + 1
    each = wire_bytes / count
    aim = None if shape.growing else each <= _FOLDED_AIM
    return Figure(
        f"{shape.name}, folded: bytes/transaction",
        f"{each:.0f}",
        "" if shape.growing else f"≤ {_FOLDED_AIM} ({DESIGN})",
        aim,
    )


def _run(database: Path, shape: Shape, count: int) -> None:
    start = time.monotonic()
    for number in transactions(database, shape, count):
        time.sleep(max(start + (number + 1) / PACE_HZ - time.monotonic(), 0))


def _weigh(store: Store, before: Lsn, shape: Shape, counts: tuple[int, int]) -> list[Figure]:
    """Ship what came after `before` in shipments of about so many transactions."""
    count, size = counts
    tally = _Tally()
    sketch = Sketch()
    with Journal(store) as journal, journal.snapshot() as snapshot:
        ops = int(snapshot.indexed_lsn - before)
        groups = _groups(snapshot, before, ops * size // count)
        for number, group in enumerate(groups):
            first = group[0].ops[0].lsn
            mine, theirs = (JournalHeld(snapshot, first) for _ in range(2))
            known = Known(mine, sketch, mine.older)
            start = time.process_time()
            data = encode_shipment(store.uuid, NO_DIGEST, group, known, Effort.BEST)
            middle = time.process_time()
            got = decode_shipment(data, theirs)
            assert [batch.ops for batch in got.batches] == [batch.ops for batch in group]
            # The first group is what was there before the run.
            if number:
                tally.encode_s += middle - start
                tally.decode_s += time.process_time() - middle
                tally.add(data, len(group))
    each = tally.wire_bytes / count
    parts = ", ".join(f"{sort} {total / count:.1f}" for sort, total in tally.by_sort.items())
    title = f"{shape.name}, {size} transactions in a shipment"
    aim = _AIMS[shape.growing]
    speed = f"{count / tally.encode_s:,.0f}/s packed, {count / tally.decode_s:,.0f}/s unpacked"
    return [
        Figure(f"{title}: bytes/transaction", f"{each:.0f} ({parts})", f"≤ {aim} ({DESIGN})",
               each <= aim),
        Figure(f"{title}: transactions on one core", speed),
    ]  # fmt: skip


def _groups(snapshot: Snapshot, before: Lsn, ops: int) -> list[list[ShippedBatch]]:
    """The journal's batches: those up to `before`, then at least `ops` ops in each group."""
    groups: list[list[ShippedBatch]] = [[]]
    fill = 0
    for place in snapshot.batches(Lsn(1)):
        if place.first_lsn > before and (fill >= ops or place.first_lsn == before + 1):
            groups.append([])
            fill = 0
        groups[-1].append(ShippedBatch(snapshot.read_batch(place)[1], place.digest))
        fill += place.last_lsn - place.first_lsn + 1
    return groups


STUDIES = (Study("shipping", "Bytes of a transaction in shipments", _measure),)
