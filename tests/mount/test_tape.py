"""A mounted volume and its library: everything through the processes that a user has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tape.catalogue_file import CatalogueFile, read_catalogue
from tape.library import create_virtual
from tape.plan import covered_lsn
from tape.reach import reach_of
from tape.settings import StartSettings, TapeSettings, default_pool, save_settings
from tape.spool_status import ask_for_run
from tests.volume import Volume


class Site:
    """A mounted volume with a library."""

    def __init__(self, base: Path) -> None:
        self.volume = Volume(base)
        self.home = base / "library"
        create_virtual(self.home, capacity_bytes=256 << 20, slots=6)
        CatalogueFile.create(self.home / "catalogue").close()
        save_settings(
            self.volume.store.root,
            TapeSettings(
                library=str(self.home),
                pools=[default_pool("onsite")],
                start=StartSettings(staged_bytes=1 << 40, age_s=86400),
            ),
        )
        self.volume.mount()

    def spool(self) -> None:
        """Bring everything up to now onto tape."""
        lsn = self.volume.sync()
        ask_for_run(self.volume.store.root, lsn)
        self.volume.call("tape")
        while True:
            said = self.volume.call("status")["tape"]
            assert not said.get("error"), said
            pools = said.get("pools") or []
            if said["state"] == "idle" and pools and pools[0]["covered_lsn"] >= lsn:
                return
            time.sleep(0.05)

    def close(self) -> None:
        """Leave nothing behind."""
        self.volume.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_the_daemon_keeps_a_spooler_that_brings_a_volume_onto_tape(site: Site) -> None:
    (site.volume.tree / "a").write_bytes(b"x" * 3_000_000)
    site.spool()
    (site.volume.tree / "a").write_bytes(b"y" * 3_000_000)
    site.spool()
    state = read_catalogue(site.home / "catalogue")
    [tape_set] = state.sets.values()
    reach = reach_of(state, tape_set)
    assert reach is not None
    assert covered_lsn(state, tape_set) >= site.volume.sync() - 1
    assert "spooler" in site.volume.call("status")["pids"]
