"""Sealed shipments: what a vault may keep but not read. Pure; any thread; no I/O.

Duty: seal the bytes of a shipment with a key that the site alone has, and open them again. The
vault sees the header: the volume, the range of LSNs, the size, and two digests that let it tell a
replay, a gap and a fork. It learns how much is changed and when; never names, contents, times or
programs.

**Digests.** The site's own chain is blake3 over plain ops: who holds a digest can test a guess of
what a batch says. The header has `chain_digest` of it instead, keyed with the ring's chain secret.
It depends on the batch alone, so that a shipment that is sealed a second time (after a crash took
the first one) is known for the same by the vault. The chain secret stays when keys are rotated.

**Nonces.** Each shipment is encrypted with a key of its own, HKDF-SHA256 of the sealing key with a
256-bit salt that the header states, and used once, so that the cipher's nonce is constant. The salt
is a keyed blake3 over fresh entropy, the header *and the plain bytes*. As long as the entropy is
new, salts are random, and two are never alike (128 bits of collision resistance). Should a machine
give out the same entropy twice (a restored copy, a cloned guest, a fork), equal salts still need
equal header and plain bytes, and then the very same bytes are sent again, which gives away nothing
but that. No counter is kept anywhere, so no kill, copy or rollback can turn one back.

ChaCha20-Poly1305 (RFC 8439), the header as associated data: no bit of either can be changed. Opened
shipments are chained by the plain digests in them, so that one that is left out, put elsewhere or
exchanged for another is noticed by whoever ingests them.
"""

from __future__ import annotations

from typing import NamedTuple

import xxhash
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from replicator.errors import BadShipment
from replicator.shipment import Shipment
from replicator.wire import MAX_SHIPMENT_BYTES
from store.format import Field, Table
from store.keys import ENTROPY_BYTES, KeyRing, SealingKey, derive
from store.types import Lsn

SEALED_VERSION = 1
SEALED_MAGIC = b"CDPSEAL\0"

SEALED_HEADER = Table(
    "sealed shipment header",
    "Start of a sealed shipment, readable without the key. The ciphertext follows: ChaCha20-"
    "Poly1305 of a shipment, its tag at the end, with this header as associated data.",
    (
        Field("magic", "8s", "`CDPSEAL\\0`"),
        Field("version", "H", "format version"),
        Field("features", "H", "mandatory-feature bits; unknown ones are refused"),
        Field("reserved", "I", "0"),
        Field("volume", "16s", "the volume's UUID"),
        Field("key", "8s", "id of the sealing key, derived from it"),
        Field("first_lsn", "Q", "LSN of the first op"),
        Field("last_lsn", "Q", "LSN of the last op"),
        Field("previous", "32s", "keyed digest of the batch before the first; zeros for none"),
        Field("digest", "32s", "keyed digest of the last batch"),
        Field("salt", "32s", "what makes this shipment's key; never the same twice"),
        Field("sealed_bytes", "Q", "bytes of the ciphertext and its tag"),
        Field("check", "Q", "xxh3-64 of the bytes before this field"),
    ),
)

SEALED_TABLES = (SEALED_HEADER,)

HEADER_BYTES = SEALED_HEADER.size_bytes
_TAG_BYTES = 16
_NONCE = bytes(12)
_header = SEALED_HEADER.codec
_hash = xxhash.xxh3_64_intdigest


class Ends(NamedTuple):
    """What a shipment holds, as its sender knows it. Digests are those of the site's chain."""

    volume: bytes
    first_lsn: Lsn
    last_lsn: Lsn
    previous: bytes
    digest: bytes


class SealedHeader(NamedTuple):
    """The readable part of a sealed shipment. Digests are keyed ones."""

    volume: bytes
    key: bytes
    first_lsn: Lsn
    last_lsn: Lsn
    previous: bytes
    digest: bytes
    salt: bytes
    sealed_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole sealed shipment."""
        return HEADER_BYTES + self.sealed_bytes


def ends_of(shipment: Shipment) -> Ends:
    """The ends of a decoded shipment."""
    last = shipment.batches[-1].digest
    return Ends(
        shipment.volume, shipment.first_lsn, shipment.last_lsn, shipment.previous, last
    )  # fmt: skip


def is_sealed(data: bytes | memoryview) -> bool:
    """Does a sealed shipment start here, by its first eight bytes?"""
    return data[: len(SEALED_MAGIC)] == SEALED_MAGIC


def seal_shipment(ring: KeyRing, ends: Ends, shipment: bytes, entropy: bytes) -> bytes:
    """The sealed form of an encoded shipment.

    `entropy`: ENTROPY_BYTES from the system's random source, new for each call.
    """
    assert len(entropy) == ENTROPY_BYTES
    key = ring.newest
    sealed_bytes = len(shipment) + _TAG_BYTES
    assert HEADER_BYTES + sealed_bytes <= MAX_SHIPMENT_BYTES

    def header(salt: bytes) -> bytes:
        return _pack(
            SealedHeader(
                ends.volume, key.id, ends.first_lsn, ends.last_lsn,
                ring.chain_digest(ends.volume, ends.previous),
                ring.chain_digest(ends.volume, ends.digest),
                salt, sealed_bytes,
            )
        )  # fmt: skip

    mixer = blake3(entropy, key=derive(key.secret, b"salt"))
    salt = mixer.update(header(bytes(32))).update(shipment).digest()
    head = header(salt)
    return head + _cipher(key, ends.volume, salt).encrypt(_NONCE, shipment, head)


def read_header(data: bytes | memoryview) -> SealedHeader:
    """The header at the start of `data`, which may go on with anything; BadShipment.

    Needs no key; whether header and ciphertext belong together, only `open_shipment` finds.
    """
    if len(data) < HEADER_BYTES or not is_sealed(data):
        raise BadShipment("this is not a sealed shipment")
    fields = _header.unpack_from(data)
    _, version, features, _, volume, key, first, last, previous, digest, salt, size, check = fields
    if version != SEALED_VERSION or features:
        raise BadShipment(
            f"sealed shipment version {version}, features {features:#x} are not known here",
            "use a cdpfs of the same version at both ends",
        )
    if check != _hash(bytes(data[: HEADER_BYTES - 8])):
        raise BadShipment("the sealed shipment's header does not match its checksum")
    if not 0 < first <= last < 1 << 63:
        raise BadShipment("the sealed shipment's LSNs are impossible")
    if not _TAG_BYTES < size <= MAX_SHIPMENT_BYTES - HEADER_BYTES:
        raise BadShipment("the sealed shipment's size is impossible")
    return SealedHeader(volume, key, first, last, previous, digest, salt, size)


def open_shipment(ring: KeyRing, data: bytes | memoryview) -> bytes:
    """The encoded shipment in a sealed one; BadShipment, or KeyMissing.

    Whoever decodes it compares it with the header by `check_opened`.
    """
    found = read_header(data)
    if len(data) != found.total_bytes:
        raise BadShipment("the sealed shipment has another size than its header says")
    cipher = _cipher(ring.key(found.key), found.volume, found.salt)
    head, body = bytes(data[:HEADER_BYTES]), bytes(data[HEADER_BYTES:])
    try:
        return cipher.decrypt(_NONCE, body, head)
    except InvalidTag:
        raise BadShipment(
            f"LSN {found.first_lsn} to {found.last_lsn}: the seal is broken: not what the site "
            "sealed, or damaged",
            "fetch it again; if it stays so, the vault's copy is damaged or was tampered with",
        ) from None


def check_opened(ring: KeyRing, header: SealedHeader, shipment: Shipment) -> None:
    """Does the header say what is inside? BadShipment if not.

    The site that sealed it said both, so only a fault of the site can make them differ.
    """
    ends = ends_of(shipment)
    told = header.volume, header.first_lsn, header.last_lsn, header.previous, header.digest
    inside = (
        ends.volume, ends.first_lsn, ends.last_lsn,
        ring.chain_digest(ends.volume, ends.previous),
        ring.chain_digest(ends.volume, ends.digest),
    )  # fmt: skip
    if told != inside:
        raise BadShipment("a sealed shipment holds something else than its header says")


def _pack(header: SealedHeader) -> bytes:
    start = _header.pack(SEALED_MAGIC, SEALED_VERSION, 0, 0, *header, 0)[:-8]
    return start + _hash(start).to_bytes(8, "little")


def _cipher(key: SealingKey, volume: bytes, salt: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(derive(key.secret, b"shipment" + volume, salt=salt))
