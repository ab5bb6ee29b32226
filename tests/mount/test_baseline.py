"""A volume goes on on another machine from a copy that begins in the midst of its history."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.baseline import BaselineWriter
from store.baseline_state import collect_state
from store.format import Kind
from store.journal import Journal
from store.relocation import Relocation, read_relocation, write_relocation
from store.types import Lsn
from store.verify import verify
from store.volume import Store
from tests.model.baseline_copy import batches_from, describe, new_copy
from tests.mount.replicas import RING, VaultDisk, lose
from tests.mount.test_external import CHANGES, _fill
from tests.mount.test_recover import ops_after
from tests.mount.trees import assert_same, copy_of
from tests.volume import Volume
from timetravel.revival import Revived, revive
from timetravel.view import View


class Site:
    """A volume; a set that begins at an LSN is made of it, then it is lost."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.old = Volume(base / "old")
        self.vault = VaultDisk(base)
        self.revived: Volume | None = None

    def copy(self, lsn: int) -> Store:
        """The store of a new machine, with all that the journal holds from `lsn` on."""
        old = self.old.store
        with Journal(old) as journal, journal.snapshot() as snapshot:
            copy = new_copy(
                old,
                self.base / "new-store",
                name=old.config.name,
                foreign_lsn=int(snapshot.indexed_lsn),
                directory=str(self.base / "new"),
                **RING,
            )
            end = f"@lsn:{snapshot.indexed_lsn}"
            write_relocation(copy, Relocation(stage="fetching", source="a set", line="", at=end))
            with BaselineWriter.open(copy) as writer:
                view = View(journal, Lsn(lsn))
                writer.start(Lsn(lsn), view.time_ns)
                describe(writer, view)
                first, *rest = batches_from(snapshot, Lsn(lsn))
                writer.finish(first, collect_state(snapshot, Lsn(lsn)).data)
                for data in rest:
                    writer.append(data)
                writer.commit()
        return copy

    def move(self, lsn: int) -> Volume:
        """The machine is lost, the volume made anew from what began at `lsn`; not mounted yet."""
        copy = self.copy(lsn)
        lose(self.old)
        done: Revived = revive(copy)
        assert done.note.stage == "ready", done.report
        assert not done.missing
        self.revived = Volume.of(copy, self.base / "new.log")
        return self.revived

    def close(self) -> None:
        self.old.close()
        if self.revived is not None:
            self.revived.close()
            self.revived.assert_foreseen()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_a_volume_goes_on_from_a_copy_and_replicates_on(site: Site) -> None:
    site.old.mount()
    _fill(site.old.tree)
    (site.old.tree / "many").mkdir()
    for number in range(40):
        (site.old.tree / "many" / f"{number}").write_bytes(b"%d" % number * 100)
    with (site.old.tree / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"in the middle", 40 << 20)
    begin, first = site.old.sync(), copy_of(site.old.tree)
    (site.old.tree / "f").write_bytes(b"behind the beginning")
    os.link(site.old.tree / "f", site.old.tree / "many" / "f")
    (site.old.tree / "many" / "3").unlink()
    (site.old.tree / "many").rename(site.old.tree / "moved")
    held, now = site.old.sync(), copy_of(site.old.tree)
    nodes = {path: (site.old.tree / os.fsdecode(path)).lstat().st_ino for path in now}
    site.vault.carry(site.old.store)
    revived = site.move(begin)
    assert_same(revived.backing, now)
    assert (revived.backing / "sparse").stat().st_blocks * 512 < 1 << 20
    revived.mount()
    assert_same(revived.tree, now)
    assert "external" not in revived.log_text()
    for path, node in nodes.items():
        assert (revived.tree / os.fsdecode(path)).lstat().st_ino == node
    assert_same(revived.past(begin), first)
    assert_same(revived.past(held), now)
    revived.sync()
    new = ops_after(revived, revived.store.config.foreign_lsn)
    assert {op.kind for op in new} <= {Kind.MOUNT, Kind.MARK, Kind.CHECKPOINT, Kind.SEEDED}
    (revived.tree / "moved" / "new").write_bytes(b"on the new machine")
    (revived.tree / "sparse").write_bytes(b"short now")
    (revived.tree / "moved" / "5").unlink()
    last, later = revived.sync(), copy_of(revived.tree)
    assert site.vault.carry(revived.store) >= last
    revived.unmount()
    revived.mount()
    assert_same(revived.tree, later)
    assert_same(revived.past(begin), first)
    revived.kill()
    revived.mount()
    assert_same(revived.tree, later)
    revived.unmount()
    assert verify(revived.store).findings == []
    assert read_relocation(revived.store) is None


@pytest.mark.parametrize("change", CHANGES)
def test_what_follows_on_the_beginning_counts(site: Site, change: str) -> None:
    site.old.mount()
    _fill(site.old.tree)
    begin, first = site.old.sync(), copy_of(site.old.tree)
    CHANGES[change](site.old.tree)
    end, now = site.old.sync(), copy_of(site.old.tree)
    revived = site.move(begin)
    revived.mount()
    assert_same(revived.tree, now)
    assert_same(revived.past(begin), first)
    assert_same(revived.past(end), now)
    assert "external changes found" not in revived.log_text()


def test_a_copy_that_lacks_what_belongs_to_it_is_not_mounted(site: Site) -> None:
    site.old.mount()
    _fill(site.old.tree)
    begin = site.old.sync()
    (site.old.tree / "f").write_bytes(b"behind the beginning")
    site.old.sync()
    old = site.old.store
    copy = new_copy(old, site.base / "short", directory=str(site.base / "new"), **RING)
    (site.base / "new").mkdir()
    with (
        Journal(old) as journal,
        journal.snapshot() as snapshot,
        BaselineWriter.open(copy) as writer,
    ):
        view = View(journal, Lsn(begin))
        writer.start(Lsn(begin), view.time_ns)
        describe(writer, view)
        writer.finish(
            batches_from(snapshot, Lsn(begin))[0], collect_state(snapshot, Lsn(begin)).data
        )
    volume = Volume.of(copy, site.base / "short.log")
    answer = volume.try_mount()
    volume.close()
    assert "is known to go on to LSN" in str(answer), answer
