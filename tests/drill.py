"""The disaster drill: a site is lost with everything on it, comes back from its vault, and goes on.

    python -m tests.drill [--load-s S] [--seed N] [--keep]

Everything is done with the `cdpfs` command line, as docs/replication.md tells people to, against a
vault on loopback with TLS. A bank in an SQLite database works all the time and notes, outside of
the site, the number of each transaction that was committed. At the end the lost machine comes back,
with transactions that the vault never got, and must not be mixed with the one that took its place.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from store.journal import Journal
from store.types import Lsn
from store.verify import verify
from store.volume import Store
from tests.commandline import RING, ROOT
from tests.crash import bank
from tests.mount.fingerprint import Fingerprint, assert_equal, fingerprint
from tests.vault_process import VaultProcess

DATABASE = "bank.db"
SITE = "branch"


class Machine:
    """A machine of the site: a tree, its store, and the stores that are registered there."""

    def __init__(self, name: str, base: Path) -> None:
        self.name = name
        self.base = base
        base.mkdir(exist_ok=True)
        self.tree = base / "tree"
        self.store_root = base / "store"
        self.ledger = base.parent / f"{name}.ledger"
        """Outside of what can be lost: the customers' own books."""
        self._teller: subprocess.Popen[bytes] | None = None

    def cdpfs(self, *arguments: str) -> str:
        """Run `cdpfs` there; what it prints. AssertionError when it fails."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "console", *arguments],
            env=dict(os.environ, PYTHONPATH=str(ROOT), CDPFS_HOME=str(self.base / "home")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"cdpfs {arguments}: {done.stderr.decode()}"
        return done.stdout.decode()

    def status(self) -> dict[str, Any]:
        """What `cdpfs status` says."""
        found: dict[str, Any] = json.loads(self.cdpfs("status", str(self.tree), "--json"))
        return found

    def replication(self) -> dict[str, Any]:
        """What `cdpfs replicate status` says."""
        said = self.cdpfs("replicate", "status", str(self.tree), "--json")
        found: dict[str, Any] = json.loads(said)
        return found

    @property
    def store(self) -> Store:
        return Store.open(self.store_root)

    @contextlib.contextmanager
    def working(self, seed: int) -> Iterator[None]:
        """The bank works during the block; it may lose its disk meanwhile."""
        self._teller = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.crash.bank"),
                *(str(self.tree / DATABASE), str(self.ledger), str(seed)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._teller.stdout is not None
        self._teller.stdout.readline()
        try:
            yield
        finally:
            self._teller.terminate()
            self._teller.wait()
            self._teller.stdout.close()

    def committed(self) -> list[int]:
        """Numbers of the transactions that the bank's customers know to be done."""
        if not self.ledger.exists():
            return [0]
        return [0, *map(int, self.ledger.read_text().split())]

    def wait_committed(self, count: int) -> None:
        """Return when so many more were committed."""
        wanted = len(self.committed()) + count
        while len(self.committed()) < wanted:
            time.sleep(0.01)

    def die(self) -> None:
        """Power off: every process at once, by its number; the dead mount goes with the kernel."""
        pids = [int(pid) for pid in self.status()["pids"].values() if pid]
        for pid in sorted(pids, reverse=True):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.unmount_dead()

    def unmount_dead(self) -> None:
        """Take away whatever is mounted there."""
        while f" {self.tree} " in Path("/proc/self/mountinfo").read_text():
            subprocess.run(["fusermount3", "-uz", str(self.tree)], check=False)


class Drill:
    """One run below `base`. `run` raises AssertionError with what is wrong."""

    def __init__(self, base: Path, load_s: float, seed: int, say: Any = print) -> None:
        self.base = base
        self._load_s = load_s
        self._random = random.Random(seed)
        self._say = say
        self._began = time.monotonic()
        self.vault = VaultProcess(base / "vault")
        self.first = Machine("first", base / "machine-1")
        self.second = Machine("second", base / "machine-2")
        self._aside = base / "disk-of-machine-1"
        self._acknowledged = 0
        """The newest transaction that was committed before something that the vault has acked."""
        self._acked_lsn = 0
        self._then: Fingerprint = {}

    def run(self) -> None:
        """All of it."""
        self._step("a site works and replicates", self._site_works)
        self._step("the site is lost", self._site_is_lost)
        self._step("it is recovered on an empty machine", self._recover)
        self._step("what comes back is what was acknowledged", self._check_recovered)
        self._step("work goes on there, and replicates on", self._go_on)
        self._step("both ends have the same history", self._check_ends)
        self._step("the lost machine comes back", self._old_machine_returns)
        self._step("history parted, and both lines are whole", self._check_lines)

    def _step(self, what: str, do: Any) -> None:
        began = time.monotonic()
        self._say(f"--- {what}")
        do()
        self._say(f"    {time.monotonic() - began:.1f} s")

    def close(self) -> None:
        """Leave neither a mount nor a process behind."""
        for machine in (self.first, self.second):
            with contextlib.suppress(AssertionError):
                machine.cdpfs("umount", str(machine.tree))
            machine.unmount_dead()
        self.vault.close()

    # --- the steps ------------------------------------------------------------------------------

    def _site_works(self) -> None:
        machine = self.first
        self._furnish(machine.tree)
        bank.make(machine.tree / DATABASE, self._random.choice(bank.MODES))
        self.vault.start()
        token = self.vault.add_site(SITE)
        self._to = ("--token-file", str(token), "--ca", str(self.vault.ca))
        machine.cdpfs("protect", str(machine.tree), "--store", str(machine.store_root), *RING)
        machine.cdpfs("replicate", "start", str(machine.tree), "--to", self.vault.url, *self._to)
        while not machine.status()["seeding"]["complete"]:
            time.sleep(0.05)
        with machine.working(self._random.randrange(1 << 30)):
            time.sleep(self._load_s)
            machine.wait_committed(20)
            committed = machine.committed()[-1]
            lsn = int(machine.status()["lsn"])
            while int(machine.replication()["acked_lsn"]) < lsn:
                time.sleep(0.02)
            self._acknowledged, self._acked_lsn = committed, lsn
            # The line is bad: the last transactions never reach the vault.
            self.vault.pause()
            machine.wait_committed(30)
            machine.die()
        self.vault.resume()
        self._say(
            f"    {machine.committed()[-1]} transactions; number {committed} and all before it "
            f"are acknowledged by the vault (LSN {lsn})"
        )

    def _furnish(self, tree: Path) -> None:
        """What else a site has."""
        (tree / "letters" / "2026").mkdir(parents=True)
        for number in range(150):
            text = b"%d: " % number + self._random.randbytes(20).hex().encode() * 200
            (tree / "letters" / f"letter {number}.txt").write_bytes(text)
        os.link(tree / "letters" / "letter 1.txt", tree / "letters" / "2026" / "the same letter")
        (tree / "latest").symlink_to("letters/letter 149.txt")
        (tree / os.fsdecode(b"odd \xff\n name")).write_bytes(b"odd")
        with (tree / "disk image").open("wb") as image:
            image.truncate(64 << 20)
            os.pwrite(image.fileno(), b"in the middle", 40 << 20)
        os.chmod(tree / "letters", 0o2750)
        os.setxattr(tree / "latest", "trusted.x", b"1", follow_symlinks=False)
        os.setxattr(tree / "disk image", "user.kind", b"raw")
        os.utime(tree / "letters", ns=(5, 1_600_000_000_123_456_789))

    def _site_is_lost(self) -> None:
        """The disk with tree and store is taken out; nothing is left on the machine."""
        self.first.base.rename(self._aside)
        self._say(f"    {self.first.base} is gone")

    def _recover(self) -> None:
        machine = self.second
        said = machine.cdpfs(
            *("replicate", "recover", str(machine.tree), "--from", self.vault.url),
            *("--volume", self._uuid(), "--store", str(machine.store_root), *RING, *self._to),
        )
        for line in said.splitlines():
            self._say(f"    {line}")

    def _uuid(self) -> str:
        (volume,) = {row["volume"] for row in self._list()}
        return str(volume)

    def _list(self) -> list[dict[str, Any]]:
        """What `cdpfs vault list` says."""
        said = self.vault.command("list", "--root", str(self.vault.root), "--json")
        rows: list[dict[str, Any]] = json.loads(said)["volumes"]
        return rows

    def _check_recovered(self) -> None:
        machine, copy = self.second, self.base / "copy.db"
        assert self._aside.is_dir() and not self.first.base.exists()
        self._copy_database(machine.tree, copy)
        known = self.base / "acknowledged"
        known.write_text("".join(f"{n}\n" for n in range(1, self._acknowledged + 1)))
        wrong = bank.check(copy, known)
        assert not wrong, wrong
        self._then = fingerprint(machine.tree)
        untouched = fingerprint(self._aside / "tree")
        for found in (self._then, untouched):
            for path in [p for p in found if p.startswith(DATABASE.encode()) or p == b""]:
                del found[path]
        assert_equal(self._then, untouched)
        _same_history(machine.store, self.vault.replica(self._uuid()))
        self._say(f"    every transaction up to number {self._acknowledged} is there")

    def _copy_database(self, tree: Path, copy: Path) -> None:
        """So that looking at it does not change it."""
        for path in copy.parent.glob(copy.name + "*"):
            path.unlink()
        for path in tree.glob(DATABASE + "*"):
            shutil.copy2(path, copy.with_name(path.name.replace(DATABASE, copy.name)))

    def _go_on(self) -> None:
        machine = self.second
        held = machine.store.config.foreign_lsn
        machine.cdpfs("mount", str(machine.tree))
        machine.cdpfs("replicate", "start", str(machine.tree), "--to", self.vault.url, *self._to)
        with machine.working(self._random.randrange(1 << 30)):
            machine.wait_committed(30)
        machine.cdpfs("replicate", "wait", str(machine.tree))
        lsn = int(machine.status()["lsn"])
        assert lsn > held, (lsn, held)
        self._say(f"    history goes on from LSN {held + 1}; the vault has LSN {lsn}")

    def _check_ends(self) -> None:
        machine = self.second
        machine.cdpfs("umount", str(machine.tree))
        machine.cdpfs("verify", str(machine.tree))
        machine.cdpfs("mount", str(machine.tree))
        self._check_line(machine, "main")
        wrong = bank.check(machine.tree / DATABASE, machine.ledger)
        assert not wrong, wrong

    def _check_line(self, machine: Machine, line: str) -> None:
        """The line is sound, and has what the machine has, batch by batch."""
        machine.cdpfs("replicate", "wait", str(machine.tree))
        replica = self.vault.replica(self._uuid(), line)
        report = verify(replica)
        assert report.sound, report.findings
        count = _same_history(machine.store, replica)
        self._say(f"    line {line}: {count} batches are the same at both ends, and sound")

    def _old_machine_returns(self) -> None:
        self._aside.rename(self.first.base)
        machine = self.first
        machine.cdpfs("mount", str(machine.tree))
        wrong = bank.check(machine.tree / DATABASE, machine.ledger)
        assert not wrong, wrong
        with machine.working(self._random.randrange(1 << 30)):
            machine.wait_committed(10)
        machine.cdpfs("replicate", "wait", str(machine.tree))

    def _check_lines(self) -> None:
        said = self.first.replication()
        parted = said["parted"]
        assert parted is not None, said
        assert parted["lsn"] >= self._acked_lsn, (parted, self._acked_lsn)
        text = self.first.cdpfs("replicate", "status", str(self.first.tree))
        assert f"history parted after LSN {parted['lsn']}" in text, text
        rows = {row["line"]: row for row in self._list()}
        assert set(rows) == {"main", parted["line"]}, rows
        assert rows[parted["line"]]["parted"]["lsn"] == parted["lsn"]
        assert rows["main"]["visible_lsn"] > self.second.store.config.foreign_lsn, rows
        listed = self.vault.command("list", "--root", str(self.vault.root))
        assert f"history parted from main after LSN {parted['lsn']}" in listed, listed
        self._say(f"    {next(line for line in text.splitlines() if 'parted' in line)}")
        self._check_line(self.first, parted["line"])
        self._check_line(self.second, "main")
        for machine in (self.first, self.second):
            wrong = bank.check(machine.tree / DATABASE, machine.ledger)
            assert not wrong, wrong


def _same_history(one: Store, other: Store) -> int:
    """Every batch that both must have is the same; returns how many. Not while one is written."""
    tables = []
    for store in (one, other):
        with Journal(store) as journal, journal.snapshot() as snapshot:
            tables.append([(p.first_lsn, p.last_lsn, p.digest) for p in snapshot.batches(Lsn(1))])
    shorter = min(len(tables[0]), len(tables[1]))
    assert shorter and tables[0][:shorter] == tables[1][:shorter]
    for store in (one, other):
        with Journal(store) as journal, journal.snapshot() as snapshot:
            for place in list(snapshot.batches(Lsn(1)))[:shorter]:
                snapshot.read_batch(place)  # its content, against its digest
    return shorter


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="scripts/drill", description=__doc__)
    parser.add_argument("--load-s", type=float, default=20.0, help="so long the bank works")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    options = parser.parse_args(arguments)
    base = Path(tempfile.mkdtemp(prefix="cdpfs-drill-"))
    print(f"drill in {base}, seed {options.seed}", flush=True)
    drill = Drill(base, options.load_s, options.seed, say=lambda text: print(text, flush=True))
    try:
        drill.run()
    except AssertionError as error:
        print(f"drill FAILED: {error}", flush=True)
        return 1
    finally:
        drill.close()
        if not options.keep:
            shutil.rmtree(base, ignore_errors=True)
    print("drill passed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
