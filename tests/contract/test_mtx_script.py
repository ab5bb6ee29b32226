"""The shipped mtx-changer script, and what drives it, pass the suite of changers."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tape.library import Library, create_virtual, open_library
from tape.mtx_changer import MtxChanger
from tests.contract.changer import ChangerBench, ChangerSuite
from tests.contract.fake_mtx import serving
from tests.volume import SOURCE

SCRIPT = SOURCE / "packaging" / "tape" / "mtx-changer"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """A virtual library that the script takes for what its mtx moves."""
    home = tmp_path / "library"
    create_virtual(home, capacity_bytes=8 << 20, slots=4, doors=2, cartridges=2)
    with (
        tempfile.TemporaryDirectory() as short,
        open_library(home, "the suite") as opened,
        serving(opened.changer, Path(short)) as program,
    ):
        monkeypatch.setenv("MTX", str(program))
        yield opened


class TestShippedScript(ChangerSuite):
    @pytest.fixture
    def bench(self, library: Library) -> ChangerBench:
        changer = MtxChanger(str(SCRIPT), "/dev/changer", ["none", "none"])
        return ChangerBench(changer, library.drives)


def script(*words: str) -> str:
    """What it prints."""
    arguments = [str(SCRIPT), "/dev/changer", *words]
    found = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return found.stdout


@pytest.mark.usefixtures("library")
class TestScript:
    """The script by itself."""

    def test_the_whole_contract_is_there(self) -> None:
        assert script("slots") == "6\n"
        assert script("list") == "1:A00001L8\n2:A00002L8\n4:CLN001L1\n"
        script("load", "2", "none", "1")
        assert script("loaded", "0", "none", "1") == "2\n"
        assert script("loaded", "0", "none", "0") == "0\n"
        assert script("listall").splitlines() == [
            "D:0:E",
            "D:1:F:2:A00002L8",
            "S:1:F:A00001L8",
            "S:2:E",
            "S:3:E",
            "S:4:F:CLN001L1",
            "I:5:E",
            "I:6:E",
        ]
        assert "2:A00002L8" in script("list")
        script("inventory")

    def test_commands_may_be_given_again(self) -> None:
        for _ in range(2):
            script("load", "1", "none", "0")
        for _ in range(2):
            script("unload", "1", "none", "0")
        for _ in range(2):
            script("transfer", "1", "5")
        assert "I:5:F:A00001L8" in script("listall")

    @pytest.mark.parametrize(
        "words",
        [
            ("load", "3", "none", "0"),
            ("load", "1", "none", "7"),
            ("load", "1;true", "none", "0"),
            ("unload", "3", "none", "0"),
            ("transfer", "1", "2"),
            ("transfer", "3", "5"),
            ("loaded", "0", "none", "9"),
            ("dance",),
        ],
    )
    def test_what_can_not_be_done_is_said(self, words: tuple[str, ...]) -> None:
        found = subprocess.run(
            [str(SCRIPT), "/dev/changer", *words], capture_output=True, text=True, check=False
        )
        assert found.returncode != 0
        assert found.stdout + found.stderr
