"""Which batches the vault was sent folded: what it holds is then not what the journal here holds.

Duty: remember it in `STORE/folded`, durably before such a shipment goes out, and answer the codec
as the vault's journal would. What is written down of a batch is where its fold ends: the rest
follows from its ops (`fold`). Blocking; one thread at a time. A file that is lost costs shipments
that the vault refuses, and then gets plain.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from typing import Final

import msgspec

from replicator.columns import Meta
from replicator.fold import fold
from replicator.held import JournalHeld
from replicator.shipment import ShippedBatch
from store import durable
from store.batch import encode_batch
from store.index_rows import BatchPlace
from store.journal import Snapshot
from store.ops import Op
from store.types import Lsn
from timetravel.barrier_search import BarrierSearch, Level
from timetravel.groups import GroupTable
from timetravel.standing import BarrierSettings

NAME: Final = "folded"
MAX_NOTES: Final = 16_384
"""Folded batches that are remembered; what is older than those is not referred to."""

_KEPT_BATCHES: Final = 4


class FoldNote(msgspec.Struct, array_like=True, frozen=True):
    """How a batch was folded."""

    first_lsn: int
    last_lsn: int
    until: int
    points: int


class _File(msgspec.Struct, frozen=True):
    """What the file holds."""

    floor: int = 0
    """Nothing up to here is known for sure to be at the vault as it is here."""
    notes: list[FoldNote] = msgspec.field(default_factory=list)


class Folds:
    """The notes of one store."""

    def __init__(self, root: Path) -> None:
        self._path = root / NAME
        self._notes: list[FoldNote] = []
        self._firsts: list[int] = []
        self.floor = 0
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_File)
            self.floor = found.floor
            self._set(found.notes)
        except (OSError, msgspec.MsgspecError):
            pass  # none was sent, or it is not known any more

    def _set(self, notes: list[FoldNote]) -> None:
        self._notes = notes
        self._firsts = [note.first_lsn for note in notes]

    def at(self, lsn: int) -> FoldNote | None:
        """The note of the batch that holds an op; None: it was sent as it is."""
        number = bisect_right(self._firsts, lsn) - 1
        if number < 0 or self._notes[number].last_lsn < lsn:
            return None
        return self._notes[number]

    def resend(self, first_lsn: int, notes: list[FoldNote]) -> None:
        """From `first_lsn` on the vault is sent batches, of which those in `notes` are folded."""
        kept = [note for note in self._notes if note.last_lsn < first_lsn]
        if not notes and len(kept) == len(self._notes):
            return
        kept += notes
        for note in kept[:-MAX_NOTES]:
            self.floor = note.last_lsn
        self._set(kept[-MAX_NOTES:])
        durable.write_file_atomically(
            self._path, msgspec.json.encode(_File(self.floor, self._notes))
        )


class FoldedHeld(JournalHeld):
    """What the vault holds, of a journal here that holds all of it."""

    def __init__(self, snapshot: Snapshot, stop: Lsn, folds: Folds) -> None:
        super().__init__(snapshot, stop)
        self._folds = folds
        self._batches: OrderedDict[int, list[Op]] = OrderedDict()

    def payload(self, lsn: int, start: int, stop: int) -> bytes:
        """See `JournalHeld`."""
        op = self._folded(lsn)
        if op is None:
            return super().payload(lsn, start, stop)
        if not 0 <= start <= stop <= len(op.payload):
            raise KeyError(lsn)
        return bytes(op.payload[start:stop])

    def size(self, lsn: int) -> int:
        """See `JournalHeld`."""
        op = self._folded(lsn)
        return super().size(lsn) if op is None else len(op.payload)

    def metas(self, start: int, stop: int) -> list[Meta]:
        """See `JournalHeld`."""
        found = []
        for lsn, meta in enumerate(super().metas(start, stop), start):
            op = self._folded(lsn)
            if op is None:
                found.append(meta)
                continue
            size = len(op.payload)
            found.append(Meta(op.kind, op.flags, size, op.time_ns, op.node, op.offset, op.actor))
        return found

    def _folded(self, lsn: int) -> Op | None:
        """The op as the vault has it; None: as it is here. KeyError when that is not known."""
        if lsn <= self._folds.floor:
            raise KeyError(lsn)
        note = self._folds.at(lsn)
        if note is None:
            return None
        ops = self._batches.get(note.first_lsn)
        if ops is None:
            ops = self._batches[note.first_lsn] = self._fold_again(note)
            while len(self._batches) > _KEPT_BATCHES:
                self._batches.popitem(last=False)
        else:
            self._batches.move_to_end(note.first_lsn)
        return ops[lsn - note.first_lsn]

    def _fold_again(self, note: FoldNote) -> list[Op]:
        place = self.snapshot.batch_of(Lsn(note.first_lsn))
        if place is None or place.last_lsn != note.last_lsn:
            raise KeyError(note.first_lsn)
        _, ops = self.snapshot.read_batch(place)
        return fold(ops, Lsn(note.until), note.points) or ops


class Folder:
    """Folds batches of a snapshot where their site stands between transactions."""

    def __init__(self, snapshot: Snapshot, settings: BarrierSettings, now_ns: int) -> None:
        self._snapshot = snapshot
        table = GroupTable(snapshot, now_ns=now_ns, quiet_ns=settings.quiet_ns)
        self._search = BarrierSearch(
            table,
            list(table.groups()),
            limit_ns=settings.limit_ns,
            quiet_ns=settings.quiet_ns,
            end_ns=now_ns,
        )

    def fold(
        self, place: BatchPlace, previous: bytes, batch: ShippedBatch
    ) -> tuple[ShippedBatch, FoldNote] | None:
        """A batch with what is overwritten left out; None when it has to go as it is."""
        found = self._search.search(place.last_lsn, place.first_lsn)
        if found.level is Level.ASKED or batch.folded:
            return None
        stop = Lsn(found.lsn + 1)
        points = {point.lsn for point in self._snapshot.points(place.first_lsn, stop)}
        ops = fold(batch.ops, found.lsn, len(points - {found.lsn}))
        if ops is None:
            return None
        content = encode_batch(ops, previous).header.content_digest
        note = FoldNote(place.first_lsn, place.last_lsn, found.lsn, len(points - {found.lsn}))
        return ShippedBatch(ops, batch.digest, content), note
