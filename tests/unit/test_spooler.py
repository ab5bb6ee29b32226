"""The spooler with a virtual library: what gets onto cartridges, and what keeps it from there."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.holds import read_holds
from store.keys import KeyRing, SealingKey
from tape.plan import covered_lsn
from tape.reach import reach_of
from tests.spool_scene import Scene, fill


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, slots=8)
    yield made
    made.close()


def test_a_run_brings_the_whole_journal_onto_cartridges(scene: Scene) -> None:
    scene.tree.mkdir(b"d")
    noise = random.Random(1)
    for number in range(10):
        scene.tree.write(b"d/%d" % number, noise.randbytes(900_000))
        end = scene.tree.commit()
    scene.spool()
    state = scene.state()
    [tape_set] = state.sets.values()
    assert reach_of(state, tape_set) is not None
    assert covered_lsn(state, tape_set) == end
    assert read_holds(scene.tree.store.root)["tape-onsite"] == end
    assert len(state.cartridges_of(tape_set)) > 1  # it spans
    for cartridge in state.cartridges.values():
        assert cartridge.place == "slot"


def test_a_sealed_set_says_nothing_of_what_is_in_it(scene: Scene) -> None:
    scene.ring = KeyRing(b"c" * 32, (SealingKey(b"k" * 32, 1),))
    scene.tree.write(b"the-secret-name", b"secret content " * 9_000)
    scene.tree.commit()
    scene.spool()
    check_whole(scene)
    assert scene.scan().state.sets.keys() == scene.state().sets.keys()
    found = 0
    for cartridge in scene.state().cartridges.values():
        for file in (scene.home / "cartridges" / cartridge.barcode).iterdir():
            data = file.read_bytes()
            assert b"secret" not in data
            found += b"cdpfs/sealed/" in data
    assert found >= 3  # the full, the log, the catalogue


class Cut(BaseException):
    """Stands for a kill: nothing is tidied up."""


class CutAt:
    """Ends the run at its `number`-th step; counts them and keeps their names."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.number:
            raise Cut(name)


def check_whole(scene: Scene) -> None:
    """Every cartridge has what the books say, and the set everything up to the journal's end."""
    state = scene.state()
    [tape_set] = state.sets.values()
    assert reach_of(state, tape_set) is not None
    assert covered_lsn(state, tape_set) == scene.tree.journal.indexed_lsn
    for cartridge in state.cartridges.values():
        for archive in cartridge.archives:
            assert scene.digest(cartridge, archive.file) == archive.digest


def test_a_run_that_is_cut_anywhere_is_taken_up_again(tmp_path: Path) -> None:
    names: set[str] = set()
    number = 1
    while True:
        scene = Scene(tmp_path / str(number), slots=6)
        fill(scene, 4, 1)
        cut = CutAt(number)
        try:
            scene.spool(cut=cut)
            scene.close()
            break
        except Cut:
            pass
        fill(scene, 2, 2)
        scene.spool()
        check_whole(scene)
        scene.close()
        names.update(cut.names)
        number += 1
    assert names >= {
        "hold placed",
        "set opened",
        "label written",
        "labelled",
        "staged",
        "written",
        "on the books",
        "stage dropped",
        "hold moved",
    }


def test_what_came_since_is_added_to_the_same_set(scene: Scene) -> None:
    fill(scene, 3, 1)
    scene.spool()
    fill(scene, 3, 2)
    scene.spool()
    check_whole(scene)
    [tape_set] = scene.state().sets.values()
    kinds = [scene.state().archive(where).kind for where in tape_set.archives]
    assert kinds.count("full") < kinds.index("log") + 1


def test_a_new_set_begins_where_the_one_before_ended(scene: Scene) -> None:
    fill(scene, 2, seed=1)
    scene.spool()
    fill(scene, 1, seed=2)

    def go_on(step: str) -> None:
        if step == "set closed":
            fill(scene, 1, seed=3)

    scene.spool(scene.rules(rotated_ns=scene.now_ns()), cut=go_on)
    state = scene.state()
    first, second = (reach_of(state, each) for each in state.sets.values())
    assert first is not None and second is not None
    assert first.last_lsn < scene.tree.journal.indexed_lsn
    assert second.base_lsn <= first.last_lsn


def test_two_pools_have_a_set_each(scene: Scene) -> None:
    fill(scene, 3, 1)
    scene.spool(scene.rules("onsite"), scene.rules("offsite"))
    state = scene.state()
    assert {found.pool for found in state.sets.values()} == {"onsite", "offsite"}
    assert all(reach_of(state, found) is not None for found in state.sets.values())
    holds = read_holds(scene.tree.store.root)
    assert holds["tape-onsite"] == holds["tape-offsite"] == scene.tree.journal.indexed_lsn


def test_the_oldest_sets_are_given_up_before_the_last_cartridge_is_used(tmp_path: Path) -> None:
    scene = Scene(tmp_path, slots=8)
    scene.keep_ns = 0
    scene.min_scratch = 4
    scene.now_ns = clock = Clock()
    for _day in range(6):
        fill(scene, 3, 1)
        clock.days += 1
        scene.spool(scene.rules(full_every_ns=80_000 * 10**9))
    state = scene.state()
    free = [each for each in state.cartridges.values() if each.scratch]
    unread = sum(each.finding in ("blank", "unknown") for each in state.strangers.values())
    assert len(free) + unread >= 4
    check_usable(scene)
    scene.close()


class Clock:
    """A time that goes on by days."""

    def __init__(self) -> None:
        self.days = 0

    def __call__(self) -> int:
        return time.time_ns() + self.days * 86_400_000_000_000


def check_usable(scene: Scene) -> None:
    """The newest set gives back the end of the journal."""
    state = scene.state()
    tape_set = state.open_set(scene.tree.store.config.uuid, "onsite")
    assert tape_set is not None
    reach = reach_of(state, tape_set)
    assert reach is not None and reach.last_lsn == scene.tree.journal.indexed_lsn


def test_a_volume_that_nobody_changes_gets_one_full_at_a_time(scene: Scene) -> None:
    fill(scene, 2, 1)
    clock = scene.now_ns = Clock()
    day_ns = 86_400 * 10**9
    for _week in range(3):
        scene.spool(scene.rules(full_every_ns=7 * day_ns))
        clock.days += 8
    assert len(scene.state().sets) == 3
