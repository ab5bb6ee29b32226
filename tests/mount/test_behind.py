"""Changes of the backing directory behind the back of a mount elsewhere (`--at`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.volume import Volume


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Volume]:
    """A volume that is mounted beside its directory."""
    made = Volume(tmp_path, at=True)
    try:
        made.mount()
        yield made
    finally:
        made.close()


def test_a_name_that_was_removed_and_comes_back_from_behind_is_one_new_file(
    elsewhere: Volume,
) -> None:
    (elsewhere.tree / "a").write_text("first")
    first = elsewhere.sync()
    (elsewhere.tree / "a").unlink()
    gone = elsewhere.sync()
    (elsewhere.backing / "a").write_text("from behind")
    # The kernel was told that the name is free, and asks again only after a new mount.
    elsewhere.unmount()
    elsewhere.mount()
    assert (elsewhere.tree / "a").read_text() == "from behind"
    inode = (elsewhere.tree / "a").stat().st_ino
    now = elsewhere.sync()
    elsewhere.unmount()
    elsewhere.mount()
    assert (elsewhere.tree / "a").stat().st_ino == inode
    assert (elsewhere.past(first) / "a").read_text() == "first"
    assert not (elsewhere.past(gone) / "a").exists()
    assert (elsewhere.past(now) / "a").read_text() == "from behind"
