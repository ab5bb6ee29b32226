"""What `cdpfs replicate import` refuses before it takes anything in."""

from __future__ import annotations

from pathlib import Path

import pytest

from console.parcels import import_parcel
from replicator.errors import Refused
from replicator.vault.root import VaultRoot
from replicator.vault.sites import Sites


def test_a_volume_is_taken_in_only_for_a_site_that_the_vault_knows(tmp_path: Path) -> None:
    VaultRoot.create(tmp_path / "vault")
    Sites(tmp_path / "vault" / "sites").add("branch", "site")
    (tmp_path / "parcel").write_bytes(b"not even looked at")
    with pytest.raises(Refused, match="no site is called brunch") as caught:
        import_parcel(str(tmp_path / "parcel"), str(tmp_path / "vault"), "brunch", "main", None)
    assert "branch" in caught.value.hint
