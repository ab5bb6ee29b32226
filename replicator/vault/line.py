"""One line of one volume at the vault, open for receiving.

Duty: bring together the journal's writer, the half-received shipment and the visible head; say
where the line stands. Blocking; one thread at a time. It knows nothing of HTTP.
"""

from __future__ import annotations

import logging
from typing import Protocol

from replicator.errors import BadShipment, Forked, Gap
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.vault.sealed import SealedLine
from replicator.vault.spool import Spool
from replicator.wire import Position
from store.errors import TemporaryStoreError
from store.journal import Journal
from store.types import Lsn
from store.volume import Store
from timetravel.head import HeadTracker
from timetravel.standing import BarrierSettings

log = logging.getLogger(__name__)


class Writer(Protocol):
    """What takes shipments in: `ingest.LineWriter`, or `sealed.SealedLine` of a sealed volume."""

    def position(self) -> tuple[Lsn, bytes]:
        """The LSN that comes next, and the digest before it."""

    def take(self, data: bytes) -> None:
        """Keep a shipment, durable when it returns."""

    def close(self) -> None:
        """Let others write."""


def open_writer(root: VaultRoot, uuid: str, name: str) -> Writer:
    """What writes a line, by whether its volume is sealed. StoreBusy, StoreFull, DamagedError."""
    store = root.store(uuid, name)
    if root.volume(uuid).description.sealed:
        return SealedLine.open(store)
    return LineWriter.open(store)


class Line:
    """A line that takes shipments. `close` gives its files back."""

    def __init__(
        self, name: str, store: Store, writer: Writer, spool: Spool, journal: Journal | None
    ) -> None:
        self.name = name
        self._writer = writer
        self._spool = spool
        self._journal = journal
        """None for a sealed volume, in which nothing can be seen."""
        settings = BarrierSettings(store.config.point_limit_s, store.config.quiet_s)
        self._head = HeadTracker(settings)

    @classmethod
    def open(cls, root: VaultRoot, uuid: str, name: str) -> Line:
        """Open a line of a vault that this process serves. What a crash left is finished."""
        store, sealed = root.store(uuid, name), root.volume(uuid).description.sealed
        writer = open_writer(root, uuid, name)
        try:
            spool = Spool.open(store.root / "incoming")
            journal = None if sealed else root.journal(uuid, name)
            line = cls(name, store, writer, spool, journal)
            line._finish_leftover()
        except BaseException:
            writer.close()
            raise
        return line

    def close(self) -> None:
        """Let go of the files. Closing twice is fine."""
        self._spool.close()
        self._writer.close()

    def position(self) -> Position:
        """Where the line stands, by what is on its disk."""
        next_lsn, digest = self._writer.position()
        return Position(
            line=self.name,
            next_lsn=next_lsn,
            digest=digest.hex(),
            visible_lsn=self._visible_lsn(),
            partial=self._spool.partial,
        )

    def _visible_lsn(self) -> Lsn:
        if self._journal is None:
            return Lsn(0)
        with self._journal.snapshot() as snapshot:
            return self._head.advance(snapshot).lsn

    def begin(self, shipment: str, total_bytes: int, start: int) -> None:
        """The bytes of a shipment from `start` on come next.

        Gap when something else is expected; BadRequest, TooLarge.
        """
        partial = self._spool.partial
        held = 0
        if partial is not None and (partial.shipment, partial.total_bytes) == (
            shipment,
            total_bytes,
        ):
            held = partial.received_bytes
        if start != held:
            raise Gap(f"of this shipment {held} bytes are here, not {start}")
        self._spool.begin(shipment, total_bytes)

    def append(self, data: bytes) -> bool:
        """What arrived next; is it time to `save`? Does not block. TooLarge."""
        return self._spool.append(data)

    def save(self) -> None:
        """Write down what has arrived. StoreFull, StoreFault."""
        self._spool.save()

    @property
    def complete(self) -> bool:
        """Are all bytes of a shipment here?"""
        return self._spool.complete

    def finish(self) -> Position:
        """Make the complete shipment part of the journal; durable when it returns.

        The errors of `LineWriter.take`. A shipment that can't be right is forgotten; one for which
        there is no room right now stays.
        """
        data = self._spool.finish()
        try:
            self._writer.take(data)
        except TemporaryStoreError:
            self._spool.keep_or_clear()
            raise
        except BaseException:
            self._spool.clear()
            raise
        self._spool.clear()
        return self.position()

    def pause(self) -> None:
        """The connection ended: what has arrived stays, durable."""
        self._spool.pause()

    def _finish_leftover(self) -> None:
        """A shipment that was complete when the vault was killed."""
        if not self._spool.complete:
            return
        try:
            self.finish()
        except (BadShipment, Gap, Forked) as error:
            log.info("a shipment that was complete when the vault stopped is dropped: %s", error)
        except TemporaryStoreError as error:
            log.warning("a complete shipment waits: %s", error)
