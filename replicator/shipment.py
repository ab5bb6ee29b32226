"""Shipments: runs of whole batches as they go over the wire. Pure; any thread; no I/O.

Duty: bytes from batches and batches from bytes. Everything is bounded before it is allocated: a
damaged or hostile shipment ends in BadShipment. The digests of the batches in it are the site's;
whoever stores the ops makes batches of them again (`store.batch.encode_batch`), with the same
digests if nothing was changed on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import xxhash
import zstandard

from replicator.effort import Effort
from replicator.errors import BadShipment
from replicator.packed import Body, Held, Known, NothingHeld, pack_ops, unpack_ops
from replicator.streams import Level
from replicator.wire import MAX_SHIPMENT_BATCHES, MAX_SHIPMENT_BYTES, MAX_SHIPMENT_RAW_BYTES
from store.batch import (
    MAX_BATCH_OPS,
    MAX_BATCH_PAYLOAD_BYTES,
    NO_DIGEST,
    BatchHeader,
    BatchOp,
    join_ops,
)
from store.format import MAX_PAYLOAD_BYTES, OP_META, Field, Table
from store.ops import Op
from store.types import Lsn

SHIPMENT_VERSION = 1
SHIPMENT_MAGIC = b"CDPSHIP\0"

SHIPMENT_HEADER = Table(
    "shipment header",
    "Start of a shipment. One entry for each batch follows, then the body.",
    (
        Field("magic", "8s", "`CDPSHIP\\0`"),
        Field("version", "H", "format version"),
        Field("features", "H", "mandatory-feature bits; unknown ones are refused"),
        Field("batch_count", "I", "batches in it"),
        Field("volume", "16s", "the volume's UUID"),
        Field("first_lsn", "Q", "LSN of the first op"),
        Field("last_lsn", "Q", "LSN of the last op"),
        Field("raw_bytes", "Q", "op metadata and payload of all batches"),
        Field("previous", "32s", "digest of the batch before the first one; zeros for none"),
        Field("encoding", "I", "0: metadata and payload in one zstd frame; 1: packed streams"),
        Field("primed", "I", "of encoding 1: how many ops before it the metadata builds on"),
        Field("check", "Q", "xxh3-64 of this header before this field and of the batch entries"),
    ),
)

SHIPMENT_BATCH = Table(
    "shipment batch entry",
    "One batch of a shipment.",
    (
        Field("op_count", "I", "ops in it"),
        Field("payload_bytes", "I", "raw payload bytes of all its ops"),
        Field("digest", "32s", "its digest in the site's chain"),
    ),
)

HEADER_BYTES = SHIPMENT_HEADER.size_bytes
_header = SHIPMENT_HEADER.codec
_entry = SHIPMENT_BATCH.codec
_meta = OP_META.codec
_hash = xxhash.xxh3_64_intdigest

PLAIN, PACKED = 0, 1


_PLAIN_LEVEL = 1
_LEVELS = {
    Effort.GOOD: Level(small=6, large=3, lzma=False),
    Effort.BEST: Level(small=19, large=9, lzma=True),
}


FEATURE_FOLDED = 1
"""Mandatory-feature bit of shipments with folded batches: behind the batch entries there is, for
each batch, the digest of its ops as they are in the shipment (32 bytes; zeros if not folded)."""


class ShippedBatch(NamedTuple):
    """One batch of a shipment: its ops, and its digest in the site's chain."""

    ops: list[Op]
    digest: bytes
    content: bytes = NO_DIGEST
    """Of a folded batch (`fold`), the digest of `ops`; else zeros."""

    @property
    def folded(self) -> bool:
        """Whether something was left out of it."""
        return self.content != NO_DIGEST


def shipped(header: BatchHeader, ops: list[Op]) -> ShippedBatch:
    """A batch of a journal, as it is there."""
    return ShippedBatch(ops, header.digest, header.content_digest if header.folded else NO_DIGEST)


class Shipment(NamedTuple):
    """A decoded shipment. Its batches are consecutive and at least one."""

    volume: bytes
    previous: bytes
    batches: list[ShippedBatch]

    @property
    def first_lsn(self) -> Lsn:
        """LSN of its first op."""
        return self.batches[0].ops[0].lsn

    @property
    def last_lsn(self) -> Lsn:
        """LSN of its last op."""
        return self.batches[-1].ops[-1].lsn


def encode_shipment(
    volume: bytes,
    previous: bytes,
    batches: Sequence[ShippedBatch],
    known: Known = Known(),  # noqa: B008  (immutable)
    effort: Effort = Effort.FAST,
) -> bytes:
    """The bytes of a shipment of consecutive batches, at least one.

    `previous` is the digest of the batch before the first (NO_DIGEST for none). `known` is what
    may be referred to; the receiver must hold it all. AssertionError when they are more than a
    shipment may hold.
    """
    sizes = [sum(len(op.payload) for op in batch.ops) for batch in batches]
    count = sum(len(batch.ops) for batch in batches)
    raw_bytes = sum(sizes) + count * _meta.size
    assert 0 < len(batches) <= MAX_SHIPMENT_BATCHES and raw_bytes <= MAX_SHIPMENT_RAW_BYTES
    primed = 0
    if effort is Effort.FAST:
        encoding, body = PLAIN, _plain_body(batches)
    else:
        ops = [op for batch in batches for op in batch.ops]
        encoding = PACKED
        primed, body = pack_ops(ops, known, _LEVELS[effort])
    ends = batches[0].ops[0].lsn, batches[-1].ops[-1].lsn
    features = FEATURE_FOLDED if any(batch.folded for batch in batches) else 0
    head = _header.pack(
        SHIPMENT_MAGIC, SHIPMENT_VERSION, features, len(batches), volume, *ends, raw_bytes,
        previous, encoding, primed, 0,
    )[:-8]  # fmt: skip
    directory = b"".join(
        _entry.pack(len(batch.ops), size, batch.digest)
        for batch, size in zip(batches, sizes, strict=True)
    )
    if features & FEATURE_FOLDED:
        directory += b"".join([batch.content for batch in batches])
    check = _hash(head + directory).to_bytes(8, "little")
    data = b"".join([head, check, directory, body])
    assert len(data) <= MAX_SHIPMENT_BYTES
    return data


def _plain_body(batches: Sequence[ShippedBatch]) -> bytes:
    """All metadata, then all payload, in one zstd frame."""
    metas: list[bytes] = []
    payloads: list[bytes | memoryview] = []
    for ops, *_ in batches:
        metas += [
            _meta.pack(kind, flags, 0, len(payload), lsn, time_ns, node, offset, check, actor)
            for lsn, time_ns, kind, flags, node, offset, actor, check, payload in ops
        ]
        payloads += [op.payload for op in ops]
    return zstandard.ZstdCompressor(level=_PLAIN_LEVEL).compress(b"".join([*metas, *payloads]))


def decode_shipment(data: bytes | memoryview, held: Held) -> Shipment:
    """The batches of a shipment; BadShipment when it is not what `encode_shipment` made.

    Every op's payload has the checksum that the op states. Digests are not tested here.
    """
    view = memoryview(data)
    if len(view) < HEADER_BYTES or view[:8] != SHIPMENT_MAGIC:
        raise BadShipment("this is not a shipment")
    fields = _header.unpack_from(view)
    _, version, features, count, volume, first, last, raw_bytes, previous, *rest = fields
    encoding, primed, check = rest
    if version != SHIPMENT_VERSION or features & ~FEATURE_FOLDED or encoding not in (PLAIN, PACKED):
        raise BadShipment(
            f"shipment version {version}, features {features:#x}, encoding {encoding} are not "
            "known here"
        )
    contents = HEADER_BYTES + count * _entry.size
    start = contents + (count * len(NO_DIGEST) if features & FEATURE_FOLDED else 0)
    if not 0 < count <= MAX_SHIPMENT_BATCHES or len(view) < start:
        raise BadShipment(f"a shipment of {count} batches is impossible")
    directory = view[HEADER_BYTES:start]
    if check != _hash(bytes(view[: HEADER_BYTES - 8]) + bytes(directory)):
        raise BadShipment("the shipment's header does not match its checksum")
    entries = list(_entry.iter_unpack(view[HEADER_BYTES:contents]))
    _check_sizes(entries, first, last, raw_bytes)
    packed = bytes(view[start:])
    if encoding == PLAIN:
        split = _split(entries, _decompress(packed, raw_bytes), first)
    else:
        payload_bytes = sum(size for _, size, _ in entries)
        body = Body(first, last - first + 1, payload_bytes, raw_bytes, primed)
        split = _part(entries, unpack_ops(packed, body, held))
    if features & FEATURE_FOLDED:
        split = [
            batch._replace(content=bytes(view[at : at + len(NO_DIGEST)]))
            for batch, at in zip(split, range(contents, start, len(NO_DIGEST)), strict=True)
        ]
    return Shipment(volume, previous, split)


def _check_sizes(entries: list[tuple[int, int, bytes]], first: int, last: int, raw: int) -> None:
    possible = all(
        0 < ops <= MAX_BATCH_OPS and size <= MAX_BATCH_PAYLOAD_BYTES for ops, size, _ in entries
    )
    ops = sum(entry[0] for entry in entries)
    total = ops * _meta.size + sum(entry[1] for entry in entries)
    if not possible or total != raw or raw > MAX_SHIPMENT_RAW_BYTES or last != first + ops - 1:
        raise BadShipment("the shipment's header is impossible")
    if not 0 < first <= last < 1 << 63:
        raise BadShipment("the shipment's LSNs are impossible")


def _decompress(body: bytes, raw_bytes: int) -> bytes:
    """To exactly `raw_bytes`; the size is compared before anything is allocated."""
    try:
        if zstandard.frame_content_size(body) != raw_bytes:
            raise BadShipment("the shipment's body has another size than its header says")
        raw = zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadShipment(f"the shipment's body is damaged: {error}") from error
    if len(raw) != raw_bytes:
        raise BadShipment("the shipment's body has another size than its header says")
    return raw


def _part(entries: list[tuple[int, int, bytes]], ops: list[Op]) -> list[ShippedBatch]:
    """The batches that ops of a packed shipment make up."""
    at = 0
    batches = []
    for count, payload_bytes, digest in entries:
        part = ops[at : at + count]
        at += count
        if sum(len(op.payload) for op in part) != payload_bytes:
            raise BadShipment("the shipment's op metadata contradicts its header")
        batches.append(ShippedBatch(part, digest))
    return batches


def _split(entries: list[tuple[int, int, bytes]], raw: bytes, first: int) -> list[ShippedBatch]:
    """The batches from all metadata and all payload."""
    view = memoryview(raw)
    at = 0
    place = sum(entry[0] for entry in entries) * _meta.size
    lsn = first
    batches = []
    for count, payload_bytes, digest in entries:
        stop = at + count * _meta.size
        metas = list(map(BatchOp._make, _meta.iter_unpack(view[at:stop])))
        if sum(meta.length for meta in metas) != payload_bytes:
            raise BadShipment("the shipment's op metadata contradicts its header")
        for meta in metas:
            if meta.lsn != lsn or meta.length > MAX_PAYLOAD_BYTES:
                raise BadShipment(f"op {lsn} of the shipment is impossible")
            lsn += 1
        ops = join_ops(metas, raw[place : place + payload_bytes])
        for op in ops:
            if _hash(op.payload) != op.payload_xxh3:
                raise BadShipment(f"the payload of LSN {op.lsn} does not match its checksum")
        batches.append(ShippedBatch(ops, digest))
        at, place = stop, place + payload_bytes
    return batches


__all__ = [
    "NO_DIGEST",
    "Effort",
    "Held",
    "Known",
    "NothingHeld",
    "Shipment",
    "ShippedBatch",
    "decode_shipment",
    "encode_shipment",
    "shipped",
]
