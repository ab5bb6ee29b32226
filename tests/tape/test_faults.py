"""The faulty drive and changer pass the suites while nothing is to fail, and fail as they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tape.errors import (
    ChangerJam,
    DriveDead,
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    MediaError,
    NotReady,
)
from tape.library import Library, create_virtual, open_library
from tests.contract.changer import ChangerBench, ChangerSuite
from tests.contract.drive import DriveBench, DriveSuite
from tests.tape.clock import NS_PER_S, Clock
from tests.tape.faults import FaultyChanger, FaultyDrive, Killed, Steps, swap_slots, swap_stickers

CAPACITY = 8 << 20


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    home = tmp_path / "library"
    create_virtual(home, capacity_bytes=CAPACITY, slots=4, doors=2, cartridges=2)
    with open_library(home, "a test") as opened:
        yield opened


@pytest.fixture
def drive(library: Library) -> FaultyDrive:
    library.changer.load(1, 0)
    faulty = FaultyDrive(library.drives[0])
    faulty.open()
    return faulty


@pytest.fixture
def changer(library: Library) -> FaultyChanger:
    return FaultyChanger(library.changer)


class TestFaultlessDrive(DriveSuite):
    @pytest.fixture
    def bench(self, library: Library, drive: FaultyDrive) -> DriveBench:
        def empty() -> None:
            drive.close()
            library.changer.unload(0, 1)

        return DriveBench(
            drive,
            empty,
            refill=lambda: library.changer.load(1, 0),
            capacity_bytes=CAPACITY,
        )


class TestFaultlessChanger(ChangerSuite):
    @pytest.fixture
    def bench(self, library: Library, changer: FaultyChanger) -> ChangerBench:
        return ChangerBench(changer, library.drives)


def files_of(drive: FaultyDrive) -> list[list[bytes]]:
    drive.rewind()
    files: list[list[bytes]] = [[]]
    while True:
        try:
            block = drive.read_block()
        except EndOfData:
            return files[:-1] if not files[-1] else files
        if block:
            files[-1].append(block)
        else:
            files.append([])


def write(drive: FaultyDrive, *blocks: bytes) -> None:
    for block in blocks:
        drive.write_block(block)
    drive.write_filemark()


def test_a_write_error_comes_at_its_block(drive: FaultyDrive) -> None:
    write(drive, b"a")
    drive.faults.write_error = 2
    with pytest.raises(MediaError):
        write(drive, b"b", b"c", b"d")
    assert files_of(drive) == [[b"a"], [b"b"]]


def test_a_deferred_error_comes_at_the_filemark_and_the_blocks_are_not_there(
    drive: FaultyDrive,
) -> None:
    drive.faults.deferred_error = 1
    drive.write_block(b"a")
    drive.write_block(b"b")
    with pytest.raises(MediaError):
        drive.write_filemark()
    assert files_of(drive) == [[b"a"]]


def test_a_silent_loss_is_only_seen_by_reading(drive: FaultyDrive) -> None:
    drive.faults.silent_loss = 1
    write(drive, b"a", b"b")
    assert files_of(drive) == [[b"a", b"c"]]


@pytest.mark.parametrize("lost", [False, True])
def test_the_early_warning_does_not_say_whether_its_block_is_there(
    drive: FaultyDrive, lost: bool
) -> None:
    drive.faults.warning, drive.faults.warned_block_lost = 1, lost
    drive.write_block(b"a")
    with pytest.raises(EarlyWarning):
        drive.write_block(b"b")
    with pytest.raises(EndOfMedium):
        drive.write_block(b"c")
    drive.write_filemark()
    assert files_of(drive) == [[b"a"] if lost else [b"a", b"b"]]


def test_a_dead_drive_answers_nothing(drive: FaultyDrive) -> None:
    drive.faults.dead_at_block = 0
    for call in (lambda: write(drive, b"a"), drive.status, drive.open, drive.position):
        with pytest.raises(DriveDead):
            call()


def test_a_slow_first_load_says_what_it_is_at(drive: FaultyDrive) -> None:
    clock = Clock(0)
    drive.now_ns = clock.now_ns
    drive.faults.busy, drive.faults.busy_until_ns = "first load: calibrating", 7200 * NS_PER_S
    with pytest.raises(NotReady, match="calibrating"):
        drive.open()
    assert drive.status().busy == "first load: calibrating"
    clock.pause(7200)
    drive.open()


def test_a_jammed_load_moves_nothing_and_a_late_one_does(changer: FaultyChanger) -> None:
    changer.faults.jam_at, changer.faults.late_at = 0, 1
    with pytest.raises(ChangerJam):
        changer.load(1, 0)
    assert not changer.inventory().drives[0].full
    with pytest.raises(ChangerJam):
        changer.load(1, 0)
    assert changer.inventory().drives[0].full


def test_a_barcode_that_cannot_be_read_is_not_told(changer: FaultyChanger) -> None:
    changer.faults.unreadable.add("A00002L8")
    slots = changer.inventory().slots
    assert [(slot.full, slot.barcode) for slot in slots[:2]] == [(True, "A00001L8"), (True, "")]


def test_a_process_is_ended_before_its_step(library: Library) -> None:
    steps = Steps(kill_at=2)
    changer = FaultyChanger(library.changer, steps=steps)
    changer.load(1, 0)
    drive = FaultyDrive(library.drives[0], steps=steps)
    drive.open()
    for _ in range(2):
        with pytest.raises(Killed):
            drive.write_block(b"a")


def test_people_mix_cartridges_up(library: Library) -> None:
    library.changer.load(1, 0)
    library.drives[0].open()
    library.drives[0].write_block(b"first")
    library.drives[0].close()
    library.changer.unload(0, 1)
    swap_slots(library.home, 1, 2)
    assert [slot.barcode for slot in library.changer.inventory().slots[:2]] == [
        "A00002L8",
        "A00001L8",
    ]
    swap_stickers(library.home, "A00001L8", "A00002L8")
    library.changer.load(1, 0)
    library.drives[0].open()
    assert library.drives[0].read_block() == b"first"
