"""A library's books as tables and JSON: cartridges, sets, drives. Any thread; nothing is opened."""

from __future__ import annotations

import time
from typing import Any

from console.output import duration_text, say, size_text, table, time_json
from tape.catalogue_state import Cartridge, State, StrangerFacts, TapeSet
from tape.reach import reach_of
from tape.retention import Retention
from tape.shopping import place_text

NS_PER_S = 1_000_000_000


def when_json(time_ns: int | None) -> str | None:
    """A time for scripts; None for none."""
    return time_json(time_ns) if time_ns else None


def cartridge_json(
    state: State, cartridge: Cartridge, retention: Retention | None = None
) -> dict[str, Any]:
    """All that is known of a cartridge."""
    judge = retention or Retention(state, time.time_ns())
    volume = state.volumes.get(cartridge.label.volume_uuid)
    return {
        "name": cartridge.name,
        "barcode": cartridge.barcode,
        "label_id": cartridge.label_id,
        "pool": cartridge.label.pool,
        "volume": volume.name if volume else cartridge.label.volume_name,
        "volume_uuid": cartridge.label.volume_uuid,
        "place": cartridge.place,
        "number": cartridge.number,
        "note": cartridge.note,
        "where": place_text(cartridge),
        "archives": len(cartridge.archives),
        "used_bytes": cartridge.used_bytes,
        "state": state_text(cartridge),
        "closed": when_json(cartridge.closed_ns),
        "retired": when_json(cartridge.retired_ns),
        "scratch": cartridge.scratch,
        "faults": cartridge.faults,
        "last_fault": cartridge.last_fault,
        "kept_because": judge.why_cartridge_kept(cartridge) if cartridge.archives else "",
        "kept_until": when_json(judge.kept_until_ns(cartridge)),
    }


def state_text(cartridge: Cartridge) -> str:
    """What may be done with it, in a word."""
    if cartridge.retired_ns:
        return "retired"
    if cartridge.scratch:
        return "scratch"
    return "closed" if cartridge.closed_ns else "appending"


def stranger_json(stranger: StrangerFacts) -> dict[str, Any]:
    """A cartridge without a label of the library."""
    return {
        "slot": stranger.slot,
        "barcode": stranger.barcode,
        "what": stranger.finding,
        "note": stranger.note,
        "seen": when_json(stranger.seen_ns),
    }


def set_json(state: State, tape_set: TapeSet) -> dict[str, Any]:
    """A set, and what it gives back."""
    reach = reach_of(state, tape_set)
    return {
        "set_id": tape_set.set_id,
        "pool": tape_set.pool,
        "opened": when_json(tape_set.opened_ns),
        "closed": when_json(tape_set.closed_ns),
        "whole": tape_set.whole,
        "restorable": reach is not None,
        "base_lsn": tape_set.base_lsn,
        "base_time": when_json(tape_set.base_time_ns),
        "last_lsn": reach.last_lsn if reach else None,
        "barrier_lsn": reach.barrier_lsn if reach else None,
        "barrier_time": when_json(reach.barrier_time_ns) if reach else None,
        "archives": len(tape_set.archives),
        "cartridges": [each.name for each in state.cartridges_of(tape_set)],
    }


def show_cartridges(state: State) -> None:
    """Cartridges and where they are, then what else is in the slots."""
    rows = [
        (
            each.name,
            place_text(each),
            each.label.pool,
            state_text(each),
            str(len(each.archives)),
            size_text(each.used_bytes),
            str(each.faults) if each.faults else "",
        )
        for each in sorted(state.cartridges.values(), key=lambda c: (c.name, c.label_id))
    ]
    if rows:
        columns = ("cartridge", "place", "pool", "state", "archives", "size", "faults")
        table(columns, rows, right=(4, 5, 6))
    for other in sorted(state.strangers.values(), key=lambda each: each.slot):
        words = {"unknown": "not looked at yet"}.get(other.finding, other.finding)
        note_text = f": {other.note}" if other.note and other.finding != "blank" else ""
        where = "import/export slot" if other.door else "slot"
        say(f"{other.barcode or 'no barcode'}   {where} {other.slot}   {words}{note_text}")


def age_text(time_ns: int) -> str:
    """How long ago it was."""
    return duration_text(max(time.time_ns() - time_ns, 0) / NS_PER_S) + " ago"
