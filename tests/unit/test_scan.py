"""The books made anew from the cartridges alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tape.plan import covered_lsn
from tape.reach import reach_of
from tape.retention import Retention
from tests.spool_scene import Scene, fill


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, slots=8)
    yield made
    made.close()


def spooled(scene: Scene) -> None:
    for seed in range(3):
        fill(scene, 4, seed)
        scene.spool(scene.rules("onsite"), scene.rules("offsite"))


def test_a_scan_finds_every_set_with_every_archive(scene: Scene) -> None:
    spooled(scene)
    before = scene.state()
    shutil.rmtree(scene.home / "catalogue")
    after = scene.scan().state
    assert after.sets.keys() == before.sets.keys()
    for set_id, tape_set in after.sets.items():
        old = before.sets[set_id]
        assert tape_set.archives == old.archives
        assert tape_set.whole
        assert covered_lsn(after, tape_set) == covered_lsn(before, old)
        reach, known = reach_of(after, tape_set), reach_of(before, old)
        assert reach is not None and known is not None
        assert (reach.base_lsn, reach.last_lsn) == (known.base_lsn, known.last_lsn)
        assert reach.barrier_lsn == known.barrier_lsn
    for label_id, cartridge in after.cartridges.items():
        known_cartridge = before.cartridges[label_id]
        assert [a.digest for a in cartridge.archives] == [
            a.digest for a in known_cartridge.archives
        ]
        assert (cartridge.place, cartridge.number) == ("slot", known_cartridge.number)
    assert scene.state() == after


def test_a_spooler_goes_on_after_a_scan_with_new_sets(scene: Scene) -> None:
    spooled(scene)
    scene.scan()
    fill(scene, 2, 9)
    scene.spool()
    state = scene.state()
    tape_set = state.open_set(scene.tree.store.config.uuid, "onsite")
    assert tape_set is not None
    assert covered_lsn(state, tape_set) == scene.tree.journal.indexed_lsn


def test_an_archive_that_was_not_finished_is_left_out_and_written_over(scene: Scene) -> None:
    spooled(scene)
    state = scene.state()
    cartridge = next(c for c in state.cartridges.values() if c.archives and c.appendable)
    last = scene.home / "cartridges" / cartridge.barcode / f"{len(cartridge.archives):06d}"
    last.write_bytes(last.read_bytes()[: -16 << 10] + bytes(16 << 10))
    found = scene.scan()
    read = found.state.cartridges[cartridge.label_id]
    assert len(read.archives) == len(cartridge.archives) - 1
    assert any(each.note for each in found.read)
    fill(scene, 2, 9)
    scene.spool(scene.rules(cartridge.label.pool))


def test_what_stands_behind_an_archive_that_can_not_be_read_is_not_written_over(
    scene: Scene,
) -> None:
    spooled(scene)
    state = scene.state()
    cartridge = next(c for c in state.cartridges.values() if len(c.archives) > 1 and c.appendable)
    first = scene.home / "cartridges" / cartridge.barcode / "000001"
    first.write_bytes(bytes(16 << 10) + first.read_bytes()[16 << 10 :])
    found = scene.scan().state
    read = found.cartridges[cartridge.label_id]
    assert read.archives == []
    assert not read.appendable
    assert "left out" in Retention(found, 1).why_cartridge_kept(read)
