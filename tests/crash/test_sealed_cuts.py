"""A sealed line whose vault loses its power at any sync: what was acknowledged is there, whole."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from replicator.vault.sealed import SealedLine
from replicator.vault.sealed_files import list_files, read_shipment, sealed_dir, verify_sealed
from store.volume import Store
from tests.crash.fault_disk import FaultDisk, Mode
from tests.unit.sealed_history import History, line_store

FEW = 4
PACK_BYTES = 20_000
"""Small, so that packs of packs and full ones come about."""


def _sent(root: Path, seed: int, disk: FaultDisk, count: int) -> list[bytes]:
    """Make a line, send to it, close and open it at times; what was sent, in order."""
    history, sent = History(seed), list[bytes]()
    line = SealedLine.open(Store.open(root), PACK_BYTES, FEW)
    for number in range(count):
        sent.append(history.shipment())
        line.take(sent[-1])
        disk.promise(len(sent))
        if number % 11 == 10:
            line.close()
            line = SealedLine.open(Store.open(root), PACK_BYTES, FEW)
    line.close()
    return sent


def _check(store: Store, sent: list[bytes], promised: int) -> int:
    """The line goes on from what is there; how many shipments that was."""
    line = SealedLine.open(store, PACK_BYTES, FEW)
    there = [read_shipment(entry) for entry in verify_sealed(store)]
    assert promised <= len(there) and there == sent[: len(there)]
    assert not list_files(store).leftovers
    for data in sent:
        line.take(data)
    line.close()
    assert [read_shipment(entry) for entry in verify_sealed(store)] == sent
    return len(there)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("mode", list(Mode))
def test_a_power_cut_at_any_sync_loses_nothing_that_was_acknowledged(
    tmp_path: Path, seed: int, mode: Mode
) -> None:
    root = tmp_path / "line"
    line_store(root)
    rng = random.Random(seed)
    numbers = itertools.count()
    found = set()
    with FaultDisk(root) as disk:
        sent = _sent(root, seed, disk, 24)
    for cut, lay_down in disk.cuts():
        folder = tmp_path / f"cut{next(numbers)}"
        lay_down(folder, mode, rng)
        found.add(_check(Store.open(folder), sent, cut.promised))
    assert len(found) > 20


def test_a_power_cut_while_a_line_is_opened_after_one_is_survived(tmp_path: Path) -> None:
    root = tmp_path / "line"
    store = line_store(root)
    history = History(5)
    sent = [history.shipment() for _ in range(6)]
    line = SealedLine.open(store, PACK_BYTES, 100)
    for data in sent:
        line.take(data)
    line.close()
    folder = sealed_dir(store)
    singles = {file.path: file.path.read_bytes() for file in list_files(store).files}
    line = SealedLine.open(store, PACK_BYTES, FEW)
    line._pack(line._files[-5:])
    line.close()
    for path, data in singles.items():
        path.write_bytes(data)
    (folder / "pack.new").write_bytes(b"half a pa")
    with FaultDisk(root) as disk:
        SealedLine.open(store, PACK_BYTES, FEW).close()
    rng = random.Random(1)
    numbers = itertools.count()
    for _, lay_down in disk.cuts():
        for mode in Mode:
            target = tmp_path / f"again{next(numbers)}"
            lay_down(target, mode, rng)
            assert _check(Store.open(target), sent, len(sent)) == len(sent)
