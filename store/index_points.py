"""Recovery points in the index: the rows of barrier inference, and how they are read.

Duty: give `store.barriers` its rows in the indexer's transaction, and readers the points. The
points of a group lie by LSN under its id, and once more by LSN alone. One thread at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from store.barrier_groups import MACHINE_KEY
from store.barrier_state import (
    GRADES,
    Group,
    Place,
    Settings,
    decode_group,
    decode_machine,
    decode_point,
)
from store.barriers import Inference
from store.baseline_state import Entry
from store.baseline_state import Kind as Stated
from store.errors import InconsistentLog
from store.format import key_lsn, key_node_lsn
from store.index_env import Table, Tables, Transaction
from store.index_history import NEWEST, seek_floor
from store.index_listing import split_link
from store.index_lookup import Lookup
from store.index_rows import Baseline, Point
from store.ops import Op
from store.types import Lsn

KnownGroups: TypeAlias = dict[bytes, tuple[bytes, Group]]
"""Of groups by key: the row, and what it says. For whoever reads them over and over."""

_PRESENT = b""


class PointWriter:
    """Barrier inference at work in the indexer's transactions."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._inference: Inference | None = None
        self.baseline: Baseline | None = None
        """Where the history of a copy begins."""

    def begin(self, txn: Transaction, lookup: Lookup) -> None:
        """Work in this write transaction from now on."""
        self._txn = txn
        self._lookup = lookup

    def take(self, ops: Sequence[Op], aborted: set[int]) -> None:
        """Infer from one batch, before the tree in the index changes with it."""
        stated_lsn = self.baseline.end_lsn if self.baseline is not None else 0
        if ops[0].lsn <= stated_lsn:
            if ops[-1].lsn > stated_lsn:
                raise InconsistentLog(
                    f"groups are stated up to LSN {stated_lsn}, within the batch up to LSN "
                    f"{ops[-1].lsn}"
                )
            return
        if self._inference is None:
            self._inference = Inference(self)
        try:
            self._inference.take(ops, aborted)
        except (ValueError, struct.error) as error:
            first, last = ops[0].lsn, ops[-1].lsn
            raise InconsistentLog(
                f"LSN {first} to {last}: one has an impossible payload: {error}"
            ) from error
        self._inference.flush()

    def forget(self) -> None:
        """Drop everything that is remembered: the transaction was aborted."""
        self._inference = None

    def load(self, entry: Entry) -> None:
        """A row that came with a baseline: what inference would find up to its `end_lsn`."""
        table = {
            Stated.GROUP: self._tables.groups,
            Stated.BARRIER: self._tables.barriers,
            Stated.POINT: self._tables.points,
            Stated.HELD_POINT: self._tables.points,
        }.get(Stated(entry.kind))
        if table is None:
            raise ValueError(f"entries of kind {entry.kind} are no rows")
        self._txn.put(entry.key, entry.row, db=table)
        if entry.kind == Stated.POINT:
            order = entry.key[8:] + entry.key[:8]
            self._txn.put(order, _PRESENT, db=self._tables.point_order)

    # --- barrier_groups.Rows ---------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """See `barrier_groups.Rows`, as for the other methods here."""
        return self._txn.get(key, db=self._tables.barriers)

    def put(self, key: bytes, row: bytes) -> None:
        """A row of inference's own."""
        self._txn.put(key, row, db=self._tables.barriers)

    def remove(self, key: bytes) -> None:
        """Take one away."""
        self._txn.delete(key, db=self._tables.barriers)

    def starting_with(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows by key."""
        return iter(list(_range(self._txn, self._tables.barriers, prefix, prefix)))

    def get_group(self, number: int) -> bytes | None:
        """A group's row."""
        return self._txn.get(key_lsn(number), db=self._tables.groups)

    def put_group(self, number: int, row: bytes) -> None:
        """Write it."""
        self._txn.put(key_lsn(number), row, db=self._tables.groups)

    def put_point(self, group: int, lsn: int, row: bytes | None) -> None:
        """A point; None: it gave way to a later one."""
        key, order = key_node_lsn(group, lsn), key_node_lsn(lsn, group)
        if row is None:
            self._txn.delete(key, db=self._tables.points)
            self._txn.delete(order, db=self._tables.point_order)
        else:
            self._txn.put(key, row, db=self._tables.points)
            if self.baseline is None or lsn != self.baseline.lsn:
                self._txn.put(order, _PRESENT, db=self._tables.point_order)

    def place_of(self, node: int) -> Place | None:
        """A name of a node when the batch began; of several the first in order."""
        links = self._lookup.links(node, NEWEST)
        return split_link(min(links)) if links else None


class PointReader:
    """Points and groups as one transaction sees them."""

    def __init__(self, txn: Transaction, tables: Tables) -> None:
        self._txn = txn
        self._tables = tables

    def points(self, start: Lsn, stop: Lsn) -> Iterator[Point]:
        """Of all groups, LSN `[start, stop)`, in order."""
        for key, _ in _range(self._txn, self._tables.point_order, key_lsn(start), b""):
            lsn, group = _numbers(key)
            if lsn >= stop:
                return
            row = self._txn.get(key_node_lsn(group, lsn), db=self._tables.points)
            assert row is not None, (group, lsn)
            yield decode_point(group, lsn, row)

    def points_of(self, group: Lsn, start: Lsn, stop: Lsn) -> Iterator[Point]:
        """Of one group, LSN `[start, stop)`, in order."""
        first = key_node_lsn(group, start)
        for key, row in _range(self._txn, self._tables.points, first, first[:8]):
            lsn = _numbers(key)[1]
            if lsn >= stop:
                return
            yield decode_point(group, lsn, row)

    def points_before(self, group: Lsn, lsn: Lsn, least: str) -> Iterator[Point]:
        """Of one group, from LSN `lsn` back, of at least that grade."""
        wanted, prefix = GRADES[least], key_lsn(group)
        with self._txn.cursor(self._tables.points) as cursor:
            found = seek_floor(cursor, key_node_lsn(group, lsn))
            while found:
                key, row = cursor.item()
                if key[:8] != prefix:
                    return
                point = decode_point(group, _numbers(key)[1], row)
                if GRADES[point.grade] >= wanted:
                    yield point
                found = cursor.prev()

    def groups(self, known: KnownGroups | None = None) -> Iterator[Group]:
        """Every group, the oldest first; those whose rows are `known` are not decoded again."""
        seen: KnownGroups = {} if known is None else known
        for key, row in _range(self._txn, self._tables.groups, b"", b""):
            before = seen.get(key)
            if before is None or before[0] != row:
                before = row, decode_group(int.from_bytes(key, "big"), row)
                if known is not None:
                    known[key] = before
            yield before[1]

    def rows(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows of `groups` or `barriers` as they are, those whose keys begin with `prefix`."""
        return _range(self._txn, getattr(self._tables, table), prefix, prefix)

    def settings(self) -> Settings:
        """What the newest session said about barriers; defaults when none did."""
        row = self._txn.get(MACHINE_KEY, db=self._tables.barriers)
        return Settings() if row is None else decode_machine(row).settings

    def group(self, number: Lsn) -> Group | None:
        """One group."""
        row = self._txn.get(key_lsn(number), db=self._tables.groups)
        return None if row is None else decode_group(number, row)


def _range(
    txn: Transaction, table: Table, start: bytes, prefix: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """Rows from key `start` on that begin with `prefix`."""
    with txn.cursor(table) as cursor:
        found = cursor.set_range(start) if start else cursor.first()
        while found:
            key, row = cursor.item()
            if not key.startswith(prefix):
                return
            yield key, row
            found = cursor.next()


def _numbers(key: bytes) -> tuple[int, int]:
    return int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
