"""A campaign on a volume that replicates: everything on the way to the vault, and both ends, fail.

Applications work on the mount; between replicator and vault stands a line that does all that lines
do (`line`). Meanwhile the replicator, the vault and the daemon are killed, the vault stands still,
its disk is full, its clock is wrong, the line is dead for a while. After each round, when all that
is over and the vault was told to have everything: it has the source's batches, one by one; nothing
that was acknowledged was ever missing; nothing was sent twice beyond what each fault can cost.

What a fault can cost is one *resume unit*: for what breaks a connection, the bytes that are under
way in the buffers of sockets and processes (`UNDER_WAY_BYTES`); for what damages a shipment or
delivers it at the wrong time, that shipment.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from replicator.status import read_status
from store.types import ROOT
from store.verify import verify
from tests.crash.campaign import Campaign, Failed
from tests.crash.far_end import FAKETIME, FarVault, can_have_disk
from tests.crash.line import Line
from tests.crash.replica import differences, newest_lsn

UNDER_WAY_BYTES = 256 << 10
"""Of one connection: what the sender has handed over and the vault has not written down yet."""

WHOLE = ("flip", "late", "twice", "replay", "disk full")
"""Faults that can cost a whole shipment."""

RATES = (256 << 10, 512 << 10, 1 << 20, 2 << 20)
FAULTS_PER_ROUND = 30
PATIENCE_S = 180.0
"""A vault that does not get on for so long, with all faults over, never will."""

LOGGED_LINES = 60
"""Of a log, from the first thing in it that nobody foresaw."""

POLL_S = 0.05
DEED_EVERY_S = 0.5
MOST_KILLS_OF_REPLICATOR = 2
"""In a session: the pauses before its restart grow."""

YEAR_S = 365 * 24 * 3600


class LinkCampaign(Campaign):
    """Its `kills` counts faults of all kinds; `faults` has them by kind."""

    writers = 1

    def __init__(self, base: Path, rng: random.Random, say: Callable[[str], None]) -> None:
        super().__init__(base, rng, say)
        self.tls = rng.random() < 0.3
        self.faults: Counter[str] = Counter()
        self._has_disk, self._has_clock = can_have_disk(), FAKETIME.exists()
        self.vault = FarVault(
            base / "far", tls=self.tls, own_disk=self._has_disk, clock=self._has_clock
        )
        target = ("127.0.0.1", self.vault.port)
        self.line = Line(target, rng, rng.choice(RATES), self.tls)
        self.vault.keep(self.volume.store, self.line.port)
        self._kills_of_replicator = 0
        self._compared = 1
        self._wasted = 0
        self._counted: Counter[str] = Counter()
        self._own: Counter[str] = Counter()
        """Faults that the campaign made itself."""
        kinds = "kept with TLS" if self.tls else "kept in clear"
        missing = [
            name
            for name, have in (("disk full", self._has_disk), ("clock", self._has_clock))
            if not have
        ]
        say(f"{kinds}, left out: {', '.join(missing) or 'nothing'}")

    def run(self, kills: int) -> None:
        """So many faults, checking after each round; Failed when something does not hold."""
        self.vault.start()
        super().run(kills)

    def close(self) -> None:
        """Leave neither a mount nor a process behind."""
        super().close()
        self.line.close()
        self.vault.close()
        with contextlib.suppress(FileNotFoundError):
            (self._base / "far" / "disk.img").unlink()

    # --- one round -------------------------------------------------------------------------------

    def _round(self) -> None:
        before = self._all_faults().total()
        self.line.bad = True
        self._start_applications()
        working_until = time.monotonic() + self._random.uniform(1.0, 2.5)
        working = True
        while working or self._all_faults().total() - before < FAULTS_PER_ROUND:
            time.sleep(self._random.expovariate(1 / DEED_EVERY_S))
            self._random.choice(self._deeds())()
            # The pauses after failures are made for a line that fails far less often than this one.
            self.volume.call("replicate")
            if working and time.monotonic() > working_until:
                self._end_applications()
                working = False
            if not working and self._is_replicated():
                break
        self.line.bad = False
        now = self._all_faults()
        new = now - self._counted
        self._counted = now
        self.kills += new.total()
        self.faults += new
        self._say(", ".join(f"{count} {kind}" for kind, count in sorted(new.items())))
        self._allow(new)

    def _all_faults(self) -> Counter[str]:
        return self.line.faults + self._own

    def _deeds(self) -> list[Callable[[], None]]:
        """What can be done to the two ends and the line now."""
        deeds = [
            self._kill_vault,
            self._kill_replicator,
            self._freeze_vault,
            self._hang_up,
            self._go_dark,
            self._kill_source,
        ]
        if not self.tls:
            deeds += [self._replay, self._replay]
        if self._has_disk:
            deeds.append(self._fill_disk)
        if self._has_clock:
            deeds.append(self._set_clock)
        return deeds

    def _kill_vault(self) -> None:
        self.vault.kill()
        self._own["vault killed"] += 1
        self._check_acknowledged()
        time.sleep(self._random.choice((0.0, 0.0, 0.5)))
        self.vault.start()
        if not self.tls and self._random.random() < 0.5:
            self._replay()

    def _check_acknowledged(self) -> None:
        """What the source was told to be safe is in the vault's files."""
        said = read_status(self.volume.store.root)
        if said is not None and said.acked_lsn:
            held = newest_lsn(self.vault.store(self.volume.store))
            if held < said.acked_lsn:
                raise Failed(f"LSN {said.acked_lsn} was acknowledged, the vault holds {held}")

    def _kill_replicator(self) -> None:
        pid = self.volume.call("status")["pids"].get("replicator")
        if pid and self._kills_of_replicator < MOST_KILLS_OF_REPLICATOR:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._kills_of_replicator += 1
            self._own["replicator killed"] += 1

    def _freeze_vault(self) -> None:
        self.vault.freeze(self._random.uniform(0.05, 0.6))
        self._own["vault frozen"] += 1

    def _hang_up(self) -> None:
        self._own["all cut"] += bool(self.line.hang_up())

    def _go_dark(self) -> None:
        """Nobody gets through for a while."""
        before = self.line.turned_away
        self.line.dark = True
        cut = self.line.hang_up()
        time.sleep(self._random.uniform(0, 0.7))
        self.line.dark = False
        self._own["line dead"] += bool(cut or self.line.turned_away > before)

    def _replay(self) -> None:
        self.line.replay()

    def _fill_disk(self) -> None:
        self.vault.fill_disk()
        time.sleep(self._random.uniform(0.1, 0.8))
        self.vault.empty_disk()
        self._own["disk full"] += 1

    def _set_clock(self) -> None:
        jumps = (0, -5, 3600, -86400, 10 * YEAR_S, -10 * YEAR_S)
        self.vault.set_clock(self._random.choice(jumps))
        self._own["clock wrong"] += 1

    def _kill_source(self) -> None:
        """The daemon, and with it the replicator; seldom, and not while applications work."""
        if self._random.random() < 0.7 or self._applications:
            return
        self.volume.kill_daemon()
        self._own["daemon killed"] += 1
        self._mount_while_killing(0)
        self._kills_of_replicator = 0

    # --- what must hold --------------------------------------------------------------------------

    def _check(self) -> None:
        super()._check()
        self._wait_until_replicated()
        replica = self.vault.store(self.volume.store)
        wrong = differences(self.volume.store, replica, self._compared)
        if self._random.random() < 0.2:
            wrong += [f"verify of the replica: {found}" for found in verify(replica).findings]
        wrong += self._check_logs()
        wrong += self._check_waste()
        if wrong:
            raise Failed("\n".join(wrong))
        self._compared = newest_lsn(replica)

    def _is_replicated(self) -> bool:
        status = self.volume.call("status")
        said = status["replication"]
        return bool(said and said.get("acked_lsn", -1) >= status["lsn"])

    def _wait_until_replicated(self) -> None:
        """With a good line; what the replicator takes for refused it is told to try again."""
        self.volume.call("sync")
        self.volume.call("replicate")
        before, since = -1, time.monotonic()
        while not self._is_replicated():
            said = self.volume.call("status")["replication"]
            if said.get("acked_lsn", -1) > before:
                before, since = said["acked_lsn"], time.monotonic()
            if said["state"] == "forked" or time.monotonic() - since > PATIENCE_S:
                raise Failed(f"replication does not get on: {said}")
            time.sleep(POLL_S)

    def _check_logs(self) -> list[str]:
        """Nobody met what he did not foresee."""
        logs = {"vault": self.vault.log_text()}
        for path in self.volume.store.log_dir.glob("replicator.log*"):
            logs[path.name] = path.read_text()
        wrong = []
        for name, text in logs.items():
            lines = text.splitlines()
            for at, line in enumerate(lines):
                if " ERROR " in line or "Traceback" in line:
                    wrong.append(f"{name}: " + "\n".join(lines[at : at + LOGGED_LINES]))
        return wrong[:1]

    def _allow(self, faults: Counter[str]) -> None:
        """What these faults may have cost."""
        if not self.tls:
            largest = self.line.traffic.largest_bytes()
            whole = sum(faults[kind] for kind in WHOLE)
            self._wasted += whole * largest + (faults.total() - whole) * UNDER_WAY_BYTES

    def _check_waste(self) -> list[str]:
        if self.tls:
            return []  # the line can't tell
        wasted, total = self.line.traffic.wasted_bytes(), self.line.traffic.body_bytes
        self._say(f"{wasted:,} of {total:,} bytes went up for nothing")
        if wasted > self._wasted:
            return [f"{wasted:,} bytes went up for nothing, {self._wasted:,} are explained"]
        return []

    def _end(self) -> None:
        """Both sides stop in order; all of both is compared and verified; nothing is left over."""
        self.volume.call("seed", node=ROOT, subtree=True)
        self._check()
        self.volume.unmount()
        replica = self.vault.store(self.volume.store)
        self.vault.stop()
        wrong = [f"verify: {found}" for found in verify(self.volume.store).findings]
        wrong += [f"verify of the replica: {found}" for found in verify(replica).findings]
        wrong += [f"left over: {line}" for line in self._left_over()]
        if wrong:
            raise Failed("\n".join(wrong))
        self._say(f"answers to the line's own requests: {dict(self.line.answers)}")

    def _left_over(self) -> list[str]:
        """Processes that name the campaign's folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes()
                if os.fsencode(self._base) in words and int(path.parent.name) != os.getpid():
                    found.append(words.replace(b"\0", b" ").decode(errors="replace"))
        return found
