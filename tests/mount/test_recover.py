"""A machine is lost with tree and store: from its replica the volume comes back and goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.format import Flag, Kind
from store.journal import Journal, OpMeta
from store.types import Lsn
from tests.mount.replicas import VaultDisk, lose
from tests.mount.test_external import CHANGES, _fill
from tests.mount.trees import assert_same, copy_of
from tests.volume import Volume


class Site:
    """A volume that is lost and found again. `revived` is it on its new machine."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.old = Volume(base / "old")
        self.vault = VaultDisk(base)
        self.revived: Volume | None = None
        self.held = 0

    def ship(self) -> int:
        """Everything up to now is at the vault."""
        self.old.sync()
        self.held = self.vault.carry(self.old.store)
        return self.held

    def recover(self, at: str = "") -> Volume:
        """The machine is lost; the volume is made anew elsewhere, not mounted yet."""
        lose(self.old)
        done = self.vault.recover(
            self.old.store.config.uuid, self.base / "new", self.base / "new-store", at=at
        )
        assert done.ready, done.report
        self.revived = Volume.of(done.store, self.base / "new.log")
        return self.revived

    def close(self) -> None:
        self.old.close()
        if self.revived is not None:
            self.revived.close()
            assert " ERROR " not in self.revived.log_text(), self.revived.log_text()
            assert "Traceback" not in self.revived.log_text(), self.revived.log_text()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.close()


def ops_after(volume: Volume, lsn: int) -> list[OpMeta]:
    with Journal(volume.store) as journal, journal.snapshot() as snapshot:
        return list(snapshot.ops(Lsn(lsn + 1), Lsn(snapshot.indexed_lsn + 1)))


def test_a_tree_comes_back_as_it_was_and_nothing_counts_as_changed(site: Site) -> None:
    site.old.mount()
    _fill(site.old.tree)
    (site.old.tree / os.fsdecode(b"odd \xff\n name")).write_bytes(b"odd")
    with (site.old.tree / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"in the middle", 40 << 20)
    os.chmod(site.old.tree / "d", 0o2751)
    os.utime(site.old.tree / "d", ns=(1, 987_654_321_123_456_789))
    site.old.sync()
    wanted = copy_of(site.old.tree)
    nodes = {path: (site.old.tree / os.fsdecode(path)).lstat().st_ino for path in wanted}
    end = site.ship()
    revived = site.recover(at=f"@lsn:{end}")
    assert_same(revived.backing, wanted)
    assert (revived.backing / "sparse").stat().st_blocks * 512 < 1 << 20
    revived.mount()
    assert_same(revived.tree, wanted)
    assert "external" not in revived.log_text()
    for path, node in nodes.items():
        assert (revived.tree / os.fsdecode(path)).lstat().st_ino == node
    revived.sync()
    new = ops_after(revived, site.held)
    assert {op.kind for op in new} <= {Kind.MOUNT, Kind.MARK, Kind.CHECKPOINT, Kind.SEEDED}
    assert new[0].lsn == site.held + 1


def test_the_history_goes_on_with_later_lsns_and_replicates_on(site: Site) -> None:
    site.old.mount()
    _fill(site.old.tree)
    then, at_then = copy_of(site.old.tree), site.ship()
    revived = site.recover()
    revived.mount()
    (revived.tree / "f").write_bytes(b"written on the new machine")
    now, lsn = copy_of(revived.tree), revived.sync()
    assert_same(revived.past(at_then), then)
    assert_same(revived.past(lsn), now)
    assert site.vault.carry(revived.store) >= lsn
    revived.unmount()
    revived.mount()
    assert revived.log_text().count("external changes found") <= 1
    assert_same(revived.tree, now)


@pytest.mark.parametrize("killed", [False, True])
def test_what_came_after_the_chosen_moment_stays_in_history_and_leaves_the_tree(
    site: Site, killed: bool
) -> None:
    """Each change in a directory of its own; the tree is recovered as of before them all."""
    site.old.mount()
    for name in CHANGES:
        _fill(site.old.tree / name)
    before, then = site.old.sync(), copy_of(site.old.tree)
    nodes = {path: (site.old.tree / os.fsdecode(path)).lstat().st_ino for path in then}
    for name, change in CHANGES.items():
        change(site.old.tree / name)
    changed = copy_of(site.old.tree)
    end = site.ship()
    revived = site.recover(at=f"@lsn:{before}")
    assert_same(revived.backing, then)
    if killed:
        _kill_while_it_is_taken_over(revived)
    revived.mount()
    assert_same(revived.tree, then)
    found = revived.sync()
    assert_same(revived.past(end), changed)
    assert_same(revived.past(found), then)
    new = ops_after(revived, end)
    assert any(op.flags & Flag.EXTERNAL for op in new)
    assert not {Kind.ADOPT, Kind.BASE} & {op.kind for op in new}
    for path, node in nodes.items():
        assert (revived.tree / os.fsdecode(path)).lstat().st_ino == node, path
    revived.unmount()
    revived.mount()
    assert_same(revived.tree, then)
    assert revived.log_text().count("external changes found") == 1


def _kill_while_it_is_taken_over(volume: Volume) -> None:
    """End the daemon in the midst of the first mount, or right after it."""
    mounting = threading.Thread(target=volume.try_mount)
    mounting.start()
    end = volume.store.config.foreign_lsn
    while True:
        with Journal(volume.store) as journal:
            if journal.indexed_lsn > end + 20 or not mounting.is_alive():
                break
    assert volume.process is not None
    volume.process.kill()
    mounting.join()
    volume.kill()
