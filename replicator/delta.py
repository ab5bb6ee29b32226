"""Where bytes differ from other bytes that the receiver has. Pure; any thread.

Duty: two ways to say it, and each back. *Runs* of changed bytes at the same place: most pages of a
database change so. *Moves* for content that has shifted: what matches stands between what does
not, and after each such place the source may go on elsewhere in its window. After bsdiff
(Percival, "Naive differences of executable code"): where bytes changed in place, the difference is
coded, since counters and pointers change by the same amount again and again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from replicator.errors import BadShipment
from replicator.streams import Reader, Writer, put, zigzag

Run: TypeAlias = tuple[int, int]
"""Half-open: where bytes changed."""

Move: TypeAlias = tuple[int, int, int]
"""Bytes that match; bytes that do not; by how much the source jumps then."""

Keys: TypeAlias = dict[bytes, int]
"""Of a page: some short strings in it, and where they stand."""

SMALL_BYTES: Final = 8
"""Up to so many changed bytes together are coded as differences."""

MAX_MOVES: Final = 4096

_KEY_BYTES: Final = 8
_KEY_STEP: Final = 8
"""Of the window every eighth place is known: what is alike for 15 bytes is always found."""


# A few equal bytes between changed ones cost less than another run.
_CHANGED = re.compile(rb"[^\0]+(?:\0{1,3}[^\0]+)*", re.DOTALL)


def changed_runs(new: bytes, old: bytes) -> list[Run]:
    """Where `new` differs from `old`, which is as long."""
    count = len(new)
    both = int.from_bytes(new, "little") ^ int.from_bytes(old, "little")
    return [found.span() for found in _CHANGED.finditer(both.to_bytes(count, "little"))]


def cost(runs: Sequence[Run]) -> int:
    """About how many bytes runs take, before they are compressed."""
    return sum(stop - start + 2 for start, stop in runs)


def covers(layout: Sequence[Run], runs: Sequence[Run]) -> bool:
    """Whether all of `runs` lies in those of `layout`, which are not much longer."""
    if not layout or cost(layout) > cost(runs) + 4:
        return False
    return all(any(a <= start and stop <= b for a, b in layout) for start, stop in runs)


# --- changed bytes ----------------------------------------------------------------------------


def put_change(new: bytes, old: bytes, out: Writer) -> None:
    """Append changed bytes; `old` is what stood there, perhaps shorter."""
    if len(new) <= SMALL_BYTES and len(old) == len(new):
        out["small"].extend((a - b) & 255 for a, b in zip(new, old, strict=True))
    else:
        out["literals"].extend(new)


def take_change(count: int, old: bytes, streams: dict[str, Reader]) -> bytes:
    """The other way: `count` changed bytes."""
    if count <= SMALL_BYTES and len(old) == count:
        steps = streams["small"].take(count)
        return bytes((a + b) & 255 for a, b in zip(steps, old, strict=True))
    return streams["literals"].take(count)


# --- runs at the same place -------------------------------------------------------------------


def put_layout(runs: Sequence[Run], before: Sequence[Run], out: bytearray) -> None:
    """Append where runs lie; relative to those of last time if there were as many."""
    put(out, len(runs))
    if len(before) != len(runs):
        before = [(0, 0)] * len(runs)
    at = at_before = 0
    for (start, stop), (a, b) in zip(runs, before, strict=True):
        put(out, zigzag(start - at - (a - at_before)))
        put(out, zigzag(stop - start - (b - a)))
        at, at_before = stop, b


def take_layout(size: int, before: Sequence[Run], stream: Reader) -> list[Run]:
    """The other way: runs in a piece of `size` bytes, in order. BadShipment."""
    count = stream.number()
    if count > size:
        raise BadShipment("a piece of the shipment is impossible")
    if len(before) != count:
        before = [(0, 0)] * count
    at = at_before = 0
    runs = []
    for a, b in before:
        start = at + stream.signed() + (a - at_before)
        stop = start + stream.signed() + (b - a)
        if not at <= start <= stop <= size:
            raise BadShipment("a piece of the shipment is impossible")
        runs.append((start, stop))
        at, at_before = stop, b
    return runs


def put_runs(new: bytes, old: bytes, runs: Sequence[Run], out: Writer) -> None:
    """Append the bytes of runs."""
    for start, stop in runs:
        put_change(new[start:stop], old[start:stop], out)


def take_runs(old: bytes, runs: Sequence[Run], streams: dict[str, Reader]) -> bytes:
    """`old` with the runs changed; they lie in it. BadShipment."""
    found = bytearray(old)
    for start, stop in runs:
        found[start:stop] = take_change(stop - start, old[start:stop], streams)
    return bytes(found)


# --- moves ------------------------------------------------------------------------------------


def keys_of(page: bytes) -> Keys:
    """Where in a page of a window its keys stand."""
    last = len(page) - _KEY_BYTES
    # Backwards: of equal keys the first one counts.
    places = range(last - last % _KEY_STEP, -1, -_KEY_STEP)
    return {page[at : at + _KEY_BYTES]: at for at in places}


def find_moves(
    new: bytes, window: bytes, keys: Sequence[tuple[int, Keys]], limit: int
) -> list[Move] | None:
    """How to make `new` from `window`, beginning at its start. Their bytes add up to `new`'s.

    `keys` are those of the window's pages, each with the page's place in the window. None when it
    costs `limit` or more.
    """
    moves = []
    at = source = spent = 0
    while True:
        count = _alike(new, at, window, source)
        at += count
        source += count
        if at >= len(new):
            moves.append((count, 0, 0))
            return moves
        again, place = _resume(new, at, at + limit - spent, (window, source, keys))
        spent += again - at + (4 if place - source != again - at else 2)
        if spent >= limit:
            return None
        moves.append((count, again - at, place - (source + again - at)))
        if again >= len(new):
            return moves
        at, source = again, place


def _alike(new: bytes, at: int, window: bytes, source: int) -> int:
    """How many bytes are the same from there on."""
    size = min(len(new) - at, len(window) - source)
    if size <= 0 or new[at] != window[source]:
        return 0
    both = int.from_bytes(new[at : at + size], "little") ^ int.from_bytes(
        window[source : source + size], "little"
    )
    return (both & -both).bit_length() - 1 >> 3 if both else size


def _resume(
    new: bytes, at: int, stop: int, known: tuple[bytes, int, Sequence[tuple[int, Keys]]]
) -> tuple[int, int]:
    """Where `new` is like its window again: places in both. From `stop` on nobody cares.

    `known` is the window, the place there, and keys in it.
    """
    window, source, keys = known
    ahead = source - at
    for again in range(at + 1, min(len(new) - _KEY_BYTES + 1, stop)):
        key = new[again : again + _KEY_BYTES]
        place = again + ahead
        if window[place : place + _KEY_BYTES] == key:
            return again, place
        for base, page in keys:
            if key in page:
                place = base + page[key]
                while again > at and place and new[again - 1] == window[place - 1]:
                    again, place = again - 1, place - 1
                return again, place
    return len(new), len(new) + ahead


def put_moves(new: bytes, window: bytes, moves: Sequence[Move], out: Writer) -> None:
    """Append moves and the bytes that they do not find."""
    stream = out["moves"]
    put(stream, len(moves))
    at = source = 0
    for alike, changed, jump in moves:
        for number in (alike, changed, zigzag(jump)):
            put(stream, number)
        at += alike
        source += alike
        put_change(new[at : at + changed], window[source : source + changed], out)
        at += changed
        source += changed + jump


def take_moves(size: int, window: bytes, streams: dict[str, Reader]) -> bytes:
    """The piece of `size` bytes that moves make of `window`. BadShipment."""
    stream = streams["moves"]
    count = stream.number()
    if count > MAX_MOVES:
        raise BadShipment("a piece of the shipment is impossible")
    parts = []
    length = source = 0
    for _ in range(count):
        alike, changed, jump = stream.number(), stream.number(), stream.signed()
        length += alike + changed
        if length > size or source + alike > len(window):
            raise BadShipment("a piece of the shipment is impossible")
        parts.append(window[source : source + alike])
        source += alike
        parts.append(take_change(changed, window[source : source + changed], streams))
        source += changed + jump
        if source < 0:
            raise BadShipment("a piece of the shipment is impossible")
    if length != size:
        raise BadShipment("a piece of the shipment is impossible")
    return b"".join(parts)
