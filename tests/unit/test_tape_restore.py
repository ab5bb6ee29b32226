"""A store from cartridges when some of them can't be read, and what is read of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.journal import Journal
from store.types import Lsn
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import State
from tape.errors import NoSuchSet
from tape.library import open_library
from tape.rebuild import Rebuilt
from tape.restore import rebuild_best
from tape.shopping import Shopping, find_set
from tests.spool_scene import Scene, robot_of
from tests.unit.recorded_tree import capture, capture_view
from timetravel.view import View


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, slots=12)
    noise = random.Random(1)
    for number in range(12):
        made.tree.write(b"%d" % (number % 5), noise.randbytes(500_000), number * 100)
        made.tree.commit()
        if number % 4 == 3:
            made.spool(made.rules("onsite"), made.rules("offsite"))
    yield made
    made.close()


def rebuilt(scene: Scene, root: Path, lsn: int | None = None) -> tuple[Rebuilt, list[str]]:
    """A store from the best set, and what was said meanwhile."""
    said: list[str] = []

    def choose(state: State) -> Shopping:
        return find_set(state, scene.tree.store.config.uuid, lsn=lsn)

    with (
        open_library(scene.home, "a test") as library,
        CatalogueFile.open(library.catalogue) as catalogue,
    ):
        robot = robot_of(library, scene.now_ns)
        made, _ = rebuild_best(robot, catalogue, choose, root, say=said.append)
        robot.put_all_away()
    return made, said


def spoil(scene: Scene, pool: str, kind: str) -> None:
    """Some bytes of a pool's newest archive of a kind are other ones."""
    state = scene.state()
    [tape_set] = state.sets_of(scene.tree.store.config.uuid, pool)
    where = [each for each in tape_set.archives if state.archive(each).kind == kind][-1]
    barcode = state.cartridge(where.label_id).barcode
    path = scene.home / "cartridges" / barcode / f"{where.file:06d}"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 16] = bytes(16)
    path.write_bytes(data)


def test_a_store_from_cartridges_has_the_tree_of_each_moment(scene: Scene, tmp_path: Path) -> None:
    end = scene.tree.journal.indexed_lsn
    made, _ = rebuilt(scene, tmp_path / "again")
    assert made.end_lsn == end
    with Journal(made.store) as journal:
        assert capture_view(View(journal, end)) == capture(scene.tree.root)
        for lsn in range(int(made.base_lsn), int(end) + 1, 3):
            site = capture_view(View(scene.tree.journal, Lsn(lsn)))
            assert capture_view(View(journal, Lsn(lsn))) == site


@pytest.mark.parametrize("kind", ["full", "log"])
def test_when_a_set_cannot_be_read_another_one_is_taken(
    scene: Scene, tmp_path: Path, kind: str
) -> None:
    end = scene.tree.journal.indexed_lsn
    for pool in ("onsite", "offsite"):
        spoil(scene, pool, kind)
        if pool == "onsite":
            made, _ = rebuilt(scene, tmp_path / "again", end)
            assert made.end_lsn == end
    with pytest.raises(NoSuchSet):
        rebuilt(scene, tmp_path / "not again", end)


def test_only_the_log_up_to_the_moment_is_read(scene: Scene, tmp_path: Path) -> None:
    state = scene.state()
    tape_set = state.sets_of(scene.tree.store.config.uuid, "onsite")[0]
    logs = [a for a in map(state.archive, tape_set.archives) if a.kind == "log"]
    early = max(logs[0].last_lsn, *(a.needs_lsn for a in map(state.archive, tape_set.archives)))
    _, few = rebuilt(scene, tmp_path / "early", early)
    _, all_of_it = rebuilt(scene, tmp_path / "late", scene.tree.journal.indexed_lsn)
    assert len(few) < len(all_of_it)
