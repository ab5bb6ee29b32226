"""What the journal of a volume has for a pool: the facts that a plan is made from.

Duty: read the journal and the set on the books, say what waits. Blocking; any thread. It writes
nothing. What it costs grows with the batches that wait, up to what makes a run begin.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from store.journal import Journal, Snapshot
from store.types import Lsn
from store.volume import Store
from tape.catalogue_state import State
from tape.plan import JournalFacts, covered_lsn
from tape.reach import reach_of
from timetravel.moment import AtLsn, AtTime
from timetravel.resolve import resolve
from timetravel.standing import BarrierSettings

_FAR: Final = 60
"""A volume that is never at rest within the limit is looked at so many times further back."""


class Barrier(NamedTuple):
    """Where the volume stands between transactions."""

    lsn: int
    time_ns: int
    clean: bool
    """False: no group of files was ever at rest there; it is the newest op."""


def journal_facts(
    journal: Journal, state: State, volume_uuid: str, pool: str, enough_bytes: int
) -> JournalFacts:
    """What there is for a pool, without the barrier. Counting stops at `enough_bytes`."""
    tape_set = state.open_set(volume_uuid, pool)
    with journal.snapshot() as snapshot:
        first = snapshot.first()
        if first is None:
            return JournalFacts(0, 0, 0, 0)
        end = snapshot.indexed_lsn
        covered = covered_lsn(state, tape_set) if tape_set is not None else 0
        same = True
        if tape_set is not None and covered:
            op = snapshot.op(Lsn(covered))
            there = state.archive(tape_set.archives[-1])
            same = covered < first.lsn or (op is not None and op.time_ns == there.time_ns)
        waiting, since_ns = _waiting(snapshot, max(covered + 1, first.lsn), end, enough_bytes)
        return JournalFacts(
            first_lsn=int(first.lsn),
            end_lsn=int(end),
            barrier_lsn=0,
            barrier_time_ns=0,
            waiting_bytes=waiting,
            waiting_since_ns=since_ns,
            same_history=same,
        )


class End(NamedTuple):
    """The newest op that a pool gives back."""

    lsn: int
    time_ns: int


def given_back(state: State, volume_uuid: str, pool: str) -> End | None:
    """How far the pool's sets give the volume's history back; None: there is no set."""
    reaches = (reach_of(state, each) for each in state.sets_of(volume_uuid, pool))
    ends = [End(found.last_lsn, found.last_time_ns) for found in reaches if found is not None]
    return max(ends, default=None)


def _waiting(snapshot: Snapshot, start: int, end: int, enough_bytes: int) -> tuple[int, int]:
    """Bytes of the batches from `start` on, and when the first of them began; 0 for none."""
    total = since_ns = 0
    if start > end:
        return 0, 0
    for place in snapshot.batches(Lsn(start)):
        if place.last_lsn < start:
            continue
        total += place.total_bytes
        since_ns = since_ns or int(place.first_time_ns)
        if total >= enough_bytes:
            break
    return total, since_ns


def newest_barrier(
    store: Store, journal: Journal, lsn: int, now_ns: int, far: bool = True
) -> Barrier:
    """The newest barrier at or before an op that the journal holds.

    That is the op itself when nothing came after it for the quiet time and every group is at rest;
    else what a time resolves to. Without `far`, it lies within the volume's own limit.
    """
    config = store.config
    op, newest = journal.op(Lsn(lsn)), journal.last()
    assert op is not None and newest is not None
    now_ns = max(now_ns, int(op.time_ns) + 1)
    settings = BarrierSettings(limit_s=config.point_limit_s, quiet_s=config.quiet_s)
    if op.lsn == newest.lsn and now_ns - op.time_ns >= settings.quiet_ns:
        point = resolve(journal, AtLsn(op.lsn), now_ns=now_ns, settings=settings)
        if not point.mid_transaction:
            return Barrier(int(op.lsn), int(op.time_ns), True)
    found = Barrier(0, 0, False)
    for factor in (1, _FAR)[: 1 + far]:
        wider = replace(settings, limit_s=config.point_limit_s * factor)
        point = resolve(journal, AtTime(op.time_ns), now_ns=now_ns, settings=wider)
        found = Barrier(int(point.lsn), int(point.time_ns), not point.mid_transaction)
        if found.clean:
            break
    return found
