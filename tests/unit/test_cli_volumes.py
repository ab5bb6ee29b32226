"""Which volume and which path in it a person means."""

import os
from pathlib import Path

import pytest

from console.errors import WrongUse
from console.volumes import place_of, volume_of
from store.errors import NoSuchVolume
from store.volume import Store, default_store_root, new_config


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a store, in a registry of the test's own; the test stands outside."""
    monkeypatch.setenv("CDPFS_HOME", str(tmp_path / "home"))
    directory = tmp_path / "tree"
    (directory / "sub").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    Store.create(default_store_root(str(directory)), new_config(str(directory), 1))
    return directory


def test_paths_are_found_from_anywhere(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place_of(str(tree), None).path == b""
    assert place_of(str(tree / "sub" / "gone"), None).path == b"sub/gone"
    assert place_of("../tree/sub/./x", None).path == b"sub/x"
    monkeypatch.chdir(tree / "sub")
    assert place_of(".", None).path == b"sub"
    assert place_of("..", None).path == b""
    assert volume_of(".", None).config.directory == str(tree)


def test_a_path_that_was_deleted_with_its_directory_is_still_named(tree: Path) -> None:
    assert place_of(str(tree / "a" / "b" / "c"), None).path == b"a/b/c"


def test_symlinks_on_the_way_are_resolved_and_the_last_name_is_not(
    tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "way").symlink_to(tree)
    (tree / "sub" / "link").symlink_to("/etc/passwd")
    assert place_of(str(tmp_path / "way" / "sub" / "link"), None).path == b"sub/link"


def test_names_that_are_no_utf8_pass_through(tree: Path) -> None:
    assert place_of(os.fsdecode(bytes(tree) + b"/\xff\xfe"), None).path == b"\xff\xfe"


def test_a_path_outside_every_volume_is_refused(tree: Path) -> None:
    with pytest.raises(NoSuchVolume):
        place_of("x", None)
    with pytest.raises(NoSuchVolume):
        place_of(str(tree) + "-beside/x", None)


def test_with_a_store_relative_paths_count_from_the_root(tree: Path) -> None:
    root = str(default_store_root(str(tree)))
    assert place_of("sub/x", root).path == b"sub/x"
    assert place_of(".", root).path == b""
    assert place_of(str(tree / "y"), root).path == b"y"
    with pytest.raises(NoSuchVolume):
        place_of("/somewhere/else", root)
    with pytest.raises(WrongUse):
        place_of("../../x", root)


def test_a_path_through_snapshots_is_refused_with_the_way_to_say_it(tree: Path) -> None:
    with pytest.raises(WrongUse) as caught:
        place_of(f"{tree}/sub/.snapshots/@15:00/x", None)
    assert f"{tree}/sub/x" in caught.value.hints[0]
    assert "@15:00" in caught.value.hints[0]
    assert place_of(f"{tree}/.snapshots-of-mine/x", None).path == b".snapshots-of-mine/x"
