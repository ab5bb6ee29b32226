"""Which bytes of a file came from which op: deltas and piece lists of one region. Pure.

A region is CHUNK_BYTES of a file. What writes did to it is kept as *deltas*; now and then the
outcome is written down as a *resolved* list of pieces, so that looking back from any LSN meets a
bounded number of deltas. Offsets in here count from the region's start. Any thread.

Rows of the index start with one little-endian 64-bit number:

    bits 0-3    RESOLVED, WIDE, OFFSETS, PAGES
    bits 4-31   deltas since the last resolved row, up to and with this row; 0 in a resolved row
    bits 32-63  entries of the last resolved row (0 also when there is none yet)

Then a row of deltas holds for each, in LSN order, 64 bits: `lsn - key's lsn` << 40 | start << 20 |
length - 1; and, when WIDE, 32 bits more: where the bytes start in the op's payload, HOLE_MARK
when there are none. A resolved row holds the lowest LSN (64 bits), then columns: LSNs less the
lowest (32 bits, 64 when WIDE), starts, stops (32 bits each; when PAGES, 8 bits each that count
pages of 4 KiB, for a stop the last page before it), and, when OFFSETS, offsets in the payloads (32
bits); without OFFSETS all of them are 0.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias

from store.format import CHUNK_BYTES

RegionPiece: TypeAlias = tuple[int, int, int, int]
"""(start, stop, LSN of the source, offset in its payload). What lies between pieces is zeros."""

Delta: TypeAlias = tuple[int, int, int, int]
"""(LSN, start, stop, offset in that op's payload or HOLE)."""

HOLE = -1
"""Offset of a delta that leaves zeros behind: a truncation cut there."""

MIN_DELTAS = 8
"""A resolved row is never written for fewer deltas than this."""

MAX_SPAN = 1 << 24
"""One row of deltas spans fewer LSNs than this."""

RESOLVED, WIDE, OFFSETS, PAGES = 1, 2, 4, 8
_PAGE_BYTES = 4096
HOLE_MARK = 0xFFFFFFFF
_REGION_MASK = CHUNK_BYTES - 1
_header = struct.Struct("<Q")
_wide = struct.Struct("<QI")


def resolve_due(since: int, size: int) -> bool:
    """Whether `since` deltas after a resolved row of `size` entries call for the next one."""
    return since > size and since > MIN_DELTAS


def encode_header(flags: int, since: int, size: int) -> bytes:
    """The number that a row starts with."""
    return _header.pack(flags | since << 4 | size << 32)


def decode_header(row: bytes) -> tuple[int, int, int]:
    """(flags, deltas since the last resolved row, its entries) of a row."""
    (number,) = _header.unpack_from(row)
    return number & 15, number >> 4 & 0xFFFFFFF, number >> 32


def overlay(pieces: list[RegionPiece], delta: Delta) -> None:
    """Put a delta over a sorted piece list, in place."""
    lsn, start, stop, offset = delta
    low = bisect_left(pieces, (start,))
    if low and pieces[low - 1][1] > start:
        low -= 1
    high = bisect_left(pieces, (stop,), low)
    middle: list[RegionPiece] = []
    if low < high:
        first, last = pieces[low], pieces[high - 1]
        if first[0] < start:
            middle.append((first[0], start, first[2], first[3]))
        if offset != HOLE:
            middle.append((start, stop, lsn, offset))
        if last[1] > stop:
            middle.append((stop, last[1], last[2], last[3] + stop - last[0]))
    elif offset != HOLE:
        middle.append((start, stop, lsn, offset))
    pieces[low:high] = middle


class RegionCodec:
    """Rows of a region's history (see `index_history.Codec`)."""

    @staticmethod
    def empty() -> list[RegionPiece]:
        """A region without bytes."""
        return []

    @staticmethod
    def apply(state: list[RegionPiece], item: Delta) -> None:
        """Put a delta over a piece list."""
        overlay(state, item)

    @staticmethod
    def encode_deltas(items: Sequence[Delta], since: int, size: int) -> bytes:
        """A row of deltas, keyed by the LSN of the first; they span less than MAX_SPAN LSNs."""
        first = items[0][0]
        if any(item[3] for item in items):
            parts = [encode_header(WIDE, since, size)]
            for lsn, start, stop, offset in items:
                number = lsn - first << 40 | start << 20 | stop - start - 1
                parts.append(_wide.pack(number, HOLE_MARK if offset == HOLE else offset))
            return b"".join(parts)
        numbers = [lsn - first << 40 | a << 20 | b - a - 1 for lsn, a, b, _ in items]
        return encode_header(0, since, size) + struct.pack(f"<{len(numbers)}Q", *numbers)

    @staticmethod
    def decode_deltas(row: bytes, first: int) -> list[Delta]:
        """The deltas of a row with key LSN `first`."""
        if decode_header(row)[0] & WIDE:
            return [
                (*_unpack_delta(number, first), HOLE if offset == HOLE_MARK else offset)
                for number, offset in _wide.iter_unpack(row[8:])
            ]
        return [(*_unpack_delta(number, first), 0) for (number,) in _header.iter_unpack(row[8:])]

    @staticmethod
    def encode_state(state: list[RegionPiece]) -> bytes:
        """A resolved row."""
        count = len(state)
        if not count:
            return encode_header(RESOLVED, 0, 0)
        starts, stops, sources, offsets = zip(*state, strict=True)
        low = min(sources)
        flags = RESOLVED
        if max(sources) - low > HOLE_MARK:
            flags |= WIDE
        if not any(number % _PAGE_BYTES for number in (*starts, *stops)):
            flags |= PAGES
            starts = tuple(start // _PAGE_BYTES for start in starts)
            stops = tuple(stop // _PAGE_BYTES - 1 for stop in stops)
        numbers = [low, *(source - low for source in sources), *starts, *stops]
        if any(offsets):
            flags |= OFFSETS
            numbers += offsets
        return encode_header(flags, 0, count) + struct.pack(_layout(flags, count), *numbers)

    @staticmethod
    def decode_state(row: bytes) -> list[RegionPiece]:
        """The pieces of a resolved row."""
        flags, _, count = decode_header(row)
        if not count:
            return []
        low, *numbers = struct.unpack_from(_layout(flags, count), row, 8)
        sources = [low + number for number in numbers[:count]]
        starts, stops = numbers[count : 2 * count], numbers[2 * count : 3 * count]
        offsets = numbers[3 * count :] or [0] * count
        if flags & PAGES:
            starts = [start * _PAGE_BYTES for start in starts]
            stops = [stop * _PAGE_BYTES + _PAGE_BYTES for stop in stops]
        return list(zip(starts, stops, sources, offsets, strict=True))


def _layout(flags: int, count: int) -> str:
    """What follows the number at the start of a resolved row, as `struct` has it."""
    lsns = "Q" if flags & WIDE else "I"
    places = "B" if flags & PAGES else "I"
    layout = f"<Q{count}{lsns}{2 * count}{places}"
    return f"{layout}{count}I" if flags & OFFSETS else layout


def _unpack_delta(number: int, first: int) -> tuple[int, int, int]:
    start = number >> 20 & _REGION_MASK
    return first + (number >> 40), start, start + (number & _REGION_MASK) + 1


def window(pieces: Sequence[RegionPiece], start: int, stop: int, base: int) -> list[RegionPiece]:
    """What covers `[start, stop)` of the region, gaps as pieces of source 0, `base` added.

    `base` is the file offset of the region, so that the result counts from the file's start.
    """
    found: list[RegionPiece] = []
    at = start
    for index in range(max(bisect_left(pieces, (start,)) - 1, 0), len(pieces)):
        low, high, source, offset = pieces[index]
        if low >= stop:
            break
        if high <= at:
            continue
        if low > at:
            found.append((base + at, base + low, 0, 0))
            at = low
        end = min(high, stop)
        found.append((base + at, base + end, source, offset + at - low))
        at = end
    if at < stop:
        found.append((base + at, base + stop, 0, 0))
    return found
