"""The machine's clock jumps under a mounted volume."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from store.journal import Journal
from store.types import Lsn
from store.verify import verify
from tests.crash import copies
from tests.crash.far_end import FarVault
from tests.crash.fault_bench import FOLDER
from tests.crash.replica import differences, wait_until_replicated
from tests.crash.victim import Victim
from tests.volume import SOURCE
from timetravel.history import history
from timetravel.view import View

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

DAY_S = 86_400


class Timed(Victim):
    """A volume on a machine whose clock can be set: `off_s` says by how much it is wrong."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, at=True)
        self._file = base / "clock"
        self.set(0)

    def set(self, off_s: int) -> None:
        """Set the clock."""
        new = self._file.with_suffix(".new")
        new.write_text(str(off_s))
        new.rename(self._file)

    def mount_timed(self) -> None:
        """Mount, on that machine."""
        environment = {
            **os.environ,
            "CLOCK_OFF": str(self._file),
            "PYTHONPATH": f"{FOLDER}:{SOURCE}",
        }
        self.start("-m", "fsd", environment=environment)
        answer = self.wait_mounted()
        assert answer, self.log_text()
        assert answer.get("ok"), (answer, self.log_text())


@pytest.fixture
def timed(tmp_path: Path) -> Iterator[Timed]:
    """A mounted volume."""
    made = Timed(tmp_path)
    try:
        made.mount_timed()
        yield made
    finally:
        made.close()


def test_a_jump_ahead_and_back_is_told_and_loses_nothing(timed: Timed) -> None:
    file = timed.tree / "file"
    copied = []
    for number, off_s in enumerate((0, DAY_S, -7200, 3600, 0)):
        timed.set(off_s)
        file.write_text(f"version {number}")
        (timed.tree / f"other{number}").write_text("x")
        copied.append((Lsn(timed.sync()), copies.of_tree(timed.tree)))
    alarms = timed.call("status")["alarms"]
    assert any("ahead of the machine's by 86" in alarm for alarm in alarms)
    timed.unmount()
    timed.set(-DAY_S)
    timed.mount_timed()
    file.write_text("after another mount")
    timed.sync()
    timed.unmount()
    assert "external changes found" not in timed.log_text()
    with Journal(timed.store) as journal:
        ops = list(journal.ops(Lsn(1), Lsn(1 << 62)))
        assert all(one.time_ns < next_.time_ns for one, next_ in pairwise(ops))
        assert len(list(history(journal, b"file")))
        for lsn, copy in copied:
            assert copies.differences(copies.of_view(View(journal, lsn)), copy) == []
        newest = copies.of_view(View(journal, journal.indexed_lsn))
    assert copies.differences(newest, copies.of_tree(timed.backing)) == []
    assert verify(timed.store).findings == []


def test_a_replica_follows_whatever_the_clocks_say(timed: Timed, tmp_path: Path) -> None:
    vault = FarVault(tmp_path / "far")
    try:
        vault.start()
        vault.keep(timed.store)
        for off_s in (0, DAY_S, -7200, 0):
            timed.set(off_s)
            (timed.tree / "file").write_text(f"{off_s} s off")
            wait_until_replicated(timed)
        timed.unmount()
        timed.set(-DAY_S)
        timed.mount_timed()
        (timed.tree / "file").write_text("after another mount")
        wait_until_replicated(timed)
        replica = vault.store(timed.store)
        assert differences(timed.store, replica) == []
        with Journal(replica) as journal:
            newest = copies.of_view(View(journal, journal.indexed_lsn))
        assert copies.differences(newest, copies.of_tree(timed.tree)) == []
        vault.stop()
    finally:
        vault.close()
