"""Sealing: what is sealed comes back with the key, and only then; nothing can be changed in it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from replicator import sealing
from replicator.errors import BadShipment
from replicator.sealing import (
    HEADER_BYTES,
    SEALED_HEADER,
    Ends,
    check_opened,
    ends_of,
    open_shipment,
    read_header,
    seal_shipment,
)
from replicator.shipment import NothingHeld, ShippedBatch, decode_shipment, encode_shipment
from store.batch import NO_DIGEST, encode_batch
from store.errors import KeyMissing
from store.format import Kind
from store.key_file import new_entropy
from store.keys import ENTROPY_BYTES, KeyRing, SealingKey
from store.ops import Op
from store.types import Lsn, NodeId, TimeNs

VOLUME = bytes(range(16))
OTHER_VOLUME = bytes(16)
RING = KeyRing(b"c" * 32, (SealingKey(b"k" * 32, 1),))
ENTROPY = bytes(range(32))

secrets = st.binary(min_size=32, max_size=32)


def ends(first: int = 1, last: int = 9, volume: bytes = VOLUME) -> Ends:
    previous = NO_DIGEST if first == 1 else bytes([first % 256] * 32)
    return Ends(volume, Lsn(first), Lsn(last), previous, bytes([(last + 1) % 256] * 32))


def sealed(plain: bytes = b"what is in it", about: Ends | None = None) -> bytes:
    return seal_shipment(RING, about or ends(), plain, ENTROPY)


def shipments(groups: list[list[bytes]]) -> list[bytes]:
    """One plain shipment for each list of payloads, chained."""
    lsn, previous, made = 1, NO_DIGEST, []
    for payloads in groups:
        ops = [
            Op(
                Lsn(lsn + n), TimeNs(lsn + n), int(Kind.WRITE), 0, NodeId(2), 0, Lsn(0),
                xxh3_64_intdigest(payload), payload,
            )
            for n, payload in enumerate(payloads)
        ]  # fmt: skip
        digest = encode_batch(ops, previous).header.digest
        made.append(encode_shipment(VOLUME, previous, [ShippedBatch(ops, digest)]))
        lsn, previous = lsn + len(ops), digest
    return made


@given(st.binary(min_size=1, max_size=3000), secrets, secrets, secrets)
def test_what_is_sealed_comes_back(plain: bytes, chain: bytes, key: bytes, entropy: bytes) -> None:
    ring = KeyRing(chain, (SealingKey(key, 1),))
    data = seal_shipment(ring, ends(), plain, entropy)
    assert open_shipment(ring, data) == plain
    found = read_header(data)
    assert (found.volume, found.first_lsn, found.last_lsn) == (VOLUME, 1, 9)
    assert found.total_bytes == len(data) == len(plain) + HEADER_BYTES + 16


def test_every_single_bit_counts() -> None:
    data = sealed()
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((BadShipment, KeyMissing)):
            open_shipment(RING, bytes(changed))


def forged(data: bytes, **changes: int | bytes) -> bytes:
    """With another header whose checksum is right: what someone in the way can make."""
    fields = {**SEALED_HEADER.unpack(data), **changes, "check": 0}
    start = SEALED_HEADER.pack(**fields)[:-8]
    return start + sealing._hash(start).to_bytes(8, "little") + data[HEADER_BYTES:]


@pytest.mark.parametrize(
    "changes",
    [
        {"volume": OTHER_VOLUME},
        {"first_lsn": 2},
        {"last_lsn": 10},
        {"previous": b"p" * 32},
        {"digest": b"d" * 32},
        {"salt": b"s" * 32},
        {"reserved": 1},
    ],
)
def test_a_forged_header_with_a_right_checksum_is_refused(changes: dict[str, int | bytes]) -> None:
    with pytest.raises(BadShipment, match="the seal is broken"):
        open_shipment(RING, forged(sealed(), **changes))


def test_headers_of_two_shipments_cannot_be_swapped() -> None:
    one, other = sealed(b"one thing", ends(1, 9)), sealed(b"the other", ends(10, 20))
    for mixed in (
        one[:HEADER_BYTES] + other[HEADER_BYTES:],
        other[:HEADER_BYTES] + one[HEADER_BYTES:],
    ):
        with pytest.raises(BadShipment, match="the seal is broken"):
            open_shipment(RING, mixed)


@given(st.data())
def test_a_truncated_or_longer_one_is_refused(data: st.DataObject) -> None:
    whole = sealed()
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\0"):
        with pytest.raises(BadShipment):
            open_shipment(RING, wrong)


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(BadShipment):
        open_shipment(RING, b"CDPSEAL\0" + noise)


def test_another_key_is_told_by_its_id() -> None:
    stranger = KeyRing(RING.chain, (SealingKey(b"x" * 32, 1),))
    with pytest.raises(KeyMissing, match=RING.newest.id.hex()) as caught:
        open_shipment(stranger, sealed())
    assert "backup" in caught.value.hint


def test_a_key_with_the_right_id_alone_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sealed()
    monkeypatch.setattr(SealingKey, "id", property(lambda _: read_header(data).key))
    with pytest.raises(BadShipment, match="the seal is broken"):
        open_shipment(KeyRing(RING.chain, (SealingKey(b"x" * 32, 1),)), data)


def test_after_rotation_the_newest_key_seals_and_the_old_ones_open() -> None:
    old = sealed()
    ring = RING.rotated(b"n" * 32, 2)
    new = seal_shipment(ring, ends(), b"later", ENTROPY)
    assert read_header(new).key == ring.newest.id != read_header(old).key
    assert open_shipment(ring, old) == b"what is in it"
    assert open_shipment(ring, new) == b"later"
    assert ring.holds(RING) and not RING.holds(ring)


def test_rotation_leaves_the_chain_that_the_vault_sees_whole() -> None:
    ring = RING.rotated(b"n" * 32, 2)
    assert ring.chain_digest(VOLUME, b"d" * 32) == RING.chain_digest(VOLUME, b"d" * 32)


def test_the_vault_gets_no_digest_of_plain_content() -> None:
    [plain] = shipments([[b"a guess that someone may have"]])
    about = ends_of(decode_shipment(plain, NothingHeld()))
    data = seal_shipment(RING, about, plain, ENTROPY)
    assert about.digest not in data
    other_ring = KeyRing(b"C" * 32, RING.keys)
    assert other_ring.chain_digest(VOLUME, about.digest) != read_header(data).digest
    assert RING.chain_digest(OTHER_VOLUME, about.digest) != read_header(data).digest


def test_sealing_the_same_again_shows_the_same_chain_and_other_bytes() -> None:
    first = seal_shipment(RING, ends(), b"plain", bytes(32))
    again = seal_shipment(RING, ends(), b"plain", bytes([1] * 32))
    one, other = read_header(first), read_header(again)
    assert (one.previous, one.digest) == (other.previous, other.digest)
    assert one.salt != other.salt and first[HEADER_BYTES:] != again[HEADER_BYTES:]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.integers(1, 5)), unique=True))
def test_a_machine_that_repeats_its_entropy_does_not_repeat_a_nonce(
    things: list[tuple[bytes, int]],
) -> None:
    """As after a restored copy: the same entropy for each of several different shipments."""
    salts = [read_header(sealed(plain, ends(first, 9))).salt for plain, first in things]
    assert len(set(salts)) == len(things)


def test_fresh_entropy_never_makes_the_same_salt() -> None:
    """Also over kills: nothing but the system's random source is remembered between two seals."""
    salts = {
        read_header(seal_shipment(RING, ends(), b"same", os.urandom(ENTROPY_BYTES))).salt
        for _ in range(500)
    }
    assert len(salts) == 500


def _seal_in_child(count: int) -> list[bytes]:
    """What a forked process makes of the same bytes, with entropy as its sender takes it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            for _ in range(count):
                made = seal_shipment(RING, ends(), b"same", new_entropy())
                os.write(writing, read_header(made).salt)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as salts:
        found = salts.read()
    os.waitpid(child, 0)
    return [found[at : at + 32] for at in range(0, len(found), 32)]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_sender_that_is_killed_and_started_again_and_again_repeats_no_salt() -> None:
    """Each child begins with the same memory, as after a kill or a fork, and seals the same."""
    salts = [salt for _ in range(20) for salt in _seal_in_child(10)]
    assert len(salts) == len(set(salts)) == 200


def test_a_header_that_lies_about_what_is_inside_is_noticed() -> None:
    [plain] = shipments([[b"a", b"b"]])
    shipment = decode_shipment(plain, NothingHeld())
    right = ends_of(shipment)
    check_opened(RING, read_header(sealed(plain, right)), shipment)
    for lie in (
        right._replace(last_lsn=Lsn(3)),
        right._replace(first_lsn=Lsn(2)),
        right._replace(digest=b"d" * 32),
        right._replace(previous=b"p" * 32),
        right._replace(volume=OTHER_VOLUME),
    ):
        with pytest.raises(BadShipment, match="something else"):
            check_opened(RING, read_header(sealed(plain, lie)), shipment)


def test_reordered_shipments_are_noticed_by_the_chain() -> None:
    """Each by itself is genuine; what is inside says which one it follows."""
    opened = [
        decode_shipment(open_shipment(RING, sealed(plain, about)), NothingHeld())
        for plain in shipments([[b"a"], [b"b"], [b"c"]])
        for about in [ends_of(decode_shipment(plain, NothingHeld()))]
    ]
    links = [(s.previous, ends_of(s).digest) for s in opened]
    assert [link[0] for link in links] == [NO_DIGEST, links[0][1], links[1][1]]
    assert links[2][0] != links[0][1]


def test_secrets_are_not_in_the_text_form() -> None:
    text = repr(RING) + str(RING) + repr(RING.newest)
    assert "kkkk" not in text and "cccc" not in text and RING.newest.id.hex() in text
