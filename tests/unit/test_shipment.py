"""Shipments: what goes in comes out, and what was not made by a sender is refused."""

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadShipment
from replicator.shipment import NothingHeld, ShippedBatch, decode_shipment, encode_shipment
from store.batch import NO_DIGEST, encode_batch
from store.format import Kind
from store.ops import Op
from store.types import Lsn, NodeId, TimeNs

VOLUME = bytes(range(16))


def op(lsn: int, payload: bytes) -> Op:
    check = xxhash.xxh3_64_intdigest(payload)
    return Op(
        Lsn(lsn), TimeNs(lsn * 1000), int(Kind.WRITE), 0, NodeId(2), 0, Lsn(1), check, payload
    )


def batches(payloads: list[list[bytes]]) -> list[ShippedBatch]:
    lsn, previous, made = 1, NO_DIGEST, []
    for group in payloads:
        ops = [op(lsn + number, payload) for number, payload in enumerate(group)]
        previous = encode_batch(ops, previous).header.digest
        made.append(ShippedBatch(ops, previous))
        lsn += len(ops)
    return made


PAYLOADS = st.lists(
    st.lists(st.binary(max_size=5000), min_size=1, max_size=8), min_size=1, max_size=4
)


@given(PAYLOADS)
def test_a_shipment_gives_back_its_batches(payloads: list[list[bytes]]) -> None:
    sent = batches(payloads)
    got = decode_shipment(encode_shipment(VOLUME, NO_DIGEST, sent), NothingHeld())
    assert (got.volume, got.previous) == (VOLUME, NO_DIGEST)
    previous = NO_DIGEST
    for shipped, original in zip(got.batches, sent, strict=True):
        assert shipped.ops == original.ops
        previous = encode_batch(shipped.ops, previous).header.digest
        assert previous == shipped.digest


@given(PAYLOADS, st.data())
def test_a_changed_shipment_is_refused_or_gives_other_digests(
    payloads: list[list[bytes]], data: st.DataObject
) -> None:
    sent = batches(payloads)
    encoded = bytearray(encode_shipment(VOLUME, NO_DIGEST, sent))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        got = decode_shipment(bytes(encoded), NothingHeld())
    except BadShipment:
        return
    previous = NO_DIGEST
    wrong = False
    for shipped in got.batches:
        previous = encode_batch(shipped.ops, previous).header.digest
        wrong = wrong or previous != shipped.digest
    assert wrong or got.batches == sent


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(BadShipment):
        decode_shipment(b"CDPSHIP\0" + noise, NothingHeld())
