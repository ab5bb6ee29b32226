"""After the daemon's death the bare directory is there to be worked in: what happens to it then is
kept, and known, once the volume is mounted again."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsd.daemon import CRASH_SLACK_NS
from store.journal import Journal
from store.statepage import StatePage
from store.types import Lsn
from tests.crash import copies
from tests.crash.copies import Copy
from tests.crash.victim import Victim
from timetravel.view import View

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

OLD_TIME_NS = 1_600_000_000_000_000_000


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    """A mounted volume with three files."""
    made = Victim(tmp_path)
    try:
        made.mount()
        for name in ("one", "two", "three"):
            (made.tree / name).write_text(f"{name} as it was")
        yield made
    finally:
        made.close()


def past(victim: Victim, lsn: Lsn) -> Copy:
    with Journal(victim.store) as journal:
        return copies.of_view(View(journal, lsn, victim.demand))


def rewrite(path: Path) -> None:
    """As many bytes as before, others."""
    path.write_bytes(path.read_bytes().upper())


def rewrite_secretly(path: Path) -> None:
    """The same, with the old mtime: only the ctime tells."""
    before = path.stat().st_mtime_ns
    rewrite(path)
    os.utime(path, ns=(before, before))


@pytest.mark.parametrize("edit", [rewrite, rewrite_secretly])
def test_edits_after_a_crash_are_kept_and_logged(
    victim: Victim, edit: Callable[[Path], None]
) -> None:
    lsn = Lsn(victim.sync())
    before = copies.of_tree(victim.tree)
    victim.kill_daemon()
    victim.clear()
    edit(victim.backing / "one")
    (victim.backing / "two").unlink()
    (victim.backing / "four").write_text("new")
    (victim.backing / "three").chmod(0o600)
    edited = copies.of_tree(victim.backing)
    victim.mount()
    newest = Lsn(victim.sync())
    live = copies.of_tree(victim.tree)
    # But for mtimes that the daemon had not set yet: those are the journal's now.
    assert copies.differences(live, edited, times=False) == []
    assert copies.differences(past(victim, newest), live) == []
    assert copies.differences(past(victim, lsn), before) == []


def test_an_edit_of_the_very_file_that_was_being_written_is_kept(victim: Victim) -> None:
    """The last op in the log is about it, so recovery has it in doubt."""
    with open(victim.tree / "one", "r+b") as file:
        file.write(b"ONE")
        file.flush()
        victim.kill_daemon()
        victim.clear()
        rewrite(victim.backing / "one")
        edited = (victim.backing / "one").read_bytes()
        victim.mount()
        newest = Lsn(victim.sync())
        assert (victim.tree / "one").read_bytes() == edited
        live = copies.of_tree(victim.tree)
        assert copies.differences(past(victim, newest), live) == []
        # The last one lost its file with the daemon; closing tells so.
        with pytest.raises(OSError, match="connected"):
            os.write(file.fileno(), b"x")


def test_edits_are_found_though_the_search_for_them_was_killed(victim: Victim) -> None:
    victim.sync()
    victim.unmount()
    rewrite_secretly(victim.backing / "one")
    rewrite_secretly(victim.backing / "three")
    edited = copies.of_tree(victim.backing)
    arm = victim.store.root.parent / "armed"
    for place in range(6):
        arm.touch()
        environment = {**os.environ, "DOOM_ARM": str(arm), "DOOM_AT": str(place)}
        victim.start("-m", "tests.crash.doomed", environment=environment)
        if victim.wait_mounted():
            arm.unlink()
        victim.kill_daemon()
        victim.clear()
    victim.mount()
    newest = Lsn(victim.sync())
    live = copies.of_tree(victim.tree)
    assert copies.differences(live, edited) == []
    assert copies.differences(past(victim, newest), live) == []


def test_a_store_that_died_before_it_knew_the_tree_begins_again(tmp_path: Path) -> None:
    victim = Victim(tmp_path)
    (victim.backing / "file").write_text("there before")
    arm = tmp_path / "armed"
    arm.touch()
    try:
        for place in range(14):
            environment = {**os.environ, "DOOM_ARM": str(arm), "DOOM_AT": str(place)}
            victim.start("-m", "tests.crash.doomed", environment=environment)
            answer = victim.wait_mounted()
            assert not answer or answer["ok"]
            victim.kill_daemon()
            victim.clear()
        victim.mount()
        newest = Lsn(victim.sync())
        live = copies.of_tree(victim.tree)
        assert (victim.tree / "file").read_text() == "there before"
        assert copies.differences(past(victim, newest), live) == []
    finally:
        victim.close()


def test_what_takes_the_place_of_a_file_that_was_just_going_is_kept(tmp_path: Path) -> None:
    """Recovery finishes an unlink and a rename that were in flight, but not over somebody's new
    work."""
    victim = Victim(tmp_path)
    arm = tmp_path / "armed"
    (victim.backing / "going").write_text("goes")
    try:
        for place in range(5):
            environment = {**os.environ, "DOOM_ARM": str(arm), "DOOM_AT": str(place)}
            victim.start("-m", "tests.crash.doomed", environment=environment)
            assert victim.wait_mounted()
            (victim.tree / "coming").write_text(f"comes {place}")
            (victim.tree / "replaced").write_text("is replaced")
            arm.touch()
            with contextlib.suppress(OSError):
                os.unlink(victim.tree / "going")
                os.rename(victim.tree / "coming", victim.tree / "replaced")
            arm.unlink()
            victim.kill_daemon()
            victim.clear()
            # Not before the daemon is dead for longer than what it notes of that is exact.
            while time.time_ns() < victim_died_ns(victim) + CRASH_SLACK_NS:
                pass
            (victim.backing / "going").write_text("new work")
            (victim.backing / "replaced").write_text("new work too")
            victim.mount()
            assert (victim.tree / "going").read_text() == "new work"
            assert (victim.tree / "replaced").read_text() == "new work too"
            newest = Lsn(victim.sync())
            assert copies.differences(past(victim, newest), copies.of_tree(victim.tree)) == []
            victim.unmount()
    finally:
        victim.close()


def victim_died_ns(victim: Victim) -> int:
    page = StatePage(victim.store.state_path, writable=False)
    try:
        return page.alive_ns
    finally:
        page.close()
