"""Batches: runs of consecutive ops as the segments, the replica and the tapes hold them. Pure.

Duty: bytes from ops and ops from bytes, with every length bounded before anything is allocated,
so that a hostile or damaged batch ends in ValueError (UnsupportedFormat for a newer one) and
nothing worse. Any thread: the zstd objects, which must not be shared, are kept per thread.

A batch is its header, the frame directory, the op metadata (one zstd frame) and the payload
frames (`store.format` has the tables). Frames cut the raw payload every FRAME_BYTES, so the frame
that holds a position is a division away.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import xxhash
import zstandard
from blake3 import blake3

from store.errors import UnsupportedFormat
from store.format import (
    BATCH_HEADER,
    BATCH_MAGIC,
    FEATURE_BASELINE,
    FEATURE_FOLDED,
    FEATURE_GAPS,
    FORMAT_VERSION,
    FRAME,
    FRAME_BYTES,
    KNOWN_FEATURES,
    MAX_PAYLOAD_BYTES,
    OP_META,
    Flag,
    Kind,
)
from store.ops import Op
from store.types import Lsn, NodeId, TimeNs

MAX_BATCH_OPS = 1 << 18
MAX_BATCH_PAYLOAD_BYTES = 16 << 20
MAX_BATCH_BYTES = 48 << 20
"""Bounds of what is decoded; the indexer forces a batch at 8 MiB of metadata and payload."""

NO_DIGEST = bytes(32)
"""`previous` of a volume's first batch."""

CODEC_RAW, CODEC_ZSTD = 0, 1
WORTHWHILE = 0.97
"""A frame that zstd leaves larger than this share of its raw size is stored raw."""

HEADER_BYTES = BATCH_HEADER.size_bytes
_header = BATCH_HEADER.codec
_frame = FRAME.codec
_meta = OP_META.codec
_hash = xxhash.xxh3_64_intdigest
_GAP = int(Kind.GAP)
_FOLDED = int(Kind.FOLDED)
DIGEST_BYTES = 32

_OTHER_DIGEST = FEATURE_FOLDED | FEATURE_BASELINE
"""Features with which the digest of what is in a batch stands beside that of the chain."""


class Frame(NamedTuple):
    """One entry of the frame directory; `offset` counts from the batch's start."""

    offset: int
    stored_bytes: int
    raw_bytes: int
    codec: int
    xxh3: int


class BatchHeader(NamedTuple):
    """A batch's header, checked, and its frame directory in the compact form of the disk."""

    op_count: int
    first_lsn: Lsn
    last_lsn: Lsn
    first_time_ns: TimeNs
    last_time_ns: TimeNs
    total_bytes: int
    payload_bytes: int
    frame_count: int
    meta_stored_bytes: int
    meta_xxh3: int
    previous: bytes
    digest: bytes
    directory: bytes
    """With some features the digest of what is in the batch follows the entries."""
    features: int = 0

    @property
    def folded(self) -> bool:
        """Whether some of its ops were left out on the way from the site."""
        return bool(self.features & FEATURE_FOLDED)

    @property
    def begins_history(self) -> bool:
        """Whether it starts with the BASELINE op: then it follows on baseline batches, whatever
        their last LSN."""
        baseline = bool(self.features & FEATURE_BASELINE)
        return baseline and self.digest != self.content_digest

    @property
    def describes_beginning(self) -> bool:
        """Whether it is a baseline batch, whose ops are no history."""
        return bool(self.features & FEATURE_BASELINE) and not self.begins_history

    @property
    def content_digest(self) -> bytes:
        """The digest of what is in it; that of the chain unless features say otherwise."""
        return self.directory[-DIGEST_BYTES:] if self.features & _OTHER_DIGEST else self.digest

    def follows(self, last_lsn: int) -> bool:
        """Whether it is next behind a batch that ends with `last_lsn`."""
        if self.begins_history:
            return 0 < last_lsn < self.first_lsn
        return self.first_lsn == last_lsn + 1

    @property
    def meta_offset(self) -> int:
        """Where the stored metadata starts, from the batch's start."""
        return HEADER_BYTES + len(self.directory)

    @property
    def frames(self) -> list[Frame]:
        """The frame directory, with each frame's offset from the batch's start."""
        found = []
        at = self.meta_offset + self.meta_stored_bytes
        entries = self.directory[: self.frame_count * _frame.size]
        for stored, raw, codec, _, check in _frame.iter_unpack(entries):
            found.append(Frame(at, stored, raw, codec, check))
            at += stored
        return found


class BatchOp(NamedTuple):
    """One op's metadata as a batch holds it."""

    kind: int
    flags: int
    reserved: int
    length: int
    lsn: Lsn
    time_ns: TimeNs
    node: NodeId
    offset: int
    payload_xxh3: int
    actor: Lsn


class EncodedBatch(NamedTuple):
    """The bytes of a batch and its header."""

    data: bytes
    header: BatchHeader


class _ThreadCodecs(threading.local):
    """zstd objects are expensive to make and must not be used by two threads at once."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """This thread's compressor of that level."""
        found = self.compressors.get(level)
        if found is None:
            found = self.compressors[level] = zstandard.ZstdCompressor(level=level)
        return found


_codecs = _ThreadCodecs()


def encode_batch(
    ops: Sequence[Op], previous: bytes, level: int = 1, site_digest: bytes = NO_DIGEST
) -> EncodedBatch:
    """A batch of `ops`, which are consecutive and at least one.

    `previous` is the digest of the preceding batch (32 bytes, NO_DIGEST for none). `site_digest`
    is the digest that the batch has at its site, for one with FOLDED ops or with the BASELINE op;
    of others it does not count. AssertionError when the ops are more than a batch may hold.
    """
    compressor = _codecs.compressor(level)
    pack, size = _meta.pack_into, _meta.size
    meta = bytearray(size * len(ops))
    at = features = 0
    for lsn, time_ns, kind, flags, node, offset, actor, check, payload in ops:
        pack(
            meta, at, kind, flags, 0, len(payload), lsn, time_ns, node, offset, check, actor
        )  # fmt: skip
        at += size
        if kind == _GAP:
            features |= FEATURE_GAPS
        elif kind == _FOLDED:
            features |= FEATURE_FOLDED
    starts = ops[0].kind == Kind.BASELINE and not ops[0].flags & Flag.BASELINE
    if starts or ops[0].flags & Flag.BASELINE:
        features |= FEATURE_BASELINE
    payload = b"".join([op[8] for op in ops])
    assert 0 < len(ops) <= MAX_BATCH_OPS and len(payload) <= MAX_BATCH_PAYLOAD_BYTES
    digest = _digest(previous, meta, payload)
    stored_meta = compressor.compress(meta)
    directory, frames = _encode_frames(payload, compressor)
    if features & _OTHER_DIGEST:
        directory += digest
        if starts or features & FEATURE_FOLDED:
            digest = site_digest
    total = HEADER_BYTES + len(directory) + len(stored_meta) + sum(map(len, frames))
    header = BatchHeader(
        op_count=len(ops),
        first_lsn=ops[0].lsn,
        last_lsn=ops[-1].lsn,
        first_time_ns=ops[0].time_ns,
        last_time_ns=ops[-1].time_ns,
        total_bytes=total,
        payload_bytes=len(payload),
        frame_count=len(frames),
        meta_stored_bytes=len(stored_meta),
        meta_xxh3=_hash(stored_meta),
        previous=previous,
        digest=digest,
        directory=directory,
        features=features,
    )
    data = b"".join([_encode_header(header), directory, stored_meta, *frames])
    return EncodedBatch(data, header)


def _encode_frames(
    payload: bytes, compressor: zstandard.ZstdCompressor
) -> tuple[bytes, list[bytes | memoryview]]:
    """The frame directory and the stored frames of a raw payload."""
    view = memoryview(payload)
    entries, frames = [], []
    for start in range(0, len(payload), FRAME_BYTES):
        raw = view[start : start + FRAME_BYTES]
        stored: bytes | memoryview = compressor.compress(raw)
        codec = CODEC_ZSTD
        if len(stored) >= WORTHWHILE * len(raw):
            stored, codec = raw, CODEC_RAW
        entries.append(_frame.pack(len(stored), len(raw), codec, 0, _hash(stored)))
        frames.append(stored)
    return b"".join(entries), frames


def _encode_header(header: BatchHeader) -> bytes:
    body = _header.pack(
        BATCH_MAGIC,
        FORMAT_VERSION,
        header.features,
        header.op_count,
        header.first_lsn,
        header.last_lsn,
        header.first_time_ns,
        header.last_time_ns,
        header.total_bytes,
        header.payload_bytes,
        header.frame_count,
        header.meta_stored_bytes,
        header.op_count * _meta.size,
        0,
        header.meta_xxh3,
        header.previous,
        header.digest,
        0,
    )[:-8]
    return body + _hash(body + header.directory).to_bytes(8, "little")


def _digest(previous: bytes, meta: bytes | bytearray, payload: bytes) -> bytes:
    return blake3(previous).update(meta).update(payload).digest()


def header_bytes(data: bytes | memoryview) -> int:
    """Bytes of header and frame directory, from the header's HEADER_BYTES at the start of `data`.

    ValueError when they can't be a batch's header, UnsupportedFormat when a newer cdpfs wrote it.
    Nothing is checked here beyond what makes the answer safe to read that many bytes.
    """
    if len(data) < HEADER_BYTES:
        raise ValueError(f"{len(data)} bytes are too few for a batch header")
    fields = _header.unpack_from(data)
    if fields[0] != BATCH_MAGIC:
        raise ValueError("no batch starts here")
    if fields[1] > FORMAT_VERSION:
        raise UnsupportedFormat(f"batch format version {fields[1]} is newer than {FORMAT_VERSION}")
    if fields[2] & ~KNOWN_FEATURES:
        raise UnsupportedFormat(f"batch features {fields[2]:#x} are not known to this version")
    frame_count: int = fields[10]
    if frame_count > MAX_BATCH_PAYLOAD_BYTES // FRAME_BYTES:
        raise ValueError(f"a frame directory of {frame_count} entries is impossible")
    other_digest = DIGEST_BYTES if fields[2] & _OTHER_DIGEST else 0
    return HEADER_BYTES + frame_count * _frame.size + other_digest


def decode_header(data: bytes | memoryview) -> BatchHeader:
    """The header and frame directory at the start of `data` (a whole batch or its beginning).

    ValueError when they are damaged or impossible, UnsupportedFormat when of a newer version.
    After it, every length in the header is within bounds and they add up.
    """
    stop = header_bytes(data)
    if len(data) < stop:
        raise ValueError(f"{len(data)} bytes are too few for a frame directory up to {stop}")
    fields = _header.unpack_from(data)
    directory = bytes(data[HEADER_BYTES:stop])
    if fields[-1] != _hash(bytes(data[: HEADER_BYTES - 8]) + directory):
        raise ValueError("the batch header does not match its checksum")
    version, count, meta_raw = fields[1], fields[3], fields[12]
    header = BatchHeader._make((count, *fields[4:12], *fields[14:17], directory, fields[2]))
    if version < 1 or meta_raw != count * _meta.size:
        raise ValueError("the batch header contradicts itself")
    _check_header(header)
    return header


def _check_header(header: BatchHeader) -> None:
    """ValueError unless every length is possible and the parts add up to the whole."""
    sound = (
        0 < header.op_count <= MAX_BATCH_OPS
        and header.first_lsn > 0
        and header.last_lsn == header.first_lsn + header.op_count - 1
        and header.first_time_ns <= header.last_time_ns
        and header.payload_bytes <= MAX_BATCH_PAYLOAD_BYTES
        and header.total_bytes <= MAX_BATCH_BYTES
        and header.frame_count == -(-header.payload_bytes // FRAME_BYTES)
    )
    if not sound:
        raise ValueError("the batch header is impossible")
    left = header.payload_bytes
    stored_sum = 0
    entries = header.directory[: header.frame_count * _frame.size]
    for stored, raw, codec, _, _ in _frame.iter_unpack(entries):
        if raw != min(left, FRAME_BYTES) or codec not in (CODEC_RAW, CODEC_ZSTD):
            raise ValueError("the frame directory is impossible")
        if stored > raw or (codec == CODEC_RAW and stored != raw):
            raise ValueError("the frame directory is impossible")
        left -= raw
        stored_sum += stored
    if header.meta_offset + header.meta_stored_bytes + stored_sum != header.total_bytes:
        raise ValueError("the batch's parts do not add up to its size")


def decode_frame(frame: Frame, stored: bytes | memoryview) -> bytes:
    """The raw bytes of one frame; ValueError when they are not what was written."""
    if len(stored) != frame.stored_bytes or _hash(stored) != frame.xxh3:
        raise ValueError("a payload frame does not match its checksum")
    if frame.codec == CODEC_RAW:
        return bytes(stored)
    return _decompress(stored, frame.raw_bytes)


def _decompress(stored: bytes | memoryview, raw_bytes: int) -> bytes:
    """Decompress to exactly `raw_bytes`.

    The size is compared first, since zstandard allocates what the compressed data announces,
    whatever bound it is given.
    """
    try:
        if zstandard.frame_content_size(bytes(stored[:18])) != raw_bytes:
            raise ValueError("compressed data of the wrong size")
        raw = _codecs.decompressor.decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"compressed data is damaged: {error}") from error
    if len(raw) != raw_bytes:
        raise ValueError("compressed data of the wrong size")
    return raw


def decode_meta(header: BatchHeader, stored: bytes | memoryview) -> bytes:
    """The raw op metadata from its stored bytes; ValueError when damaged."""
    if len(stored) != header.meta_stored_bytes or _hash(stored) != header.meta_xxh3:
        raise ValueError("the op metadata does not match its checksum")
    return _decompress(stored, header.op_count * _meta.size)


def decode_ops(header: BatchHeader, meta: bytes) -> list[BatchOp]:
    """The ops of raw metadata; ValueError when they can't be those of `header`."""
    found = list(map(BatchOp._make, _meta.iter_unpack(meta)))
    lsn, last_time, payload = header.first_lsn, -1, 0
    for op in found:
        if op.lsn != lsn or op.time_ns <= last_time or op.length > MAX_PAYLOAD_BYTES:
            raise ValueError(f"op {lsn} of the batch is impossible")
        lsn = Lsn(lsn + 1)
        last_time = op.time_ns
        payload += op.length
    times = (found[0].time_ns, found[-1].time_ns) if found else None
    if payload != header.payload_bytes or times != (header.first_time_ns, header.last_time_ns):
        raise ValueError("the op metadata contradicts the batch header")
    return found


def decode_payload(header: BatchHeader, data: bytes | memoryview) -> bytes:
    """The whole raw payload of the batch in `data`; ValueError when a frame is damaged."""
    view = memoryview(data)
    return b"".join(
        [
            decode_frame(frame, view[frame.offset : frame.offset + frame.stored_bytes])
            for frame in header.frames
        ]
    )


def check_digest(header: BatchHeader, meta: bytes, payload: bytes) -> None:
    """ValueError unless raw metadata and raw payload give the header's digest."""
    if _digest(header.previous, meta, payload) != header.content_digest:
        raise ValueError("the batch does not match its digest")


def check_stored(header: BatchHeader, data: bytes | memoryview) -> None:
    """ValueError unless what follows the header in `data` is as stored, by its checksums.

    Nothing is decompressed. `header` was decoded from `data`.
    """
    if len(data) != header.total_bytes:
        raise ValueError(f"a batch of {header.total_bytes} bytes in {len(data)}")
    view = memoryview(data)
    start = header.meta_offset
    if _hash(view[start : start + header.meta_stored_bytes]) != header.meta_xxh3:
        raise ValueError("the op metadata does not match its checksum")
    for frame in header.frames:
        if _hash(view[frame.offset : frame.offset + frame.stored_bytes]) != frame.xxh3:
            raise ValueError("a payload frame does not match its checksum")


def decode_batch(data: bytes | memoryview) -> tuple[BatchHeader, list[Op]]:
    """Header and ops (payloads are views into one buffer) of a whole batch, all of it checked.

    ValueError or UnsupportedFormat. Each op's own payload checksum is left to the caller: the
    digest covers the same bytes.
    """
    header = decode_header(data)
    if len(data) != header.total_bytes:
        raise ValueError(f"a batch of {header.total_bytes} bytes in {len(data)}")
    view = memoryview(data)
    start = header.meta_offset
    meta = decode_meta(header, view[start : start + header.meta_stored_bytes])
    payload = decode_payload(header, view)
    check_digest(header, meta, payload)
    return header, join_ops(decode_ops(header, meta), payload)


def join_ops(entries: Sequence[BatchOp], payload: bytes) -> list[Op]:
    """Ops with their payloads from a batch's metadata and raw payload (as long as they say)."""
    view = memoryview(payload)
    found = []
    at = 0
    for kind, flags, _, length, lsn, time_ns, node, offset, check, actor in entries:
        stop = at + length
        found.append(Op(lsn, time_ns, kind, flags, node, offset, actor, check, view[at:stop]))
        at = stop
    return found
