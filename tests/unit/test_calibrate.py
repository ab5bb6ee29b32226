"""A drive is measured on a blank cartridge, and on no other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tape.calibrate import Calibration, Rate, calibrate, check_blank, load
from tape.errors import BadCartridge, MediaError, NotReady
from tape.library import Library, create_virtual, open_library
from tape.st_drive import StDrive
from tests.simulated_st import SimulatedSt

MIB = 1 << 20


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    home = tmp_path / "library"
    create_virtual(home, capacity_bytes=8 * MIB, slots=4, cartridges=1)
    with open_library(home, "the tests") as opened:
        yield opened


def ticking() -> Iterator[float]:
    """A clock: a second later each time."""
    return (float(second) for second in count())


def measured(library: Library, bytes_each: int) -> Calibration:
    clock = ticking().__next__
    load_s = load(library.changer, library.drives[0], 1, clock)
    return calibrate(library.drives[0], load_s, bytes_each=bytes_each, clock=clock)


def test_every_block_size_is_measured(library: Library) -> None:
    found = measured(library, 2 * MIB)
    assert [rate.block_bytes >> 10 for rate in found.rates] == [64, 128, 256, 512, 1024]
    assert all(rate == (rate.block_bytes, 2 * MIB, 1, 1) for rate in found.rates)
    assert (found.load_s, found.filemark_s, found.find_s, found.back_s) == (1, 1, 1, 1)


def test_a_cartridge_too_small_for_the_measurement_is_enough(library: Library) -> None:
    found = measured(library, 100 * MIB)
    assert all(0 < rate.written_bytes <= 8 * MIB for rate in found.rates)


def test_afterwards_the_cartridge_is_as_good_as_blank(library: Library) -> None:
    drive = library.drives[0]
    measured(library, MIB)
    check_blank(drive)
    calibrate(drive, 0.0, bytes_each=MIB, clock=ticking().__next__)


@pytest.mark.parametrize("files", [[b"label"], [b"", b"behind an empty file"]])
def test_what_is_not_blank_is_left_alone(library: Library, files: list[bytes]) -> None:
    drive = library.drives[0]
    library.changer.load(1, 0)
    drive.open()
    for content in files:
        if content:
            drive.write_block(content * 512)
        drive.write_filemark()
    with pytest.raises(BadCartridge, match="not blank"):
        calibrate(drive, 0.0)
    drive.to_file(len(files) - 1)
    assert drive.read_block() == files[-1] * 512


def test_a_load_waits_and_says_for_what(library: Library) -> None:
    st = SimulatedSt(ready=False)
    drive = StDrive("/dev/nst0", 0, open_node=st.open)
    said: list[str] = []
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        st.ready = len(waited) == 100

    load(library.changer, drive, 1, pause=pause, say=said.append)
    assert len(waited) == 100
    assert said == ["drive /dev/nst0 is getting the cartridge ready"]


def test_a_drive_that_loses_its_cartridge_is_not_waited_for(library: Library) -> None:
    drive = StDrive("/dev/nst0", 0, open_node=SimulatedSt(loaded=False).open)
    with pytest.raises(NotReady, match="empty"):
        load(library.changer, drive, 1)


def test_a_drive_that_finds_the_wrong_file_is_found_out() -> None:
    class Astray(StDrive):
        def to_file(self, number: int) -> None:
            super().to_file(number + (number > 0))

    drive = Astray("/dev/nst0", 0, open_node=SimulatedSt().open)
    drive.open()
    with pytest.raises(MediaError, match="somewhere else"):
        calibrate(drive, 0.0, bytes_each=MIB)


@pytest.mark.parametrize(
    ("seconds", "kib"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0), 256),
        ((4.0, 2.0, 1.02, 1.0, 1.0), 256),
        ((4.0, 2.0, 1.5, 1.0, 1.0), 512),
        ((1.0, 1.0, 1.2, 1.2, 1.2), 64),
    ],
)
def test_no_larger_block_is_suggested_than_is_of_use(seconds: tuple[float, ...], kib: int) -> None:
    rates = tuple(Rate(1 << 16 + at, MIB, took, 1.0) for at, took in enumerate(seconds))
    assert Calibration("d", 0, rates, 0, 0, 0).block_bytes == kib << 10
