"""What can go wrong with a real drive, over a simulated driver."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tape import scsi
from tape.errors import (
    BadCartridge,
    BadSettings,
    DriveDead,
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    MediaError,
    NotReady,
    WriteProtected,
)
from tape.st_drive import StDrive
from tape.st_ioctl import (
    MT_ST_NOWAIT_EOF,
    MTEOM,
    MTIOCGET,
    MTIOCPOS,
    MTIOCTOP,
    MTREW,
    MTSEEK,
    TapeNode,
    check_node,
)
from tests.simulated_st import SimulatedSt


def drive_of(st: SimulatedSt, opened: bool = True, fixed: int = 0) -> StDrive:
    """On top of a simulated driver."""
    drive = StDrive("/dev/nst0", 0, fixed_block_bytes=fixed, open_node=st.open)
    if opened:
        drive.open()
    return drive


def written(st: SimulatedSt, files: int, blocks: int = 2) -> StDrive:
    """Its cartridge has so many files."""
    drive = drive_of(st)
    for file in range(files):
        for number in range(blocks):
            drive.write_block(b"%d.%d" % (file, number) * 100)
        drive.write_filemark()
    return drive


# --- the node


def test_the_ioctls_are_those_of_mtio_h() -> None:
    assert (MTIOCTOP, MTIOCGET, MTIOCPOS) == (0x40086D01, 0x80306D02, 0x80086D03)


def test_what_is_no_tape_node_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (str(tmp_path / "file"), "/dev/null"):
        with pytest.raises(BadSettings, match="not a SCSI tape drive"):
            check_node(path)
        with pytest.raises(BadSettings):
            TapeNode.open(path)


def test_a_drive_that_is_not_there_is_dead(tmp_path: Path) -> None:
    drive = StDrive(str(tmp_path / "nst9"), 0)
    for ask in (drive.open, drive.status):
        with pytest.raises(DriveDead):
            ask()


@pytest.mark.parametrize("error", [errno.ENXIO, errno.ENODEV, errno.EIO, errno.EPERM])
def test_a_drive_that_can_not_be_opened_is_dead(error: int) -> None:
    with pytest.raises(DriveDead):
        drive_of(SimulatedSt(dead=error))


def test_a_drive_that_vanishes_is_dead() -> None:
    st = SimulatedSt()
    drive = written(st, 1)
    st.dead = errno.ENXIO
    for deed in (drive.rewind, drive.read_block, drive.write_filemark, drive.to_end, drive.status):
        with pytest.raises(DriveDead):
            deed()
    drive.close()


# --- what is in it


def test_a_drive_says_what_it_is_at() -> None:
    st = SimulatedSt(ready=False, sense=bytes([0x70, 0, 2, *[0] * 9, 0x04, 0x01, *[0] * 4]))
    drive = drive_of(st, opened=False)
    with pytest.raises(NotReady, match="two hours"):
        drive.open()
    assert "two hours" in drive.status().busy
    st.root = False
    assert drive.status().busy == "getting the cartridge ready"
    st.ready = True
    drive.open()
    assert drive.status().busy == ""


def test_a_drive_that_someone_else_uses_is_not_ready() -> None:
    st = SimulatedSt()
    other = st.open("/dev/nst0", True)
    drive = drive_of(st, opened=False)
    with pytest.raises(NotReady, match="another program"):
        drive.open()
    assert drive.status() == (False, False, False, "in use by another program")
    other.close()
    drive.open()


def test_a_cleaning_request_is_told_until_the_drive_is_cleaned() -> None:
    page = bytes([0x2E, 0, 0, 10, 0, 0x13, 0x40, 1, 0, 0, 0x14, 0x40, 1, 1])
    st = SimulatedSt(tape_alert=page)
    drive = drive_of(st)
    st.tape_alert = b""
    assert drive.status().cleaning_requested
    drive.close()
    st.loaded = False
    assert drive.status().cleaning_requested
    st.loaded, st.ready = True, False
    st.sense = bytes([0x70, 0, 2, *[0] * 9, 0x30, 0x03, *[0] * 4])
    assert "cleaning itself" in drive.status().busy
    assert not drive.status().cleaning_requested


def test_answers_of_drives_are_not_believed_beyond_their_end() -> None:
    assert not scsi.asks_for_cleaning(b"")
    assert not scsi.asks_for_cleaning(bytes([0x2E, 0, 0xFF, 0xFF, 0, 0x14, 0x40]))
    assert scsi.parse_sense(b"\x70") == (0, 0)
    assert scsi.parse_sense(bytes([0x72, 3, 0x11, 0])) == (3, 0x1100)
    assert scsi.largest_block(b"\0\x80") == 0


# --- the driver's options


def test_a_driver_that_answers_too_early_is_made_to_wait() -> None:
    st = SimulatedSt(option_bits=MT_ST_NOWAIT_EOF | 0x107)
    drive_of(st)
    assert st.option_bits == 0x107


def test_a_driver_that_can_not_be_made_to_wait_is_not_used() -> None:
    st = SimulatedSt(option_bits=MT_ST_NOWAIT_EOF, root=False)
    with pytest.raises(BadSettings, match="filemark"):
        drive_of(st)
    assert not st.opened


def test_the_largest_block_is_that_of_the_drive() -> None:
    drive = drive_of(SimulatedSt(limits=bytes([0, 1, 0, 0, 0, 1])))
    assert drive.max_block_bytes == 65536
    with pytest.raises(BadSettings, match="not possible"):
        drive.write_block(bytes(65537))


def test_blocks_of_one_size_are_asked_for() -> None:
    drive = drive_of(SimulatedSt(), fixed=4096)
    assert drive.max_block_bytes == 4096
    drive.write_block(bytes(4096))
    with pytest.raises(BadSettings, match="4096"):
        drive.write_block(bytes(8192))


# --- writing


def test_an_error_that_comes_late_comes_with_the_filemark() -> None:
    st = SimulatedSt(asynchronous=True, fail_writes_at=1)
    drive = drive_of(st)
    drive.write_block(b"one")
    drive.write_block(b"two")
    with pytest.raises(MediaError, match="recovered errors"):
        drive.write_filemark()


def test_a_filemark_that_fails_counts_for_nothing() -> None:
    st = SimulatedSt(fail_marks=True)
    drive = drive_of(st)
    drive.write_block(b"one")
    with pytest.raises(MediaError):
        drive.write_filemark()
    drive.rewind()
    assert drive.position() == (0, 0)


def test_after_an_error_nothing_is_written_before_the_place_is_known() -> None:
    st = SimulatedSt(fail_writes_at=4)
    drive = written(st, 1)
    drive.write_block(b"one")
    with pytest.raises(MediaError):
        drive.write_block(b"two")
    for deed in (lambda: drive.write_block(b"three"), drive.write_filemark):
        with pytest.raises(MediaError, match="place is not known"):
            deed()
    drive.to_file(1)
    st.fail_writes_at = -1
    drive.write_block(b"three")
    drive.write_filemark()
    assert st.files()[1:] == [[b"three"], []]


def test_the_end_is_announced_once_and_then_it_is_the_end() -> None:
    st = SimulatedSt(early_at=1000, full_at=2000)
    drive = drive_of(st)
    got = []
    for _ in range(8):
        try:
            drive.write_block(bytes(400))
            got.append("written")
        except (EarlyWarning, EndOfMedium) as error:
            got.append(type(error).__name__)
    expected = ["written"] * 3 + ["EarlyWarning"] + ["written"] * 2 + ["EndOfMedium"] * 2
    assert got == expected
    drive.write_filemark()
    assert len(st.files()[0]) == 5


def test_a_protected_cartridge_is_not_written() -> None:
    drive = drive_of(SimulatedSt(protected=True))
    assert drive.status().write_protected
    for deed in (lambda: drive.write_block(b"one"), drive.write_filemark):
        with pytest.raises(WriteProtected):
            deed()
        drive.rewind()


# --- reading


def test_a_block_that_can_not_be_read_is_no_end_of_data() -> None:
    st = SimulatedSt()
    drive = written(st, 2)
    st.bad_blocks = {1}
    drive.rewind()
    drive.read_block()
    with pytest.raises(MediaError):
        drive.read_block()
    drive.to_file(1)
    assert drive.read_block().startswith(b"1.0")


def test_a_block_larger_than_ours_is_of_something_else() -> None:
    st = SimulatedSt(blocks=[bytes((1 << 20) + 8192), None])
    with pytest.raises(BadCartridge, match="not ours"):
        drive_of(st).read_block()


@pytest.mark.parametrize("says_blank", [True, False])
def test_a_blank_cartridge_is_read_and_then_written(says_blank: bool) -> None:
    st = SimulatedSt(locates=False, says_blank=says_blank)
    drive = drive_of(st)
    with pytest.raises(EndOfData):
        drive.read_block()
    for number in range(3):
        drive.write_block(b"%d" % number)
    drive.write_filemark()
    assert st.files() == [[b"0", b"1", b"2"], []]


# --- moving


def test_an_address_is_used_where_the_drive_has_it() -> None:
    st = SimulatedSt()
    drive = written(st, 5)
    st.done.clear()
    drive.to_file(3)
    assert [code for code, _count in st.done] == [MTSEEK]
    assert drive.position() == (3, 0)
    assert drive.read_block().startswith(b"3.0")
    drive.to_end()
    assert drive.position().file == 5


def test_an_address_that_has_become_wrong_is_not_used() -> None:
    st = SimulatedSt()
    drive = written(st, 5)
    drive.to_file(1)
    drive.write_block(b"x" * 10)
    drive.write_filemark()
    drive.write_block(b"y" * 10)
    drive.write_filemark()
    drive.to_file(2)
    assert drive.read_block() == b"y" * 10
    with pytest.raises(EndOfData):
        drive.to_file(4)


def test_a_drive_whose_search_fails_is_searched_by_filemarks() -> None:
    st = SimulatedSt()
    drive = written(st, 5)
    st.locates = False
    st.done.clear()
    drive.to_file(3)
    assert drive.read_block().startswith(b"3.0")
    assert MTREW in [code for code, _count in st.done]


@pytest.mark.parametrize("says_blank", [True, False])
@pytest.mark.parametrize("locates", [True, False])
def test_files_are_counted_up_to_the_end_however_little_the_drive_says(
    says_blank: bool, locates: bool
) -> None:
    drive = written(SimulatedSt(says_blank=says_blank, locates=locates), 7)
    drive.to_file(2)
    with pytest.raises(EndOfData):
        drive.space_files(100)
    assert drive.position().file == 7
    drive.write_block(b"the eighth")
    drive.write_filemark()
    drive.to_file(7)
    assert drive.read_block() == b"the eighth"


def test_a_drive_that_says_enough_is_not_searched_file_by_file() -> None:
    st = SimulatedSt()
    drive = written(st, 7)
    with pytest.raises(EndOfData):
        drive.read_block()
    st.done.clear()
    drive.to_end()
    assert drive.position().file == 7
    assert [code for code, _count in st.done] == [MTEOM]
