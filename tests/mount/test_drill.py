"""The disaster drill in its short form; `scripts/drill` runs it longer and tells what it does."""

from __future__ import annotations

from pathlib import Path

from tests.drill import Drill


def test_a_lost_site_comes_back_goes_on_and_is_not_mixed_with_its_old_self(tmp_path: Path) -> None:
    drill = Drill(tmp_path, load_s=0.5, seed=20261125)
    try:
        drill.run()
    finally:
        drill.close()
