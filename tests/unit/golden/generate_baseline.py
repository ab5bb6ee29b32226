"""Made the golden segments of a copy that begins at a baseline (format version 1), once.

    python -m tests.unit.golden.generate_baseline

The files under version control are the truth; see `generate`.
"""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from store.baseline import BaselineWriter
from store.baseline_state import Entry, State, encode_state
from store.baseline_state import Kind as Stated
from store.batch import BATCH_MAGIC, HEADER_BYTES, NO_DIGEST, encode_batch
from store.format import FRAME, Kind, key_lsn
from store.ops import Actor, Adopted, Op
from store.segment import list_segments
from store.types import NO_NODE, ROOT, Lsn, NodeId
from store.volume import Store, new_config
from tests.unit.golden.generate import VOLUME, flipped, golden_ops
from tests.unit.held_ops import make_op

FOLDER = Path(__file__).parent / "baseline-v1"
BEGIN = Lsn(20)
CONTENT = b"what there was in the beginning" * 3
START_NS = golden_ops()[0][-1].time_ns
WHO = Actor(0, 0, 10, 1, 10, b"golden")


def site_ops() -> list[list[Op]]:
    """The site's batches from the one on that holds the beginning."""

    def op(lsn: int, kind: Kind, payload: bytes = b"", actor: int = 0) -> Op:
        made = make_op(lsn, START_NS + lsn * 10_000, int(kind), 0, 2, 0, payload)
        return made._replace(actor=Lsn(actor))

    first = [
        op(19, Kind.WRITE, b"before"),
        op(20, Kind.FSYNC),
        op(21, Kind.WRITE, b"after", actor=12),
    ]
    return [first, [op(22, Kind.FSYNC, actor=12)]]


def nodes() -> list[tuple[NodeId, Adopted]]:
    """The tree at the beginning."""

    def adopted(parent: NodeId, name: bytes, mode: int, size: int = 0, links: int = 1) -> Adopted:
        return Adopted(
            parent, name, mode, 1000, 100, 0, size, START_NS, START_NS + 1, START_NS + 2, 0, links,
            b"a" if stat.S_ISLNK(mode) else b"", ((b"user.x", b"y"),) if size else (),
        )  # fmt: skip

    return [
        (ROOT, adopted(NO_NODE, b"", 0o040755)),
        (NodeId(2), adopted(NodeId(3), b"a", 0o100644, 1 << 20, links=2)),
        (NodeId(3), adopted(ROOT, b"d", 0o040700)),
        (NodeId(4), adopted(ROOT, b"link", 0o120777)),
    ]


def state() -> bytes:
    """Who wrote what comes after."""
    who = Entry(Stated.ACTOR, key_lsn(12), WHO.encode())
    return encode_state(State(BEGIN, Lsn(0), NodeId(9), [who]))


def make_store(root: Path) -> Store:
    """The whole store."""
    store = Store.create(root / "store", new_config("/nowhere", 1, uuid=VOLUME.hex()))
    with BaselineWriter.open(store) as writer:
        first, second = site_ops()
        writer.start(BEGIN, first[1].time_ns)
        for node, adopted in nodes():
            writer.node(node, adopted)
        writer.name(NodeId(2), ROOT, b"b")
        writer.data(NodeId(2), 1000, CONTENT)
        encoded = encode_batch(first, NO_DIGEST)
        writer.finish(encoded.data, state())
        writer.append(encode_batch(second, encoded.header.digest).data)
        writer.commit()
    return store


def variants() -> dict[str, bytes]:
    """Every golden file by its name."""
    with tempfile.TemporaryDirectory() as folder:
        [segment] = list_segments(make_store(Path(folder)))
        data = segment.path.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(BATCH_MAGIC, at)]
    second = starts[1]
    return {
        "whole": data,
        "flipped-bit-in-description": flipped(
            data, starts[0] + HEADER_BYTES + FRAME.size_bytes * 2 + 40
        ),
        "flipped-bit-in-content-digest": flipped(data, second + HEADER_BYTES + FRAME.size_bytes),
        "description-missing": data[: starts[0]] + data[second:],
        "description-alone": data[:second],
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in variants().items():
        (FOLDER / f"{name}.seg").write_bytes(content)
