"""The nodes in memory: one object for each, whoever else still has an old one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsd.nodes import LARGE_BYTES, NodeTable
from store.types import NodeId


@pytest.fixture
def table(tmp_path: Path) -> Iterator[NodeTable]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield NodeTable(fd)
    os.close(fd)


def test_dropping_an_old_object_leaves_the_node_that_is_in_use(table: NodeTable) -> None:
    old = table.add(NodeId(2), table.root, b"a", True)
    table.drop_if_unused(old)
    new = table.add(NodeId(2), table.root, b"a", True)
    new.lookups = 1
    table.drop_if_unused(old)
    assert table.by_id[2] is new
    assert table.child(table.root, b"a") is new


def test_a_node_goes_with_its_last_use_and_takes_unused_parents_along(table: NodeTable) -> None:
    directory = table.add(NodeId(2), table.root, b"a", True)
    file = table.add(NodeId(3), directory, b"b", False)
    file.uses = 1
    table.drop_if_unused(directory)
    assert set(table.by_id) == {1, 2, 3}
    file.uses = 0
    table.drop_if_unused(file)
    assert set(table.by_id) == {1}


@pytest.mark.parametrize(("size_bytes", "at_once"), [(LARGE_BYTES - 1, True), (LARGE_BYTES, False)])
async def test_the_space_of_a_large_removed_file_is_not_freed_on_the_loop(
    table: NodeTable, tmp_path: Path, size_bytes: int, at_once: bool
) -> None:
    path = tmp_path / "removed"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size_bytes)
    path.unlink()
    table.close_removed(fd)
    assert _is_open(fd) is not at_once
    assert await table.wait_freed() is not at_once
    assert not _is_open(fd)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
