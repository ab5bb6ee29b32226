"""Packed shipments: nothing is lost, and what no sender made is refused, whatever it refers to."""

import os
from pathlib import Path

import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator import streams
from replicator.effort import Effort
from replicator.errors import BadShipment
from replicator.held import JournalHeld
from replicator.shipment import (
    HEADER_BYTES,
    SHIPMENT_BATCH,
    SHIPMENT_HEADER,
    Known,
    NothingHeld,
    Shipment,
    decode_shipment,
    encode_shipment,
)
from replicator.sketch import Sketch
from store.batch import NO_DIGEST
from store.format import Kind
from store.journal import Journal
from store.ops import Op
from tests.unit.held_ops import HeldOps, histories, make_batches, make_op
from tests.unit.shipping import all_batches, make_history

VOLUME = bytes(range(16))
LEVEL = streams.Level(1, 1, lzma=False)
EFFORTS = st.sampled_from([Effort.GOOD, Effort.BEST])


def ops_of(shipment: Shipment) -> list[Op]:
    return [op for batch in shipment.batches for op in batch.ops]


def parts(data: st.DataObject, ops: list[Op]) -> tuple[HeldOps, list[Op]]:
    """What both ends hold, and what is sent."""
    cut = data.draw(st.integers(0, len(ops) - 1))
    return HeldOps(ops[:cut]), ops[cut:]


@given(histories(), EFFORTS, st.data())
def test_a_packed_shipment_gives_back_its_ops(
    ops: list[Op], effort: Effort, data: st.DataObject
) -> None:
    held, sent = parts(data, ops)
    batches = make_batches(sent, data.draw(st.integers(1, 20)))
    encoded = encode_shipment(VOLUME, NO_DIGEST, batches, Known(held), effort)
    got = decode_shipment(encoded, held)
    assert ops_of(got) == sent
    assert [batch.digest for batch in got.batches] == [batch.digest for batch in batches]


@given(histories(max_ops=120), st.integers(1, 12))
def test_a_sketch_that_goes_on_from_shipment_to_shipment_changes_nothing_but_bytes(
    ops: list[Op], size: int
) -> None:
    sketch = Sketch()
    for start in range(0, len(ops), size):
        held = HeldOps(ops[:start])
        batches = make_batches(ops[start : start + size], 4)
        encoded = encode_shipment(VOLUME, NO_DIGEST, batches, Known(held, sketch), Effort.GOOD)
        assert ops_of(decode_shipment(encoded, held)) == ops[start : start + size]


def attack(ops: list[Op], data: st.DataObject) -> None:
    """Change the streams of a shipment, and keep everything around them in order."""
    held, sent = parts(data, ops)
    batches = make_batches(sent, 8)
    encoded = encode_shipment(VOLUME, NO_DIGEST, batches, Known(held), Effort.GOOD)
    start = HEADER_BYTES + len(batches) * SHIPMENT_BATCH.size_bytes
    limit = sum(size for size, _ in streams.sizes(encoded[start:]).values())
    readers = streams.unpack(encoded[start:], limit)
    sizes = {name: size for name, (size, _) in streams.sizes(encoded[start:]).items()}
    writer = streams.Writer()
    for name, reader in readers.items():
        writer[name].extend(reader.take(sizes[name]))
    name = data.draw(st.sampled_from([name for name in streams.NAMES if sizes[name]]))
    stream = writer[name]
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=10))
    try:
        got = decode_shipment(encoded[:start] + writer.pack(LEVEL), held)
    except BadShipment:
        return
    assert len(ops_of(got)) == len(sent)


@given(histories(), st.data())
def test_changed_streams_end_in_a_refusal_or_in_other_ops(
    ops: list[Op], data: st.DataObject
) -> None:
    attack(ops, data)


@pytest.mark.nightly
@settings(max_examples=4_000)
@given(histories(), st.data())
def test_changed_streams_for_long(ops: list[Op], data: st.DataObject) -> None:
    attack(ops, data)


def flip(ops: list[Op], data: st.DataObject) -> None:
    """Change bytes anywhere in a shipment."""
    held, sent = parts(data, ops)
    batches = make_batches(sent, 8)
    effort = data.draw(EFFORTS)
    encoded = bytearray(encode_shipment(VOLUME, NO_DIGEST, batches, Known(held), effort))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        encoded[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        decode_shipment(bytes(encoded), held)
    except BadShipment:
        return


@given(histories(), st.data())
def test_a_damaged_packed_shipment_is_refused_and_nothing_worse(
    ops: list[Op], data: st.DataObject
) -> None:
    flip(ops, data)


@pytest.mark.nightly
@settings(max_examples=4_000)
@given(histories(), st.data())
def test_damaged_packed_shipments_for_long(ops: list[Op], data: st.DataObject) -> None:
    flip(ops, data)


def with_body(body: bytes, op_count: int, payload_bytes: int, primed: int = 0) -> bytes:
    """A shipment of one batch with a sound header and this body."""
    raw = op_count * 56 + payload_bytes
    ends = 9, 8 + op_count
    head = SHIPMENT_HEADER.codec.pack(
        b"CDPSHIP\0", 1, 0, 1, VOLUME, *ends, raw, NO_DIGEST, 1, primed, 0
    )[:-8]
    entry = SHIPMENT_BATCH.codec.pack(op_count, payload_bytes, NO_DIGEST)
    check = xxhash.xxh3_64_intdigest(head + entry).to_bytes(8, "little")
    return head + check + entry + body


def write(lsn: int, payload: bytes) -> Op:
    """A write of 1 MiB after 1 MiB."""
    return make_op(lsn, lsn * 1000, int(Kind.WRITE), 0, 2, lsn << 20, payload)


@given(
    st.fixed_dictionaries({name: st.binary(max_size=60) for name in streams.NAMES}),
    st.integers(1, 20),
    st.integers(0, 9000),
    st.integers(0, 9),
)
def test_streams_of_noise_are_refused(
    noise: dict[str, bytes], op_count: int, payload_bytes: int, primed: int
) -> None:
    writer = streams.Writer()
    for name, content in noise.items():
        writer[name].extend(content)
    held = HeldOps([write(lsn, bytes(5000)) for lsn in range(1, 9)])
    try:
        decode_shipment(with_body(writer.pack(LEVEL), op_count, payload_bytes, primed), held)
    except BadShipment:
        return


@pytest.mark.parametrize("codec", [streams.RAW, streams.ZSTD, streams.LZMA, 3])
def test_a_stream_that_would_be_larger_than_announced_is_refused(codec: int) -> None:
    bomb = bytes(64 << 20)
    plain = zstandard.ZstdCompressor().compress(bomb)
    body = bytearray()
    for name in streams.NAMES:
        streams.put(body, 5000 if name == "literals" else 0)
        if name == "literals":
            streams.put(body, len(plain[4:]) << 2 | codec)
    with pytest.raises(BadShipment):
        decode_shipment(with_body(bytes(body) + plain[4:], 2, 6000), NothingHeld())


def test_streams_larger_than_what_they_stand_for_are_refused_unseen() -> None:
    writer = streams.Writer()
    writer["literals"].extend(bytes(1 << 20))
    with pytest.raises(BadShipment, match="larger"):
        decode_shipment(with_body(writer.pack(LEVEL), 1, 1), NothingHeld())


@given(histories(), st.data())
def test_what_the_receiver_does_not_hold_is_missed(ops: list[Op], data: st.DataObject) -> None:
    held, sent = parts(data, ops)
    encoded = encode_shipment(VOLUME, NO_DIGEST, make_batches(sent, 8), Known(held), Effort.GOOD)
    try:
        got = decode_shipment(encoded, NothingHeld())
    except BadShipment:
        return
    assert ops_of(got) == sent


def test_a_journal_is_enough_to_decode_what_was_encoded_with_it(tmp_path: Path) -> None:
    store = make_history(tmp_path / "site", rounds=8, changes=200)
    batches = all_batches(store)
    sketch = Sketch()
    with Journal(store) as journal, journal.snapshot() as snapshot:
        for start in range(0, len(batches), 2):
            part = batches[start : start + 2]
            first = part[0].ops[0].lsn
            mine, theirs = JournalHeld(snapshot, first), JournalHeld(snapshot, first)
            # Every second time the sender was started anew.
            known = Known(mine, sketch if start % 4 else Sketch(), mine.older)
            encoded = encode_shipment(store.uuid, NO_DIGEST, part, known, Effort.BEST)
            assert ops_of(decode_shipment(encoded, theirs)) == [op for b in part for op in b.ops]


def test_a_rank_that_is_none_is_refused() -> None:
    writer = streams.Writer()
    for name, content in (("symbols", b"\2"), ("new_symbols", b"\1\0\2\0\0\0")):
        writer[name].extend(content)
    with pytest.raises(BadShipment, match="refers to none"):
        decode_shipment(with_body(writer.pack(LEVEL), 1, 4096), NothingHeld())


def test_random_content_grows_by_little() -> None:
    ops = [write(lsn, os.urandom(1 << 20)) for lsn in range(1, 5)]
    encoded = encode_shipment(VOLUME, NO_DIGEST, make_batches(ops, 4), effort=Effort.GOOD)
    assert len(encoded) < (4 << 20) * 1.001 + 1000
