"""The table of refusals in docs/replication.md says what a vault answers."""

from __future__ import annotations

import re
from pathlib import Path

from replicator import errors
from replicator.vault.refusals import STATUSES, refusal_of, status_of
from store.errors import DamagedError, StoreBusy, StoreError, StoreFull

PAGE = Path(__file__).resolve().parents[2] / "docs" / "replication.md"
_ROW = re.compile(r"\| ([0-9]{3}) \| ([A-Za-z]+) \| .+ \|")

BELOW = {(426, "Refused")}
"""Said by the listener, before there is a request."""


def table() -> set[tuple[int, str]]:
    return {(int(status), kind) for status, kind in _ROW.findall(PAGE.read_text("utf-8"))}


def test_every_refusal_is_on_the_page_with_its_status() -> None:
    told = {
        (status, kind.__name__)
        for kind, status in STATUSES.items()
        if issubclass(kind, errors.ReplicationError) and kind is not errors.ReplicationError
    }
    assert told <= table()
    for error in (StoreFull("x"), StoreBusy("x"), StoreError("x"), RuntimeError("x")):
        assert (status_of(error), refusal_of(error).kind) in table()


def test_the_page_has_no_refusal_that_there_is_not() -> None:
    kinds = {kind.__name__: status for kind, status in STATUSES.items()}
    for status, kind in table() - BELOW:
        assert kinds.get(kind) == status or (kind == "VaultBusy" and status in (500, 507))


def test_what_is_wrong_with_the_vaults_disk_is_not_told() -> None:
    said = refusal_of(DamagedError("/srv/vault/volumes/ab/main/segments/x", 7, "damage"))
    assert "/srv" not in said.message + said.hint
