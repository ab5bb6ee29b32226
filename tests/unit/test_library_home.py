"""The library home: its description, who may make it where, and who holds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tape.errors import BadSettings, LibraryBusy, LibraryExists, NoSuchLibrary
from tape.library import (
    SHIPPED_SCRIPT,
    create_real,
    create_virtual,
    load_settings,
    open_library,
)

SIZE = 1 << 20
VIRTUAL_PART = """
[virtual]
slots = 1
doors = 1
drives = 1
capacity_bytes = 1000000
early_warning_bytes = 0
"""


def test_what_was_made_is_read_back(tmp_path: Path) -> None:
    made = create_virtual(tmp_path / "a" / "b", capacity_bytes=5 << 30)
    assert load_settings(tmp_path / "a" / "b") == made
    assert made.virtual is not None and made.virtual.slots == 20 and made.virtual.drives == 2
    with open_library(tmp_path / "a" / "b", "a test") as library:
        slots = library.changer.inventory().slots
        assert [slots[at].barcode for at in (0, 18, 19)] == ["A00001L8", "A00019L8", "CLN001L1"]
        assert library.capacity_bytes == 5 << 30
        assert [drive.number for drive in library.drives] == [0, 1]


def test_two_libraries_have_names_of_their_own(tmp_path: Path) -> None:
    made = {create_virtual(tmp_path / name, capacity_bytes=SIZE).uuid for name in "ab"}
    assert len(made) == 2


def test_a_library_is_for_the_owner_only(tmp_path: Path) -> None:
    create_virtual(tmp_path / "l", capacity_bytes=SIZE, slots=2)
    for path in [tmp_path / "l", *(tmp_path / "l").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_library_is_not_made_where_something_is(tmp_path: Path) -> None:
    create_virtual(tmp_path / "l", capacity_bytes=SIZE)
    with pytest.raises(LibraryExists, match="already"):
        create_virtual(tmp_path / "l", capacity_bytes=SIZE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(LibraryExists, match=r"letter\.txt"):
        create_virtual(tmp_path / "other", capacity_bytes=SIZE)


def test_a_creation_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    create_virtual(tmp_path / "l", capacity_bytes=SIZE)
    (tmp_path / "l" / "library.toml").unlink()
    create_virtual(tmp_path / "l", capacity_bytes=SIZE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"drives": 0},
        {"doors": -1},
        {"capacity_bytes": 10},
        {"block_bytes": 1000},
        {"block_bytes": 4 << 20},
        {"cartridges": 20, "cleaning_cartridges": 1},
        {"barcode_prefix": "a/b"},
        {"early_warning_bytes": SIZE},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_library_that_makes_no_sense_is_not_made(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    values: dict[str, Any] = {"capacity_bytes": SIZE, **wrong}
    with pytest.raises(BadSettings):
        create_virtual(tmp_path / "l", **values)
    assert not (tmp_path / "l" / "library.toml").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kind = 'paper'",
        "kind = 'virtual'",
        "kind = 'virtual'" + VIRTUAL_PART,
        "not toml",
        "\udcff",
        "kind = 'virtual'\nuuid = '" + "0" * 32 + "'\nsize = 1",
        "kind = 'virtual'\nuuid = '" + "0" * 32 + "'",
        "kind = 'real'\nuuid = '" + "0" * 32 + "'\n" + VIRTUAL_PART,
        "#" * (2 << 20),
    ],
    ids=[
        "empty",
        "unknown kind",
        "no part",
        "no uuid",
        "no toml",
        "no utf-8",
        "unknown word",
        "part missing",
        "other part",
        "too long",
    ],
)
def test_a_description_that_makes_no_sense_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "library.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadSettings, match=r"library\.toml"):
        load_settings(tmp_path)


def test_a_place_without_a_library_is_told(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(NoSuchLibrary):
            load_settings(place)


def test_a_library_is_for_one_at_a_time_and_says_who(tmp_path: Path) -> None:
    create_virtual(tmp_path, capacity_bytes=SIZE)
    with open_library(tmp_path, "spool"):
        busy = rf"process {os.getpid()} \(spool\)"
        with pytest.raises(LibraryBusy, match=busy), open_library(tmp_path, "scan"):
            pass
        assert load_settings(tmp_path).kind == "virtual"
    with open_library(tmp_path, "scan"):
        pass


def test_a_killed_holder_leaves_the_library_free(tmp_path: Path) -> None:
    create_virtual(tmp_path, capacity_bytes=SIZE)
    script = (
        "import sys, signal, os, pathlib\n"
        "from tape.library import open_library\n"
        "with open_library(pathlib.Path(sys.argv[1]), 'doomed'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert done.returncode == -9
    with open_library(tmp_path, "next"):
        pass


# --- real ones --------------------------------------------------------------------------------

REAL_PART = """
kind = "real"
uuid = "00000000000000000000000000000000"
[real]
changer = "/dev/sg0"
changer_script = "SCRIPT"
drives = ["/dev/nst0", "/dev/nst1"]
"""


def real(home: Path, **changes: Any) -> None:
    values: dict[str, Any] = {"changer": "/dev/sg0", "drives": ["/dev/nst0"], **changes}
    create_real(home, **values)


def test_a_real_library_needs_a_program_that_can_be_run(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="no program"):
        real(tmp_path / "l", changer_script=str(tmp_path / "nothing"))
    assert os.access(SHIPPED_SCRIPT, os.X_OK)


def test_a_real_library_needs_drives_that_do_not_rewind(tmp_path: Path) -> None:
    for node in ("/dev/null", str(tmp_path / "nothing"), "nst0"):
        with pytest.raises(BadSettings) as caught:
            real(tmp_path / "l", drives=[node])
        assert caught.value.hint
    with pytest.raises(BadSettings):
        real(tmp_path / "l", drives=[])
    assert not (tmp_path / "l").exists()


def test_a_real_library_is_opened_with_its_nodes_and_its_program(tmp_path: Path) -> None:
    script = tmp_path / "changer"
    script.write_text("#!/bin/sh\necho D:0:E; echo D:1:E; echo S:1:F:A00001L8; echo I:2:E\n")
    script.chmod(0o700)
    home = tmp_path / "l"
    home.mkdir()
    (home / "library.toml").write_text(REAL_PART.replace("SCRIPT", str(script)))
    with open_library(home, "a test") as library:
        assert [drive.name for drive in library.drives] == ["/dev/nst0", "/dev/nst1"]
        assert [slot.barcode for slot in library.changer.inventory().slots] == ["A00001L8"]
        assert library.capacity_bytes == 0
        assert library.virtual is None
    with pytest.raises(LibraryExists):
        real(home)
