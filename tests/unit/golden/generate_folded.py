"""Made the golden segments with a folded batch (format version 1, feature folded), once.

    python -m tests.unit.golden.generate_folded

The files under version control are the truth; see `generate`.
"""

from __future__ import annotations

from pathlib import Path

from replicator.fold import fold
from store.batch import HEADER_BYTES, NO_DIGEST, encode_batch
from store.format import FRAME, Kind
from store.ops import Op
from store.segment import encode_header
from store.types import Lsn
from tests.unit.golden.generate import VOLUME, flipped, golden_ops
from tests.unit.held_ops import make_op

FOLDER = Path(__file__).parent / "folded-v1"
FINAL = b"what is there in the end" * 4


def site_ops() -> list[list[Op]]:
    """The batches as the site has them: in the second one a file is overwritten, twice."""
    first = golden_ops()[0]
    start_ns = first[-1].time_ns

    def op(lsn: int, kind: Kind, payload: bytes = b"") -> Op:
        return make_op(lsn, start_ns + lsn * 10_000, int(kind), 0, 2, 0, payload)

    second = [
        op(5, Kind.WRITE, b"first" * 4),
        op(6, Kind.FSYNC),
        op(7, Kind.WRITE, b"second" * 5),
        op(8, Kind.FSYNC),
        op(9, Kind.WRITE, FINAL),
        op(10, Kind.FSYNC),
    ]
    return [first, second, [op(11, Kind.FSYNC)]]


def held_ops() -> list[list[Op]]:
    """The batches as a replica holds them."""
    first, second, third = site_ops()
    folded = fold(second, Lsn(9), 2)
    assert folded is not None
    return [first, folded, third]


def variants() -> dict[str, bytes]:
    """Every golden file by its name."""
    data, previous, starts = encode_header(VOLUME, Lsn(1)), NO_DIGEST, []
    for ops, here in zip(site_ops(), held_ops(), strict=True):
        site = encode_batch(ops, previous).header.digest
        starts.append(len(data))
        data += encode_batch(here, previous, site_digest=site).data
        previous = site
    content_digest = starts[1] + HEADER_BYTES + FRAME.size_bytes
    return {"whole": data, "flipped-bit-in-content-digest": flipped(data, content_digest)}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in variants().items():
        (FOLDER / f"{name}.seg").write_bytes(content)
