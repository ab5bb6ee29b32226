"""The half-received shipment: every whole piece counts, after a kill and after a power cut."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from replicator.errors import BadRequest, BadShipment, TooLarge
from replicator.vault.spool import SAVE_S, Spool
from replicator.wire import MAX_SHIPMENT_BYTES, Partial, shipment_id
from store import durable
from store.errors import StoreFull

DATA = random.Random(1).randbytes(300_000)
ID = shipment_id(DATA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "incoming"


def receive(spool: Spool, stop: int, step: int = 10_000) -> None:
    for start in range(spool.begin(ID, len(DATA)), stop, step):
        spool.append(DATA[start : min(start + step, stop)])
        spool.save()


def test_a_shipment_in_one_piece_never_touches_the_disk(folder: Path) -> None:
    spool = Spool.open(folder)
    assert spool.begin(ID, len(DATA)) == 0
    assert spool.partial is None
    spool.append(DATA)
    assert spool.complete
    assert list(folder.iterdir()) == []
    assert spool.finish() == DATA
    spool.clear()
    assert spool.partial is None


def test_pieces_are_there_after_a_restart(folder: Path) -> None:
    spool = Spool.open(folder)
    receive(spool, 123_456)
    spool.close()
    again = Spool.open(folder)
    assert again.partial == Partial(shipment=ID, received_bytes=123_456, total_bytes=len(DATA))
    receive(again, len(DATA))
    assert again.finish() == DATA
    again.clear()
    assert list(folder.iterdir()) == []


def test_pieces_of_several_connections_make_one_shipment(folder: Path) -> None:
    spool = Spool.open(folder)
    for stop in (1, 2, 70_000, 150_000, len(DATA)):
        receive(spool, stop)
        spool.pause()
    assert spool.finish() == DATA


def test_a_shipment_complete_before_a_restart_is_still_there(folder: Path) -> None:
    spool = Spool.open(folder)
    receive(spool, len(DATA))
    spool.close()
    again = Spool.open(folder)
    assert again.complete
    assert again.finish() == DATA


@pytest.mark.parametrize("seed", range(8))
def test_of_what_a_power_cut_left_the_whole_pieces_count(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    spool = Spool.open(folder)
    receive(spool, 200_000)
    spool.close()
    (path,) = folder.iterdir()
    spoiled = bytearray(path.read_bytes())
    at = rng.randrange(len(spoiled))
    if seed % 2:
        del spoiled[at:]
    else:
        spoiled[at:] = bytes(len(spoiled) - at)
    path.write_bytes(spoiled)
    again = Spool.open(folder)
    received = again.begin(ID, len(DATA))
    assert at - 10_000 - 12 * 21 <= received <= at
    assert received % 10_000 == 0
    receive(again, len(DATA))
    assert again.finish() == DATA


def test_another_shipment_takes_the_place(folder: Path) -> None:
    spool = Spool.open(folder)
    receive(spool, 50_000)
    other = b"other" * 1000
    assert spool.begin(shipment_id(other), len(other)) == 0
    spool.append(other[:100])
    spool.append(other[100:])
    assert spool.finish() == other
    assert len(list(folder.iterdir())) == 0


def test_it_is_time_to_save_now_and_then_while_more_is_to_come(folder: Path) -> None:
    now = 0.0
    spool = Spool.open(folder, lambda: now)
    spool.begin(ID, len(DATA))
    assert not spool.append(DATA[:1000])
    now += SAVE_S
    assert spool.append(DATA[1000:2000])
    spool.save()
    assert len(list(folder.iterdir())) == 1
    assert not spool.append(DATA[2000:3000])
    now += SAVE_S
    assert not spool.append(DATA[3000:])
    assert spool.finish() == DATA


def test_what_was_not_saved_is_lost_with_a_kill_and_asked_for_again(folder: Path) -> None:
    spool = Spool.open(folder)
    spool.begin(ID, len(DATA))
    spool.append(DATA[:1000])
    spool.save()
    spool.append(DATA[1000:5000])
    assert Spool.open(folder).begin(ID, len(DATA)) == 1000


def test_what_is_not_what_its_id_says_is_dropped(folder: Path) -> None:
    spool = Spool.open(folder)
    spool.begin("0" * 32, 100)
    spool.append(bytes(50))
    spool.save()
    spool.append(bytes(50))
    with pytest.raises(BadShipment):
        spool.finish()
    assert spool.partial is None
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["", "x", "0" * 31, "0" * 33, "../" + "0" * 29, "0" * 31 + "G"])
def test_impossible_ids_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        Spool.open(folder).begin(name, 1)
    assert list(folder.iterdir()) == []


def test_sizes_are_bounded(folder: Path) -> None:
    spool = Spool.open(folder)
    for total in (0, -1, MAX_SHIPMENT_BYTES + 1):
        with pytest.raises(TooLarge):
            spool.begin(ID, total)
    spool.begin(ID, 100)
    spool.append(bytes(60))
    with pytest.raises(TooLarge):
        spool.append(bytes(41))
    assert spool.partial is not None
    assert spool.partial.received_bytes == 60


def test_strange_files_are_cleared_away(folder: Path) -> None:
    folder.mkdir()
    for name in ("x", f"{ID}-99999999999.part", f"{ID}-{MAX_SHIPMENT_BYTES + 1}.part"):
        (folder / name).touch()
    assert Spool.open(folder).partial is None
    assert list(folder.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(durable.Disk):
        """Takes half of what is written, and then nothing."""

        def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
            if len(data) > 5_000:
                return super().pwrite(fd, data[:5_000], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spool = Spool.open(folder)
    receive(spool, 50_000)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "disk", Full())
        spool.append(DATA[50_000:60_000])
        with pytest.raises(StoreFull):
            spool.save()
    assert spool.begin(ID, len(DATA)) == 50_000
    receive(spool, len(DATA))
    assert spool.finish() == DATA
