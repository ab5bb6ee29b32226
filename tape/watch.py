"""How the copies on tape stand, without touching the library.

Duty: from the books and the journal to what each pool lacks, whether a run is due, and what a
person should look at. Blocking; one thread at a time. It takes no lock, and writes nothing.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from store.journal import Journal
from store.types import Lsn
from store.volume import Store
from tape.alarms import library_alarms
from tape.catalogue_file import read_catalogue
from tape.catalogue_state import State
from tape.facts import journal_facts
from tape.library import CATALOGUE_NAME
from tape.library import load_settings as load_library
from tape.plan import NS_PER_S, JournalFacts, Rest, Rules, covered_lsn, next_step
from tape.reach import reach_of
from tape.rules import rules_of
from tape.settings import TapeSettings
from tape.spool_status import PoolStatus

_ANY_BARRIER: Final = 1
"""Stands for the barrier that is searched when it is needed."""


class Watch:
    """Looks at the books and the journal of one volume, again and again."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._known: tuple[object, State] | None = None

    def state(self, settings: TapeSettings) -> State:
        """The books as they are now. NoSuchLibrary, DamagedCatalogue."""
        load_library(Path(settings.library))
        folder = Path(settings.library) / CATALOGUE_NAME
        stamp = _stamp(folder)
        if self._known is None or self._known[0] != stamp:
            self._known = stamp, read_catalogue(folder)
        return self._known[1]

    def pools(self, settings: TapeSettings, goal_lsn: int | None) -> list[tuple[PoolStatus, bool]]:
        """How each pool is, and whether something is to be done for it now.

        `goal_lsn`: what is wanted on tape, None for nothing but what is due.
        """
        state, now_ns = self.state(settings), time.time_ns()
        found = []
        # Whether there are free doors is seen when the library is open.
        for rules in rules_of(settings, self._store.config.uuid, now_ns, free_doors=0):
            facts = journal_facts(
                self._journal, state, rules.volume_uuid, rules.pool, rules.start_bytes
            )._replace(barrier_lsn=_ANY_BARRIER)
            step = next_step(state, rules, facts, now_ns, goal_lsn)
            status = pool_status(state, rules, facts, now_ns)
            if isinstance(step, Rest):
                status.rests, status.until_ns = step.reason, step.until_ns
            found.append((status, not isinstance(step, Rest)))
        return found

    def alarms(self, settings: TapeSettings) -> list[str]:
        """What of the library a person should look at. TapeError."""
        prefix = load_library(Path(settings.library)).cleaning_prefix
        return library_alarms(self.state(settings), settings.min_scratch, prefix, time.time_ns())

    def time_of(self, lsn: int) -> int:
        """When an op was; 0 when the journal does not hold it."""
        op = self._journal.op(Lsn(lsn))
        return int(op.time_ns) if op is not None else 0


def pool_status(state: State, rules: Rules, facts: JournalFacts, now_ns: int) -> PoolStatus:
    """What is on tape for a pool, and what waits."""
    status = PoolStatus(pool=rules.pool, waiting_bytes=facts.waiting_bytes)
    if facts.waiting_since_ns:
        status.lag_s = round(max(now_ns - facts.waiting_since_ns, 0) / NS_PER_S, 3)
    for tape_set in reversed(state.sets_of(rules.volume_uuid, rules.pool)):
        reach = reach_of(state, tape_set)
        if reach is not None:
            status.usable = True
            status.covered_lsn = covered_lsn(state, tape_set)
            status.barrier_lsn, status.barrier_time_ns = reach.barrier_lsn, reach.barrier_time_ns
            break
    return status


def _stamp(folder: Path) -> object:
    """Another one when something was recorded."""
    try:
        return sorted(
            (entry.name, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            for entry in folder.iterdir()
            for stat in [entry.stat()]
        )
    except OSError:
        return None
