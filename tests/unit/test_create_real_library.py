"""`cdpfs tape create-library --changer`: what is refused before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from console.errors import WrongUse
from console.tape_attaching import describe_library
from tape.errors import BadSettings
from tests.commandline import run_cdpfs


@pytest.mark.parametrize(("changer", "drives"), [(None, ["/dev/nst0"]), ("/dev/sg0", [])])
def test_a_changer_and_drives_are_both_needed(
    tmp_path: Path, changer: str | None, drives: list[str]
) -> None:
    with pytest.raises(WrongUse, match="a changer and drives"):
        describe_library(str(tmp_path / "home"), changer, drives, None, "256K", False)


def test_a_drive_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(BadSettings, match="not a SCSI tape drive"):
        describe_library(str(home), "/dev/sg0", ["/dev/null"], None, "256K", False)
    assert not home.exists()


def test_the_command_says_what_to_do_next(tmp_path: Path) -> None:
    words = ("tape", "create-library", str(tmp_path / "home"), "--changer", "/dev/sg0")
    with pytest.raises(AssertionError, match="lsscsi -g"):
        run_cdpfs(*words, "--drive", "/dev/null")
