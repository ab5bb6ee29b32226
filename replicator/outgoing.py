"""Shipments on their way out: built ahead of the line, kept until the vault has them.

Duty: make shipments of committed batches, and keep the bytes of the one that is being sent in
`STORE/outgoing`, so that a sender which was started again goes on with the same bytes. What is kept
is a cache: it is checked by its id, and made again when it is gone. Blocking; one thread at a time.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import NamedTuple

from replicator.effort import Chooser, Effort
from replicator.folded import FoldedHeld, Folder, FoldNote, Folds
from replicator.parting import CommonSearch
from replicator.plan import BatchEnd, Fork, Kept, Step, plan
from replicator.sealer import Sealer, comes_back
from replicator.sealing import Ends, is_sealed
from replicator.shipment import Known, ShippedBatch, encode_shipment, shipped
from replicator.sketch import Sketch
from replicator.wire import MAX_SHIPMENT_BATCHES, MAX_SHIPMENT_BYTES, Position, shipment_id
from store import durable
from store.batch import NO_DIGEST
from store.errors import StoreError
from store.format import OP_META
from store.index_rows import BatchPlace
from store.journal import Journal, Snapshot
from store.types import Lsn
from store.volume import Store
from timetravel.standing import BarrierSettings

log = logging.getLogger(__name__)

MAX_RAW_BYTES = 16 << 20
"""Of a shipment of several batches, metadata and payload; bounds the memory that is taken."""

LINE_S = 4.0
"""A shipment should keep the line busy for so long: its fixed costs are small then, and little is
under way when the line breaks."""

MIN_WIRE_BYTES = 8 << 10
FIRST_RATIO = 0.25
"""Wire bytes per raw byte, assumed before anything was sent."""

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})-([0-9a-f]{32})\.shipment")


class Ready(NamedTuple):
    """A shipment that can go out."""

    kept: Kept
    data: bytes
    raw_bytes: int
    """Metadata and payload of its batches; 0 when it was made by an earlier process."""


class Sizer:
    """How much to put into one shipment, from what the last ones came to."""

    def __init__(self) -> None:
        self.ratio = FIRST_RATIO
        """Wire bytes per raw byte."""

    def learn(self, ready: Ready) -> None:
        """Take in what a shipment came to."""
        if ready.raw_bytes:
            self.ratio = (self.ratio + len(ready.data) / ready.raw_bytes) / 2

    def raw_bytes(self, rate_bps: float) -> int:
        """Metadata and payload that keep a line of that rate busy for LINE_S."""
        wire = max(rate_bps / 8 * LINE_S, MIN_WIRE_BYTES)
        return int(min(wire / max(self.ratio, 1e-4), MAX_RAW_BYTES))


def raw_bytes_of(place: BatchPlace) -> int:
    """Metadata and payload of a batch."""
    return (place.last_lsn - place.first_lsn + 1) * OP_META.size_bytes + place.payload_bytes


class _Table:
    """The batches of one snapshot, as a plan asks for them, with the digests that the vault has."""

    def __init__(self, snapshot: Snapshot, sealer: Sealer | None) -> None:
        self._snapshot = snapshot
        self._sealer = sealer
        first = snapshot.first()
        self.first_lsn = self.sendable_lsn = int(first.lsn) if first is not None else 0
        begin = snapshot.batch_of(snapshot.baseline.lsn) if snapshot.baseline is not None else None
        if begin is not None:
            self.sendable_lsn = begin.last_lsn + 1
        self.indexed_lsn = int(snapshot.indexed_lsn)

    def batch_of(self, lsn: int) -> BatchEnd | None:
        """The batch that holds an op; None when none does."""
        place = self._snapshot.batch_of(Lsn(lsn))
        if place is None or not place.first_lsn <= lsn <= place.last_lsn:
            return None
        digest = self._sealer.digest(place.digest) if self._sealer is not None else place.digest
        return BatchEnd(place.first_lsn, place.last_lsn, digest)


class _NewestTable:
    """As `_Table`, each answer from the newest snapshot: for what takes long."""

    def __init__(self, journal: Journal, sealer: Sealer | None) -> None:
        self._journal = journal
        self._sealer = sealer
        with journal.snapshot() as snapshot:
            table = _Table(snapshot, sealer)
        self.first_lsn, self.sendable_lsn = table.first_lsn, table.sendable_lsn
        self.indexed_lsn = table.indexed_lsn

    def batch_of(self, lsn: int) -> BatchEnd | None:
        """The batch that holds an op; None when none does."""
        with self._journal.snapshot() as snapshot:
            return _Table(snapshot, self._sealer).batch_of(lsn)


class Outgoing:
    """The shipments of one store. `kept` is the one whose bytes are on disk or in memory.

    `beside`: what is built does not go to the vault of the settings, but into a file, say. Whatever
    reads or builds raises BadKeyFile as well when the volume is sealed.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        sealer: Sealer | None = None,
        *,
        beside: bool = False,
    ) -> None:
        self._store = store
        self._journal = journal
        self._sealer = sealer
        self._folder = store.root / "outgoing"
        self._current: Ready | None = self._load()
        self._beside = beside
        self._sketch = Sketch()
        self._folds = Folds(store.root)
        self.folding = False
        """Whether to leave out what was overwritten: the line has fallen too far behind."""
        self.chooser = Chooser()
        """How much work the next shipment's bytes are worth."""

    def use_sealer(self, sealer: Sealer | None) -> None:
        """Seal by this from now on, or not at all. What was made otherwise is never sent."""
        self._sealer = sealer
        if self._current is not None and not self.suits(self._current):
            self.drop()

    def suits(self, ready: Ready) -> bool:
        """Is it sealed if it has to be, and not if not?"""
        return is_sealed(ready.data) == (self._sealer is not None)

    @property
    def kept(self) -> Kept | None:
        """The shipment that is being sent."""
        if self._current is None or not self.suits(self._current):
            return None
        return self._current.kept

    def next_step(self, position: Position) -> Step:
        """What to do for a vault that stands at `position`. DamagedError."""
        with self._journal.snapshot() as snapshot:
            return plan(position, _Table(snapshot, self._sealer), self.kept)

    def step_from(self, position: Position) -> Step:
        """As `next_step`, whatever is being sent at the moment."""
        with self._journal.snapshot() as snapshot:
            return plan(position, _Table(snapshot, self._sealer), None)

    def is_foreign(self, position: Position) -> bool:
        """Does a vault that stands at `position` hold another history than ours? DamagedError."""
        return isinstance(self.step_from(position), Fork)

    def common_search(self, held_lsn: int) -> CommonSearch:
        """A search for what the journal and a vault that holds `held_lsn` have in common."""
        return CommonSearch(_NewestTable(self._journal, self._sealer), held_lsn)

    def has_end(self, position: Position) -> bool:
        """Is the end of a vault's line that of one of our batches?"""
        held = position.next_lsn - 1
        with self._journal.snapshot() as snapshot:
            batch = _Table(snapshot, self._sealer).batch_of(held)
        same = batch is not None and batch.digest == bytes.fromhex(position.digest)
        return same and batch is not None and batch.last_lsn == held

    def time_of(self, lsn: int) -> int:
        """When an op was made; 0 if it is not there."""
        with self._journal.snapshot() as snapshot:
            op = snapshot.op(Lsn(lsn))
        return op.time_ns if op is not None else 0

    def waiting_bytes(self, first_lsn: int) -> int:
        """Metadata and payload of all batches from `first_lsn` on."""
        with self._journal.snapshot() as snapshot:
            return sum(raw_bytes_of(place) for place in snapshot.batches(Lsn(first_lsn)))

    def current(self) -> Ready:
        """The shipment that `kept` names."""
        assert self._current is not None and self.suits(self._current)
        return self._current

    def build(
        self,
        first_lsn: int,
        raw_bytes: int,
        last_lsn: int | None = None,
        effort: Effort | None = None,
    ) -> Ready:
        """A shipment of the batches from `first_lsn` on: about `raw_bytes`, at least one batch.

        The first batch must be committed; none goes beyond `last_lsn`, the end of one. Without an
        `effort`, it is made with the one that suits the line. DamagedError when a batch can't be
        read, StoreError when the journal is a copy that begins later. Nothing is kept before
        `keep`.
        """
        batches: list[ShippedBatch] = []
        places: list[BatchPlace] = []
        raw = last = 0
        sealer = self._sealer
        with self._journal.snapshot() as snapshot:
            _refuse_before_copy(snapshot, first_lsn)
            for place in snapshot.batches(Lsn(first_lsn)):
                raw += raw_bytes_of(place)
                batches.append(shipped(*snapshot.read_batch(place)))
                places.append(place)
                last = place.last_lsn
                full = raw >= raw_bytes or len(batches) == MAX_SHIPMENT_BATCHES
                if full or last == last_lsn:
                    break
            assert batches and batches[0].ops[0].lsn == first_lsn, first_lsn
            previous = self.digest_before(first_lsn)
            if not self._beside:
                self._folds.resend(first_lsn, self._fold(snapshot, previous, places, batches))
            effort = effort or self.chooser.choose()
            start = time.monotonic()
            held = FoldedHeld(snapshot, Lsn(first_lsn), self._folds)
            known = Known(held, self._sketch, held.older)
            data = encode_shipment(self._store.uuid, previous, batches, known, effort)
            if sealer is not None:
                fresh = FoldedHeld(snapshot, Lsn(first_lsn), self._folds)
                if not comes_back(data, batches, fresh):
                    log.error("LSN %d to %d: encoded wrongly, made anew", first_lsn, last)
                    data = encode_shipment(self._store.uuid, previous, batches)
            self.chooser.built(effort, raw, len(data), time.monotonic() - start)
        if sealer is not None:
            digest = batches[-1].digest
            ends = Ends(self._store.uuid, Lsn(first_lsn), Lsn(last), previous, digest)
            data = sealer.seal(ends, data)
        return Ready(Kept(shipment_id(data), first_lsn, last, len(data)), data, raw)

    def _fold(
        self,
        snapshot: Snapshot,
        previous: bytes,
        places: list[BatchPlace],
        batches: list[ShippedBatch],
    ) -> list[FoldNote]:
        """Leave out of `batches` what can be, if need be; which of them are folded.

        Never of a sealed volume: no vault could tell us that we are wrong about what it was sent.
        """
        if not self.folding or self._sealer is not None:
            return []
        config = self._store.config
        settings = BarrierSettings(config.point_limit_s, config.quiet_s)
        folder = Folder(snapshot, settings, time.time_ns())
        notes = []
        for number, place in enumerate(places):
            found = folder.fold(place, previous, batches[number])
            if found is not None:
                batches[number], note = found
                notes.append(note)
            previous = place.digest
        return notes

    def build_full(self, first_lsn: int, raw_bytes: int) -> Ready | None:
        """As `build`, of what follows a shipment; None when there is less than `raw_bytes`."""
        waiting = 0
        with self._journal.snapshot() as snapshot:
            for place in snapshot.batches(Lsn(first_lsn)):
                waiting += raw_bytes_of(place)
                if waiting >= raw_bytes:
                    break
        if not waiting or waiting < raw_bytes:
            return None
        return self.build(first_lsn, raw_bytes)

    def digest_before(self, lsn: int) -> bytes:
        """The digest of the batch that ends before `lsn`."""
        if lsn <= 1:
            return NO_DIGEST
        with self._journal.snapshot() as snapshot:
            place = snapshot.batch_of(Lsn(lsn - 1))
        assert place is not None and place.last_lsn == lsn - 1, lsn
        return place.digest

    # --- what is kept ----------------------------------------------------------------------------

    def keep(self, ready: Ready) -> None:
        """From now on this is the shipment that is being sent; the one before it is dropped.

        A full disk is no reason not to send: then it is kept in memory alone.
        """
        assert self.suits(ready), "what has to be sealed must never go out open"
        self.drop()
        self._current = ready
        kept = ready.kept
        name = f"{kept.first_lsn:016x}-{kept.last_lsn:016x}-{kept.shipment}.shipment"
        try:
            durable.make_dir(self._folder)
            temporary = self._folder / "new"
            durable.drop(temporary)
            fd = durable.create_file(temporary)
            try:
                durable.pwrite_all(fd, ready.data, 0)
            finally:
                durable.close_file(fd)
            # Not synced: after a power cut its id tells whether it is whole.
            os.rename(temporary, self._folder / name)
        except (StoreError, OSError):
            durable.drop(self._folder / "new")

    def drop(self) -> None:
        """The shipment that was being sent is at the vault, or no longer of use."""
        self._current = None
        if self._folder.is_dir():
            for entry in list(self._folder.iterdir()):
                durable.drop(entry)

    def _load(self) -> Ready | None:
        """What an earlier process kept, if it is whole."""
        if not self._folder.is_dir():
            return None
        for entry in sorted(self._folder.iterdir()):
            found = _NAME.fullmatch(entry.name)
            if found is None or entry.stat().st_size > MAX_SHIPMENT_BYTES:
                continue
            data = entry.read_bytes()
            if shipment_id(data) == found[3]:
                kept = Kept(found[3], int(found[1], 16), int(found[2], 16), len(data))
                return Ready(kept, data, 0)
        return None


def _refuse_before_copy(snapshot: Snapshot, first_lsn: int) -> None:
    """What a copy begins with is no batch of the site."""
    begin = snapshot.baseline
    if begin is not None and first_lsn <= begin.lsn:
        raise StoreError(
            f"LSN {first_lsn} is not here: the history of this copy begins at LSN {begin.lsn}",
            "only a vault that has what lies before can be sent what follows",
        )
