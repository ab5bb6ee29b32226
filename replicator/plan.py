"""From what the vault holds and what the journal holds to the next step. Pure.

Duty: decide, never do. The vault's end of its line must be the end of one of our batches, with the
same digest: then its history is a beginning of ours (the digests are a chain), and what follows
is to be sent. Anything else has a name of its own.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

from replicator.wire import Position


class BatchEnd(NamedTuple):
    """A committed batch, as far as a plan needs to know it."""

    first_lsn: int
    last_lsn: int
    digest: bytes
    """As the vault states it, if it holds the batch."""


class BatchTable(Protocol):
    """The committed batches of the journal."""

    @property
    def first_lsn(self) -> int:
        """LSN of the oldest op that is still kept; 0 when there is none."""

    @property
    def indexed_lsn(self) -> int:
        """LSN of the newest op; 0 when there is none."""

    def batch_of(self, lsn: int) -> BatchEnd | None:
        """The batch that holds an op; None when none does."""


class SendTable(BatchTable, Protocol):
    """The same, of a journal that is sent."""

    @property
    def sendable_lsn(self) -> int:
        """`first_lsn`; of a copy of a volume the LSN behind the batch with which it begins, since
        only a part of that is here."""


class Kept(NamedTuple):
    """A shipment that an earlier connection, or an earlier process, began to send."""

    shipment: str
    first_lsn: int
    last_lsn: int
    total_bytes: int


class UpToDate(NamedTuple):
    """The vault holds everything that the journal does."""

    lsn: int


class Send(NamedTuple):
    """Send the batches from `first_lsn` on."""

    first_lsn: int


class Resume(NamedTuple):
    """Go on with the kept shipment at byte `start`."""

    shipment: str
    start: int


class Fork(NamedTuple):
    """The vault's history is another one, at `held_lsn` at the latest. `ahead`: it is longer."""

    held_lsn: int
    ahead: bool


class Lost(NamedTuple):
    """The vault expects ops that the journal does not keep."""

    next_lsn: int
    first_lsn: int


Step: TypeAlias = UpToDate | Send | Resume | Fork | Lost


def plan(position: Position, table: SendTable, kept: Kept | None) -> Step:
    """The next step to make the vault hold what the journal holds."""
    held = max(position.next_lsn - 1, 0)
    digest = bytes.fromhex(position.digest)
    if held > table.indexed_lsn:
        return Fork(held, ahead=True)
    if held + 1 < table.sendable_lsn:
        return Lost(held + 1, table.sendable_lsn)
    if held and held >= table.first_lsn:
        last = table.batch_of(held)
        if last is None or last.last_lsn != held or last.digest != digest:
            return Fork(held, ahead=False)
    if held == table.indexed_lsn:
        return UpToDate(held)
    if kept is not None and kept.first_lsn == held + 1 and kept.last_lsn <= table.indexed_lsn:
        return Resume(kept.shipment, _received(position, kept))
    return Send(held + 1)


def _received(position: Position, kept: Kept) -> int:
    """How many bytes of the kept shipment the vault has; 0 when what it has is of another one."""
    partial = position.partial
    same = (
        partial is not None
        and partial.shipment == kept.shipment
        and partial.total_bytes == kept.total_bytes
        and partial.received_bytes <= kept.total_bytes
    )
    return partial.received_bytes if same and partial is not None else 0
