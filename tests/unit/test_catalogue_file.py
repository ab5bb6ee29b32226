"""The catalogue on disk: what is read back, what is cut off, and what is damage."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from store import durable
from store.errors import StoreFull
from tape.catalogue import AnyEvent, Faulted, Labelled
from tape.catalogue_file import CatalogueFile, read_catalogue
from tape.catalogue_state import State
from tape.errors import BadCatalogue, DamagedCatalogue, ImpossibleEvent, LibraryExists
from tests.tape_books import Books, label, uuid


def some_events() -> list[AnyEvent]:
    books = Books()
    books.cartridge(1)
    tape_set = books.open_set(10)
    books.full(tape_set, 1)
    for last in range(20, 60, 10):
        books.log(tape_set, 1, last)
    return books.events


def plain(state: State) -> bytes:
    return msgspec.json.encode(state)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "catalogue"


@pytest.fixture
def written(folder: Path) -> Iterator[CatalogueFile]:
    with CatalogueFile.create(folder) as catalogue:
        for event in some_events():
            catalogue.append(event)
        yield catalogue


def log_of(folder: Path) -> Path:
    (log,) = folder.glob("events-*.log")
    return log


def test_what_was_appended_is_there_when_it_is_opened_again(
    folder: Path, written: CatalogueFile
) -> None:
    expected = plain(written.state)
    assert plain(read_catalogue(folder)) == expected, "also while it is open for writing"
    written.close()
    with CatalogueFile.open(folder) as again:
        assert plain(again.state) == expected


def test_events_of_one_append_come_together_or_not_at_all(
    folder: Path, written: CatalogueFile
) -> None:
    before = plain(written.state)
    good = Faulted(time_ns=1, label_id=uuid(1), drive=-1, what="write error")
    bad = Faulted(time_ns=1, label_id=uuid(9), drive=-1, what="write error")
    with pytest.raises(ImpossibleEvent):
        written.append(good, bad)
    assert plain(written.state) == before == plain(read_catalogue(folder))
    written.append(good, good)
    assert read_catalogue(folder).cartridges[uuid(1)].faults == 2


def test_what_could_not_be_read_back_is_not_written(folder: Path, written: CatalogueFile) -> None:
    with pytest.raises(ImpossibleEvent, match="can't be recorded"):
        written.append(Faulted(time_ns=-1, label_id="", drive=0, what=""))
    with pytest.raises(ImpossibleEvent, match="can't be recorded"):
        written.append(Labelled(time_ns=1, label=label(7, "Not A Pool")))
    read_catalogue(folder)


def test_the_log_stays_short(folder: Path) -> None:
    with CatalogueFile.create(folder) as catalogue:
        catalogue.append(Labelled(time_ns=1, label=label(1)))
    with CatalogueFile.open(folder, max_log_bytes=1000) as catalogue:
        for count in range(300):
            catalogue.append(Faulted(time_ns=count, label_id=uuid(1), drive=-1, what="x" * 50))
            assert sum(path.stat().st_size for path in folder.iterdir()) < 4000
        assert log_of(folder).name != "events-1.log"
    assert read_catalogue(folder).cartridges[uuid(1)].faults == 300


def test_a_torn_end_is_cut_off_and_written_over(folder: Path, written: CatalogueFile) -> None:
    written.close()
    log = log_of(folder)
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    before = whole[: -len(lines[-1])]
    log.write_bytes(before)
    expected = plain(read_catalogue(folder))
    for length in range(len(lines[-1])):
        log.write_bytes(before + lines[-1][:length])
        assert plain(read_catalogue(folder)) == expected
        with CatalogueFile.open(folder) as again:
            assert plain(again.state) == expected
            assert log.read_bytes() == before
            again.append(some_events()[-1])
        assert log.read_bytes() == whole


def test_every_other_wrong_byte_is_damage(folder: Path, written: CatalogueFile) -> None:
    written.close()
    for path in (log_of(folder), folder / "snapshot"):
        whole = path.read_bytes()
        last = len(whole.splitlines(keepends=True)[-1]) if path.suffix else 0
        newlines = [at for at in range(len(whole) - last) if whole[at] == 10]
        for at in sorted({*range(0, len(whole) - last, 7), *newlines}):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
            with pytest.raises(DamagedCatalogue) as caught:
                CatalogueFile.open(folder)
            assert "scan" in caught.value.hint
            with pytest.raises(DamagedCatalogue):
                read_catalogue(folder)
        path.write_bytes(whole)
    CatalogueFile.open(folder).close()


def test_a_line_that_is_missing_is_damage(folder: Path, written: CatalogueFile) -> None:
    written.close()
    log = log_of(folder)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(DamagedCatalogue):
        CatalogueFile.open(folder)


def test_a_file_that_is_missing_is_damage(folder: Path, written: CatalogueFile) -> None:
    written.close()
    log = log_of(folder)
    snapshot = (folder / "snapshot").read_bytes()
    (folder / "snapshot").unlink()
    with pytest.raises(DamagedCatalogue, match="missing"):
        CatalogueFile.open(folder)
    (folder / "snapshot").write_bytes(snapshot)
    log.unlink()
    with pytest.raises(DamagedCatalogue, match="missing"):
        CatalogueFile.open(folder)
    with pytest.raises(DamagedCatalogue, match="missing"):
        CatalogueFile.open(folder.parent / "never")


def test_a_snapshot_that_came_back_from_a_copy_is_noticed(
    folder: Path, written: CatalogueFile
) -> None:
    old = (folder / "snapshot").read_bytes()
    written.snapshot()
    written.append(Faulted(time_ns=1, label_id="", drive=0, what=""))
    written.close()
    (folder / "snapshot").write_bytes(old)
    with pytest.raises(DamagedCatalogue, match="snapshot that is not there"):
        CatalogueFile.open(folder)


def test_a_newer_catalogue_is_refused_by_name(folder: Path, written: CatalogueFile) -> None:
    written.close()
    path = folder / "snapshot"
    path.write_bytes(path.read_bytes().replace(b"catalogue 1 ", b"catalogue 2 ", 1))
    with pytest.raises(BadCatalogue, match="newer cdpfs"):
        CatalogueFile.open(folder)


def test_a_damaged_catalogue_can_be_replaced(folder: Path, written: CatalogueFile) -> None:
    state = written.state
    written.close()
    log_of(folder).write_bytes(b"nonsense\n" * 3 + log_of(folder).read_bytes())
    with pytest.raises(DamagedCatalogue):
        CatalogueFile.open(folder)
    CatalogueFile.replace(folder, state).close()
    assert plain(read_catalogue(folder)) == plain(state)
    with pytest.raises(LibraryExists):
        CatalogueFile.create(folder)


def test_a_full_disk_loses_nothing_that_was_there(folder: Path, written: CatalogueFile) -> None:
    expected = plain(written.state)

    class Full(durable.Disk):
        def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
            if len(data) > 20:
                return super().pwrite(fd, data[:20], offset)
            raise OSError(28, "No space left on device")

    durable.disk = Full()
    event = Faulted(time_ns=1, label_id="", drive=0, what="x")
    try:
        with pytest.raises(StoreFull):
            written.append(event)
    finally:
        durable.disk = durable.Disk()
    with pytest.raises(BadCatalogue, match="before"):
        written.append(event)
    written.close()
    with CatalogueFile.open(folder) as again:
        assert plain(again.state) == expected
        again.append(event)
