"""Fixtures of the tests on a real mount."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.volume import Volume


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """A new volume over an empty directory, mounted; the daemon's log must stay free of errors."""
    made = Volume(tmp_path)
    try:
        made.mount()
        yield made
    finally:
        made.close()
    made.assert_foreseen()


@pytest.fixture
def unmounted(tmp_path: Path) -> Iterator[Volume]:
    """A new volume that is not mounted yet: the test fills `backing` first."""
    made = Volume(tmp_path)
    try:
        yield made
    finally:
        made.close()
    made.assert_foreseen()
