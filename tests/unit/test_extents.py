"""Deltas and piece lists of a region against plain arrays, and their rows there and back."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from store.extents import (
    HOLE,
    MAX_SPAN,
    RESOLVED,
    Delta,
    RegionCodec,
    RegionPiece,
    decode_header,
    overlay,
    resolve_due,
    window,
)
from store.format import CHUNK_BYTES, MAX_PAYLOAD_BYTES

SMALL = 64
codec = RegionCodec()


@st.composite
def deltas(draw: st.DrawFn, size: int = SMALL, gap: int = 3) -> list[Delta]:
    """Deltas within the first `size` bytes of a region, in LSN order."""
    found: list[Delta] = []
    lsn = draw(st.integers(1, 1 << 62))
    for _ in range(draw(st.integers(1, 12))):
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start + 1, size))
        offset = draw(st.sampled_from([0, 0, HOLE, 7, MAX_PAYLOAD_BYTES - size]))
        found.append((lsn, start, stop, offset))
        lsn += draw(st.integers(1, gap))
    return found


def painted(items: list[Delta], size: int = SMALL) -> list[tuple[int, int]]:
    """(source, offset in its payload) of every byte, (0, 0) for zeros."""
    canvas = [(0, 0)] * size
    for lsn, start, stop, offset in items:
        for at in range(start, stop):
            canvas[at] = (0, 0) if offset == HOLE else (lsn, offset + at - start)
    return canvas


def spread(pieces: list[RegionPiece], start: int = 0, size: int = SMALL) -> list[tuple[int, int]]:
    """The same of pieces, from `start` on."""
    canvas = [(0, 0)] * size
    for low, high, source, offset in pieces:
        for at in range(low, high):
            canvas[at - start] = (source, offset + at - low) if source else (0, 0)
    return canvas


def resolved(items: list[Delta]) -> list[RegionPiece]:
    pieces = codec.empty()
    for item in items:
        codec.apply(pieces, item)
    return pieces


@given(deltas())
def test_pieces_hold_what_the_last_delta_put_there(items: list[Delta]) -> None:
    pieces = resolved(items)
    assert spread(pieces) == painted(items)
    assert pieces == sorted(pieces)
    assert all(low < high for low, high, _, _ in pieces)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(pieces))


@given(deltas(), st.integers(0, SMALL - 1), st.integers(1, SMALL), st.integers(0, 5))
def test_a_window_covers_its_range_without_gaps(
    items: list[Delta], start: int, length: int, region: int
) -> None:
    stop, base = min(start + length, SMALL), region * CHUNK_BYTES
    found = window(resolved(items), start, stop, base)
    ends = [base + start, *(piece[1] for piece in found)]
    assert [piece[0] for piece in found] == ends[:-1]
    assert ends[-1] == base + stop
    assert spread(found, base + start, stop - start) == painted(items)[start:stop]


@given(deltas(gap=5000), st.integers(0, 1 << 28), st.integers(0, 1 << 20))
def test_a_row_of_deltas_reads_back(items: list[Delta], since: int, size: int) -> None:
    since = min(since, (1 << 28) - 1)
    row = codec.encode_deltas(items, since, size)
    flags, found_since, found_size = decode_header(row)
    assert not flags & RESOLVED
    assert (found_since, found_size) == (since, size)
    assert codec.decode_deltas(row, items[0][0]) == items


@given(deltas(gap=1 << 40), st.sampled_from([1, 4096]))
def test_a_resolved_row_reads_back(items: list[Delta], unit: int) -> None:
    items = [(lsn, start * unit, stop * unit, offset) for lsn, start, stop, offset in items]
    pieces = resolved(items)
    row = codec.encode_state(pieces)
    assert decode_header(row) == (decode_header(row)[0] | RESOLVED, 0, len(pieces))
    assert codec.decode_state(row) == pieces


def test_the_extremes_of_a_region_fit() -> None:
    items: list[Delta] = [
        (5, 0, CHUNK_BYTES, 0),
        (6, CHUNK_BYTES - 1, CHUNK_BYTES, MAX_PAYLOAD_BYTES - 1),
        (5 + MAX_SPAN - 1, 0, 1, HOLE),
    ]
    assert codec.decode_deltas(codec.encode_deltas(items, 3, 0), 5) == items
    pieces = resolved(items)
    assert codec.decode_state(codec.encode_state(pieces)) == pieces


def test_whole_pages_take_eight_bytes_each() -> None:
    items: list[Delta] = [(lsn, 0, 4096, 0) for lsn in range(1, 11)]
    assert len(codec.encode_deltas(items, 10, 0)) == 8 + 8 * len(items)


def test_a_resolved_row_of_pages_takes_six_bytes_for_each() -> None:
    pages: list[RegionPiece] = [(at, at + 4096, 7, 0) for at in range(0, CHUNK_BYTES, 4096)]
    assert len(codec.encode_state(pages)) == 16 + 6 * len(pages)
    assert codec.decode_state(codec.encode_state(pages)) == pages


def test_a_resolved_row_is_due_when_deltas_outnumber_its_pieces() -> None:
    assert not resolve_due(8, 0)
    assert resolve_due(9, 0)
    assert not resolve_due(100, 100)
    assert resolve_due(101, 100)


def test_a_delta_that_changes_nothing_around_it_keeps_the_neighbours() -> None:
    pieces: list[RegionPiece] = [(0, 10, 1, 0), (20, 30, 2, 5)]
    overlay(pieces, (3, 12, 15, 0))
    assert pieces == [(0, 10, 1, 0), (12, 15, 3, 0), (20, 30, 2, 5)]
