"""What a vault answers when it refuses: the statuses, and that the documentation has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replicator import errors
from replicator.vault.refusals import STATUSES, refusal_of, status_of
from store.errors import DamagedError, StoreBusy, StoreFault, StoreFull

PAGE = Path(__file__).resolve().parents[2] / "docs" / "replication.md"


def documented() -> set[tuple[int, str]]:
    page = PAGE.read_text()
    section = page[page.index("### What is refused") :]
    rows = re.findall(r"^\| (\d{3}) \| (\w+) \|", section, re.MULTILINE)
    return {(int(status), kind) for status, kind in rows}


def test_the_page_has_every_status() -> None:
    ours = {
        (status, kind.__name__ if issubclass(kind, errors.ReplicationError) else "VaultBusy")
        for kind, status in STATUSES.items()
        if kind is not errors.ReplicationError
    }
    # What else is documented is told by the listener, which is before the application, or is
    # refused with the status of its base class.
    beside = {(426, "Refused"), (403, "Sealed")}
    assert ours - documented() == set()
    assert documented() - ours <= beside


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (StoreFull("no space at /srv/secret"), 507, "VaultBusy"),
        (StoreFault("EIO at /srv/secret", 5), 503, "VaultBusy"),
        (StoreBusy("/srv/secret"), 503, "VaultBusy"),
        (DamagedError("/srv/secret", 0, "damage"), 500, "VaultBusy"),
        (RuntimeError("/srv/secret"), 500, "VaultBusy"),
    ],
)
def test_of_its_own_trouble_a_vault_tells_nothing_but_that(
    error: Exception, status: int, kind: str
) -> None:
    refusal = refusal_of(error)
    assert (status_of(error), refusal.kind) == (status, kind)
    assert "secret" not in refusal.message + refusal.hint


def test_every_error_of_replication_is_refused_with_less_than_500_or_as_busy() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.ReplicationError):
            status = status_of(kind("x"))
            assert 400 <= status < 500 or issubclass(kind, errors.VaultBusy | errors.QuotaUsedUp)
