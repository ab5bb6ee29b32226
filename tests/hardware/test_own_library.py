"""The suites of drives and changers against a real library; see `own_library`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tape.errors import BadSettings
from tape.st_drive import StDrive
from tests.contract.changer import ChangerBench, ChangerSuite
from tests.contract.drive import DriveBench, DriveSuite, block, read_file
from tests.hardware.own_library import OwnLibrary


@pytest.fixture(scope="module")
def library() -> OwnLibrary:
    return OwnLibrary()


@pytest.fixture(scope="class")
def loaded(library: OwnLibrary) -> Iterator[DriveBench]:
    """A robot takes minutes: the cartridge stays in the drive between the tests."""
    bench = library.bench(library.drives[0])
    yield bench
    bench.empty()


class TestDrive(DriveSuite):
    @pytest.fixture
    def bench(self, loaded: DriveBench) -> Iterator[DriveBench]:
        loaded.drive.open()
        yield loaded
        loaded.drive.close()

    def test_a_rewinding_node_is_refused(self, library: OwnLibrary) -> None:
        path = library.drives[0].name.replace("/nst", "/st")
        with pytest.raises(BadSettings, match="rewinds"):
            StDrive(path, 0).open()

    def test_blocks_of_one_size_come_back(self, bench: DriveBench) -> None:
        bench.drive.close()
        drive = StDrive(bench.drive.name, 0, fixed_block_bytes=16384)
        drive.open()
        for number in range(3):
            drive.write_block(block(number, 16384))
        drive.write_filemark()
        drive.to_file(0)
        assert read_file(drive) == [block(number, 16384) for number in range(3)]
        with pytest.raises(BadSettings):
            drive.write_block(block(1, 4096))
        drive.close()


class TestChanger(ChangerSuite):
    @pytest.fixture
    def bench(self, library: OwnLibrary) -> ChangerBench:
        return ChangerBench(library.changer, library.drives)
