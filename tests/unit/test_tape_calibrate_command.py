"""`cdpfs tape calibrate`, over a virtual library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from console.errors import WrongUse
from console.tape_calibrate import calibrate
from tape.errors import BadCartridge, NoSuchCartridge
from tape.library import create_virtual, open_library
from tests.commandline import run_cdpfs


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "library"
    create_virtual(home, capacity_bytes=8 << 20, slots=4, cartridges=2)
    return home


def test_rates_and_a_block_size_are_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibrate(home, "A00002L8", 1, "1M", as_json=False)
    said = capsys.readouterr()
    assert "256 KiB" in said.out
    assert "the library uses 256 KiB" in said.out
    assert "read at" in said.err
    calibrate(home, "A00002L8", 1, "1M", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert len(found["rates"]) == 5
    assert found["used_block_bytes"] == 256 << 10


def test_the_cartridge_is_back_where_it_was_also_when_it_is_not_blank(home: Path) -> None:
    with open_library(home, "the test") as library:
        before = library.changer.inventory()
        library.changer.load(1, 0)
        drive = library.drives[0]
        drive.open()
        drive.write_block(b"precious" * 64)
        drive.write_filemark()
        drive.close()
        library.changer.unload(0, 1)
    with pytest.raises(BadCartridge, match="not blank"):
        calibrate(home, "A00001L8", 0, "1M", as_json=False)
    with open_library(home, "the test") as library:
        assert library.changer.inventory() == before


def test_the_command_takes_its_options(home: Path) -> None:
    options = ("--library", str(home), "--drive", "1", "--size", "1M", "--json")
    done = run_cdpfs("tape", "calibrate", "A00001L8", *options)
    assert json.loads(done.stdout)["drive"] == "virtual drive 1"


def test_what_is_not_there_is_refused(home: Path) -> None:
    with pytest.raises(NoSuchCartridge):
        calibrate(home, "B00001L8", 0, "1M", as_json=False)
    with pytest.raises(WrongUse, match="no drive 2"):
        calibrate(home, "A00001L8", 2, "1M", as_json=False)
