"""The indexer dies, hangs or has no space: the mount goes on, and nothing is lost."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.doctor import volume_findings, worst
from console.exit_codes import ExitCode
from store.journal import Journal
from store.types import Lsn
from store.verify import verify
from tests.crash import copies
from tests.crash.victim import Victim
from timetravel.view import View

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    """A mounted volume."""
    made = Victim(tmp_path)
    try:
        made.mount()
        yield made
    finally:
        made.close()


def journal_is_the_tree(victim: Victim) -> None:
    """After an unmount."""
    with Journal(victim.store) as journal:
        newest = copies.of_view(View(journal, journal.indexed_lsn))
    assert copies.differences(newest, copies.of_tree(victim.backing)) == []
    assert verify(victim.store).findings == []


def test_an_unmount_while_the_indexer_is_dead_waits_for_the_next_one(victim: Victim) -> None:
    for name in ("one", "two"):
        (victim.tree / name).write_text("written")
        while not victim.kill_indexer():
            pass  # the first one is being replaced
    victim.unmount()
    journal_is_the_tree(victim)


def test_a_hung_indexer_is_replaced_and_the_unmount_succeeds(victim: Victim) -> None:
    (victim.tree / "before").write_text("x")
    victim.sync()
    (hung,) = victim.indexers()
    os.kill(hung, signal.SIGSTOP)
    (victim.tree / "after").write_text("y")
    victim.unmount()
    assert "hangs; killing it" in victim.log_text()
    journal_is_the_tree(victim)


def test_a_kill_while_the_indexer_hangs_loses_nothing(victim: Victim) -> None:
    (hung,) = victim.indexers()
    os.kill(hung, signal.SIGSTOP)
    (victim.tree / "file").write_bytes(random.Random(1).randbytes(3 << 20))
    live = copies.of_tree(victim.tree)
    victim.kill_daemon()
    victim.clear()
    os.kill(hung, signal.SIGKILL)
    victim.mount()
    assert copies.differences(copies.of_tree(victim.tree), live) == []
    victim.unmount()
    journal_is_the_tree(victim)


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Victim]:
    """A mounted volume, strict, whose store is on a disk with little more room than for the log."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    disk = tmp_path / "store"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={34 << 20}"]
    subprocess.run(["mount", *options, "tmpfs", str(disk)], check=True)
    made = Victim(tmp_path, ring_files=3, protect="strict")
    try:
        (made.backing / "old").write_text("there before")
        made.mount()
        yield made
    finally:
        made.close()
        subprocess.run(["umount", str(disk)], check=True)


def fill_up(victim: Victim) -> None:
    """Write until there is no space; every write before that succeeds."""
    noise = random.Random(1)
    with pytest.raises(OSError, match="space") as full:
        for number in range(100):
            (victim.tree / f"f{number}").write_bytes(noise.randbytes(1 << 20))
    assert full.value.errno == errno.ENOSPC


def make_space(victim: Victim) -> None:
    options = f"remount,size={300 << 20}"
    subprocess.run(["mount", "-o", options, str(victim.store.root)], check=True)


def is_alarmed(victim: Victim) -> bool:
    return any("writes are refused" in alarm for alarm in victim.call("status")["alarms"])


def test_a_full_store_refuses_writes_and_goes_on_when_there_is_space(cramped: Victim) -> None:
    fill_up(cramped)
    assert is_alarmed(cramped)
    assert worst(list(volume_findings(cramped.store))) is ExitCode.UNPROTECTED
    # Whoever only looks, or makes room, is served.
    assert (cramped.tree / "old").read_text() == "there before"
    assert "f0" in os.listdir(cramped.tree)
    os.unlink(cramped.tree / "f0")
    make_space(cramped)
    while is_alarmed(cramped):
        pass
    (cramped.tree / "again").write_bytes(random.Random(2).randbytes(1 << 20))
    live = copies.of_tree(cramped.tree)
    newest = Lsn(cramped.sync())
    with Journal(cramped.store) as journal:
        view = copies.of_view(View(journal, newest, cramped.demand))
    assert copies.differences(view, live) == []
    cramped.unmount()
    journal_is_the_tree(cramped)


def test_a_full_store_can_be_unmounted(cramped: Victim) -> None:
    fill_up(cramped)
    live = copies.of_tree(cramped.tree)
    cramped.unmount()
    assert copies.differences(copies.of_tree(cramped.backing), live) == []
    make_space(cramped)
    cramped.mount()
    assert copies.differences(copies.of_tree(cramped.tree), live) == []
    cramped.unmount()
    journal_is_the_tree(cramped)


def test_a_full_store_survives_a_kill(cramped: Victim) -> None:
    fill_up(cramped)
    live = copies.of_tree(cramped.tree)
    cramped.kill_daemon()
    cramped.clear()
    make_space(cramped)
    cramped.mount()
    assert copies.differences(copies.of_tree(cramped.tree), live) == []
    cramped.unmount()
    journal_is_the_tree(cramped)


def test_a_full_backing_disk_is_told_and_the_journal_stays_true(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    disk = tmp_path / "tree"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={9 << 20}"]
    subprocess.run(["mount", *options, "tmpfs", str(disk)], check=True)
    victim = Victim(tmp_path)
    try:
        victim.mount()
        fill_up(victim)
        live = copies.of_tree(victim.tree)
        newest = Lsn(victim.sync())
        with Journal(victim.store) as journal:
            view = copies.of_view(View(journal, newest, victim.demand))
        assert copies.differences(view, live) == []
        victim.kill_daemon()
        victim.clear()
        victim.mount()
        assert copies.differences(copies.of_tree(victim.tree), live) == []
        (victim.tree / "f0").unlink()
        (victim.tree / "room").write_text("again")
        victim.unmount()
        journal_is_the_tree(victim)
    finally:
        victim.close()
        subprocess.run(["umount", str(disk)], check=True)
