"""Holds: what a consumer has not consumed yet is known after any restart."""

from __future__ import annotations

from pathlib import Path

from store.holds import drop_hold, place_hold, read_holds
from store.types import Lsn


def test_holds_are_read_back_by_name(tmp_path: Path) -> None:
    assert read_holds(tmp_path) == {}
    place_hold(tmp_path, "replica", Lsn(7))
    place_hold(tmp_path, "replica", Lsn(12))
    place_hold(tmp_path, "tape", Lsn(3))
    assert read_holds(tmp_path) == {"replica": 12, "tape": 3}
    drop_hold(tmp_path, "tape")
    drop_hold(tmp_path, "tape")
    assert read_holds(tmp_path) == {"replica": 12}


def test_a_damaged_hold_keeps_everything(tmp_path: Path) -> None:
    place_hold(tmp_path, "replica", Lsn(7))
    (tmp_path / "holds/replica").write_text("rubbish")
    assert read_holds(tmp_path) == {"replica": 0}
