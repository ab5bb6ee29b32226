"""Death of the daemon at every place inside a change: before its record, between the record and
the change, between the parts of the change, and again at every place of the recovery."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.deeds import Deed
from tests.crash.points import Bench, Scene

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

LARGE_BYTES = 6 << 20
"""Too much to be seeded before an unlink: such a file goes to the hidden place."""

MANY = 16


def furnish(tree: Path) -> None:
    """Files that no session has seeded, some for each attempt of a scene."""
    for number in range(MANY):
        folder = tree / f"old{number:02}"
        folder.mkdir()
        (folder / "small").write_bytes(b"small %d " % number * 1000)
        (folder / "large").write_bytes(b"%7d\n" % number * (LARGE_BYTES // 8))
        (folder / "other").write_bytes(b"other %d " % number * 3000)
        os.link(folder / "other", folder / "other too")


def furnish_nothing(tree: Path) -> None:
    """An empty tree."""


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Bench]:
    """A bench over files whose content is not in the journal."""
    bench = Bench(tmp_path, furnish)
    yield bench
    bench.close()


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Bench]:
    """A bench over an empty tree."""
    bench = Bench(tmp_path, furnish_nothing)
    yield bench
    bench.close()


def _file(name: str, seed: int = 1, length: int = 9000) -> list[Deed]:
    return [Deed("create", name), Deed("write", name, length=length, seed=seed)]


def _write(attempt: int) -> tuple[list[Deed], Deed]:
    name = f"f{attempt}"
    return _file(name), Deed("write", name, offset=4096, length=8192, seed=2)


def _append_torn(attempt: int) -> tuple[list[Deed], Deed]:
    return _file(f"f{attempt}"), Deed("append", f"f{attempt}", length=4096, seed=2)


def _cut(attempt: int) -> tuple[list[Deed], Deed]:
    return _file(f"f{attempt}"), Deed("truncate", f"f{attempt}", offset=100)


def _create(attempt: int) -> tuple[list[Deed], Deed]:
    return [Deed("mkdir", f"d{attempt}")], Deed("create", f"d{attempt}/new")


def _mkdir(attempt: int) -> tuple[list[Deed], Deed]:
    return [], Deed("mkdir", f"d{attempt}")


def _mkfifo(attempt: int) -> tuple[list[Deed], Deed]:
    return [], Deed("mkfifo", f"p{attempt}")


def _symlink(attempt: int) -> tuple[list[Deed], Deed]:
    return [], Deed("symlink", f"s{attempt}", other="nowhere")


def _link(attempt: int) -> tuple[list[Deed], Deed]:
    return _file(f"f{attempt}"), Deed("link", f"f{attempt}", other=f"g{attempt}")


def _unlink(attempt: int) -> tuple[list[Deed], Deed]:
    return _file(f"f{attempt}"), Deed("unlink", f"f{attempt}")


def _rmdir(attempt: int) -> tuple[list[Deed], Deed]:
    return [Deed("mkdir", f"d{attempt}")], Deed("rmdir", f"d{attempt}")


def _rename(attempt: int) -> tuple[list[Deed], Deed]:
    name = f"f{attempt}"
    made = [*_file(name), Deed("mkdir", f"d{attempt}")]
    return made, Deed("rename", name, other=f"d{attempt}/moved")


def _replace(attempt: int) -> tuple[list[Deed], Deed]:
    made = [*_file(f"f{attempt}"), *_file(f"g{attempt}", 3, 20000)]
    return made, Deed("rename", f"f{attempt}", other=f"g{attempt}")


def _replace_again(attempt: int) -> tuple[list[Deed], Deed]:
    """An editor's way, often: write a temporary file, rename it over the name."""
    tmp = f"tmp{attempt % 2}{attempt}"
    made = [] if attempt else _file("target")
    made += [*_file(tmp, attempt + 10, 7000), Deed("rename", tmp, other="target")]
    made += _file(tmp, attempt + 20, 9000)
    return made, Deed("rename", tmp, other="target")


def _move_tree(attempt: int) -> tuple[list[Deed], Deed]:
    top = f"t{attempt}"
    made = [Deed("mkdir", top), Deed("mkdir", f"{top}/in"), *_file(f"{top}/in/f")]
    return made, Deed("rename", top, other=f"u{attempt}")


def _exchange(attempt: int) -> tuple[list[Deed], Deed]:
    made = [*_file(f"f{attempt}"), *_file(f"g{attempt}", 3, 20000)]
    return made, Deed("exchange", f"f{attempt}", other=f"g{attempt}")


def _exchange_trees(attempt: int) -> tuple[list[Deed], Deed]:
    one, two = f"t{attempt}", f"u{attempt}"
    made = [Deed("mkdir", one), Deed("mkdir", two), *_file(f"{one}/f"), *_file(f"{two}/g", 3)]
    return made, Deed("exchange", one, other=two)


def _exchange_kinds(attempt: int) -> tuple[list[Deed], Deed]:
    made = [Deed("mkdir", f"d{attempt}"), *_file(f"d{attempt}/f"), *_file(f"f{attempt}", 4)]
    return made, Deed("exchange", f"d{attempt}", other=f"f{attempt}")


def _chmod(attempt: int) -> tuple[list[Deed], Deed]:
    return _file(f"f{attempt}"), Deed("chmod", f"f{attempt}", offset=0o4711)


def _chown(attempt: int) -> tuple[list[Deed], Deed]:
    made = [*_file(f"f{attempt}"), Deed("chmod", f"f{attempt}", offset=0o4711)]
    return made, Deed("chown", f"f{attempt}", offset=os.geteuid(), length=os.getegid())


def _utime(attempt: int) -> tuple[list[Deed], Deed]:
    return _file(f"f{attempt}"), Deed("utime", f"f{attempt}", offset=123_456_789_123)


def _setxattr(attempt: int) -> tuple[list[Deed], Deed]:
    return _file(f"f{attempt}"), Deed("setxattr", f"f{attempt}", other="user.a", length=50, seed=1)


def _removexattr(attempt: int) -> tuple[list[Deed], Deed]:
    name = f"f{attempt}"
    made = [*_file(name), Deed("setxattr", name, other="user.a", length=50, seed=1)]
    return made, Deed("removexattr", name, other="user.a")


QUICK: tuple[Scene, ...] = (_write, _replace_again, _exchange)
THOROUGH: tuple[Scene, ...] = (
    _create,
    _exchange_trees,
    _cut,
    _mkdir,
    _mkfifo,
    _symlink,
    _link,
    _unlink,
    _rmdir,
    _rename,
    _replace,
    _move_tree,
    _exchange_kinds,
    _chmod,
    _chown,
    _utime,
    _setxattr,
    _removexattr,
)


@pytest.mark.parametrize("scene", QUICK)
def test_death_inside_a_change(new: Bench, scene: Scene) -> None:
    new.try_every_place(scene)
    assert new.deaths


@pytest.mark.nightly
@pytest.mark.parametrize("scene", THOROUGH)
def test_death_inside_any_change(new: Bench, scene: Scene) -> None:
    new.try_every_place(scene)
    assert new.deaths


def test_death_inside_a_record(new: Bench) -> None:
    new.try_every_place(_append_torn, torn=True)
    assert new.deaths


def _overwrite_old(attempt: int) -> tuple[list[Deed], Deed]:
    return [], Deed("write", f"old{attempt:02}/small", offset=100, length=3000, seed=1)


def _unlink_large(attempt: int) -> tuple[list[Deed], Deed]:
    return [], Deed("unlink", f"old{attempt:02}/large")


def _replace_large(attempt: int) -> tuple[list[Deed], Deed]:
    folder = f"old{attempt:02}"
    return [], Deed("rename", f"{folder}/small", other=f"{folder}/large")


def _unlink_linked(attempt: int) -> tuple[list[Deed], Deed]:
    return [], Deed("unlink", f"old{attempt:02}/other")


@pytest.mark.parametrize("scene", [_overwrite_old, _replace_large])
def test_death_while_old_content_is_destroyed(old: Bench, scene: Scene) -> None:
    old.try_every_place(scene)
    assert old.deaths


@pytest.mark.nightly
@pytest.mark.parametrize("scene", [_unlink_large, _unlink_linked])
def test_death_while_any_old_content_is_destroyed(old: Bench, scene: Scene) -> None:
    old.try_every_place(scene)
    assert old.deaths
