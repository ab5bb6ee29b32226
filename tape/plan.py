"""What the spooler does next for one pool of a volume. Pure.

Duty: from what the catalogue knows, what the journal has and what the settings ask for to the next
step. A run begins when enough waits, or for long enough, or a person asks for it; its goal is the
end of the journal at that moment, and it is over when the pool's set has everything up to there.
Steps are found anew after each one, so that a process which was killed goes on where it stood.

A set that can't be continued is closed, and a new one is begun: when one of its archives has gone
bad, when the journal does not reach back to its end, or when the journal's history is another one
than the set's (a volume that was recovered from an older copy).
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from tape.catalogue_state import State, TapeSet
from tape.layout import Cursor
from tape.reach import reach_of
from tape.shopping import going_out

NS_PER_S: Final = 10**9


class Rules(NamedTuple):
    """What the settings say about one pool."""

    pool: str
    volume_uuid: str
    start_bytes: int
    """A run begins when so much of the log waits, compressed as in the journal."""
    start_age_ns: int
    """Or when the oldest of it has waited for so long."""
    full_every_ns: int
    """A set that is older is followed by a new one. 0: never by itself."""
    rotated_ns: int = 0
    """Sets that were opened before this go out of the library. 0: they stay."""
    rotates_ns: int = 0
    """When they next go out. 0: never."""
    is_open: bool = True
    """May a run begin now (windows)?"""
    opens_ns: int = 0
    """If it may not: when it next may."""
    free_doors: int = 0
    """Import/export slots that are empty."""


class JournalFacts(NamedTuple):
    """What the journal has."""

    first_lsn: int
    """The oldest op in it; 0 when it is empty."""
    end_lsn: int
    """The newest op that is committed."""
    barrier_lsn: int
    barrier_time_ns: int
    waiting_bytes: int = 0
    """Of the batches behind what the pool's set covers."""
    waiting_since_ns: int = 0
    """Time of the first op behind it; 0 when there is none."""
    same_history: bool = True
    """The op at the set's end is the one that the journal has there."""
    seeded: bool = True
    """The initial backup is done: a full can be made."""


class OpenSet(NamedTuple):
    """Begin a set at the newest barrier."""

    base_lsn: int
    base_time_ns: int


class FullArchive(NamedTuple):
    """Write the next archive of the set's full."""

    set_id: str
    sequence: int
    part: int
    cursor: Cursor | None
    """None for its first."""


class LogArchive(NamedTuple):
    """Write the batches from `first_lsn` on, up to `goal_lsn` if they fit one archive."""

    set_id: str
    sequence: int
    first_lsn: int
    goal_lsn: int


class CatalogueArchive(NamedTuple):
    """Leave what the library knows on the cartridge that was written last."""

    set_id: str
    sequence: int


class CloseSet(NamedTuple):
    """Nothing more comes to the set."""

    set_id: str
    whole: bool
    reason: str


class Rotate(NamedTuple):
    """Bring the cartridges of the pool's sets, all of them closed, to the doors."""

    label_ids: tuple[str, ...]


class Rest(NamedTuple):
    """Nothing to do."""

    until_ns: int | None
    """When to look again at the latest; None: when there is more in the journal."""
    reason: str


Step: TypeAlias = OpenSet | FullArchive | LogArchive | CatalogueArchive | CloseSet | Rotate | Rest


def next_step(
    state: State, rules: Rules, journal: JournalFacts, now_ns: int, goal_lsn: int | None
) -> Step:
    """The step that comes next. `goal_lsn`: of the run that is going on; None: there is none.

    Without a run it is `Rest` or the first step of one.
    """
    if not journal.first_lsn:
        return Rest(None, "nothing is in the journal yet")
    if goal_lsn is None:
        waits = _reason_to_wait(state, rules, journal, now_ns)
        if waits is not None:
            return waits
        goal_lsn = journal.end_lsn
    tape_set = state.open_set(rules.volume_uuid, rules.pool)
    if tape_set is None:
        return _without_set(state, rules, journal, now_ns)
    broken = why_broken(state, tape_set, journal)
    if broken:
        return CloseSet(tape_set.set_id, tape_set.whole, broken)
    step = _with_set(state, tape_set, rules, now_ns, goal_lsn)
    if isinstance(step, Rest) and journal.waiting_since_ns:
        # It came behind what the run is to reach.
        return step._replace(reason="what was asked for is on tape; the rest waits")
    return step


def why_broken(state: State, tape_set: TapeSet, journal: JournalFacts) -> str:
    """Why a set can't be continued; empty when it can."""
    if tape_set.broken or any(state.archive(where).bad for where in tape_set.archives):
        return "one of its archives is lost"
    if any(each.place == "missing" for each in state.cartridges_of(tape_set)):
        return "one of its cartridges is missing"
    covered = covered_lsn(state, tape_set)
    if covered > journal.end_lsn or not journal.same_history:
        return "the volume has another history now"
    # The first batch of its log holds the LSN of its full.
    if (covered or tape_set.base_lsn) + bool(covered) < journal.first_lsn:
        return "the journal does not reach back to its end"
    return ""


def covered_lsn(state: State, tape_set: TapeSet) -> int:
    """Up to where a set has the log; 0 when it has none yet."""
    if not tape_set.archives:
        return 0
    last = state.archive(tape_set.archives[-1])
    return last.last_lsn if last.kind == "log" else 0


def needed_lsn(state: State, tape_set: TapeSet) -> int:
    """Up to where a set must have the log before it is of any use; 0 while its full is made."""
    for where in tape_set.archives:
        archive = state.archive(where)
        if archive.kind == "full" and archive.last_part:
            return max(archive.needs_lsn, tape_set.base_lsn)
    return 0


def _reason_to_wait(state: State, rules: Rules, journal: JournalFacts, now_ns: int) -> Rest | None:
    """Why no run begins now; None when one does."""
    if not rules.is_open:
        return Rest(rules.opens_ns or None, "outside its window")
    tape_set = state.open_set(rules.volume_uuid, rules.pool)
    if (
        tape_set is None
        or why_broken(state, tape_set, journal)
        or reach_of(state, tape_set) is None
    ):
        # Without a set the volume has no copy in this pool: that does not wait for more data.
        return None
    if _is_over(tape_set.opened_ns, rules.full_every_ns, now_ns):
        return None
    if tape_set.opened_ns < rules.rotated_ns:
        return None
    if not journal.waiting_since_ns:
        return Rest(_next_date(tape_set, rules), "everything is on tape")
    if journal.waiting_bytes >= rules.start_bytes:
        return None
    due_ns = journal.waiting_since_ns + rules.start_age_ns
    return None if due_ns <= now_ns else Rest(due_ns, "too little waits yet")


def _is_over(since_ns: int, span_ns: int, now_ns: int) -> bool:
    return bool(span_ns) and now_ns - since_ns >= span_ns


def _next_date(tape_set: TapeSet, rules: Rules) -> int | None:
    dates = [rules.rotates_ns] if rules.rotates_ns else []
    if rules.full_every_ns:
        dates.append(tape_set.opened_ns + rules.full_every_ns)
    return min(dates, default=None)


def _without_set(state: State, rules: Rules, journal: JournalFacts, now_ns: int) -> Step:
    going = cartridges_to_rotate(state, rules, now_ns)[: rules.free_doors]
    if going:
        return Rotate(going)
    if not journal.seeded:
        return Rest(None, "the initial backup of the volume is not done yet")
    if not journal.barrier_lsn:
        return Rest(None, "the journal has no barrier yet")
    return OpenSet(journal.barrier_lsn, journal.barrier_time_ns)


def _with_set(state: State, tape_set: TapeSet, rules: Rules, now_ns: int, goal_lsn: int) -> Step:
    sequence = len(tape_set.archives)
    last = state.archive(tape_set.archives[-1]) if tape_set.archives else None
    if not tape_set.whole:
        part = last.part + 1 if last is not None else 0
        cursor = last.next if last is not None else None
        return FullArchive(tape_set.set_id, sequence, part, cursor)
    covered = covered_lsn(state, tape_set)
    wanted = max(goal_lsn, needed_lsn(state, tape_set))
    if covered < wanted:
        first = covered + 1 if covered else tape_set.base_lsn
        return LogArchive(tape_set.set_id, sequence, first, wanted)
    if not _has_catalogue(state, tape_set):
        return CatalogueArchive(tape_set.set_id, sequence)
    if tape_set.opened_ns < rules.rotated_ns:
        return CloseSet(tape_set.set_id, True, "it goes out of the library")
    if _is_over(tape_set.opened_ns, rules.full_every_ns, now_ns):
        return CloseSet(tape_set.set_id, True, "it is time for a new full")
    # Those for which there was no free door when they were finished with.
    going = cartridges_to_rotate(state, rules, now_ns)[: rules.free_doors]
    if going:
        return Rotate(going)
    return Rest(None, "everything is on tape")


def _has_catalogue(state: State, tape_set: TapeSet) -> bool:
    """Is what the library knows behind the set's last archive, or has it no room there?"""
    cartridge = state.cartridge(tape_set.archives[-1].label_id)
    return not cartridge.appendable or cartridge.archives[-1].kind == "catalogue"


def cartridges_to_rotate(state: State, rules: Rules, now_ns: int) -> tuple[str, ...]:
    """The cartridges in the slots that a pool with rotation has finished with, and keeps."""
    if not rules.rotates_ns:
        return ()
    going = going_out(state, rules.volume_uuid, rules.pool, rules.rotated_ns, now_ns)
    return tuple(each.label_id for each in going if each.place != "door")
