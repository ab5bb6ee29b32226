"""What every tape drive must do: the suite that each implementation of `tape.drive.Drive` passes.

A test class inherits from `DriveSuite` and gives the fixture `bench`. Where hardware differs, the
bench says so. Nothing here goes to a block by its number, since drives without LOCATE exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tape.drive import Drive
from tape.errors import EarlyWarning, EndOfData, EndOfMedium, NotReady, WriteProtected

BLOCK = 4096


@dataclass
class DriveBench:
    """A drive that is open, with a cartridge whose content does not matter, at its beginning."""

    drive: Drive
    empty: Callable[[], None]
    """Close the drive, and have the changer take the cartridge out."""
    refill: Callable[[], None]
    """Have the changer put the same cartridge in again; the drive isn't opened."""
    protect: Callable[[bool], None] | None = None
    """Move the tab of the cartridge, while it is out; None where that takes a person."""
    capacity_bytes: int = 0
    """Of the cartridge; 0 when it is too large to be filled, or not known."""
    endless: bool = False
    """An emulation that warns of the end of the medium and has none."""
    tells_block: bool = True
    """Whether `position` knows the block as well."""


def block(seed: int, size: int = BLOCK) -> bytes:
    """A block that is unlike others."""
    return (b"block %8d " % seed * (size // 10 + 1))[:size]


def write_files(drive: Drive, *sizes: int) -> None:
    """From where the head stands: files of so many blocks, each block with a number of its own."""
    for file, count in enumerate(sizes):
        for number in range(count):
            drive.write_block(block(1000 * file + number))
        drive.write_filemark()


def read_file(drive: Drive) -> list[bytes]:
    """The blocks up to the next filemark, which is passed."""
    return list(iter(drive.read_block, b""))


class DriveSuite:
    """The tests."""

    @pytest.fixture
    def drive(self, bench: DriveBench) -> Drive:
        return bench.drive

    # --- files and blocks

    def test_blocks_come_back_as_they_were_written(self, drive: Drive) -> None:
        sizes = [512, BLOCK, 64 << 10, 512, 3 * 512]
        written = [block(number, size) for number, size in enumerate(sizes)]
        for data in written:
            drive.write_block(memoryview(data))
        drive.write_filemark()
        drive.rewind()
        assert read_file(drive) == written

    def test_the_largest_block_comes_back(self, drive: Drive) -> None:
        drive.write_block(block(1, drive.max_block_bytes))
        drive.write_filemark()
        drive.rewind()
        assert drive.read_block() == block(1, drive.max_block_bytes)
        assert drive.read_block() == b""

    def test_files_are_reached_from_anywhere(self, drive: Drive) -> None:
        write_files(drive, 3, 1, 2, 1)
        for number in (2, 0, 3, 1, 1, 2):
            drive.to_file(number)
            assert drive.position().file == number
            assert drive.read_block() == block(1000 * number)

    def test_a_file_is_reached_from_the_midst_of_itself(self, drive: Drive) -> None:
        write_files(drive, 2, 3)
        drive.to_file(1)
        drive.read_block()
        drive.to_file(1)
        assert drive.read_block() == block(1000)

    def test_spacing_goes_behind_filemarks(self, drive: Drive) -> None:
        write_files(drive, 2, 2, 2, 1)
        drive.rewind()
        drive.space_files(1)
        assert drive.read_block() == block(1000)
        drive.space_files(2)
        assert drive.read_block() == block(3000)

    def test_position_counts_filemarks_and_blocks(self, drive: Drive, bench: DriveBench) -> None:
        assert drive.position().file == 0
        write_files(drive, 2, 3)
        assert drive.position().file == 2
        drive.to_file(1)
        drive.read_block()
        drive.read_block()
        assert drive.position() == (1, 2 if bench.tells_block else drive.position().block)
        drive.read_block()
        drive.read_block()
        assert drive.position().file == 2

    def test_a_filemark_is_read_once(self, drive: Drive) -> None:
        write_files(drive, 1, 1)
        drive.rewind()
        assert [drive.read_block() for _ in range(4)] == [block(0), b"", block(1000), b""]

    # --- the end of what was written

    def test_behind_the_last_file_there_is_no_data(self, drive: Drive) -> None:
        write_files(drive, 1)
        with pytest.raises(EndOfData):
            drive.read_block()
        drive.rewind()
        assert read_file(drive) == [block(0)]
        with pytest.raises(EndOfData):
            drive.read_block()

    def test_files_that_are_not_there_are_not_found(self, drive: Drive) -> None:
        write_files(drive, 1, 1)
        with pytest.raises(EndOfData):
            drive.to_file(5)
        drive.rewind()
        with pytest.raises(EndOfData):
            drive.space_files(4)

    def test_the_place_behind_the_last_file_is_reached(self, drive: Drive) -> None:
        write_files(drive, 2, 1)
        drive.to_file(2)
        drive.write_block(block(2000))
        drive.write_filemark()
        drive.rewind()
        drive.to_end()
        assert drive.position().file == 3
        write_files(drive, 1)
        drive.to_file(2)
        assert read_file(drive) == [block(2000)]
        assert read_file(drive) == [block(0)]

    # --- writing cuts off

    def test_writing_a_file_cuts_off_what_lies_behind(self, drive: Drive) -> None:
        write_files(drive, 2, 2, 2)
        drive.to_file(1)
        drive.write_block(block(7))
        drive.write_filemark()
        drive.rewind()
        assert [read_file(drive) for _ in range(2)] == [[block(0), block(1)], [block(7)]]
        with pytest.raises(EndOfData):
            drive.read_block()

    def test_writing_at_the_beginning_leaves_nothing(self, drive: Drive) -> None:
        write_files(drive, 2, 2, 2)
        drive.rewind()
        drive.write_block(block(9))
        drive.write_filemark()
        with pytest.raises(EndOfData):
            drive.to_file(2)
        drive.rewind()
        assert read_file(drive) == [block(9)]

    def test_writing_in_the_midst_of_a_file_keeps_what_is_before(self, drive: Drive) -> None:
        write_files(drive, 4, 1)
        drive.rewind()
        drive.read_block()
        drive.read_block()
        drive.write_block(block(8))
        drive.write_filemark()
        drive.rewind()
        assert read_file(drive) == [block(0), block(1), block(8)]
        with pytest.raises(EndOfData):
            drive.read_block()

    def test_leaving_a_file_that_has_no_filemark_ends_it(self, drive: Drive) -> None:
        write_files(drive, 1)
        drive.write_block(block(3))
        drive.rewind()
        assert [read_file(drive) for _ in range(2)] == [[block(0)], [block(3)]]

    # --- coming and going

    def test_what_was_marked_is_there_after_a_change_of_cartridges(
        self, drive: Drive, bench: DriveBench
    ) -> None:
        write_files(drive, 2, 1)
        bench.empty()
        bench.refill()
        drive.open()
        assert drive.position().file == 0
        assert read_file(drive) == [block(0), block(1)]
        assert read_file(drive) == [block(1000)]

    def test_closing_twice_is_fine_and_opening_goes_to_the_beginning(self, drive: Drive) -> None:
        write_files(drive, 1)
        drive.close()
        drive.close()
        drive.open()
        assert drive.position().file == 0
        assert read_file(drive) == [block(0)]

    def test_an_empty_drive_is_not_ready(self, drive: Drive, bench: DriveBench) -> None:
        bench.empty()
        assert not drive.status().loaded
        with pytest.raises(NotReady):
            drive.open()
        bench.refill()
        assert drive.status().loaded
        drive.open()

    def test_a_loaded_drive_says_so(self, drive: Drive) -> None:
        status = drive.status()
        assert status.loaded and not status.write_protected and status.busy == ""

    # --- what can't be written

    def test_a_protected_cartridge_is_read_and_not_written(
        self, drive: Drive, bench: DriveBench
    ) -> None:
        if bench.protect is None:
            pytest.skip("the tab can't be moved from here")
        write_files(drive, 1, 1)
        bench.empty()
        bench.protect(True)
        bench.refill()
        try:
            drive.open()
            assert drive.status().write_protected
            with pytest.raises(WriteProtected):
                drive.write_block(block(1))
                drive.write_filemark()
            drive.to_file(1)
            assert read_file(drive) == [block(1000)]
        finally:
            bench.empty()
            bench.protect(False)
            bench.refill()

    def test_the_end_of_the_medium_is_announced(self, drive: Drive, bench: DriveBench) -> None:
        if not bench.capacity_bytes:
            pytest.skip("the cartridge is too large to be filled")
        size = min(64 << 10, bench.capacity_bytes // 32)
        written = 0
        with pytest.raises(EarlyWarning):
            while written <= 2 * bench.capacity_bytes:
                drive.write_block(block(written, size))
                written += size
        drive.write_filemark()
        assert drive.position().file == 1
        drive.rewind()
        blocks = read_file(drive)
        assert blocks[: written // size] == [block(at, size) for at in range(0, written, size)]
        assert len(blocks) - written // size in (0, 1)

    def test_nothing_fits_behind_the_end_of_the_medium(
        self, drive: Drive, bench: DriveBench
    ) -> None:
        if not bench.capacity_bytes or bench.endless:
            pytest.skip("the cartridge is too large to be filled")
        write_files(drive, 1)
        size = min(64 << 10, bench.capacity_bytes // 32)
        with pytest.raises(EndOfMedium):
            for number in range(4 * bench.capacity_bytes // size):
                with contextlib.suppress(EarlyWarning):
                    drive.write_block(block(number, size))
        drive.rewind()
        assert read_file(drive) == [block(0)]
        first = drive.read_block()
        assert first == block(0, size)
