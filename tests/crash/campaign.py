"""A campaign: one volume, applications at work in it, and kill -9 again and again.

After every remount: each application finds what it was told is safe; the live tree is the
journal's newest state; recorded LSNs still look as they did; nothing came in as an external
change. At the end: recovery twice is recovery once, `verify` is clean, and an index made anew
from the segments gives the same answers.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from store.journal import Journal
from store.reindex import reindex
from store.types import ROOT, Lsn
from store.verify import verify
from tests.crash import bank, copies
from tests.crash.copies import Copy, differences
from tests.crash.victim import Victim
from tests.crash.writer import last_pending
from tests.volume import SOURCE
from timetravel.view import View

WRITERS = 3
MAX_RECORDS = 25
SAMPLES = 2
ENDS = (0, -signal.SIGTERM, -signal.SIGBUS)
"""How an application may end: told to before it had its handler; at a page of a dead mount."""

LONGEST_START_S = 4.0
"""A start of the daemon that takes longer is not killed: it must come up some day."""


class Failed(Exception):
    """Something that must hold did not; the message says what, line by line."""


class Campaign:
    """One volume below `base`, driven by `rng`. `kills` counts those that hit a process."""

    writers = WRITERS

    def __init__(self, base: Path, rng: random.Random, say: Callable[[str], None]) -> None:
        self._base = base
        self._random = rng
        self._say = say
        self._shadow = base / "shadow"
        self._mode = rng.choice(bank.MODES)
        self._settings = {
            "ring_files": rng.choice((3, 4)),
            "ring_file_bytes": 8 << 20,
            "seed_rate_bytes_s": rng.choice((0, 1 << 20, 4 << 20)),
        }
        self._at = rng.random() < 0.3
        self.volume = Victim(base, at=self._at, **self._settings)
        self._applications: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._records: list[tuple[Lsn, Copy]] = []
        self._start_s = 1.0
        self._log_read = 0
        self._kills_of_this_session = 0
        self.kills = 0

    # --- the whole --------------------------------------------------------------------------

    def run(self, kills: int) -> None:
        """Kill so many times, checking after each; Failed when something does not hold."""
        self._say(f"volume of {self._settings}, at={self._at}, bank in mode {self._mode}")
        self._furnish()
        self._mount_while_killing(self._random.randrange(3))
        self._check()
        while self.kills < kills:
            self._round()
            self._check()
        self._end()

    def close(self) -> None:
        """Leave neither a mount nor a process behind."""
        for _, process in self._applications:
            process.kill()
            process.wait()
        self._applications.clear()
        self.volume.kill_indexer()
        if self.volume.process is not None:
            self.volume.kill_daemon()
        self.volume.clear()

    def _furnish(self) -> None:
        """What is there before protection begins: a part for each application."""
        for number in range(self.writers):
            furnish(self.volume.backing / f"w{number}", self._random)
        (self.volume.backing / "bank").mkdir()
        bank.make(self.volume.backing / "bank" / "bank.db", self._mode)
        source = os.fsencode(self.volume.backing)
        subprocess.run(["cp", "-a", source, os.fsencode(self._shadow)], check=True)

    # --- one round --------------------------------------------------------------------------

    def _round(self) -> None:
        rng = self._random
        self._start_applications()
        time.sleep(min(rng.expovariate(1 / 0.4), 3.0))
        how = rng.choice(("daemon", "daemon", "both", "both", "indexer", "indexer, then both"))
        if how.startswith("indexer"):
            self._kill_indexer()
            time.sleep(rng.uniform(0, 0.5))
        if how == "indexer":
            self._end_applications()
            self._say("killed the indexer")
            return
        if how != "daemon":
            self._kill_indexer()
        self._kill_daemon()
        self._say(f"killed {how}")
        self._end_applications()
        self._mount_while_killing(rng.choice((0, 0, 1, 2)))

    def _kill_indexer(self) -> None:
        """Not more than twice in a session: the pauses before its restart grow."""
        if self._kills_of_this_session < 2 and self.volume.kill_indexer():
            self.kills += 1
            self._kills_of_this_session += 1

    def _kill_daemon(self) -> None:
        self.volume.kill_daemon()
        self.kills += 1

    def _mount_while_killing(self, times: int) -> None:
        """Mount, killed so many times on the way there."""
        for _ in range(times):
            self.volume.clear()
            self.volume.start()
            patience_s = self._random.uniform(0, min(self._start_s * 1.2, LONGEST_START_S))
            answer = self.volume.wait_mounted(patience_s)
            if answer is not None and not answer.get("ok"):
                raise Failed(f"the daemon does not come up: {answer}")
            if self._random.random() < 0.5:
                self.volume.kill_indexer()
            self._kill_daemon()
            self._say(f"killed again {patience_s:.2f} s after the start")
        self.volume.clear()
        began = time.monotonic()
        self.volume.start()
        answer = self.volume.wait_mounted()
        if not answer or not answer.get("ok"):
            raise Failed(f"the daemon does not come up: {answer}")
        self._start_s = time.monotonic() - began
        self._kills_of_this_session = 0

    # --- the applications -------------------------------------------------------------------

    def _start_applications(self) -> None:
        tree, database = str(self.volume.tree), str(self.volume.tree / "bank" / "bank.db")
        for number in range(self.writers):
            top = f"w{number}"
            place = (tree, str(self._shadow), top, str(self._ledger(top)))
            self._start("tests.crash.writer", *place)
        self._start("tests.crash.bank", database, str(self._ledger("bank")))
        for _, process in self._applications:
            assert process.stdout is not None
            process.stdout.read(1)  # it is at work, or has ended

    def _start(self, module: str, *arguments: str) -> None:
        seed = str(self._random.randrange(1 << 32))
        command = [sys.executable, "-m", module, *arguments, seed]
        process = subprocess.Popen(
            command,
            cwd=SOURCE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._applications.append((module, process))

    def _ledger(self, name: str) -> Path:
        return self._base / f"{name}.ledger"

    def _end_applications(self) -> None:
        """They end by themselves when the mount is dead, else when they are told to."""
        wrong = []
        for module, process in self._applications:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            _, words = process.communicate()
            if process.returncode not in ENDS:
                wrong.append(f"{module}: {words.decode(errors='replace').strip()}")
        self._applications.clear()
        if wrong:
            raise Failed("\n".join(wrong))

    # --- what must hold ---------------------------------------------------------------------

    def _check(self) -> None:
        """Everything that must hold whenever the volume is mounted and nobody writes."""
        wrong = self._check_applications()
        live = copies.of_tree(self.volume.tree)
        lsn = Lsn(self.volume.sync())
        wrong += [f"newest view, {line}" for line in differences(self._past(lsn), live)]
        for old, copy in self._random.sample(self._records, min(SAMPLES, len(self._records))):
            wrong += [f"view of LSN {old}, {line}" for line in differences(self._past(old), copy)]
        if self._random.random() < 0.1:
            through_mount = copies.of_tree(self.volume.past(lsn))
            wrong += [f"newest .snapshots, {line}" for line in differences(through_mount, live)]
        wrong += self._check_log()
        if wrong:
            raise Failed("\n".join(wrong))
        self._records.append((lsn, live))
        if len(self._records) > MAX_RECORDS:
            del self._records[self._random.randrange(1, MAX_RECORDS)]

    def _check_applications(self) -> list[str]:
        wrong = bank.check(self.volume.tree / "bank" / "bank.db", self._ledger("bank"))
        for number in range(self.writers):
            wrong += self._check_writer(f"w{number}")
        return wrong

    def _check_writer(self, top: str) -> list[str]:
        """Its part is as its shadow, with or without the deed that was in flight."""
        live = copies.of_tree(self.volume.tree, os.fsencode(top))
        wrong = self._unlike_shadow(live, top)
        pending = last_pending(self._ledger(top))
        if wrong and pending is not None:
            for step in pending.steps(str(self._shadow)):
                step()
                wrong = self._unlike_shadow(live, top)
                if not wrong:
                    break
        self._ledger(top).unlink(missing_ok=True)
        return [f"{top} after {pending}: {line}" for line in wrong]

    def _unlike_shadow(self, live: Copy, top: str) -> list[str]:
        shadow = copies.of_tree(self._shadow, os.fsencode(top))
        return differences(live, shadow, times=False)

    def _past(self, lsn: Lsn) -> Copy:
        with Journal(self.volume.store) as journal:
            return copies.of_view(View(journal, lsn, self.volume.demand))

    def _check_log(self) -> list[str]:
        """Nothing that the daemon complains about, and no change that nobody made."""
        text = self.volume.log_text()
        new, self._log_read = text[self._log_read :], len(text)
        signs = (" ERROR ", "Traceback", "external changes found")
        return [f"log: {line}" for line in new.splitlines() if any(sign in line for sign in signs)]

    # --- the end ----------------------------------------------------------------------------

    def _end(self) -> None:
        self._check_second_recovery()
        self.volume.call("seed", node=ROOT, subtree=True)
        self.volume.unmount()
        wrong = self._check_backing("after the unmount")
        found = verify(self.volume.store)
        wrong += [f"verify: {finding}" for finding in found.findings]
        reindex(self.volume.store)
        for lsn, copy in self._records:
            wrong += [
                f"reindexed, LSN {lsn}, {line}" for line in differences(self._past(lsn), copy)
            ]
        wrong += self._check_log()
        if wrong:
            raise Failed("\n".join(wrong))

    def _check_second_recovery(self) -> None:
        """Killed with nobody at work, recovered, and again: the second changes nothing."""
        trees = []
        for _ in range(2):
            self._kill_daemon()
            self._mount_while_killing(0)
            self.volume.kill_daemon()
            self.volume.clear()
            trees.append(copies.of_tree(self.volume.backing))
            self._mount_while_killing(0)
        wrong = differences(trees[1], trees[0])
        mended = self.volume.log_text().rpartition("recovery from LSN")[2].partition("\n")[0]
        if not mended.endswith(" 0 repairs"):
            wrong.append(f"the last recovery still mended something: {mended}")
        if wrong:
            raise Failed("\n".join(f"second recovery, {line}" for line in wrong))

    def _check_backing(self, when: str) -> list[str]:
        with Journal(self.volume.store) as journal:
            newest = copies.of_view(View(journal, journal.indexed_lsn))
        backing = copies.of_tree(self.volume.backing)
        return [f"backing tree {when}, {line}" for line in differences(backing, newest)]


def furnish(folder: Path, rng: random.Random) -> None:
    """A tree with something of everything, some of it too large to be seeded at once."""
    folder.mkdir()
    (folder / "deep" / "er" / "still").mkdir(parents=True)
    (folder / "empty").mkdir(mode=0o2775)
    for number in range(20):
        place = rng.choice((folder, folder / "deep", folder / "deep" / "er"))
        size = rng.choice((0, 1, 4096, 100_000, rng.randrange(200_000)))
        (place / f"old{number}").write_bytes(rng.randbytes(size // 2) + b"." * (size - size // 2))
    (folder / "large").write_bytes(rng.randbytes(1 << 20) * 7)
    with open(folder / "sparse", "wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"island")
    os.link(folder / "large", folder / "deep" / "large too")
    (folder / "huge").write_bytes(rng.randbytes(100_000) * 60)
    (folder / "link").symlink_to("deep/er")
    os.mkfifo(folder / "fifo")
    with open(os.fsencode(folder) + b"/\xff\xfe", "wb") as odd:
        odd.write(b"a name that is not UTF-8")
    for path in (folder / "sparse", folder / "deep", folder / "large"):
        os.setxattr(path, "user.colour", b"blue")
