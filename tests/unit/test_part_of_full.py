"""One path from a full: what comes back, and how little is read for it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tape.catalogue_file import CatalogueFile
from tape.library import open_library
from tape.restore import part_of_full
from tape.shopping import find_set
from tests.mount.fingerprint import Fingerprint, fingerprint
from tests.spool_scene import Scene, robot_of
from timetravel.place import Place
from timetravel.restore import restore


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, slots=12)
    noise = random.Random(1)
    tree = made.tree
    for folder in (b"a", b"b", b"b!", b"c"):
        tree.mkdir(folder)
        tree.mkdir(folder + b"/d")
        for number in range(8):
            tree.write(folder + b"/%d" % number, noise.randbytes(400_000))
            tree.commit()
        tree.write(folder + b"/d/deep", noise.randbytes(1000))
    tree.write(b"b/large", b"")
    for number in range(6):
        tree.write(b"b/large", noise.randbytes(900_000), number * 1_000_000)
        tree.commit()
    tree.link(b"a/3", b"c/same")
    tree.commit()
    made.spool()
    yield made
    made.close()


def bring_back(scene: Scene, path: bytes, out: Path) -> tuple[Path, list[str]]:
    """The path in a folder, and what was read."""
    read: list[str] = []
    (out / "scratch").mkdir(parents=True)
    with (
        open_library(scene.home, "a test") as library,
        CatalogueFile.open(library.catalogue) as catalogue,
    ):
        robot = robot_of(library, scene.now_ns)
        shopping = find_set(catalogue.state, scene.tree.store.config.uuid)
        view = part_of_full(robot, shopping, path, out / "scratch", say=read.append)
        robot.put_all_away()
    with Place(os.fsencode(out)) as place:
        report = restore(view, path, place, b"back", durable=False)
    assert report.ok, report
    return out / "back", read


def below(found: Fingerprint, folder: bytes) -> dict[bytes, bytes]:
    """Contents by path below a folder."""
    return {
        path.removeprefix(folder).removeprefix(b"/"): facts.content
        for path, facts in found.items()
        if not folder or path == folder or path.startswith(folder + b"/")
    }


@pytest.mark.parametrize("path", [b"a/0", b"b/7", b"b/d/deep", b"b!/0", b"c/7", b"a/d/deep"])
def test_one_file_is_read_from_its_archive_alone(scene: Scene, tmp_path: Path, path: bytes) -> None:
    back, read = bring_back(scene, path, tmp_path / "out")
    assert back.read_bytes() == Path(os.fsdecode(scene.tree.path(path))).read_bytes()
    assert len(read) == 1


def test_a_file_in_parts_is_read_from_the_archives_of_its_parts(
    scene: Scene, tmp_path: Path
) -> None:
    back, read = bring_back(scene, b"b/large", tmp_path / "out")
    assert back.read_bytes() == Path(os.fsdecode(scene.tree.path(b"b/large"))).read_bytes()
    [tape_set] = scene.state().sets.values()
    assert 1 < len(read) < len(tape_set.archives)


@pytest.mark.parametrize("path", [b"a", b"b", b"c/d", b""])
def test_a_folder_comes_back_with_everything_in_it(
    scene: Scene, tmp_path: Path, path: bytes
) -> None:
    back, _ = bring_back(scene, path, tmp_path / "out")
    live = fingerprint(Path(os.fsdecode(scene.tree.root)))
    assert below(fingerprint(back), b"") == below(live, path)


def test_a_further_hard_link_brings_its_content(scene: Scene, tmp_path: Path) -> None:
    back, _ = bring_back(scene, b"c/same", tmp_path / "out")
    assert back.read_bytes() == Path(os.fsdecode(scene.tree.path(b"a/3"))).read_bytes()
