"""A site that makes up ops, with digests and checksums that are right: refused or taken, no more.

It can spoil its own volume's history, as a site can. It can't bring the vault's process or the
store of a line into disorder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator.errors import BadShipment
from replicator.shipment import ShippedBatch, encode_shipment
from replicator.vault.ingest import LineWriter
from store.batch import encode_batch
from store.format import Kind
from store.ops import Op
from store.types import Lsn, NodeId, TimeNs
from store.verify import verify
from store.volume import Store
from tests.unit.shipping import all_batches, make_history, make_vault, ship

NODES = st.sampled_from([0, 1, 2, 3, 5, 1 << 32, (1 << 63) - 1, (1 << 64) - 1])
OFFSETS = st.sampled_from([0, 1, 2, 5, 47, 1 << 20, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
PAYLOADS = st.binary(max_size=80) | st.sampled_from(
    [b"", b"name", b"\0", b"/", b"..", b"x" * 300, b"x" * 5000, b"\xff" * 60, b"{}", b'{"a": 1}']
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"), rounds=2)


@pytest.fixture(scope="module")
def held(source: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The beginning of the history, at a vault."""
    _, line = make_vault(tmp_path_factory.mktemp("vault"), source)
    writer = LineWriter.open(line)
    writer.take(ship(source, all_batches(source), 0, 1))
    writer.close()
    return line


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_ops_that_no_site_makes_are_refused_or_taken(
    source: Store, held: Store, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "line"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(held.root, folder)
    line = Store.open(folder)
    first = all_batches(source)[0]
    last = first.ops[-1]
    ops = []
    for number in range(1, data.draw(st.integers(1, 6)) + 1):
        payload = data.draw(PAYLOADS)
        kind = data.draw(st.sampled_from([int(kind) for kind in Kind]) | st.integers(0, 255))
        ops.append(
            Op(
                Lsn(last.lsn + number),
                TimeNs(last.time_ns + number),
                kind,
                data.draw(st.integers(0, 255)),
                NodeId(data.draw(NODES)),
                data.draw(OFFSETS),
                Lsn(data.draw(st.sampled_from([0, 1, last.lsn, 1 << 62]))),
                xxhash.xxh3_64_intdigest(payload),
                payload,
            )
        )
    digest = encode_batch(ops, first.digest, site_digest=bytes(32)).header.digest
    bad = encode_shipment(source.uuid, first.digest, [ShippedBatch(ops, digest)])
    writer = LineWriter.open(line)
    try:
        writer.take(bad)
        assert writer.position()[0] == ops[-1].lsn + 1
    except BadShipment:
        assert writer.position() == (last.lsn + 1, first.digest)
    finally:
        writer.close()
    assert verify(line).sound
