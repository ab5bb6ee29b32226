"""The rhythm of fsyncs: which of them completes a transaction. Pure; any thread; no I/O.

`note_sync` takes the fsyncs of one consistency group in order and says what each is worth:

- A file that is synced again and again with nothing else in between is a *log* (a WAL, a redo
  log, an append-only file): each of its fsyncs completes something, whatever else lies unsynced.
- Files that are synced in one repeated order form a *cycle*. Where it closes is decided by what
  tells: only places with nothing unsynced come into question, and of several the one with the
  weightier voices. A program that begins begins with a transaction, which weighs as much as two of
  the others: where the repetition began, which pause is the longest, and that what is written at
  its end comes before what is overwritten and points to it. A single long pause says nothing: a
  machine without processor time or a slow disk makes a program wait anywhere. Where a program
  hardly ever wakes from one but at the same place, that weighs as much as its beginning.
- Otherwise an fsync that leaves nothing unsynced is worth a `sync` point, and no more.

Being wrong costs a transaction; being silent costs one recovery point. So doubt is silence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from store.barrier_state import SYNC, TRANSACTION, FileState, Place, Rhythm

MAX_EVENTS = 48
MAX_KEYS = 64
MAX_PERIOD = 8
REPEATS = 3
"""So many times an order must be seen to count as a cycle."""

LOG_RUN = 4
"""So many fsyncs of one file in a row, with nothing written elsewhere, make it a log."""

LONG_LOG_RUN = 64
"""The same if other files are written to in between, as by a rollback journal in its first use."""

MAX_STRIKES = 2
PROBATION = 2
PAUSE_RATIO = 1.3
"""So much longer on average than any other pause must the one between transactions be."""

WAKING_NS = 500_000_000
"""After so long a program may have begun something new, or something held it up."""

MANY_WAKINGS = 8
"""So often must it wake at one place, and so many times more often than at all others together."""

MAX_WAKINGS = 64

ENOUGH = 2
"""Weight that decides, if it is more than that of all other places together."""

MAX_DOUBTS = 2
NOTHING = 0
_NUMBER = re.compile(rb"[0-9A-F]+$|[0-9a-f]+$")


def note_write(rhythm: Rhythm, time_ns: int, actor: int) -> None:
    """A file that was clean is written to: the pause behind the last fsync is over."""
    gap_ns = max(time_ns - rhythm.times_ns[-1], 0) if rhythm.times_ns else 0
    first = not rhythm.gaps_ns or rhythm.gaps_ns[-1] < 0
    if first and actor != rhythm.actor:
        rhythm.beginning = True
    elif first and gap_ns >= WAKING_NS:
        rhythm.waking = True
    if rhythm.gaps_ns and first:
        rhythm.gaps_ns[-1] = gap_ns
    rhythm.actor = actor


def note_sync(rhythm: Rhythm, file: FileState, time_ns: int, clean: bool) -> int:
    """An fsync that had something to make durable; returns SYNC, TRANSACTION or NOTHING.

    `clean`: no other file of the group has unsynced writes.
    """
    key = _key_of(rhythm, file.place)
    _remember(rhythm, key, time_ns, clean, file.appends)
    rhythm.last_node, rhythm.disturbed = file.node, False
    _follow_log(rhythm, key)
    _follow_cycle(rhythm)
    if len(rhythm.cycle) > 1:
        return _in_cycle(rhythm, clean)
    if rhythm.log == key:
        return NOTHING if rhythm.probation else TRANSACTION
    return SYNC if clean else NOTHING


def _in_cycle(rhythm: Rhythm, clean: bool) -> int:
    """A whole cycle, from its first file to its last, makes a transaction; a part of it nothing."""
    if not clean:
        return NOTHING
    whole = rhythm.events[-len(rhythm.cycle) :] == rhythm.cycle
    if whole:
        return TRANSACTION
    return NOTHING if rhythm.events[-1] in rhythm.cycle else SYNC


def forget_events(rhythm: Rhythm) -> None:
    """What was seen so far turned out to be something else (a rollback journal)."""
    rhythm.keys.clear()
    for column in _columns(rhythm):
        column.clear()
    rhythm.cycle = []
    rhythm.total = rhythm.run = rhythm.long_run = 0
    rhythm.strikes = rhythm.probation = rhythm.doubts = 0
    rhythm.log = -1
    rhythm.wakings.clear()


def _columns(rhythm: Rhythm) -> tuple[list[Any], ...]:
    """What is kept of each event."""
    return (
        rhythm.times_ns,
        rhythm.events,
        rhythm.cleans,
        rhythm.gaps_ns,
        rhythm.appends,
        rhythm.fresh,
        rhythm.actors,
    )


def united(one: Rhythm, other: Rhythm) -> Rhythm:
    """Of two groups that turn out to be one: their events in order of time; logs stay logs."""
    newer = max(one, other, key=lambda rhythm: rhythm.times_ns[-1:] or [0])
    older = other if newer is one else one
    merged = msgspec.structs.replace(newer, keys=list(newer.keys), cycle=[], wakings={})
    merged.total = one.total + other.total
    if len({*newer.keys, *older.keys}) > MAX_KEYS:
        for number in range(len(_columns(merged))):
            _set_column(merged, number, [])  # those of `newer` stay as they are
        forget_events(merged)
        return merged
    numbers = [_key_of(merged, place) for place in older.keys]
    rows = list(zip(*_columns(newer), strict=True))
    rows += [(row[0], numbers[row[1]], *row[2:]) for row in zip(*_columns(older), strict=True)]
    rows.sort(key=lambda row: row[0])
    rows = [
        (*row[:5], row[5] and row[6] != before[6], row[6])
        for before, row in itertools.pairwise([(0,) * 7, *rows])
    ]
    for number, column in enumerate(zip(*rows, strict=True)):
        _set_column(merged, number, list(column))
    if merged.log < 0 <= older.log:
        merged.log = numbers[older.log]
    return merged


def _set_column(rhythm: Rhythm, number: int, values: list[Any]) -> None:
    name = ("times_ns", "events", "cleans", "gaps_ns", "appends", "fresh", "actors")[number]
    setattr(rhythm, name, values[-MAX_EVENTS:])


def assume_log(rhythm: Rhythm, place: Place) -> None:
    """What was taken for a journal is a log."""
    rhythm.log = _key_of(rhythm, place)
    rhythm.run = rhythm.long_run = LOG_RUN
    rhythm.strikes = rhythm.probation = 0


def _key_of(rhythm: Rhythm, place: Place) -> int:
    if place in rhythm.keys:
        return rhythm.keys.index(place)
    if len(rhythm.keys) >= MAX_KEYS:
        forget_events(rhythm)
    rhythm.keys.append(place)
    return len(rhythm.keys) - 1


def _remember(rhythm: Rhythm, key: int, time_ns: int, clean: bool, appends: bool) -> None:
    same = bool(rhythm.events) and rhythm.events[-1] == key
    rhythm.run = rhythm.run + 1 if same and not rhythm.disturbed else 1
    rhythm.long_run = rhythm.long_run + 1 if same else 1
    rhythm.events.append(key)
    rhythm.times_ns.append(time_ns)
    rhythm.cleans.append(clean)
    rhythm.gaps_ns.append(-1)
    rhythm.appends.append(appends)
    rhythm.fresh.append(rhythm.beginning)
    rhythm.actors.append(rhythm.actor)
    if rhythm.waking and not rhythm.beginning:
        rhythm.wakings[key] = rhythm.wakings.get(key, 0) + 1
        if sum(rhythm.wakings.values()) > MAX_WAKINGS:
            rhythm.wakings = {file: count // 2 for file, count in rhythm.wakings.items()}
    rhythm.beginning = rhythm.waking = False
    rhythm.total += 1
    if len(rhythm.events) > MAX_EVENTS:
        for column in _columns(rhythm):
            del column[0]


# --- logs ----------------------------------------------------------------------------------------


def _follow_log(rhythm: Rhythm, key: int) -> None:
    """A log may be interrupted (a checkpoint syncs the data), but not all the time."""
    looks_like_one = rhythm.run >= LOG_RUN or rhythm.long_run >= LONG_LOG_RUN
    if rhythm.log >= 0 and rhythm.events.count(key) == 1:
        looks_like_one = looks_like_one or _follows(rhythm.keys[key], rhythm.keys[rhythm.log])
    if key == rhythm.log:
        rhythm.probation = max(rhythm.probation - 1, 0)
        if rhythm.long_run >= LOG_RUN:
            rhythm.strikes = 0
        return
    if looks_like_one:
        rhythm.log, rhythm.strikes, rhythm.probation = key, 0, 0
        return
    if rhythm.log < 0:
        return
    if _run_before_last(rhythm.events, rhythm.log) < LOG_RUN:
        rhythm.strikes += 1
    rhythm.probation = PROBATION
    if rhythm.strikes >= MAX_STRIKES:
        rhythm.log = -1


def _follows(place: Place, log: Place) -> bool:
    """Is this the next file of a log: the same name but for its number (WAL segments)?"""
    (directory, name), (other_directory, other) = place, log
    if directory != other_directory or len(name) != len(other) or name == other:
        return False
    return _NUMBER.sub(b"", name) == _NUMBER.sub(b"", other)


def _run_before_last(events: Sequence[int], key: int) -> int:
    """How many `key`s stand in a row right before the last event; many if another one does."""
    if len(events) < 2 or events[-2] != key:
        return LOG_RUN  # an interruption goes on: it was counted when it began
    count = 0
    for event in reversed(events[:-1]):
        if event != key:
            break
        count += 1
    return count


# --- cycles --------------------------------------------------------------------------------------


def _follow_cycle(rhythm: Rhythm) -> None:
    """Learn a cycle, or the lack of one, from the events up to now."""
    period = _period(rhythm.events)
    if period == 1:
        # One file alone, again and again: whatever was a cycle is not any more.
        rhythm.cycle = []
        return
    if not period:
        return
    last = rhythm.events[-period:]
    if rhythm.cycle and _is_rotation(rhythm.cycle, last) and not _is_doubtful(rhythm):
        return
    closing = _closing_place(rhythm, period)
    rhythm.cycle = [] if closing is None else _rotated(last, closing)
    rhythm.sure = closing is not None and closing == _where_programs_began(rhythm, period)
    rhythm.doubts = 0


def _is_doubtful(rhythm: Rhythm) -> bool:
    """Have programs begun in the middle of what was taken for the cycle?"""
    if rhythm.fresh[-1]:
        rhythm.doubts = 0 if rhythm.events[-1] == rhythm.cycle[0] else rhythm.doubts + 1
    woken = None if rhythm.sure else _where_it_wakes(rhythm, rhythm.cycle)
    return rhythm.doubts >= MAX_DOUBTS or (woken is not None and woken != 0)


def _period(events: Sequence[int]) -> int:
    """The shortest order that the last events repeat REPEATS times; 0: none."""
    for period in range(1, MAX_PERIOD + 1):
        span = period * REPEATS
        if span > len(events):
            return 0
        if all(events[-i] == events[-i - period] for i in range(1, span - period + 1)):
            return period
    return 0


def _is_rotation(one: Sequence[int], other: Sequence[int]) -> bool:
    if len(one) != len(other):
        return False
    return any(list(one[i:]) + list(one[:i]) == list(other) for i in range(len(one)))


def _rotated(last: Sequence[int], closing: int) -> list[int]:
    """The cycle such that the event at index `closing` of its last repetition comes last."""
    return [*last[closing + 1 :], *last[: closing + 1]]


def _closing_place(rhythm: Rhythm, period: int) -> int | None:
    """Which of the last `period` events closes the cycle, as an index into them; None: unclear."""
    clean = [place for place in range(period) if _always_clean(rhythm, period, place)]
    if len(clean) <= 1:
        return clean[0] if clean else None
    weights = dict.fromkeys(clean, 0)
    for place, weight in (
        (_where_programs_began(rhythm, period), 2),
        (_woke_behind(rhythm, period), 2),
        (_began_behind(rhythm, period), 1),
        (_longest_pause(rhythm, period, clean), 1),
        (_overwritten_after_append(rhythm, period, clean), 1),
    ):
        if place in weights:
            weights[place] += weight
    best = max(clean, key=weights.__getitem__)
    rest = sum(weights.values()) - weights[best]
    return best if weights[best] >= ENOUGH and weights[best] > rest else None


def _column(values: Sequence[int], period: int, place: int) -> list[int]:
    """What a column says of one place of the cycle, over the repetitions that were seen."""
    start = len(values) - period * REPEATS + place
    return [values[index] for index in range(start, len(values), period)]


def _always_clean(rhythm: Rhythm, period: int, place: int) -> bool:
    return all(_column(rhythm.cleans, period, place))


def _where_programs_began(rhythm: Rhythm, period: int) -> int | None:
    """The place before the one at which programs began, if they always did so at the same one."""
    count = len(rhythm.events)
    inside = count - _run_length(rhythm, period)
    places = {(index - 1 - count) % period for index in range(inside, count) if rhythm.fresh[index]}
    return places.pop() if len(places) == 1 else None


def _where_it_wakes(rhythm: Rhythm, order: Sequence[int]) -> int | None:
    """The place in the order at which a program nearly always was when a long pause was over."""
    counts = [rhythm.wakings.get(key, 0) * (order.count(key) == 1) for key in order]
    most = max(counts)
    many = most >= MANY_WAKINGS and most >= MANY_WAKINGS * (sum(counts) - most)
    return counts.index(most) if many else None


def _woke_behind(rhythm: Rhythm, period: int) -> int | None:
    """The place before that one."""
    place = _where_it_wakes(rhythm, rhythm.events[-period:])
    return None if place is None else (place - 1) % period


def _run_length(rhythm: Rhythm, period: int) -> int:
    """Events at the end that repeat with this period, the first repetition included.

    A file that is written out for the first time is not part of it yet: it grows then, and is
    overwritten later. Nor is what came before a program's beginning.
    """
    start = len(rhythm.events) - period * REPEATS
    while start > 0 and not rhythm.fresh[start]:
        here, there = start - 1, start - 1 + period
        if rhythm.events[here] != rhythm.events[there]:
            break
        if rhythm.appends[here] != rhythm.appends[there]:
            break
        start -= 1
    return len(rhythm.events) - start


def _began_behind(rhythm: Rhythm, period: int) -> int | None:
    """The place right before the one with which the repetition began, if that was seen."""
    length = _run_length(rhythm, period)
    if length == len(rhythm.events) and rhythm.total > length:
        return None
    return (-length - 1) % period


def _longest_pause(rhythm: Rhythm, period: int, clean: Sequence[int]) -> int | None:
    usual = []
    for place in clean:
        pauses = [gap for gap in _column(rhythm.gaps_ns, period, place) if gap >= 0]
        if not pauses:
            return None
        # The median: one that was held up once tells nothing.
        usual.append((sorted(pauses)[(len(pauses) - 1) // 2], place))
    usual.sort()
    return usual[-1][1] if usual[-1][0] >= usual[-2][0] * PAUSE_RATIO else None


def _overwritten_after_append(rhythm: Rhythm, period: int, clean: Sequence[int]) -> int | None:
    """Data is added first, what points to it is written over last."""
    fits = [
        place
        for place in clean
        if not any(_column(rhythm.appends, period, place))
        and all(_column(rhythm.appends, period, (place + 1) % period))
    ]
    return fits[0] if len(fits) == 1 else None
