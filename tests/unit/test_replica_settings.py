"""`replica.toml`: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicator.errors import BadSettings
from replicator.settings import (
    LinkSettings,
    OverrideSettings,
    PolicySettings,
    ReplicaSettings,
    ThrottleSettings,
    load_settings,
    read_token,
    save_settings,
    settings_path,
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    settings = ReplicaSettings(
        link=LinkSettings(url="https://vault:8443", token_file="/etc/t", ca="/etc/ca.pem"),
        throttle=[ThrottleSettings(days="mon-fri", hours="08:00-18:00", rate="56k")],
        override=OverrideSettings(rate="pause", until_ns=12),
        policy=PolicySettings(alarm_lag_s=5.0),
    )
    save_settings(tmp_path, settings)
    assert load_settings(tmp_path) == settings
    assert settings_path(tmp_path).stat().st_mode & 0o077 == 0


def test_a_store_without_the_file_is_not_replicated(tmp_path: Path) -> None:
    assert load_settings(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("not toml", "replica.toml"),
        ("[link]\nurl = 'https://v'\nsecret = 'x'", "secret"),
        ("[link]\nurl = 'ftp://v'", "ftp://v"),
        ("[link]\nurl = 'https://user:pw@v'", "password"),
        ("[link]\nurl = 'https://v:99999'", "99999"),
        ("[link]\nurl = 'https://v'\ntoken_file = 'relative'", "token_file"),
        ("[link]\nurl = 'https://v'\nline = '../up'", "line"),
        ("[link]\nurl = 'https://v'\n[override]\nrate = '-1'", "rate"),
        ("enabled = true", "link"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    settings_path(tmp_path).write_text(text)
    with pytest.raises(BadSettings) as caught:
        load_settings(tmp_path)
    assert named in str(caught.value)
    assert "pw" not in str(caught.value)


def test_invalid_settings_are_not_written(tmp_path: Path) -> None:
    settings = ReplicaSettings(link=LinkSettings(url="https://v", token_file="relative"))
    with pytest.raises(BadSettings):
        save_settings(tmp_path, settings)
    assert not settings_path(tmp_path).exists()


def test_a_token_file_for_everybody_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("cdpfs_x_secret\n")
    os.chmod(path, 0o644)
    with pytest.raises(BadSettings, match="others can read"):
        read_token(str(path))
    os.chmod(path, 0o600)
    assert read_token(str(path)) == "cdpfs_x_secret"


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\x00", b"x" * 5000])
def test_what_is_no_token_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    os.chmod(path, 0o600)
    with pytest.raises(BadSettings) as caught:
        read_token(str(path))
    assert "two words" not in str(caught.value)
