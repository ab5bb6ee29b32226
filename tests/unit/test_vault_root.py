"""A vault's folder: what is in it, who may open it, and that names can't lead out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.errors import BadRequest, NoVault, Refused, UnknownVolume, VaultExists
from replicator.vault.root import MAX_LINES, VaultRoot
from replicator.wire import Description
from store.errors import StoreError, UnsupportedFormat
from store.types import Lsn
from tests.unit.shipping import BRANCH

UUID = "0123456789abcdef" * 2


@pytest.fixture
def root(tmp_path: Path) -> VaultRoot:
    return VaultRoot.create(tmp_path / "vault")


def test_a_new_vault_is_for_its_owner_only_and_keeps_its_id(root: VaultRoot) -> None:
    assert root.path.stat().st_mode & 0o777 == 0o700
    assert VaultRoot.open(root.path).id == root.id
    assert root.volumes() == []


def test_a_vault_is_not_made_where_something_is(root: VaultRoot, tmp_path: Path) -> None:
    with pytest.raises(VaultExists):
        VaultRoot.create(root.path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(VaultExists):
        VaultRoot.create(tmp_path / "other")


def test_a_vault_half_made_can_be_made_again(root: VaultRoot) -> None:
    (root.path / "vault.toml").unlink()
    VaultRoot.create(root.path)


def test_no_vault_and_a_newer_one_are_told_apart(root: VaultRoot, tmp_path: Path) -> None:
    with pytest.raises(NoVault):
        VaultRoot.open(tmp_path)
    path = root.path / "vault.toml"
    path.write_text(path.read_text().replace("format_version = 1", "format_version = 2"))
    with pytest.raises(UnsupportedFormat, match="vault format 2 is newer"):
        VaultRoot.open(root.path)
    path.write_text("id = 1")
    with pytest.raises(StoreError, match=r"vault\.toml"):
        VaultRoot.open(root.path)


def test_one_process_serves_and_others_may_look(root: VaultRoot) -> None:
    root.create_volume("branch", UUID, BRANCH)
    root.lock()
    look = (
        "import sys; from pathlib import Path; from replicator.vault.root import VaultRoot\n"
        "root = VaultRoot.open(Path(sys.argv[1])); print(*root.volumes())\n"
        "root.lock()"
    )
    found = subprocess.run(
        [sys.executable, "-c", look, root.path], capture_output=True, text=True, check=False
    )
    assert found.stdout.split() == [UUID]
    assert "StoreBusy" in found.stderr
    root.close()
    VaultRoot.open(root.path).lock()


def test_a_vault_that_others_can_read_is_not_served(root: VaultRoot) -> None:
    os.chmod(root.path, 0o750)
    with pytest.raises(Refused) as refused:
        root.lock()
    assert refused.value.hint.startswith("chmod 700")


def test_a_volume_is_a_store_at_its_place(root: VaultRoot) -> None:
    assert root.create_volume("branch", UUID, BRANCH) == root.volume(UUID)
    assert root.create_volume("branch", UUID, BRANCH).site == "branch"
    assert root.volumes() == [UUID]
    assert root.lines(UUID) == ["main"]
    store = root.store(UUID)
    assert store.root == root.path / "volumes" / UUID / "main"
    assert store.uuid == bytes.fromhex(UUID)


def test_a_volume_takes_a_new_description_but_not_another_owner(root: VaultRoot) -> None:
    root.create_volume("branch", UUID, BRANCH)
    moved = Description(name="moved", directory="/srv/b", created_ns=1, point_limit_s=5)
    root.create_volume("branch", UUID, moved)
    assert root.volume(UUID).description == moved
    assert root.store(UUID).config.name == "moved"
    assert root.store(UUID).config.point_limit_s == 5
    with pytest.raises(Refused, match="another site"):
        root.create_volume("other", UUID, BRANCH)
    with pytest.raises(Refused, match="sealed"):
        sealed = Description(name="b", directory="/b", created_ns=1, sealed=True)
        root.create_volume("branch", UUID, sealed)
    assert root.volume(UUID).description == moved


def test_a_volume_half_made_is_not_there_and_can_be_made(root: VaultRoot) -> None:
    (root.volumes_dir / UUID).mkdir()
    assert root.volumes() == []
    with pytest.raises(UnknownVolume):
        root.lines(UUID)
    root.create_volume("branch", UUID, BRANCH)
    (root.store(UUID).root / "volume.toml").unlink()
    with pytest.raises(UnknownVolume):
        root.store(UUID)
    root.create_volume("branch", UUID, BRANCH)
    assert root.lines(UUID) == ["main"]


@pytest.mark.parametrize("directory", ["", "relative", "../up"])
def test_an_impossible_description_leaves_nothing(root: VaultRoot, directory: str) -> None:
    with pytest.raises(BadRequest):
        root.create_volume("b", UUID, Description(name="b", directory=directory, created_ns=1))
    assert list(root.volumes_dir.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "A" * 32, UUID + "\n", UUID + "\0", "é" * 32]
)
def test_names_that_are_no_uuids_never_become_paths(root: VaultRoot, name: str) -> None:
    for call in (
        lambda: root.create_volume("branch", name, BRANCH),
        lambda: root.volume(name),
        lambda: root.lines(name),
        lambda: root.store(name),
        lambda: root.journal(name),
    ):
        with pytest.raises(BadRequest):
            call()
    assert list(root.volumes_dir.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../main", "a/b", "-x", "Main", "main\n", "x" * 64]
)
def test_names_that_are_no_lines_never_become_paths(root: VaultRoot, name: str) -> None:
    root.create_volume("branch", UUID, BRANCH)
    for call in (
        lambda: root.create_line(UUID, name),
        lambda: root.store(UUID, name),
        lambda: root.create_volume(name, "f" * 32, BRANCH),
    ):
        with pytest.raises(BadRequest):
            call()
    assert root.lines(UUID) == ["main"]
    assert root.volumes() == [UUID]


def test_lines_are_stores_of_their_own_and_not_without_number(root: VaultRoot) -> None:
    root.create_volume("branch", UUID, BRANCH)
    for number in range(MAX_LINES - 1):
        root.create_line(UUID, f"a{number}")
    assert len(root.lines(UUID)) == MAX_LINES
    assert root.lines(UUID)[0] == "main"
    with pytest.raises(BadRequest):
        root.create_line(UUID, "more")
    root.create_line(UUID, "a1")
    with pytest.raises(UnknownVolume):
        root.store(UUID, "more")


def test_a_journal_is_shared_and_can_be_written_beside(root: VaultRoot) -> None:
    from replicator.vault.ingest import LineWriter

    root.create_volume("branch", UUID, BRANCH)
    root.lock()
    journal = root.journal(UUID)
    assert root.journal(UUID) is journal
    LineWriter.open(root.store(UUID)).close()
    assert journal.indexed_lsn == Lsn(0)
    root.close()


def test_a_site_has_a_bounded_number_of_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.vault.root.MAX_SITE_VOLUMES", 3)
    root = VaultRoot.create(tmp_path / "vault")
    about = Description(name="b", directory="/b", created_ns=1)
    for number in range(3):
        root.create_volume("one", f"{number:032x}", about)
    with pytest.raises(Refused, match="as many as it may"):
        root.create_volume("one", f"{9:032x}", about)
    root.create_volume("one", f"{0:032x}", about)
    root.create_volume("other", f"{9:032x}", about)
