"""A sealed line at the vault: what arrived is kept in order, and nothing else gets in."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadShipment, Forked, Gap
from replicator.sealing import Ends, read_header
from replicator.vault.sealed import SealedLine, newest_to_pack
from replicator.vault.sealed_files import (
    SealedFile,
    held,
    held_entries,
    list_files,
    read_shipment,
    sealed_dir,
    verify_sealed,
)
from store import durable
from store.batch import NO_DIGEST
from store.errors import DamagedError, StoreBusy, StoreFault, StoreFull
from store.types import Lsn
from store.volume import Store
from tests.unit.sealed_history import RING, VOLUME, History, line_store


def kept(store: Store) -> list[bytes]:
    return [read_shipment(entry) for entry in verify_sealed(store)]


def test_what_is_taken_is_there_and_in_order(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(1)
    line = SealedLine.open(store, few=8)
    assert line.position() == (1, NO_DIGEST)
    sent = []
    for _ in range(100):
        sent.append(history.shipment())
        line.take(sent[-1])
        assert line.position() == history.position()
    line.close()
    assert kept(store) == sent
    again = SealedLine.open(store)
    assert again.position() == history.position()
    again.close()
    assert held(store).shipments == 100 and held(store).next_lsn == history.next
    assert len(list_files(store).files) < 20


def test_reading_may_start_anywhere(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(2)
    line = SealedLine.open(store, few=8)
    for _ in range(30):
        line.take(history.shipment())
    line.close()
    for lsn in (1, 2, 50, history.next - 1):
        first = next(held_entries(store, Lsn(lsn)))
        assert first.header.first_lsn <= lsn <= first.header.last_lsn
    assert list(held_entries(store, Lsn(history.next))) == []


def test_reading_goes_on_while_files_are_packed(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(3)
    line = SealedLine.open(store, few=20)
    for _ in range(19):
        line.take(history.shipment())
    reading = held_entries(store)
    seen = [next(reading).header.first_lsn for _ in range(5)]
    line.take(history.shipment())
    assert len(list_files(store).files) == 1
    seen += [entry.header.first_lsn for entry in reading]
    assert seen == [entry.header.first_lsn for entry in held_entries(store)][: len(seen)]
    line.close()


def test_a_replay_changes_nothing(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(4)
    line = SealedLine.open(store, few=8)
    sent = [history.shipment() for _ in range(20)]
    for data in sent:
        line.take(data)
    before = kept(store)
    for data in (*sent, *reversed(sent)):
        line.take(data)
    assert line.position() == history.position() and kept(store) == before
    line.close()


def test_sealing_again_with_other_salts_or_cuts_is_a_replay_too(tmp_path: Path) -> None:
    """A site that lost the bytes it was sending makes them anew."""
    store, history = line_store(tmp_path / "line"), History(5)
    line = SealedLine.open(store)
    line.take(history.shipment())
    middle = history.next, history.digest
    for _ in range(3):
        line.take(history.shipment())
    whole = Ends(VOLUME, Lsn(middle[0]), Lsn(history.next - 1), middle[1], history.digest)
    line.take(history.sealed(whole))
    line.take(history.sealed(whole._replace(first_lsn=Lsn(1), previous=NO_DIGEST)))
    assert held(store).shipments == 4
    line.close()


def test_a_gap_is_told(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(6)
    line = SealedLine.open(store)
    history.shipment()
    with pytest.raises(Gap, match="LSN 1 comes next"):
        line.take(history.shipment())
    line.close()


def test_what_is_cut_otherwise_is_a_gap_and_not_a_fork(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(7)
    line = SealedLine.open(store)
    line.take(history.shipment())
    ends = Ends(VOLUME, Lsn(1), Lsn(history.next + 5), NO_DIGEST, b"z" * 32)
    with pytest.raises(Gap, match="otherwise cut"):
        line.take(history.sealed(ends))
    line.close()


def test_another_history_is_a_fork(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(8)
    line = SealedLine.open(store)
    line.take(history.shipment())
    last = history.next - 1
    line.take(history.shipment())
    for ends in (
        Ends(VOLUME, Lsn(history.next), Lsn(history.next), b"p" * 32, b"d" * 32),
        Ends(VOLUME, Lsn(1), Lsn(last), NO_DIGEST, b"d" * 32),
        Ends(VOLUME, Lsn(1), Lsn(last), b"p" * 32, b"d" * 32),
        Ends(VOLUME, Lsn(last + 1), Lsn(history.next - 1), b"p" * 32, history.digest),
    ):
        with pytest.raises(Forked):
            line.take(history.sealed(ends))
    assert line.position() == history.position()
    line.close()


def test_what_is_not_for_this_line_is_refused(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(9)
    line = SealedLine.open(store)
    good = history.shipment()
    other = history.sealed(Ends(b"o" * 16, Lsn(1), Lsn(2), NO_DIGEST, b"d" * 32))
    for bad, why in (
        (b"", "is sealed, and this shipment is not"),
        (b"CDPSHIP\0" + bytes(300), "is sealed, and this shipment is not"),
        (good[:-1], "another size"),
        (good + b"\0", "another size"),
        (good[:100], "not a sealed shipment"),
        (other, "another volume"),
    ):
        with pytest.raises(BadShipment, match=why):
            line.take(bad)
    assert line.position() == (1, NO_DIGEST) and not sealed_dir(store).exists()
    line.close()


def test_a_line_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    store = line_store(tmp_path / "line")
    line = SealedLine.open(store)
    with pytest.raises(StoreBusy):
        SealedLine.open(store)
    line.close()
    SealedLine.open(store).close()


def test_every_changed_byte_at_the_vault_is_noticed_without_the_key(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(10)
    line = SealedLine.open(store, few=3)
    for size in (40, 1, 90, 30):
        line.take(history.shipment(size))
    line.close()
    for file in list_files(store).files:
        whole = file.path.read_bytes()
        for at in range(len(whole)):
            file.path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            with pytest.raises(DamagedError):
                kept(store)
        for cut in range(1, len(whole), 7):
            file.path.write_bytes(whole[:-cut])
            with pytest.raises(DamagedError):
                kept(store)
        file.path.write_bytes(whole)
    assert len(kept(store)) == 4


def test_a_missing_file_and_an_exchanged_one_are_noticed(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(11)
    line = SealedLine.open(store)
    for _ in range(3):
        line.take(history.shipment())
    line.close()
    one, two, _ = (file.path for file in list_files(store).files)
    data = two.read_bytes()
    two.unlink()
    with pytest.raises(DamagedError, match="missing"):
        kept(store)
    with pytest.raises(DamagedError, match="missing"):
        SealedLine.open(store)
    header = read_header(data[56:])
    stranger = History(12)
    ends = Ends(VOLUME, header.first_lsn, header.last_lsn, b"p" * 32, b"q" * 32)
    other = tmp_path / "other"
    line = SealedLine.open(line_store(other))
    line._next, line._digest = header.first_lsn, RING.chain_digest(VOLUME, b"p" * 32)
    line.take(stranger.sealed(ends))
    line.close()
    two.write_bytes((sealed_dir(Store.open(other)) / two.name).read_bytes())
    with pytest.raises(DamagedError, match="does not follow"):
        kept(store)
    assert one.exists()


class FullDisk(durable.Disk):
    """A disk without room for what is written after so many writes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().pwrite(fd, data, offset)


@pytest.mark.parametrize("room", range(24))
def test_a_full_disk_loses_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    store, history = line_store(tmp_path / "line"), History(14)
    line = SealedLine.open(store, few=4)
    sent = [history.shipment() for _ in range(20)]
    acknowledged = 0
    with monkeypatch.context() as patch:
        patch.setattr(durable, "disk", FullDisk(room))
        with contextlib.suppress(StoreFull):
            for data in sent:
                line.take(data)
                acknowledged += 1
        assert not list(sealed_dir(store).glob("*.new"))
        with pytest.raises(StoreFull):
            line.take(history.shipment() if acknowledged == 20 else sent[acknowledged])
    assert kept(store) == sent[:acknowledged]
    for data in sent:
        line.take(data)
    line.close()
    assert kept(store) == sent and not list_files(store).leftovers


class UnsureDisk(durable.Disk):
    """A disk on which one sync of a folder fails: what was renamed there may stay or not."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.left = folder, number
        self.fds = set[int]()

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        fd = super().open(path, flags, mode)
        if Path(path) == self.folder:
            self.fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self.fds.discard(fd)
        super().close(fd)

    def fsync(self, fd: int) -> None:
        if fd in self.fds:
            self.left -= 1
            if not self.left:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fsync(fd)


@pytest.mark.parametrize("number", range(1, 14))
def test_a_failed_sync_leaves_a_line_that_goes_on_however_the_site_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What got its name before the sync failed counts; a shipment that overlaps it does not."""
    store, history = line_store(tmp_path / "line"), History(15)
    line = SealedLine.open(store, few=4)
    line.take(history.shipment())
    failed = 0
    monkeypatch.setattr(durable, "disk", UnsureDisk(sealed_dir(store), number))
    for _ in range(12):
        start, before = history.next, history.digest
        whole = history.shipment()
        first = Ends(VOLUME, Lsn(start), Lsn(start), before, b"%032d" % start)
        try:
            line.take(whole)
        except StoreFault:
            failed += 1
            next_lsn, _ = line.position()
            assert next_lsn in (start, history.next)
            with contextlib.suppress(Gap, Forked):
                if next_lsn == history.next:
                    line.take(history.sealed(first))
            line.take(whole)
        assert line.position() == history.position()
    line.close()
    assert failed <= 1
    assert held(store).next_lsn == history.next and len(kept(store)) == 13
    SealedLine.open(store).close()


@given(st.integers(0, 1000), st.integers(2, 40))
def test_files_stay_few_and_are_seldom_copied(seed: int, few: int) -> None:
    rng = random.Random(seed)
    files: list[SealedFile] = []
    copied = arrived = 0
    for number in range(2000):
        size = rng.randrange(300, 3000)
        arrived += size
        files.append(SealedFile(Path("x"), Lsn(number), Lsn(number), size, True))
        count = newest_to_pack(files, 1 << 20, few)
        if count > 1:
            total = sum(file.size_bytes for file in files[-count:])
            copied += total
            files[-count:] = [SealedFile(Path("x"), Lsn(0), Lsn(number), total, False)]
    assert len(files) <= few + 20 + 2 * arrived // (1 << 19)
    assert copied <= 12 * arrived
