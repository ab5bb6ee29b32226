"""Every call of the daemon and the indexer fails once: a volume, a workload, and what must hold.

The bench stays mounted. For each fault: the order is given, the workload runs in a folder of its
own, the order is taken back, and then the volume has to come right by itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from store.journal import Journal
from store.types import Lsn
from store.verify import verify
from tests.crash import copies
from tests.crash.victim import Victim
from tests.volume import SOURCE
from timetravel.view import View

FOLDER = Path(__file__).resolve().parent / "faults"
TOLD = {errno.ENOSPC, errno.EIO}
FOLLOWS = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENODATA, errno.ENOTDIR, errno.EBADF}
"""What a step gets when an earlier one failed."""


@dataclass(frozen=True)
class Fault:
    """The `at`-th call at a site fails; all later ones, too, if it is `lasting`."""

    site: str
    at: int
    number: int
    lasting: bool

    def order(self) -> dict[str, object]:
        """For the arm file."""
        return {"site": self.site, "at": self.at, "errno": self.number, "lasting": self.lasting}

    def __str__(self) -> str:
        lasting = ", lasting" if self.lasting else ""
        return f"{errno.errorcode[self.number]} at call {self.at} of {self.site}{lasting}"


class FaultBench:
    """One mounted volume whose calls fail on demand. `refused` counts steps that failed."""

    def __init__(self, base: Path, **settings: object) -> None:
        self._arm = base / "arm"
        self._counts = base / "counts"
        self._hit = base / "hit"
        self._late: set[str] = set()
        """Sites that only come up some time after the workload."""
        self._base = base
        self.volume = Victim(base, at=True, ring_files=3, **settings)
        self._round = 0
        self.refused = 0
        self.hits = 0
        """Faults that came to pass."""
        self.silent = 0
        """Faults that no step of the workload was told of."""
        furnish(self.volume.backing)

    def mount(self) -> None:
        """Start the daemon, able to fail."""
        answer = self.try_mount()
        assert answer, self.volume.log_text()

    def try_mount(self) -> bool:
        """As `mount`; does it answer?"""
        environment = {
            **os.environ,
            "FAULT_ARM": str(self._arm),
            "PYTHONPATH": f"{FOLDER}:{SOURCE}",
        }
        self.volume.start("-m", "fsd", environment=environment)
        answer = self.volume.wait_mounted()
        return bool(answer and answer.get("ok"))

    def close(self) -> None:
        """Leave nothing behind."""
        self._arm.unlink(missing_ok=True)
        self.volume.close()

    # --- faults -----------------------------------------------------------------------------

    def sites(self, seconds: float) -> Counter[str]:
        """Each site that the workload passes, or what follows it in so much time, and how often."""
        self._tell({"count": str(self._counts)})
        self._work()
        self.volume.sync()
        trodden = Counter(self._counts.read_text().splitlines())
        stop = time.monotonic() + seconds
        while time.monotonic() < stop:
            self.volume.call("status")
        self._tell(None)
        every = Counter(self._counts.read_text().splitlines())
        self._late = every.keys() - trodden.keys()
        return every

    def suffer(self, fault: Fault) -> None:
        """Run the workload with this fault, and see everything come right again."""
        before = self.refused
        self._hit.unlink(missing_ok=True)
        self._tell({**fault.order(), "hit": str(self._hit)})
        indexer = self._indexer()
        self._work()
        if fault.site.startswith("indexer "):
            self._wait_for_indexer(indexer)
        elif fault.site in self._late and not fault.at:
            while not self._hit.exists():
                pass
        self._tell(None)
        self.silent += self.refused == before
        self.hits += self._hit.exists()
        try:
            self._comes_right()
        except BaseException:
            print(f"\nwith {fault}")
            raise

    def mount_sites(self) -> Counter[str]:
        """Each site that a mount after a kill passes, and how often."""
        self._work()
        self._die()
        self._counts.unlink(missing_ok=True)
        self._tell({"count": str(self._counts)})
        self.mount()
        self._tell(None)
        return Counter(self._counts.read_text().splitlines())

    def mount_with(self, fault: Fault) -> None:
        """Kill the daemon after a workload, and mount with this fault, then without."""
        self._work()
        live = copies.of_tree(self.volume.tree)
        self._die()
        self._hit.unlink(missing_ok=True)
        self._tell({**fault.order(), "hit": str(self._hit)})
        mounted = self.try_mount()
        self._tell(None)
        self.hits += self._hit.exists()
        if not mounted:
            self.refused += 1
            self._bury()
            self.mount()
        try:
            wrong = copies.differences(copies.of_tree(self.volume.tree), live)
            assert not wrong, "\n".join([*wrong, self.volume.log_text()[-5000:]])
            self._comes_right()
        except BaseException:
            print(f"\nat a mount with {fault}")
            raise

    def _die(self) -> None:
        self.volume.kill_daemon()
        self.volume.clear()

    def _bury(self) -> None:
        """The daemon that could not mount has ended by itself."""
        assert self.volume.process is not None
        self.volume.process.wait()
        self.volume.process = None
        self.volume.clear()

    def _indexer(self) -> int:
        return int(self.volume.call("status")["pids"]["indexer"])

    def _wait_for_indexer(self, before: int) -> None:
        """Until it has met its fault, or has got by."""
        wanted = self.volume.call("status")["lsn"]
        while True:
            status = self.volume.call("status")
            troubled = any("indexer" in alarm for alarm in status["alarms"])
            if troubled or status["indexed_lsn"] >= wanted or status["pids"]["indexer"] != before:
                return

    def _tell(self, order: dict[str, object] | None) -> None:
        if order is None:
            self._arm.unlink(missing_ok=True)
        else:
            new = self._arm.with_suffix(".new")
            new.write_text(json.dumps(order))
            new.rename(self._arm)

    def _work(self) -> None:
        """The workload; what it is refused is counted."""
        self._round += 1
        shutil.rmtree(self.volume.tree / f"w{self._round - 2}", ignore_errors=True)
        for step in steps(self.volume.tree, self._round):
            try:
                step()
            except OSError as error:
                self.refused += error.errno in TOLD
                if error.errno not in TOLD | FOLLOWS:
                    raise
        with contextlib.suppress(OSError, AssertionError):
            self.volume.call("status")

    # --- what must hold -----------------------------------------------------------------------

    def _comes_right(self) -> None:
        volume = self.volume
        assert volume.process is not None
        assert volume.process.poll() is None, volume.log_text()[-5000:]
        while volume.call("status")["protection"]["state"] != "logged":
            assert volume.process.poll() is None, volume.log_text()[-5000:]
        self.check_newest()

    def check_newest(self) -> None:
        """The live tree is what the journal's newest view says."""
        live = copies.of_tree(self.volume.tree)
        newest = Lsn(self.volume.sync())
        with Journal(self.volume.store) as journal:
            view = copies.of_view(View(journal, newest, self.volume.demand))
        wrong = copies.differences(view, live)
        assert not wrong, "\n".join([*wrong, self.volume.log_text()[-5000:]])
        assert "nobody foresaw" not in self.volume.log_text(), self.volume.log_text()[-5000:]

    def end(self) -> None:
        """Unmount in order; the journal is whole and says what the tree is."""
        self.volume.unmount()
        with Journal(self.volume.store) as journal:
            newest = copies.of_view(View(journal, journal.indexed_lsn))
        wrong = copies.differences(newest, copies.of_tree(self.volume.backing))
        assert not wrong, "\n".join([*wrong, self.volume.log_text()[-5000:]])
        assert verify(self.volume.store).findings == []


def furnish(tree: Path) -> None:
    """Some files that are there before cdpfs."""
    for number in range(3):
        (tree / f"old{number}").write_bytes(b"%d old\n" % number * 50_000)


def steps(tree: Path, number: int) -> list[Callable[[], object]]:
    """One call of each kind, each a step that can fail for itself."""
    home = tree / f"w{number}"
    file, other, moved = home / "file", home / "other", home / "sub/moved"
    old = tree / f"old{number % 3}"

    def write(path: Path, data: bytes, flags: int = os.O_CREAT, sync: bool = False) -> None:
        fd = os.open(path, os.O_WRONLY | flags, 0o644)
        try:
            os.write(fd, data)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    def sync_folder() -> None:
        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    return [
        lambda: home.mkdir(),
        lambda: (home / "sub").mkdir(),
        lambda: write(file, b"first " * 1000),
        lambda: write(file, b"more " * 500, os.O_APPEND, sync=True),
        lambda: write(other, b"other " * 30_000),
        lambda: write(old, b"over the old", 0),
        lambda: write(other, b"synchronous", os.O_DSYNC),
        lambda: os.truncate(file, 777),
        lambda: os.chmod(file, 0o4640),
        lambda: write(file, b"no longer privileged", 0),
        lambda: os.utime(file, ns=(10**18, 10**18)),
        lambda: os.setxattr(file, "user.a", b"value"),
        lambda: os.getxattr(file, "user.a"),
        lambda: os.listxattr(file),
        lambda: os.removexattr(file, "user.a"),
        lambda: os.link(file, home / "linked"),
        lambda: os.symlink("file", home / "symlink"),
        lambda: os.readlink(home / "symlink"),
        lambda: os.mkfifo(home / "fifo"),
        lambda: os.rename(file, moved),
        lambda: write(home / "new", b"replaces " * 100),
        lambda: os.rename(home / "new", other),
        lambda: sorted(os.listdir(home)),
        lambda: other.read_bytes(),
        lambda: os.statvfs(home),
        lambda: os.unlink(home / "linked"),
        lambda: os.rmdir(home / "sub"),
        lambda: write(other, b"", os.O_TRUNC),
        lambda: write(home / "last", b"last " * 2000, sync=True),
        sync_folder,
    ]
