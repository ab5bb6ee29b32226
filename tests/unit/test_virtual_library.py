"""The virtual library: the plain files of a cartridge, power cuts, and what a person does at it."""

from __future__ import annotations

import errno
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import durable
from tape.drive import Drive
from tape.errors import (
    DriveDead,
    EarlyWarning,
    EndOfMedium,
    MediaError,
    NoSuchCartridge,
    NotReady,
    TapeError,
    TemporaryTapeError,
)
from tape.library import Library, create_virtual, load_settings, open_library
from tape.virtual_library import VirtualLibrary
from tests.crash.fault_disk import FaultDisk, Mode
from tests.unit.tar_blocks import tar_blocks

BLOCK = 4096
CAPACITY = 1 << 20


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_virtual(
        tmp_path / "library",
        capacity_bytes=CAPACITY,
        early_warning_bytes=64 << 10,
        slots=4,
        doors=2,
        cartridges=2,
    )
    return tmp_path / "library"


@pytest.fixture
def library(home: Path) -> Iterator[Library]:
    with open_library(home, "a test") as opened:
        yield opened


@pytest.fixture
def virtual(library: Library) -> VirtualLibrary:
    assert library.virtual is not None
    return library.virtual


@pytest.fixture
def drive(library: Library) -> Drive:
    library.changer.load(1, 0)
    library.drives[0].open()
    return library.drives[0]


def library_in(home: Path) -> VirtualLibrary:
    """As a process finds it that comes after a kill: without the lock."""
    shape = load_settings(home).virtual
    assert shape is not None
    return VirtualLibrary(home, shape, "CLN")


def files_of(drive: Drive, count: int) -> list[list[bytes]]:
    drive.rewind()
    return [list(iter(drive.read_block, b"")) for _ in range(count)]


# --- what lies in the folder --------------------------------------------------------------------


def test_a_tape_file_is_a_plain_file(drive: Drive, virtual: VirtualLibrary) -> None:
    drive.write_filemark()
    for block in tar_blocks({"README": b"read me", "a/b": bytes(10_000)}, BLOCK):
        drive.write_block(block)
    drive.write_filemark()
    with tarfile.open(virtual.cartridge_folder("A00001L8") / "000001") as archive:
        assert archive.getnames() == ["README", "a/b"]


def test_a_kill_loses_what_has_no_filemark(drive: Drive, home: Path) -> None:
    drive.write_block(b"kept")
    drive.write_filemark()
    drive.write_block(b"lost")
    # Whoever comes after a kill finds the folder as it is now.
    again = library_in(home).drives[0]
    again.open()
    again.to_end()
    assert again.position() == (1, 0)
    assert files_of(again, 1) == [[b"kept"]]
    assert sorted(path.name for path in (home / "cartridges/A00001L8").glob("0*")) == ["000000"]


def test_a_tape_file_that_lost_bytes_is_a_media_error(
    drive: Drive, virtual: VirtualLibrary
) -> None:
    drive.write_block(b"12345678")
    drive.write_filemark()
    drive.close()
    (virtual.cartridge_folder("A00001L8") / "000000").write_bytes(b"1234")
    drive.open()
    with pytest.raises(MediaError, match="shorter"):
        drive.read_block()


def test_every_power_cut_leaves_marked_files_and_no_halves(tmp_path: Path) -> None:
    home = tmp_path / "library"
    create_virtual(home, capacity_bytes=CAPACITY, slots=2, cartridges=1)
    library = library_in(home)
    library.changer.load(1, 0)
    drive = library.drives[0]
    drive.open()
    rng = random.Random(1)
    states: list[list[list[bytes]]] = [[]]
    with FaultDisk(home) as disk:
        for step, at in enumerate([0, 1, 2, 1, 2, 0, 1]):
            blocks = [rng.randbytes(rng.randrange(1, 3000)) for _ in range(3)]
            drive.to_file(at)
            for block in blocks:
                drive.write_block(block)
            drive.write_filemark()
            states.append([*states[-1][:at], blocks])
            disk.promise(step + 1)
    drive.close()
    cuts = 0
    for cut, lay_down in disk.cuts():
        for mode in Mode:
            cuts += 1
            folder = tmp_path / f"cut{cuts}"
            lay_down(folder, mode, rng)
            before, after = states[cut.promised : cut.promised + 2] + (
                [states[-1]] if cut.promised == len(states) - 1 else []
            )
            # In between, what is to be written over may be gone already.
            assert _content(folder) in [before, before[: len(after) - 1], after], cut
    assert cuts > 100


def _content(folder: Path) -> list[list[bytes]]:
    drive = library_in(folder).drives[0]
    drive.open()
    drive.to_end()
    try:
        return files_of(drive, drive.position().file)
    finally:
        drive.close()


class _FullDisk(durable.Disk):
    """Has no space left."""

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_below_the_library_is_not_the_cartridges_fault(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive.write_block(b"kept")
    drive.write_filemark()
    with monkeypatch.context() as patch:
        patch.setattr(durable, "disk", _FullDisk())
        with pytest.raises(DriveDead) as caught:
            drive.write_block(b"lost")
    assert "free some space" in caught.value.hint
    assert files_of(drive, 1) == [[b"kept"]]


# --- the end of the cartridge -------------------------------------------------------------------


def test_capacity_counts_bytes_and_the_warning_comes_once(drive: Drive) -> None:
    size, written, warnings = 10_000, 0, 0
    with pytest.raises(EndOfMedium):
        while True:
            try:
                drive.write_block(bytes(size))
            except EarlyWarning:
                warnings += 1
            written += size
    assert CAPACITY - size < written <= CAPACITY
    assert warnings == 1
    drive.write_filemark()
    drive.rewind()
    assert sum(map(len, iter(drive.read_block, b""))) == written


def test_a_cartridge_near_its_end_warns_again_when_it_is_opened_again(drive: Drive) -> None:
    with pytest.raises(EarlyWarning):
        while True:
            drive.write_block(bytes(10_000))
    drive.write_filemark()
    drive.close()
    drive.open()
    drive.to_end()
    with pytest.raises(EarlyWarning):
        drive.write_block(bytes(10_000))


def test_room_comes_back_where_a_cartridge_is_written_over(drive: Drive) -> None:
    for _ in range(2):
        drive.rewind()
        for _ in range(80):
            drive.write_block(bytes(10_000))
        drive.write_filemark()


# --- people and cartridges ----------------------------------------------------------------------


def test_new_cartridges_get_the_next_barcodes(library: Library, virtual: VirtualLibrary) -> None:
    assert virtual.insert_blank(count=2) == [(5, "A00003L8"), (6, "A00004L8")]
    assert [door.barcode for door in library.changer.inventory().doors] == ["A00003L8", "A00004L8"]
    with pytest.raises(TemporaryTapeError, match="no import/export slot is free"):
        virtual.insert_blank()
    assert virtual.outside() == []


def test_a_cartridge_goes_out_and_comes_back_with_what_is_on_it(
    library: Library, virtual: VirtualLibrary, drive: Drive
) -> None:
    drive.write_block(b"taken along")
    drive.write_filemark()
    drive.close()
    library.changer.unload(0, 5)
    assert virtual.take_out(5) == "A00001L8"
    assert virtual.outside() == ["A00001L8"]
    assert virtual.insert("A00001L8") == 5
    library.changer.load(5, 0)
    drive.open()
    assert drive.read_block() == b"taken along"


def test_nobody_takes_out_or_puts_in_what_is_not_there(virtual: VirtualLibrary) -> None:
    with pytest.raises(NoSuchCartridge):
        virtual.take_out(5)
    with pytest.raises(NoSuchCartridge):
        virtual.take_out(1)
    with pytest.raises(TapeError, match="already"):
        virtual.insert("A00001L8")
    with pytest.raises(TapeError, match="already"):
        virtual.insert_blank("A00001L8")
    for name in ("B", "", "..", "../x", "a b"):
        with pytest.raises(NoSuchCartridge):
            virtual.insert(name)


def test_a_cleaning_cartridge_cleans_and_holds_no_data(
    library: Library, virtual: VirtualLibrary
) -> None:
    drive = library.drives[1]
    virtual.request_cleaning(1)
    assert drive.status().cleaning_requested
    library.changer.load(4, 1)
    assert drive.status() == (False, False, False, "cleaning")
    with pytest.raises(NotReady):
        drive.open()
    library.changer.unload(1, 4)
    assert not drive.status().cleaning_requested


def test_a_cleaning_cartridge_is_used_up(library: Library, virtual: VirtualLibrary) -> None:
    for _ in range(50):
        library.changer.load(4, 0)
        library.changer.unload(0, 4)
    virtual.request_cleaning(0)
    library.changer.load(4, 0)
    assert library.drives[0].status().cleaning_requested
