"""A machine is lost with tree and store: from its replica the volume comes back and goes on."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from replicator.vault.lines import list_lines
from store.format import Flag, Kind
from store.indexer import Indexer
from store.journal import Journal, OpMeta
from store.relocation import read_relocation, write_relocation
from store.types import Lsn
from store.volume import GroupConfig, Store
from tests.commandline import RING, ProtectedTree
from tests.mount.replicas import VaultDisk, lose
from tests.mount.test_external import CHANGES, _fill
from tests.mount.trees import assert_same, copy_of
from tests.unit.journal_workload import Workload, make_store
from tests.unit.shipping import go_on
from tests.volume import Volume


class Site:
    """A volume that is lost and found again. `revived` is it on its new machine."""

    def __init__(self, base: Path, **settings: Any) -> None:
        self.base = base
        self.old = Volume(base / "old", **settings)
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
            self.revived.assert_foreseen()


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


def test_a_machine_that_only_crashed_goes_on_with_the_same_line(site: Site) -> None:
    site.old.mount()
    _fill(site.old.tree)
    held = site.ship()
    (site.old.tree / "late").write_bytes(b"in the intake log alone")
    site.old.kill()
    site.old.mount()
    (site.old.tree / "later").write_bytes(b"after the crash")
    assert site.ship() > held
    assert [
        line.line for line in list_lines(site.vault.root, site.old.store.config.uuid).lines
    ] == ["main"]
    with Journal(site.old.store) as mine, mine.snapshot() as here:
        replica = site.vault.root.store(site.old.store.config.uuid)
        with Journal(replica) as other, other.snapshot() as there:
            assert list(there.batches(Lsn(1)))[-1].digest == list(here.batches(Lsn(1)))[-1].digest


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


def test_times_go_on_growing_where_the_clock_is_behind_the_journal(tmp_path: Path) -> None:
    """The lost machine's clock was an hour ahead."""
    store = make_store(tmp_path)
    workload, hour_ns = Workload(store), 3600 * 10**9
    workload._now = itertools.count(time.time_ns() + hour_ns, 1_000_003)
    indexer = Indexer(store)
    go_on(workload, indexer, 2, 30)
    indexer.close()
    vault = VaultDisk(tmp_path)
    held = vault.carry(store)
    done = vault.recover(store.config.uuid, tmp_path / "new", tmp_path / "new-store")
    revived = Volume.of(done.store, tmp_path / "new.log")
    try:
        revived.mount()
        (revived.tree / "new file").write_bytes(b"later")
        revived.sync()
        times = [op.time_ns for op in ops_after(revived, held - 1)]
        assert times == sorted(set(times))
        assert any("ahead of the machine's" in a for a in revived.call("status")["alarms"])
        assert vault.carry(revived.store) > held
    finally:
        revived.close()


def test_what_the_initial_backup_had_not_reached_is_named_and_counts_as_gone(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, seed_rate_bytes_s=1)
    (site.old.backing / "before").write_bytes(b"b" * (3 << 20))
    (site.old.backing / "sub").mkdir()
    (site.old.backing / "sub" / "unknown").write_bytes(b"nobody asked for it")
    try:
        site.old.mount()
        (site.old.tree / "new").write_bytes(b"new")
        (site.old.tree / "before").stat()
        (site.old.tree / "sub" / "made").write_bytes(b"made")
        end = site.ship()
        lose(site.old)
        done = site.vault.recover(
            site.old.store.config.uuid, tmp_path / "new", tmp_path / "new-store", at=f"@lsn:{end}"
        )
        assert done.ready
        missing = {failure.path for failure in done.missing}
        assert b"before" in missing
        assert missing & {b"sub/", b"sub/unknown"}  # as far as the walk had come
        assert done.note.missing == len(missing)
        revived = site.revived = Volume.of(done.store, tmp_path / "new.log")
        assert (revived.backing / "sub" / "made").read_bytes() == b"made"
        revived.mount()
        assert sorted(os.listdir(revived.tree)) == ["new", "sub"]
        lsn = revived.sync()
        assert sorted(os.listdir(revived.past(lsn))) == ["new", "sub"]
        new = ops_after(revived, end)
        gone = [op for op in new if op.kind == Kind.UNLINK]
        assert gone and all(op.flags & Flag.EXTERNAL for op in gone)
        # A person finds the file elsewhere and puts it there: it is backed up from now on.
        (revived.tree / "before").write_bytes(b"found again")
        assert (revived.past(revived.sync()) / "before").read_bytes() == b"found again"
    finally:
        site.close()


def test_lists_of_rights_and_odd_things_come_back(site: Site) -> None:
    site.old.mount()
    tree = site.old.tree
    acl = (
        b"\x02\0\0\0"
        b"\x01\0\x06\0\xff\xff\xff\xff"
        b"\x02\0\x06\0\x07\0\0\0"
        b"\x04\0\x04\0\xff\xff\xff\xff"
        b"\x10\0\x06\0\xff\xff\xff\xff"
        b"\x20\0\x04\0\xff\xff\xff\xff"
    )
    (tree / "acl").write_bytes(b"for user 7 as well")
    os.setxattr(tree / "acl", "system.posix_acl_access", acl)
    (tree / "inherits").mkdir()
    os.setxattr(tree / "inherits", "system.posix_acl_default", acl)
    (tree / "set-id").write_bytes(b"#!")
    os.chown(tree / "set-id", 7, 8)
    os.chmod(tree / "set-id", 0o6755)
    os.setxattr(tree / "set-id", "user.long", b"x" * 3000)
    os.setxattr(tree / "set-id", "security.test", b"label")
    os.symlink(b"\xff nowhere", tree / "dangling")
    os.lchown(tree / "dangling", 9, 9)
    os.utime(tree / "dangling", ns=(1, 5_000_000_007), follow_symlinks=False)
    os.mknod(tree / "device", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tree / "s"))
    (tree / ("n" * 255)).write_bytes(b"")
    deep = tree
    for _ in range(30):
        deep = deep / ("d" * 40)
    deep.mkdir(parents=True)
    (deep / "deep").write_bytes(b"deep")
    wanted, end = copy_of(tree), site.ship()
    revived = site.recover(at=f"@lsn:{end}")
    assert_same(revived.backing, wanted)
    revived.mount()
    assert_same(revived.tree, wanted)
    assert "external" not in revived.log_text()


@pytest.mark.parametrize("machine_too", [False, True])
def test_a_recovered_volume_survives_its_next_crash(site: Site, machine_too: bool) -> None:
    """The inode numbers in its log are those of another machine; nothing is found by them."""
    _fill(site.old.backing)
    for number in range(200):
        (site.old.backing / f"file {number}").write_bytes(b"%d" % number)
        os.link(site.old.backing / f"file {number}", site.old.backing / "d" / f"link {number}")
    site.old.mount()
    site.old.call("seed", node=1, subtree=True)
    end = site.ship()
    revived = site.recover(at=f"@lsn:{end}")
    revived.mount()
    for number in range(0, 200, 3):
        (revived.tree / f"file {number}").write_bytes(b"written anew")
        (revived.tree / f"other {number}").write_bytes(b"%d" % number)
        os.unlink(revived.tree / "d" / f"link {number}")
    wanted = copy_of(revived.tree)
    revived.kill()
    if machine_too:
        revived.store.state_path.unlink()  # then nobody knows that the machine stayed up
    revived.mount()
    assert_same(revived.tree, wanted)
    assert "external" not in revived.log_text()
    assert_same(revived.past(revived.sync()), wanted)


def test_what_a_person_adds_before_the_first_mount_is_found(site: Site) -> None:
    site.old.mount()
    _fill(site.old.tree)
    end = site.ship()
    revived = site.recover(at=f"@lsn:{end}")
    (revived.backing / "added").write_bytes(b"by hand")
    (revived.backing / "f").write_bytes(b"changed by hand")
    os.unlink(revived.backing / "big")
    wanted = copy_of(revived.backing)
    revived.mount()
    assert_same(revived.tree, wanted)
    assert_same(revived.past(revived.sync()), wanted)


@pytest.mark.parametrize("seeded", [False, True])
def test_a_tree_that_outlived_its_store_is_kept_and_what_it_has_more_is_logged(
    tmp_path: Path, seeded: bool
) -> None:
    """Each change in a directory of its own, made when the vault had the rest."""
    site = Site(tmp_path, seed_rate_bytes_s=0 if seeded else 1)
    for name in CHANGES:
        _fill(site.old.backing / name)
    try:
        site.old.mount()
        if seeded:
            site.old.call("seed", node=1, subtree=True)
        (site.old.tree / "made").write_bytes(b"through the mount")
        site.old.sync()
        then, end = copy_of(site.old.tree), site.ship()
        for name, change in CHANGES.items():
            change(site.old.tree / name)
        site.old.kill()
        shutil.rmtree(site.old.store.root)
        wanted = copy_of(site.old.backing)
        done = site.vault.recover(
            site.old.store.config.uuid, site.old.backing, tmp_path / "store again", keep_tree=True
        )
        assert done.ready
        revived = site.revived = Volume.of(done.store, tmp_path / "again.log")
        revived.mount()
        assert_same(revived.tree, wanted)
        assert_same(revived.past(revived.sync()), wanted)
        if seeded:
            assert_same(revived.past(end), then)
        with Journal(revived.store) as journal:
            (gap,) = journal.gaps()
        assert gap.lsn > end and gap.reason == "the store was lost, and its replica ends there"
        assert site.vault.carry(revived.store) > end
        revived.unmount()
        revived.mount()
        assert_same(revived.tree, wanted)
        assert revived.log_text().count("external changes found") == 1
    finally:
        site.close()


def test_files_that_were_said_to_belong_together_still_do(tmp_path: Path) -> None:
    groups = [GroupConfig(name="books", paths=["db/**", "spool/*"])]
    site = Site(tmp_path, groups=groups, quiet_s=1.5)
    try:
        site.old.mount()
        _fill(site.old.tree)
        site.ship()
        revived = site.recover()
        assert revived.store.config.groups == groups
        assert Store.open(revived.store.root).config.groups == groups
    finally:
        site.close()


def test_a_mount_is_refused_until_the_recovery_is_complete(site: Site) -> None:
    site.old.mount()
    _fill(site.old.tree)
    end = site.ship()
    revived = site.recover(at=f"@lsn:{end}")
    note = read_relocation(revived.store)
    assert note is not None
    write_relocation(revived.store, msgspec.structs.replace(note, stage="restoring"))
    answer = revived.try_mount()
    assert answer["error"]["kind"] == "RecoveryUnfinished"
    assert "replicate recover" in answer["error"]["hint"]
    assert revived.process is not None and revived.process.wait() == 1
    write_relocation(revived.store, note)
    revived.log.unlink()
    revived.mount()


def test_a_recovery_that_is_killed_again_and_again_gets_to_its_end(site: Site) -> None:
    site.old.mount()
    random_bytes = random.Random(5)
    for number in range(40):
        (site.old.tree / f"file {number}").write_bytes(random_bytes.randbytes(400_000))
        os.link(site.old.tree / f"file {number}", site.old.tree / f"link {number}")
    _fill(site.old.tree)
    wanted, end = copy_of(site.old.tree), site.ship()
    lose(site.old)
    machine = ProtectedTree(site.base)
    command = [
        *(sys.executable, "-P", "-m", "console", "replicate", "recover", str(machine.tree)),
        *("--root", str(site.vault.root.path), "--volume", site.old.store.config.uuid),
        *("--store", str(site.base / "new-store"), "--at", f"@lsn:{end}", *RING),
    ]
    kills = 0
    for after_s in itertools.count(0.2, 0.03):
        process = subprocess.Popen(command, env=machine.environment, stdout=subprocess.DEVNULL)
        try:
            assert process.wait(after_s) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert kills > 2
    site.revived = Volume.of(Store.open(site.base / "new-store"), site.base / "new.log")
    assert_same(site.revived.backing, wanted)
    site.revived.mount()
    assert_same(site.revived.tree, wanted)
    assert "external" not in site.revived.log_text()
