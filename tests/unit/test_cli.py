"""The command line as a process: what it says and the code it ends with, without any mount."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from console.exit_codes import ExitCode
from store.volume import Store, default_store_root, new_config

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    *("protect", "mount", "umount", "status", "points", "history", "diff", "cat", "deleted"),
    *("restore", "undo", "mark", "bisect", "verify", "reindex", "doctor", "demo"),
]
HEAVY = ("rich", "lmdb", "trio", "whenever", "store", "fsd", "timetravel")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CDPFS_HOME", str(tmp_path / "home"))
    return tmp_path


def cdpfs(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "console", *arguments],
        cwd=cwd,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], code: ExitCode) -> None:
    """It ended with `code`, a message, a next step, and nothing that only a programmer reads."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("cdpfs: ")
    assert "\n  next: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_lists_every_command() -> None:
    done = cdpfs("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


def test_help_loads_neither_tables_nor_the_store() -> None:
    program = f"import sys, console.cli; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("cat", "x"),
        ("diff", "x"),
        ("points", "--grade", "best"),
        ("protect", "x", "--ring-files", "1"),
        ("protect", "x", "--ring-file-bytes", "huge"),
    ],
)
def test_a_wrong_command_line_is_explained(arguments: tuple[str, ...]) -> None:
    assert_refused(cdpfs(*arguments), ExitCode.USAGE)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("points",),
        ("cat", "x", "--at", "@-1m"),
        ("umount",),
        ("mark", "m"),
        ("verify",),
    ],
)
def test_an_unprotected_directory_is_said_to_be_one(home: Path, arguments: tuple[str, ...]) -> None:
    assert_refused(cdpfs(*arguments, cwd=home), ExitCode.NO_VOLUME)


def test_the_status_of_a_volume_that_was_never_mounted(home: Path) -> None:
    tree = home / "tree"
    tree.mkdir()
    Store.create(default_store_root(str(tree)), new_config(str(tree), 1))
    done = cdpfs("status", str(tree), "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["state"] == "unmounted"
    assert status["directory"] == str(tree)
    assert status["lsn"] == 0
    assert status["alarms"] == []
    assert_refused(cdpfs("umount", str(tree)), ExitCode.UNREACHABLE)
    assert_refused(cdpfs("mark", "now", str(tree)), ExitCode.UNREACHABLE)


def test_a_store_of_a_newer_format_is_refused_by_name(home: Path) -> None:
    root = home / "store"
    store = Store.create(root, new_config(str(home / "tree"), 1))
    text = (store.root / "volume.toml").read_text()
    (store.root / "volume.toml").write_text(
        text.replace("format_version = 1", "format_version = 99")
    )
    done = cdpfs("status", "--store", str(root))
    assert_refused(done, ExitCode.FORMAT)
    assert "99" in done.stderr
