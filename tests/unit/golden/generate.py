"""Made the golden files of format version 1, once. Kept to show what is in them.

    python -m tests.unit.golden.generate

Running it again with another zstd may write other bytes of the same meaning: the files under
version control are the truth. A new format version gets a folder of its own beside `v1`.
"""

from __future__ import annotations

from pathlib import Path

import xxhash

from store.batch import NO_DIGEST, EncodedBatch, encode_batch
from store.format import BATCH_HEADER, FRAME, SEGMENT_HEADER, Kind
from store.ops import Adopted, Created, Op
from store.segment import encode_header
from store.types import ROOT, Lsn, NodeId, TimeNs

FOLDER = Path(__file__).parent / "v1"
VOLUME = bytes(range(16))
NAME = "0000000000000001-0000000000000009.seg"
"""What the segment is called in a store."""

TEXT = b"golden text, line after line\n" * 40
_noise = bytes(xxhash.xxh3_64_intdigest(b"%d" % number) & 0xFF for number in range(900))
START_NS = 1_763_800_000_000_000_000


def golden_ops() -> list[list[Op]]:
    """The ops of the two batches of the segment."""
    root = Adopted(NodeId(0), b"", 0o40755, 0, 0, 0, 0, 1, 2, 3, 4, 2, xattrs=((b"user.a", b"b"),))
    created = Created(b"caf\xe9.txt", 0o100640, 1000, 1001)
    plan: list[tuple[int, int, int, bytes]] = [
        (Kind.MOUNT, 0, 0, b'{"version": "0.1.0", "boot": "golden"}'),
        (Kind.ADOPT, ROOT, 1, root.encode()),
        (Kind.DIR_SEEDED, ROOT, 0, b""),
        (Kind.CREATE, 2, ROOT, created.encode()),
        (Kind.WRITE, 2, 0, TEXT),
        (Kind.WRITE, 2, 4096, _noise),
        (Kind.WRITE, 2, 0, b"never happened"),
        (Kind.ABORT, 0, 7, b""),
        (Kind.FSYNC, 2, 0, b""),
    ]
    ops = [
        Op(
            Lsn(lsn),
            TimeNs(START_NS + lsn),
            kind,
            0,
            NodeId(node),
            offset,
            Lsn(0),
            xxhash.xxh3_64_intdigest(payload),
            payload,
        )
        for lsn, (kind, node, offset, payload) in enumerate(plan, 1)
    ]
    return [ops[:4], ops[4:]]


def whole_segment() -> tuple[bytes, list[int], list[EncodedBatch]]:
    """The segment, the offsets of its batches, and these."""
    data, offsets, batches, previous = encode_header(VOLUME, Lsn(1)), [], [], NO_DIGEST
    for ops in golden_ops():
        encoded = encode_batch(ops, previous)
        offsets.append(len(data))
        batches.append(encoded)
        data += encoded.data
        previous = encoded.header.digest
    return data, offsets, batches


def flipped(data: bytes, at: int) -> bytes:
    """One bit is another."""
    return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]


def resealed(data: bytes, start: int, size: int, changes: dict[str, int], tail: int = 0) -> bytes:
    """A header at `start` (segment's or batch's by its `size`) changed, its checksum right again.

    `tail`: bytes behind the header that its checksum takes in.
    """
    layout = SEGMENT_HEADER if size == SEGMENT_HEADER.size_bytes else BATCH_HEADER
    fields = layout.unpack(data, start)
    body = layout.pack(**{**fields, **changes})[:-8]
    covered = body + data[start + size : start + size + tail]
    check = xxhash.xxh3_64_intdigest(covered).to_bytes(8, "little")
    return data[:start] + body + check + data[start + size :]


def variants() -> dict[str, bytes]:
    """Every golden file by its name."""
    data, offsets, batches = whole_segment()
    second, header = offsets[1], batches[1].header
    [frame] = header.frames
    segment_size, batch_size = SEGMENT_HEADER.size_bytes, BATCH_HEADER.size_bytes
    directory = len(header.directory)
    assert directory == FRAME.size_bytes
    return {
        "whole": data,
        "flipped-bit-in-segment-header": flipped(data, 20),
        "flipped-bit-in-batch-header": flipped(data, second + 50),
        "flipped-bit-in-frame-directory": flipped(data, second + batch_size + 17),
        "flipped-bit-in-metadata": flipped(data, second + header.meta_offset + 12),
        "flipped-bit-in-frame": flipped(data, second + frame.offset + 100),
        "truncated-in-frame": data[:-7],
        "truncated-in-batch-header": data[: second + 30],
        "newer-segment-version": resealed(data, 0, segment_size, {"version": 2}),
        "unknown-segment-feature": resealed(data, 0, segment_size, {"features": 4}),
        "newer-batch-version": resealed(data, second, batch_size, {"version": 2}, directory),
        "unknown-batch-feature": resealed(data, second, batch_size, {"features": 4}, directory),
        "wrong-chain": resealed(
            data[:second] + encode_batch(golden_ops()[1], b"x" * 32).data, 0, segment_size, {}
        ),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in variants().items():
        (FOLDER / f"{name}.seg").write_bytes(content)
