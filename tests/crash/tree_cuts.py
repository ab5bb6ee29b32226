"""What a power cut may leave of the backing tree, and its recovery, without a mount.

A volume works for a while, and its daemon is killed. What the file system then might have kept of
the changes is imitated on the tree itself: changes that no log knows (the tree is ahead), and
changes of the log that are undone (it is behind), in any number. Each time the tree must become
what the journal says, and a second recovery must find nothing to do.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from fsd.power_cut import PowerCut
from store.journal import Journal
from store.statepage import StatePage
from store.types import ROOT, Lsn
from tests.crash import copies
from tests.crash.campaign import furnish
from tests.crash.chooser import Chooser
from tests.crash.copies import Copy, differences
from tests.crash.deeds import Deed
from tests.crash.victim import Victim
from timetravel.view import View

TOP = "w"
DEEDS = 120


class TreeFailure(AssertionError):
    """The tree is not what the journal says."""


def campaign(base: Path, seed: int, cuts: int) -> Iterator[str]:
    """Yield each cut that was survived. TreeFailure."""
    rng = random.Random(seed)
    volume = Victim(base, seed_rate_bytes_s=0)
    furnish(volume.backing / TOP, rng)
    shadow = base / "shadow"
    shadow.mkdir()
    shutil.copytree(volume.backing / TOP, shadow / TOP, symlinks=True, copy_function=_copy)
    try:
        volume.mount()
        _work(volume, shadow, seed, DEEDS)
        volume.call("seed", node=ROOT, subtree=True)
        checkpoint = Lsn(volume.sync()) if rng.random() < 0.5 else Lsn(0)
        _work(volume, shadow, seed + 1, DEEDS // 4)
        end = Lsn(volume.sync())
    finally:
        volume.kill_indexer()
        if volume.process is not None:
            volume.kill_daemon()
        volume.clear()
    with Journal(volume.store) as journal:
        wanted = copies.of_view(View(journal, end))
        for number in range(cuts):
            _disturb(volume.backing, rng)
            _recover(volume, journal, end, checkpoint, wanted, f"seed {seed}, cut {number}")
            yield "tree"


def _copy(source: str, target: str) -> None:
    """Of anything, special files among it."""
    status = os.lstat(source)
    if stat.S_ISFIFO(status.st_mode):
        os.mkfifo(target)
    else:
        shutil.copy2(source, target)


def _work(volume: Victim, shadow: Path, seed: int, count: int) -> None:
    chooser = Chooser(str(shadow), TOP, seed)
    for _ in range(count):
        deed = chooser.next()
        deed.do(str(volume.tree))
        deed.do(str(shadow))


def _disturb(tree: Path, rng: random.Random) -> None:
    """Changes that the journal knows nothing of; what it knows is thereby undone as well."""
    chooser = Chooser(str(tree), TOP, rng.randrange(1 << 32))
    for _ in range(rng.choice((1, 3, 10, 40))):
        deed = chooser.next()
        deed.do(str(tree))
        if rng.random() < 0.1:
            _empty(tree, rng)


def _empty(tree: Path, rng: random.Random) -> None:
    """A file whose size was not written: ext4 leaves such."""
    files = sorted(path for path in (tree / TOP).iterdir() if _is_file(path))
    if files:
        Deed("empty", os.path.relpath(rng.choice(files), tree)).do(str(tree))


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _recover(
    volume: Victim, journal: Journal, end: Lsn, start: Lsn, wanted: Copy, what: str
) -> None:
    page = StatePage(volume.store.state_path)
    root_fd = os.open(volume.backing, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for attempt in ("first", "second"):
            recovery = PowerCut(journal, root_fd, end, page)
            recovery.run(start, time.time_ns())
            recovery.finish()
            wrong = differences(copies.of_tree(volume.backing), wanted)
            if wrong or (attempt == "second" and recovery.repairs):
                raise TreeFailure("\n".join([f"{what}, {attempt}", *wrong[:20], *recovery.repairs]))
    finally:
        os.close(root_fd)
        page.close()
