"""What a vault answers when it does not do what it was asked. Pure.

Duty: from exceptions to statuses and `wire.Refusal`, in one place. `docs/replication.md` has the
table; a test compares the two.
"""

from __future__ import annotations

from typing import Final

from replicator import errors
from replicator.wire import Position, Refusal
from store.errors import StoreBusy, StoreError, StoreFull, TemporaryStoreError

STATUSES: Final[dict[type[Exception], int]] = {
    errors.BadRequest: 400,
    errors.BadToken: 401,
    errors.Refused: 403,
    errors.Sealed: 403,
    errors.NotHere: 404,
    errors.UnknownVolume: 404,
    errors.TooSlow: 408,
    errors.Gap: 409,
    errors.Forked: 409,
    errors.TooLarge: 413,
    errors.BadShipment: 422,
    errors.TooManyRequests: 429,
    errors.VaultBusy: 503,
    errors.QuotaUsedUp: 507,
    errors.ReplicationError: 400,
    StoreBusy: 503,
    StoreFull: 507,
    TemporaryStoreError: 503,
    StoreError: 500,
}
"""Of a class, or of its nearest base that stands here; any other exception is 500."""

EXPECTED: Final = frozenset({404, 409, 503})
"""Answers that belong to the protocol, or to a vault that starts or stops: no cause for alarm."""


def status_of(error: Exception) -> int:
    """The status for an exception."""
    return next((STATUSES[base] for base in type(error).__mro__ if base in STATUSES), 500)


def refusal_of(error: Exception, position: Position | None = None) -> Refusal:
    """What is said about an exception.

    Of what goes wrong at the vault itself its client learns that it may try again later, and
    nothing about the vault's disk: that is in the vault's log.
    """
    if isinstance(error, errors.ReplicationError):
        return Refusal(
            kind=type(error).__name__, message=str(error), hint=error.hint, position=position
        )
    if isinstance(error, StoreFull):
        message = "the vault's disk is full"
    elif isinstance(error, TemporaryStoreError):
        message = "the vault can't write at the moment"
    else:
        message = "something is wrong at the vault; its log says what"
    return Refusal(kind="VaultBusy", message=message, hint=errors.VaultBusy.hint)
