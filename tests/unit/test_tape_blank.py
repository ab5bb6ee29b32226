"""Which cartridges count as blank, so that they may be written without asking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tape.errors import NoLabel
from tape.library import Library, create_virtual, open_library
from tape.robot import Hands, Robot


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    create_virtual(tmp_path / "library", capacity_bytes=8 << 20, slots=3, cartridges=1)
    with open_library(tmp_path / "library", "the test") as opened:
        yield opened


@pytest.mark.parametrize(
    ("files", "blank"),
    [
        ([], True),
        ([b""], True),
        ([b"", b""], False),
        ([b"", b"something behind an empty file"], False),
        ([b"something"], False),
    ],
)
def test_only_what_has_nothing_behind_it_is_blank(
    library: Library, files: list[bytes], blank: bool
) -> None:
    robot = Robot(
        Hands(library.changer, library.drives, lambda event: None, lambda: 0, lambda pause: None)
    )
    drive = robot.take(1)
    for content in files:
        if content:
            drive.write_block(content.ljust(512))
        drive.write_filemark()
    with pytest.raises(NoLabel) as caught:
        robot.label_of(drive)
    assert caught.value.blank == blank
