"""Batches: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import random

import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from store import batch
from store.errors import UnsupportedFormat
from store.format import BATCH_HEADER, FORMAT_VERSION, FRAME, FRAME_BYTES, MAX_PAYLOAD_BYTES, Kind
from store.ops import Op
from store.types import Lsn, NodeId, TimeNs


def make_op(lsn: int, payload: bytes = b"", kind: int = Kind.WRITE, offset: int = 0) -> Op:
    check = xxhash.xxh3_64_intdigest(payload)
    return Op(Lsn(lsn), TimeNs(1000 + lsn), kind, 0, NodeId(2), offset, Lsn(1), check, payload)


def plain(ops: list[Op]) -> list[Op]:
    return [op._replace(payload=bytes(op.payload)) for op in ops]


def with_header(data: bytes, **changes: int | bytes) -> bytes:
    """The batch with header fields changed and its checksum made right again."""
    header = BATCH_HEADER.unpack(data)
    header.update(changes)
    body = BATCH_HEADER.pack(**header)[:-8]
    stop = BATCH_HEADER.size_bytes + int(header["frame_count"]) * FRAME.size_bytes
    directory = data[BATCH_HEADER.size_bytes : stop]
    check = xxhash.xxh3_64_intdigest(body + directory).to_bytes(8, "little")
    return body + check + data[BATCH_HEADER.size_bytes :]


u64 = st.integers(0, 2**64 - 1)
payloads = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), u64, st.integers(0, 300_000)),
    st.builds(
        lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.integers(0, 400_000)
    ),
)


@st.composite
def op_runs(draw: st.DrawFn) -> list[Op]:
    lsn = draw(st.integers(1, 2**62))
    time_ns = draw(st.integers(0, 2**62))
    found = []
    for payload in draw(st.lists(payloads, min_size=1, max_size=8)):
        time_ns += draw(st.integers(1, 10**12))
        found.append(
            Op(
                Lsn(lsn),
                TimeNs(time_ns),
                draw(st.integers(0, 255)),
                draw(st.integers(0, 255)),
                NodeId(draw(u64)),
                draw(u64),
                Lsn(draw(u64)),
                xxhash.xxh3_64_intdigest(payload),
                payload,
            )
        )
        lsn += 1
    return found


@settings(deadline=None, max_examples=60)
@given(op_runs(), st.binary(min_size=32, max_size=32))
def test_decoding_gives_the_encoded_ops_back(ops: list[Op], previous: bytes) -> None:
    encoded = batch.encode_batch(ops, previous)
    header, decoded = batch.decode_batch(encoded.data)
    assert plain(decoded) == ops
    assert header == encoded.header
    assert header.previous == previous
    assert header.total_bytes == len(encoded.data)
    assert (header.first_lsn, header.last_lsn) == (ops[0].lsn, ops[-1].lsn)
    assert header.payload_bytes == sum(len(op.payload) for op in ops)


@settings(deadline=None, max_examples=40)
@given(op_runs(), st.data())
def test_a_frame_holds_the_positions_that_division_says(ops: list[Op], data: st.DataObject) -> None:
    encoded = batch.encode_batch(ops, batch.NO_DIGEST)
    raw = b"".join(op.payload for op in ops)
    if not raw:
        assert encoded.header.frames == []
        return
    position = data.draw(st.integers(0, len(raw) - 1))
    frame = encoded.header.frames[position // FRAME_BYTES]
    stored = encoded.data[frame.offset : frame.offset + frame.stored_bytes]
    assert batch.decode_frame(frame, stored)[position % FRAME_BYTES] == raw[position]


SAMPLE_OPS = [
    make_op(7, b"text " * 9000),
    make_op(8),
    make_op(9, random.Random(1).randbytes(70_000)),
]
SAMPLE = batch.encode_batch(SAMPLE_OPS, b"p" * 32).data


@settings(deadline=None, max_examples=400)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), min_size=1, max_size=3))
def test_changed_bytes_at_the_start_are_noticed_or_change_nothing(
    changes: list[tuple[int, int]],
) -> None:
    check_mutation(SAMPLE, changes)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(1, 255)), min_size=1, max_size=3
    )
)
def test_changed_bytes_anywhere_are_noticed_or_change_nothing(
    changes: list[tuple[int, int]],
) -> None:
    check_mutation(SAMPLE, changes)


def check_mutation(data: bytes, changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(data)
    for at, delta in changes:
        mutated[at] ^= delta
    try:
        _, decoded = batch.decode_batch(bytes(mutated))
    except (ValueError, UnsupportedFormat):
        return
    assert plain(decoded) == SAMPLE_OPS


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(SAMPLE) - 1))
def test_a_batch_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        batch.decode_batch(SAMPLE[:length])


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        batch.decode_batch(data)


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "op_count", "last_lsn", "total_bytes", "payload_bytes", "frame_count",
                "meta_stored_bytes", "meta_raw_bytes",
            ]
        ),
        st.integers(0, 2**32 - 1),
        min_size=1,
    )
)  # fmt: skip
def test_a_forged_header_with_a_right_checksum_is_refused(fields: dict[str, int]) -> None:
    header = BATCH_HEADER.unpack(SAMPLE)
    if all(header[name] == value for name, value in fields.items()):
        return
    with pytest.raises(ValueError, match=r"."):
        batch.decode_batch(with_header(SAMPLE, **fields))


def test_compressed_data_that_announces_gigabytes_is_refused_unopened() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    frame = batch.Frame(0, len(bomb), FRAME_BYTES, batch.CODEC_ZSTD, xxhash.xxh3_64_intdigest(bomb))
    with pytest.raises(ValueError, match="wrong size"):
        batch.decode_frame(frame, bomb)


def test_compressed_data_of_unknown_size_is_refused() -> None:
    stored = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(FRAME_BYTES))
    check = xxhash.xxh3_64_intdigest(stored)
    frame = batch.Frame(0, len(stored), FRAME_BYTES, batch.CODEC_ZSTD, check)
    with pytest.raises(ValueError, match="wrong size"):
        batch.decode_frame(frame, stored)


def test_a_newer_version_is_refused_by_its_number() -> None:
    newer = with_header(SAMPLE, version=FORMAT_VERSION + 1)
    with pytest.raises(UnsupportedFormat, match=f"version {FORMAT_VERSION + 1}"):
        batch.decode_header(newer)


def test_an_unknown_feature_is_refused_by_its_bits() -> None:
    with pytest.raises(UnsupportedFormat, match="0x8000"):
        batch.decode_header(with_header(SAMPLE, features=0x8000))


def test_the_digest_chain_notices_a_changed_predecessor() -> None:
    with pytest.raises(ValueError, match="digest"):
        batch.decode_batch(with_header(SAMPLE, previous=b"q" * 32))


def test_random_bytes_are_stored_raw_and_text_is_compressed() -> None:
    noise = batch.encode_batch([make_op(1, random.Random(2).randbytes(FRAME_BYTES))], bytes(32))
    text = batch.encode_batch([make_op(1, b"abcd efgh " * 10_000)], bytes(32))
    assert [frame.codec for frame in noise.header.frames] == [batch.CODEC_RAW]
    assert [frame.codec for frame in text.header.frames] == [batch.CODEC_ZSTD]
    assert len(text.data) < 2000


def test_the_largest_op_fits() -> None:
    ops = [make_op(1, bytes(MAX_PAYLOAD_BYTES))]
    assert plain(batch.decode_batch(batch.encode_batch(ops, bytes(32)).data)[1]) == ops


def test_lsn_gaps_and_equal_times_inside_a_batch_are_refused() -> None:
    gap = batch.encode_batch([make_op(1), make_op(3)], bytes(32)).data
    with pytest.raises(ValueError, match="impossible"):
        batch.decode_batch(gap)
    still = [make_op(1), make_op(2)._replace(time_ns=TimeNs(1001))]
    with pytest.raises(ValueError, match="op 2"):
        batch.decode_batch(batch.encode_batch(still, bytes(32)).data)
