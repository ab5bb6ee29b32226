"""What of a library a person should look at. Pure.

Duty: from the books to sentences, for `status`, the spooler and monitoring. It knows of no volume's
lag, which is the spooler's to tell.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from tape.catalogue_state import State
from tape.choice import MAX_CLEANINGS, is_cleaning
from tape.retention import Retention

MANY_FAULTS: Final = 3
"""A cartridge that failed so often should be retired."""
RECENT_NS: Final = 7 * 86_400_000_000_000
"""A drive's fault is of interest for so long."""


def library_alarms(state: State, min_scratch: int, cleaning_prefix: str, now_ns: int) -> list[str]:
    """One sentence for each thing that needs a person."""
    return [
        *_scratch(state, min_scratch, cleaning_prefix, now_ns),
        *_cartridges(state),
        *_places(state),
        *_drives(state, now_ns),
        *_cleaning(state),
    ]


def free_cartridges(state: State, cleaning_prefix: str) -> int:
    """How many the library could write to next: scratch ones, and those not looked at yet."""
    scratch = sum(
        each.scratch and each.place in ("slot", "drive") for each in state.cartridges.values()
    )
    unread = sum(
        each.finding in ("blank", "unknown")
        and not each.door
        and not is_cleaning(each.barcode, cleaning_prefix)
        # One whose barcode another has is not written, see `Choice.unknown`.
        and not (each.barcode and state.claims(each.barcode))
        for each in state.strangers.values()
    )
    return scratch + unread


def _scratch(state: State, min_scratch: int, prefix: str, now_ns: int) -> list[str]:
    free = free_cartridges(state, prefix)
    if free >= max(min_scratch, 1):
        return []
    spare = [
        each
        for each in Retention(state, now_ns).recyclable()
        if each.place in ("slot", "drive") and not each.scratch
    ]
    if spare:
        return []
    return [f"{free} free cartridges are left in the library, and none may be recycled"]


def _cartridges(state: State) -> list[str]:
    found = []
    for each in state.cartridges.values():
        bad = sum(bool(archive.bad) for archive in each.archives)
        if bad:
            found.append(f"{each.name} has {bad} archives that can't be read any more")
        if each.place == "missing" and (each.archives or each.appendable):
            found.append(f"{each.name} is not where it should be")
        if each.faults >= MANY_FAULTS and not each.retired_ns:
            found.append(f"{each.name} failed {each.faults} times: cdpfs tape retire {each.name}")
    return found


def _places(state: State) -> list[str]:
    """What lies in slots and is of no use there, and barcodes that are there twice."""
    codes = Counter(each.barcode for each in state.cartridges.values() if each.barcode)
    found = [f"{n} cartridges claim the barcode {code}" for code, n in codes.items() if n > 1]
    for stranger in state.strangers.values():
        name = stranger.barcode or "a cartridge without a barcode"
        there = f"{name} in slot {stranger.slot}"
        claims = state.claims(stranger.barcode) if stranger.barcode else []
        if stranger.finding not in ("blank", "unknown"):
            found.append(f"{there} is {stranger.finding}: {stranger.note}")
        elif stranger.finding == "unknown" and claims and not any(c.present for c in claims):
            found.append(f"{there} seems to be back: cdpfs tape inventory --read-labels")
        elif claims:
            found.append(f"{there} has the barcode of another cartridge")
    return found


def _drives(state: State, now_ns: int) -> list[str]:
    return [
        f"drive {number} failed {drive.faults} times, last with: {drive.last_fault}"
        for number, drive in sorted(state.drives.items())
        if drive.faults and now_ns < drive.fault_ns + RECENT_NS
    ]


def _cleaning(state: State) -> list[str]:
    return [
        f"the cleaning cartridge {barcode} is used up ({count} times)"
        for barcode, count in sorted(state.cleanings.items())
        if count >= MAX_CLEANINGS
    ]
