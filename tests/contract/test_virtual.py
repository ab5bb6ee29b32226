"""The virtual library passes the suites of drives and changers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tape.errors import ChangerJam
from tape.library import Library, create_virtual, open_library
from tests.contract.changer import ChangerBench, ChangerSuite
from tests.contract.drive import DriveBench, DriveSuite

CAPACITY = 8 << 20


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    home = tmp_path / "library"
    create_virtual(home, capacity_bytes=CAPACITY, slots=4, doors=2, cartridges=2)
    with open_library(home, "the suite") as opened:
        yield opened


class TestVirtualDrive(DriveSuite):
    @pytest.fixture
    def bench(self, library: Library) -> DriveBench:
        drive, virtual = library.drives[0], library.virtual
        assert virtual is not None

        def empty() -> None:
            drive.close()
            library.changer.unload(0, 1)

        library.changer.load(1, 0)
        drive.open()
        return DriveBench(
            drive,
            empty,
            refill=lambda: library.changer.load(1, 0),
            protect=lambda tab: virtual.set_write_protected("A00001L8", tab),
            capacity_bytes=CAPACITY,
        )


class TestVirtualChanger(ChangerSuite):
    @pytest.fixture
    def bench(self, library: Library) -> ChangerBench:
        return ChangerBench(library.changer, library.drives)

    def test_an_open_drive_keeps_its_cartridge(self, bench: ChangerBench) -> None:
        bench.changer.load(1, 0)
        bench.drives[0].open()
        with pytest.raises(ChangerJam):
            bench.changer.unload(0, 1)
        bench.drives[0].close()
        bench.changer.unload(0, 1)
