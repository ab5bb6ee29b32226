"""Segments: appended, sealed, read back by many, and refused by name when they are not right."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest
import xxhash

from store import segment
from store.batch import NO_DIGEST, EncodedBatch, encode_batch
from store.errors import DamagedError, IndexStale, UnsupportedFormat
from store.format import FRAME_BYTES, Kind
from store.ops import Op
from store.scan import find_batch, scan_segments
from store.segment import SegmentReader, SegmentWriter, list_segments
from store.types import Lsn, NodeId, TimeNs
from store.volume import Store, new_config


def make_store(root: Path) -> Store:
    return Store.create(root / "store", new_config("/nowhere", 1))


def make_batch(first: int, payloads: list[bytes], previous: bytes = NO_DIGEST) -> EncodedBatch:
    ops = [
        Op(
            Lsn(first + number),
            TimeNs(first + number),
            Kind.WRITE,
            0,
            NodeId(2),
            0,
            Lsn(0),
            xxhash.xxh3_64_intdigest(payload),
            payload,
        )
        for number, payload in enumerate(payloads)
    ]
    return encode_batch(ops, previous)


def fill(store: Store, batches: int = 3, limit_bytes: int = 1 << 30) -> list[tuple[Lsn, int]]:
    """A segment writer's work: one op of 300,000 bytes per batch, sealed at the limit."""
    writer = SegmentWriter(store, limit_bytes)
    places = []
    for number in range(1, batches + 1):
        places.append(writer.append(make_batch(number, [payload_of(number)])))
        writer.sync()
        if writer.full:
            writer.seal()
    writer.close()
    return places


def payload_of(lsn: int) -> bytes:
    return random.Random(lsn).randbytes(200_000) + bytes(100_000)


def test_a_payload_is_read_back_at_any_position(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    places = fill(store)
    reader = SegmentReader(store)
    for lsn, (first, offset) in enumerate(places, 1):
        whole = payload_of(lsn)
        edges = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, 2 * FRAME_BYTES + 5, len(whole) - 1]
        for start in edges:
            for length in (0, 1, 4096, FRAME_BYTES + 1, len(whole)):
                want = whole[start : start + length]
                assert reader.read_payload(first, offset, start, len(want)) == want


def test_reading_outside_of_a_batch_is_an_error(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    [(first, offset)] = fill(store, 1)
    reader = SegmentReader(store)
    with pytest.raises(DamagedError, match="no payload at position 299999"):
        reader.read_payload(first, offset, 299_999, 2)
    with pytest.raises(DamagedError, match="segment 0000000000000009 is missing"):
        reader.read_payload(Lsn(9), offset, 0, 1)


def test_segments_are_named_by_their_lsns(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    places = fill(store, 5, limit_bytes=400_000)
    names = [file.path.name for file in list_segments(store)]
    assert names == [
        "0000000000000001-0000000000000002.seg",
        "0000000000000003-0000000000000004.seg",
        "0000000000000005-open.seg",
    ]
    assert [first for first, _ in places] == [1, 1, 3, 3, 5]
    assert [found.header.first_lsn for found in scan_segments(store)] == [1, 2, 3, 4, 5]


def test_a_reader_goes_on_while_the_segment_is_sealed_under_it(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    writer = SegmentWriter(store)
    first, offset = writer.append(make_batch(1, [b"one" * 100]))
    early, late = SegmentReader(store), SegmentReader(store)
    assert early.read_payload(first, offset, 0, 3) == b"one"
    late._look_up(Lsn(1))  # knows the name of before, but has not opened it yet
    _, second = writer.append(make_batch(2, [b"two" * 100]))
    writer.sync()
    writer.seal()
    assert early.read_payload(first, second, 3, 3) == b"two"
    assert late.read_payload(first, second, 3, 3) == b"two"


def test_threads_share_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "MAX_OPEN_FILES", 2)
    monkeypatch.setattr(segment, "MAX_FRAME_CACHE_BYTES", 4 * FRAME_BYTES)
    monkeypatch.setattr(segment, "MAX_DIRECTORIES", 3)
    store = make_store(tmp_path)
    places = fill(store, 6, limit_bytes=1)
    reader = SegmentReader(store)
    wrong: list[object] = []

    def read_some(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            lsn = rng.randint(1, 6)
            start = rng.randrange(300_000)
            want = payload_of(lsn)[start : start + 5000]
            if reader.read_payload(*places[lsn - 1], start, len(want)) != want:
                wrong.append((lsn, start))

    threads = [threading.Thread(target=read_some, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len([name for name in os.listdir("/proc/self/fd") if is_segment(name)]) <= 2


def is_segment(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").endswith(".seg")
    except FileNotFoundError:
        return False


def test_the_writer_cuts_off_what_the_index_does_not_name(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    places = fill(store, 3)
    writer = SegmentWriter(store)
    writer.resume(Lsn(2), Lsn(1), places[2][1])
    assert [found.header.first_lsn for found in scan_segments(store)] == [1, 2]
    assert writer.append(make_batch(3, [b"again"])) == places[2]
    writer.close()
    assert [found.header.last_lsn for found in scan_segments(store)] == [1, 2, 3]


def test_the_writer_drops_an_open_segment_that_the_index_never_named(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store, 2)
    writer = SegmentWriter(store)
    writer.resume(Lsn(0), Lsn(0), 0)
    assert list_segments(store) == []
    assert writer.append(make_batch(1, [b"again"])) == (1, segment.HEADER_BYTES)
    writer.close()


def test_the_writer_starts_a_segment_behind_a_sealed_one(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    places = fill(store, 2, limit_bytes=400_000)
    end = places[1][1] + len(make_batch(2, [payload_of(2)]).data)
    writer = SegmentWriter(store)
    writer.resume(Lsn(2), Lsn(1), end)
    assert writer.append(make_batch(3, [b"next"])) == (3, segment.HEADER_BYTES)
    writer.close()


def test_an_index_older_than_the_sealed_segments_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    places = fill(store, 4, limit_bytes=400_000)
    before = [file.path.read_bytes() for file in list_segments(store)]
    for indexed, first, end in [(0, 0, 0), (1, 1, places[1][1]), (2, 1, places[1][1] * 2)]:
        with pytest.raises(IndexStale, match="the index ends at LSN"):
            SegmentWriter(store).resume(Lsn(indexed), Lsn(first), end)
    assert [file.path.read_bytes() for file in list_segments(store)] == before


def test_a_segment_shorter_than_the_index_says_is_damage(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store, 1)
    with pytest.raises(DamagedError, match="lost its end"):
        SegmentWriter(store).resume(Lsn(1), Lsn(1), 1 << 20)
    with pytest.raises(DamagedError, match="missing"):
        SegmentWriter(store).resume(Lsn(9), Lsn(8), 500)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_payload_bit_names_file_offset_and_lsns(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    first, offset = fill(store, 2)[1]
    path = list_segments(store)[0].path
    frame = SegmentReader(store).header(first, offset).frames[1]
    flip(path, offset + frame.offset + 3)
    reader = SegmentReader(store)
    assert reader.read_payload(first, offset, 0, 10) == payload_of(2)[:10]
    with pytest.raises(DamagedError, match="payload frame") as caught:
        reader.read_payload(first, offset, FRAME_BYTES, 10)
    error = caught.value
    assert (error.path, error.offset) == (str(path), offset + frame.offset)
    assert (error.first, error.last) == (2, 2)


def test_a_flipped_bit_in_batch_header_or_metadata_is_damage(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    first, offset = fill(store, 1)[0]
    path = list_segments(store)[0].path
    meta = SegmentReader(store).header(first, offset).meta_offset
    assert [op.lsn for op in SegmentReader(store).read_ops(first, offset)] == [1]
    flip(path, offset + meta + 8)
    with pytest.raises(DamagedError, match="op metadata"):
        SegmentReader(store).read_ops(first, offset)
    flip(path, offset + 40)
    with pytest.raises(DamagedError, match="batch header"):
        SegmentReader(store).read_payload(first, offset, 0, 1)


def test_foreign_and_newer_segments_are_refused_by_name(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    first, offset = fill(store, 1)[0]
    path = list_segments(store)[0].path
    whole = path.read_bytes()

    path.write_bytes(whole[:8] + b"\x02\x00" + whole[10:])
    with pytest.raises(UnsupportedFormat, match=rf"{path.name}: format version 2 "):
        SegmentReader(store).read_payload(first, offset, 0, 1)
    path.write_bytes(whole[:10] + b"\x00\x01" + whole[12:])
    with pytest.raises(UnsupportedFormat, match=r"features 0x100 "):
        SegmentReader(store).read_payload(first, offset, 0, 1)
    path.write_bytes(segment.encode_header(b"x" * 16, first) + whole[segment.HEADER_BYTES :])
    with pytest.raises(DamagedError, match="another volume"):
        SegmentReader(store).read_payload(first, offset, 0, 1)
    path.write_bytes(whole[: offset + 20])
    with pytest.raises(DamagedError, match="too few"):
        list(scan_segments(store))


def test_a_batch_behind_damage_is_found(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    places = fill(store, 2)
    file = list_segments(store)[0]
    flip(file.path, places[0][1] + 20)
    with file.path.open("rb") as opened:
        found = find_batch(file, opened.fileno(), places[0][1])
        assert found is not None
        assert (found.offset, found.header.first_lsn) == (places[1][1], 2)
        assert find_batch(file, opened.fileno(), places[1][1] + 1) is None
