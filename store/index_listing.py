"""Rows of a set of names that changes: a directory's listing, a node's links. Pure; any thread.

Kept like the content of a region (see `extents`, which has the number that each row starts with):
deltas, and now and then the whole. Then follow, little-endian,

    deltas      each: LSN less the key's (32 bits), node (64; 0: the name is gone), length of the
                name (16), the name
    the whole   columns, sorted by name: nodes (64 bits each), lengths of the names (16 bits each),
                the names

A node's links are such a set too: a name there is the directory (8 bytes, big-endian) followed by
the name in it, and the number beside it is 1, or 0 when that link is gone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeAlias

from store.extents import RESOLVED, decode_header, encode_header
from store.types import NodeId

Change: TypeAlias = tuple[int, bytes, int]
"""(LSN, name, node from then on or 0)."""

_change = struct.Struct("<IQH")


class ListingCodec:
    """Rows of a listing's history (see `index_history.Codec`)."""

    @staticmethod
    def empty() -> dict[bytes, int]:
        """A listing without names."""
        return {}

    @staticmethod
    def apply(state: dict[bytes, int], item: Change) -> None:
        """Make a change in a listing."""
        _, name, node = item
        if node:
            state[name] = node
        else:
            state.pop(name, None)

    @staticmethod
    def encode_deltas(items: Sequence[Change], since: int, size: int) -> bytes:
        """A row of changes, keyed by the LSN of the first."""
        first = items[0][0]
        parts = [encode_header(0, since, size)]
        for lsn, name, node in items:
            parts += (_change.pack(lsn - first, node, len(name)), name)
        return b"".join(parts)

    @staticmethod
    def decode_deltas(row: bytes, first: int) -> list[Change]:
        """The changes of a row with key LSN `first`."""
        items: list[Change] = []
        at = 8
        while at < len(row):
            delta, node, length = _change.unpack_from(row, at)
            at += _change.size + length
            items.append((first + delta, row[at - length : at], node))
        return items

    @staticmethod
    def encode_state(state: dict[bytes, int]) -> bytes:
        """A row of the whole listing."""
        names = sorted(state)
        count = len(names)
        columns = struct.pack(
            f"<{count}Q{count}H", *map(state.__getitem__, names), *map(len, names)
        )
        return encode_header(RESOLVED, 0, count) + columns + b"".join(names)

    @staticmethod
    def decode_state(row: bytes) -> dict[bytes, int]:
        """The listing of a row."""
        count = decode_header(row)[2]
        numbers = struct.unpack_from(f"<{count}Q{count}H", row, 8)
        stops = list(accumulate(numbers[count:], initial=8 + 10 * count))
        return {
            row[start:stop]: node
            for start, stop, node in zip(stops, stops[1:], numbers[:count], strict=False)
        }


def link_name(directory: int, name: bytes) -> bytes:
    """A link as a name in the set of a node's links."""
    return directory.to_bytes(8, "big") + name


def split_link(link: bytes) -> tuple[NodeId, bytes]:
    """(directory, name) of a link."""
    return NodeId(int.from_bytes(link[:8], "big")), link[8:]
