"""Rollback journals: files whose end is a commit. Pure; one thread.

A journal holds what can undo the writes to other files. While it does (it is *hot*), there are no
points; it is retired by an unlink, by being cut to nothing, or by a header of zeros. (SQLite's
journal modes DELETE, TRUNCATE and PERSIST: https://www.sqlite.org/atomiccommit.html.)
"""

from __future__ import annotations

from typing import Final

from store.barrier_cycles import LOG_RUN, assume_log, forget_events
from store.barrier_groups import LiveGroup
from store.barrier_points import Points
from store.barrier_state import FileState
from store.ops import Op

MAX_HEADER_BYTES: Final = 4096
"""A write of zeros to a journal's start that is longer is no retirement."""

MAX_HOT_SYNCS: Final = 16
"""A journal that lies there while other files are synced more often than that is none."""


def note_write(group: LiveGroup, file: FileState) -> None:
    """A file of the group is written to, and it is no retirement."""
    state = group.state
    if state.journals and file.place in state.journals:
        if file.node not in state.hot:
            state.hot.append(file.node)
            state.hot_run = 0
        state.hot_syncs = 0
    elif file.synced:
        state.hot_run = 0
        if file.node != state.rhythm.last_node:
            state.rhythm.disturbed = True


def is_zero_header(payload: bytes | memoryview) -> bool:
    """Is a write to a file's start one that ends a journal?"""
    return len(payload) <= MAX_HEADER_BYTES and not bytes(payload).strip(b"\0")


def has_rules(group: LiveGroup) -> bool:
    """Has a journal, a log or a cycle been seen in the group?"""
    state = group.state
    return bool(state.journals) or state.rhythm.log >= 0 or len(state.rhythm.cycle) > 1


def note_other_sync(group: LiveGroup) -> None:
    """A file that is no journal was synced. If that goes on, nothing hot here covers it."""
    state = group.state
    if not state.hot:
        return
    state.hot_syncs += 1
    if state.hot_syncs < MAX_HOT_SYNCS:
        return
    for node in state.hot:
        file = group.files.get(node)
        if file is not None and file.place in state.journals:
            state.journals.remove(file.place)
    state.hot.clear()


def is_log_after_all(group: LiveGroup, file: FileState) -> bool:
    """A hot journal is synced. Again and again with nothing written elsewhere means it is a log."""
    state = group.state
    if file.node not in state.hot:
        return False
    state.hot_run += 1
    if state.hot_run < LOG_RUN:
        return False
    state.journals.remove(file.place)
    state.hot.remove(file.node)
    assume_log(state.rhythm, file.place)
    return True


def retire(
    points: Points, group: LiveGroup, file: FileState, staged: int, op: Op, how: bytes
) -> None:
    """A file loses what it held. If it could undo what was then written, that is a commit.

    So it is a journal if its content stood (since the LSN `staged`) before some other file of
    the group was written to, and that one has been synced since. One whose content was
    synced is remembered by name; a mere copy (closed, or put there by a rename: an editor's
    backup) counts where no other rule has been learned. Retiring a known journal without a
    write completes a transaction too: one that changed nothing.
    """
    state = group.state
    known, synced = file.place in state.journals, staged == file.synced
    covered = [
        other
        for other in group.files.values()
        if other is not file and other.synced > other.written > staged and not other.dirty
    ]
    if file.node in state.hot:
        state.hot.remove(file.node)
    if not known and not (covered and (synced or not has_rules(group))):
        return
    if synced or known:
        if not known:
            forget_events(state.rhythm)
        group.remember_member(file.place)
        group.remember_journal(file.place)
    file.dirty = 0
    group.count(file)
    newest = max(covered, key=lambda other: other.synced, default=None)
    behind = b""
    if newest is not None:
        group.remember_member(newest.place)
        behind = b" after fsync of %b" % newest.name
    points.complete(group, op, b"%b of %b%b" % (how, file.name, behind))
