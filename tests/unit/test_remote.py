"""Answers of a vault that were lost or lengthened on the way are asked for again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replicator.errors import LinkDown
from replicator.remote import PATIENCE, RemoteVault
from replicator.settings import LinkSettings
from replicator.vault.root import VaultRoot
from tests.unit.vault_server import VaultServer
from tests.vault_service import Line

SHORT = PATIENCE._replace(again_s=0.1, silence_s=1.0)
"""As the real one in that a silence outlasts the time in which a request is tried again."""


@contextmanager
def vault_behind(spoil: Callable[[bytes], bytes], base: Path) -> Iterator[RemoteVault]:
    """A vault behind a line on which `spoil` changes what it says."""
    root = VaultRoot.create(base / "vault")
    root.close()
    with VaultServer(root.path) as server:
        token = base / "token"
        token.write_text(server.sites.add("headquarters", "reader"))
        token.chmod(0o600)
        line = Line(server.address[1], spoil)
        settings = LinkSettings(url=f"http://127.0.0.1:{line.port}", token_file=str(token))
        try:
            with RemoteVault(settings, patience=SHORT) as vault:
                yield vault
        finally:
            line.close()


def lengthened(data: bytes) -> bytes:
    """An answer whose head tells of more than there is."""
    return re.sub(rb"(?i)(content-length: *)", rb"\g<1>9", data)


def test_an_answer_that_never_comes_to_its_end_is_asked_for_again(tmp_path: Path) -> None:
    left = 1

    def spoil(data: bytes) -> bytes:
        nonlocal left
        longer = lengthened(data) if left else data
        left -= longer != data
        return longer

    with vault_behind(spoil, tmp_path) as vault:
        assert vault.message("/v1/volumes", {}, list) == []
    assert left == 0


def test_a_vault_that_never_ends_its_answers_is_given_up(tmp_path: Path) -> None:
    count = 0

    def spoil(data: bytes) -> bytes:
        nonlocal count
        longer = lengthened(data)
        count += longer != data
        return longer

    with vault_behind(spoil, tmp_path) as vault, pytest.raises(LinkDown):
        vault.message("/v1/volumes", {}, list)
    assert count == PATIENCE.tries
