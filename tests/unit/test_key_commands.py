"""`cdpfs key`: what is made and demanded, and that secrets stay out of messages."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from console import keys
from console.errors import WrongUse
from store.errors import BadKeyFile
from store.key_file import read_key_file


def test_a_key_is_made_with_a_backup_that_is_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, backup = str(tmp_path / "k"), str(tmp_path / "b")
    keys.create(key, backup)
    keys.check(key, backup)
    said = capsys.readouterr()
    assert "has all of them" in said.out and "never read again what it sealed" in said.err
    shown = said.out + said.err
    assert not any(line.split("  ")[1] in shown for line in _lines(backup))


def _lines(backup: str) -> list[str]:
    return [line for line in Path(backup).read_text().splitlines() if line and line[0] != "#"]


def test_a_printed_backup_typed_in_elsewhere_makes_the_same_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, again = str(tmp_path / "k"), str(tmp_path / "again")
    keys.create(key, None)
    keys.rotate(key, None)
    capsys.readouterr()
    keys.show_backup(key, None, "branch 1")
    monkeypatch.setattr("sys.stdin", io.StringIO(capsys.readouterr().out.lower()))
    keys.import_backup("-", again)
    assert read_key_file(Path(again)) == read_key_file(Path(key))
    assert "2 keys" in capsys.readouterr().out


def test_a_backup_from_before_a_rotation_is_told(tmp_path: Path) -> None:
    key, old, new = (str(tmp_path / name) for name in ("k", "old", "new"))
    keys.create(key, old)
    keys.rotate(key, new)
    keys.check(key, new)
    with pytest.raises(BadKeyFile, match="before its newest key"):
        keys.check(key, old)


def test_a_key_without_a_backup_is_not_used_unless_its_loss_is_accepted(tmp_path: Path) -> None:
    key, backup = str(tmp_path / "k"), str(tmp_path / "b")
    keys.create(key, backup)
    with pytest.raises(WrongUse, match="can never read again what it sealed") as caught:
        keys.checked_for_sealing(key, None, False)
    assert "--key-backup" in caught.value.hints[0] and "--accept-key-loss" in caught.value.hints[1]
    assert keys.checked_for_sealing(key, None, True) == key
    assert keys.checked_for_sealing(key, backup, False) == key
    keys.create(str(tmp_path / "other"), None)
    with pytest.raises(BadKeyFile, match="not the backup of this key file"):
        keys.checked_for_sealing(str(tmp_path / "other"), backup, False)
