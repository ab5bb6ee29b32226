"""A real drive passes the suite of drives, over a simulated driver: each kind of drive there is."""

from __future__ import annotations

import pytest

from tape.st_drive import StDrive
from tests.contract.drive import DriveBench, DriveSuite
from tests.simulated_st import SimulatedSt

CAPACITY = 4 << 20


def bench_over(st: SimulatedSt) -> DriveBench:
    """An open drive, with a cartridge that something else was on."""
    st.blocks = [b"something else" * 40, None, b"and more" * 64]
    st.early_at, st.full_at = CAPACITY - (256 << 10), CAPACITY
    drive = StDrive("/dev/nst0", 0, open_node=st.open)

    def empty() -> None:
        drive.close()
        st.loaded = False

    def refill() -> None:
        st.loaded = True

    def protect(tab: bool) -> None:
        st.protected = tab

    drive.open()
    return DriveBench(drive, empty, refill, protect, CAPACITY, tells_block=False)


class TestDriveThatLocates(DriveSuite):
    """As LTO drives do."""

    @pytest.fixture
    def bench(self) -> DriveBench:
        return bench_over(SimulatedSt())


class TestDriveWithoutAddresses(DriveSuite):
    """No READ POSITION, no LOCATE; searches say how far they got."""

    @pytest.fixture
    def bench(self) -> DriveBench:
        return bench_over(SimulatedSt(locates=False, asynchronous=True))


class TestDriveThatSaysLittle(DriveSuite):
    """No addresses, and no word about the end of the data."""

    @pytest.fixture
    def bench(self) -> DriveBench:
        return bench_over(SimulatedSt(locates=False, says_blank=False))


class TestDriveOfAnotherUser(DriveSuite):
    """Without the right to send SCSI commands."""

    @pytest.fixture
    def bench(self) -> DriveBench:
        return bench_over(SimulatedSt(root=False))
