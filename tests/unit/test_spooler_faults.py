"""What goes wrong in a library, and what of it a copy on tape notices: nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import tape.stage
from store.holds import read_holds
from tape.errors import ArchiveTooLarge, DriveDead, NoScratch, StageFull
from tape.library import Library, open_library
from tape.plan import covered_lsn
from tape.reach import reach_of
from tests.spool_scene import Scene, fill
from tests.tape.faults import ChangerFaults, DriveFaults, FaultyChanger, FaultyDrive, swap_stickers


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, slots=8)
    yield made
    made.close()


def with_faults(*faults: DriveFaults) -> Callable[[Library], Library]:
    """A library whose drives, in their order, have these faults."""

    def wrap(library: Library) -> Library:
        drives = [
            FaultyDrive(drive, fault) for drive, fault in zip(library.drives, faults, strict=True)
        ]
        return replace(library, drives=tuple(drives))

    return wrap


@pytest.mark.expects_warnings
def test_that_no_drive_is_left_is_told_with_what_was_wrong_with_the_last(tmp_path: Path) -> None:
    scene = Scene(tmp_path, slots=4, drives=1)
    fill(scene, 6, 1)
    with pytest.raises(DriveDead, match=r"no drive is left that works: .* does not answer"):
        scene.spool(wrap=with_faults(DriveFaults(dead_at_block=100)))
    scene.close()


def check_whole(scene: Scene) -> None:
    """The set has everything, and every archive on the books is on its cartridge as written."""
    state = scene.state()
    tape_set = state.open_set(scene.tree.store.config.uuid, "onsite")
    assert tape_set is not None and reach_of(state, tape_set) is not None
    assert covered_lsn(state, tape_set) == scene.tree.journal.indexed_lsn
    assert read_holds(scene.tree.store.root)["tape-onsite"] == covered_lsn(state, tape_set)
    for cartridge in state.cartridges.values():
        for archive in cartridge.archives:
            assert scene.digest(cartridge, archive.file) == archive.digest


@pytest.mark.expects_warnings
@pytest.mark.parametrize(
    "faults",
    [
        DriveFaults(deferred_error=100),
        DriveFaults(filemark_error=2),
        DriveFaults(filemark_end=2),
        DriveFaults(silent_loss=100),
        DriveFaults(write_error=100),
        DriveFaults(warning=100, warned_block_lost=True),
    ],
    ids=["deferred", "filemark", "end at the filemark", "other bytes", "block", "early warning"],
)
def test_what_fails_in_the_midst_of_an_archive_is_on_another_cartridge(
    scene: Scene, faults: DriveFaults
) -> None:
    fill(scene, 6, 1)
    scene.spool(wrap=with_faults(faults, DriveFaults()))
    check_whole(scene)
    assert sum(bool(c.archives) for c in scene.state().cartridges.values()) >= 2


@pytest.mark.expects_warnings
def test_a_drive_that_dies_is_done_without(scene: Scene) -> None:
    fill(scene, 6, 1)
    scene.spool(wrap=with_faults(DriveFaults(dead_at_block=100), DriveFaults()))
    check_whole(scene)
    assert scene.state().drives[0].faults


@pytest.mark.expects_warnings
def test_a_deferred_error_does_not_release_what_it_was_about(scene: Scene) -> None:
    fill(scene, 2, 1)
    scene.spool()
    held = read_holds(scene.tree.store.root)["tape-onsite"]
    fill(scene, 2, 2)
    seen: list[int] = []

    def cut(step: str) -> None:
        seen.append(read_holds(scene.tree.store.root)["tape-onsite"])
        if step == "cartridge closed":
            assert set(seen) == {held}

    scene.spool(cut=cut, wrap=with_faults(DriveFaults(deferred_error=10), DriveFaults()))
    assert set(seen[:-1]) >= {held}
    check_whole(scene)


@pytest.mark.expects_warnings
def test_a_load_that_jams_is_tried_again(scene: Scene) -> None:
    fill(scene, 2, 1)

    def wrap(library: Library) -> Library:
        return replace(library, changer=FaultyChanger(library.changer, ChangerFaults(jam_at=0)))

    scene.spool(wrap=wrap)
    check_whole(scene)


def test_a_cartridge_with_the_sticker_of_another_is_found_by_its_label(scene: Scene) -> None:
    fill(scene, 2, 1)
    scene.spool()
    [used] = [c for c in scene.state().cartridges.values() if c.archives]
    swap_stickers(scene.home, used.barcode, "A00005L8")
    fill(scene, 2, 2)
    scene.spool()
    state = scene.state()
    assert len(state.sets) == 1
    assert [c.label_id for c in state.cartridges.values() if c.archives] == [used.label_id]


def test_the_cartridge_that_goes_out_is_the_one_with_the_label(scene: Scene) -> None:
    fill(scene, 2, 1)
    later_ns = scene.now_ns() + 10**15
    scene.spool(scene.rules(rotates_ns=later_ns))
    [used] = [c for c in scene.state().cartridges.values() if c.archives]
    swap_stickers(scene.home, used.barcode, "A00005L8")
    due = scene.rules(rotates_ns=later_ns, rotated_ns=scene.now_ns(), free_doors=1)
    scene.spool(due)
    [gone] = [c for c in scene.state().cartridges.values() if c.place == "door"]
    assert gone.label_id == used.label_id
    with open_library(scene.home, "a test") as library:
        [door] = [each for each in library.changer.inventory().doors if each.full]
    assert door.barcode == "A00005L8"


def test_what_finds_no_door_follows_when_one_is_free(tmp_path: Path) -> None:
    scene = Scene(tmp_path, doors=1)
    later_ns = scene.now_ns() + 10**15
    for seed in range(1, 4):
        fill(scene, 12, seed)
        scene.spool(scene.rules(rotates_ns=later_ns))
    assert len([c for c in scene.state().cartridges.values() if c.archives]) > 1
    due = scene.rules(rotates_ns=later_ns, rotated_ns=scene.now_ns(), free_doors=9)
    scene.spool(due)
    state = scene.state()
    assert [c.place for c in state.cartridges.values() if c.archives].count("door") == 1
    assert len(state.sets) == 2
    scene.close()


@pytest.mark.expects_warnings
def test_a_full_library_says_so_and_keeps_what_it_has(scene: Scene) -> None:
    fill(scene, 30, 1)
    scene.spool()
    before = scene.state()
    noise = random.Random(3)
    with pytest.raises(NoScratch) as raised:
        for round_ in range(12):
            for number in range(8):
                scene.tree.write(b"%d" % number, noise.randbytes(1_000_000 + round_))
                scene.tree.commit()
            scene.spool()
    assert "import" in raised.value.hint
    assert before.sets.keys() <= scene.state().sets.keys()


@pytest.mark.expects_warnings
def test_a_batch_that_is_larger_than_an_archive_is_refused_by_its_size(scene: Scene) -> None:
    scene.tree.write(b"large", random.Random(1).randbytes(5_000_000))
    scene.tree.commit()
    with pytest.raises(ArchiveTooLarge, match="does not fit"):
        scene.spool()


@pytest.mark.expects_warnings
def test_the_stage_leaves_room_for_the_log(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(scene, 2, 1)
    monkeypatch.setattr(tape.stage, "RESERVED_PART", 1.0)
    monkeypatch.setattr(tape.stage, "MAX_RESERVED_BYTES", 1 << 60)
    with pytest.raises(StageFull):
        scene.spool()
    monkeypatch.undo()
    scene.spool()
    check_whole(scene)


def test_what_is_foreign_or_protected_is_never_written(scene: Scene) -> None:
    with open_library(scene.home, "a test") as library:
        assert library.virtual is not None
        library.changer.load(1, 0)
        library.drives[0].open()
        library.drives[0].write_block(b"somebody's backup".ljust(512, b"\0"))
        library.drives[0].write_filemark()
        library.drives[0].close()
        library.changer.unload(0, 1)
        library.virtual.set_write_protected("A00002L8", True)
    foreign = scene.home / "cartridges" / "A00001L8" / "000000"
    before = foreign.read_bytes()
    fill(scene, 2, 1)
    scene.spool()
    check_whole(scene)
    assert foreign.read_bytes() == before
    findings = {each.barcode: each.finding for each in scene.state().strangers.values()}
    assert {name: what for name, what in findings.items() if what != "unknown"} == {
        "A00001L8": "foreign",
        "A00002L8": "protected",
    }


def test_a_drive_that_asks_for_it_is_cleaned_before_it_is_used(scene: Scene) -> None:
    with open_library(scene.home, "a test") as library:
        assert library.virtual is not None
        for drive in library.drives:
            library.virtual.request_cleaning(drive.number)
    fill(scene, 2, 1)
    scene.spool()
    check_whole(scene)
    state = scene.state()
    assert sum(state.cleanings.values()) == 1
    with open_library(scene.home, "a test") as library:
        assert sum(d.status().cleaning_requested for d in library.drives) == 1
