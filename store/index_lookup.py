"""Lookups in one transaction of the index: floor seeks and the short walks after them.

Used by the writer on its own transaction and by snapshots; one thread at a time. It knows rows,
not what they mean to a person: `journal` does.
"""

from __future__ import annotations

from collections.abc import Iterator

from store.extents import RegionCodec, RegionPiece
from store.format import key_extent, key_lsn, key_name_lsn, key_node_lsn
from store.index_env import (
    ACTOR_PREFIX,
    BASELINE_KEY,
    CLOCK_PREFIX,
    FOLD_PREFIX,
    GAP_PREFIX,
    STATE_KEY,
    Cursor,
    Table,
    Tables,
    Transaction,
)
from store.index_history import NEWEST, read_history, seek_floor
from store.index_listing import ListingCodec
from store.index_rows import (
    FULL,
    OP_ROW,
    Baseline,
    BaseState,
    BatchPlace,
    IndexState,
    NodeState,
    OpMeta,
    Point,
    decode_base,
    decode_full,
    op_in_row,
    touch_at,
    touches_in_row,
)
from store.types import Lsn, NodeId, TimeNs

REMOVED = b"\0"
"""Value of an extended attribute's row from which on it is gone."""

HELD = b"\1"
"""First byte of the value of any other row of an extended attribute."""

_listing = ListingCodec()
_regions = RegionCodec()


class Lookup:
    """Answers from one transaction."""

    def __init__(self, txn: Transaction, tables: Tables) -> None:
        self._txn = txn
        self._tables = tables
        self._cursors: dict[int, Cursor] = {}
        self._op_row: tuple[int, int, bytes] = (0, 0, b"")
        """(first LSN, LSN after the last, value) of the row that was used last."""
        self._batch: BatchPlace | None = None
        self.rows_visited = 0
        """Rows and deltas looked at: what the answers cost."""

    def _cursor(self, table: Table) -> Cursor:
        cursor = self._cursors.get(id(table))
        if cursor is None:
            cursor = self._cursors[id(table)] = self._txn.cursor(table)
        return cursor

    def _floor(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        """The row with the highest key up to `key` that differs in the last 8 bytes at most."""
        self.rows_visited += 1
        cursor = self._cursor(table)
        if not seek_floor(cursor, key):
            return None
        found = cursor.item()
        return found if found[0][:-8] == key[:-8] else None

    def _range(self, table: Table, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows from key `start` on that begin with `prefix`, by a cursor of their own."""
        cursor = self._txn.cursor(table)
        found = cursor.set_range(start)
        while found:
            key, value = cursor.item()
            if not key.startswith(prefix):
                return
            self.rows_visited += 1
            yield key, value
            found = cursor.next()

    # --- ops and batches -------------------------------------------------------------------------

    def index_state(self) -> IndexState:
        """Where the index stands."""
        row = self._txn.get(STATE_KEY, db=self._tables.meta)
        return IndexState() if row is None else IndexState.decode(row)

    def op(self, lsn: int) -> OpMeta | None:
        """One op."""
        first, stop, row = self._op_row
        if not first <= lsn < stop:
            found = self._floor(self._tables.ops, key_lsn(lsn))
            if found is None:
                return None
            first, row = _number(found[0]), found[1]
            stop = first + len(row) // OP_ROW.size
            self._op_row = (first, stop, row)
            if lsn >= stop:
                return None
        return op_in_row(row, lsn - first, lsn)

    def ops(self, start: int, stop: int) -> Iterator[OpMeta]:
        """The ops of LSN `[start, stop)`."""
        lsn = start
        if self.op(start) is None:
            following = next(self._range(self._tables.ops, key_lsn(start), b""), None)
            if following is None:
                return
            lsn = _number(following[0])
        while lsn < stop and (found := self.op(lsn)) is not None:
            yield found
            lsn += 1

    def baseline(self) -> Baseline | None:
        """Where the history of a copy begins; None: with its first op."""
        row = self._txn.get(BASELINE_KEY, db=self._tables.meta)
        return None if row is None else Baseline.decode(row)

    def actor_lsn(self, lsn: int) -> Lsn:
        """The op here that says what the ACTOR op `lsn` of before a baseline said; 0: none does."""
        row = self._txn.get(ACTOR_PREFIX + key_lsn(lsn), db=self._tables.meta)
        return Lsn(0 if row is None else _number(row))

    def first_lsn(self) -> Lsn:
        """LSN of the oldest op, of history or before it; 0 if there is none."""
        cursor = self._cursor(self._tables.ops)
        return Lsn(_number(cursor.key())) if cursor.first() else Lsn(0)

    def time_of(self, lsn: int) -> TimeNs:
        """Time of an op that the index holds."""
        op = self.op(lsn)
        assert op is not None, lsn
        return op.time_ns

    def batch_of(self, lsn: int) -> BatchPlace | None:
        """The batch that holds an op."""
        batch = self._batch
        if batch is None or not batch.first_lsn <= lsn <= batch.last_lsn:
            found = self._floor(self._tables.batches, key_lsn(lsn))
            if found is None:
                return None
            batch = BatchPlace.decode(_number(found[0]), found[1])
            if lsn > batch.last_lsn:
                return None
            self._batch = batch
        return batch

    def batches(self, start: int) -> Iterator[BatchPlace]:
        """Batches from the one that holds LSN `start` on."""
        first = self.batch_of(start)
        key = key_lsn(start if first is None else first.first_lsn)
        for found, row in self._range(self._tables.batches, key, b""):
            yield BatchPlace.decode(_number(found), row)

    def marks(self, start: int) -> Iterator[tuple[Lsn, TimeNs, bytes]]:
        """(LSN, time, name) of marks from LSN `start` on."""
        for key, row in self._range(self._tables.marks, key_lsn(start), b""):
            yield Lsn(_number(key)), TimeNs(int.from_bytes(row[:8], "little")), row[8:]

    def mark_points(self, start: int, stop: int) -> Iterator[Point]:
        """Marks of LSN `[start, stop)` as recovery points."""
        for lsn, time_ns, name in self.marks(start):
            if lsn >= stop:
                return
            yield Point(lsn, time_ns, "mark", Lsn(0), "set by name", text_of(name), Lsn(0))

    def crash_points(self, start: int, stop: int) -> Iterator[Point]:
        """The ends of batches that lie in LSN `[start, stop)`."""
        for batch in self.batches(start):
            lsn, time_ns = batch.last_lsn, batch.last_time_ns
            if lsn >= stop:
                return
            yield Point(lsn, time_ns, "crash", Lsn(0), "end of a batch", "", Lsn(0))

    def gaps(self) -> Iterator[tuple[Lsn, int, bytes]]:
        """(LSN, wall time at which it began, payload) of every GAP op."""
        for key, row in self._range(self._tables.meta, GAP_PREFIX, GAP_PREFIX):
            yield Lsn(_lsn(key)), int.from_bytes(row[:8], "little"), row[8:]

    def folds(self, start: int) -> Iterator[bytes]:
        """The `ops.Folded` of every fold that ends behind LSN `start`, in order."""
        for _, row in self._range(self._tables.meta, FOLD_PREFIX + key_lsn(start + 1), FOLD_PREFIX):
            yield row

    def lsn_by_clock(self, wall_ns: int) -> Lsn:
        """The newest op of those that tell of a machine's clock behind the log's, and that it said
        `wall_ns` at the most; 0 for none."""
        cursor = self._cursor(self._tables.meta)
        key = CLOCK_PREFIX + key_lsn(min(wall_ns, NEWEST))
        if not seek_floor(cursor, key) or not cursor.key().startswith(CLOCK_PREFIX):
            return Lsn(0)
        return Lsn(_number(cursor.value()))

    # --- nodes -----------------------------------------------------------------------------------

    def node_at(self, node: int, lsn: int) -> tuple[NodeState, int] | None:
        """State of a node at `lsn`, even with no links left, and the LSN of its full row."""
        found = self._floor(self._tables.nodes, key_node_lsn(node, lsn))
        if found is None:
            return None
        key, row = found
        if row[0] == FULL:
            changed = _lsn(key)
            return decode_full(node, changed, row), changed
        full_lsn, changed, size = touch_at(row, _lsn(key), lsn)
        self.rows_visited += 1
        full = self._txn.get(key_node_lsn(node, full_lsn), db=self._tables.nodes)
        assert full is not None, (node, full_lsn)
        time_ns = self.time_of(changed)
        state = decode_full(node, changed, full)
        return state._replace(size_bytes=size, mtime_ns=time_ns, ctime_ns=time_ns), full_lsn

    def node_ops(self, node: int, start: int, stop: int) -> Iterator[Lsn]:
        """LSNs in `[start, stop)` at which a node has a version."""
        prefix = key_lsn(node)
        found = self._floor(self._tables.nodes, key_node_lsn(node, start))
        first = key_node_lsn(node, start) if found is None else found[0]
        for key, row in self._range(self._tables.nodes, first, prefix):
            lsn = _lsn(key)
            if lsn >= stop:
                return
            lsns = [lsn] if row[0] == FULL else touches_in_row(row, lsn)[0]
            yield from (Lsn(lsn) for lsn in lsns if start <= lsn < stop)

    def node_by_inode(self, inode: int) -> NodeId | None:
        """The adopted node of a backing inode."""
        row = self._txn.get(key_lsn(inode), db=self._tables.inodes)
        return None if row is None else NodeId(_number(row))

    def base(self, node: int, since: int | None = None) -> BaseState | None:
        """The base of a node: its newest, or that of one `since`."""
        self.rows_visited += 1
        if since is not None:
            row = self._txn.get(key_node_lsn(node, since), db=self._tables.bases)
            return None if row is None else decode_base(since, row)
        found = self._floor(self._tables.bases, key_node_lsn(node, NEWEST))
        return None if found is None else decode_base(_lsn(found[0]), found[1])

    # --- names -----------------------------------------------------------------------------------

    def name_at(self, directory: int, name: bytes, lsn: int) -> NodeId | None:
        """What a name is at `lsn`: 0 for nothing, None when it has no row that old."""
        row = self.name_row_at(directory, name, lsn)
        return None if row is None else row[1]

    def name_row_at(self, directory: int, name: bytes, lsn: int) -> tuple[Lsn, NodeId] | None:
        """(LSN, node or 0) of the row of a name that counts at `lsn`."""
        found = self._floor(self._tables.names, key_name_lsn(directory, name, lsn))
        return None if found is None else (Lsn(_lsn(found[0])), NodeId(_number(found[1])))

    def has_name(self, directory: int, name: bytes) -> bool:
        """Whether the name has a row at any LSN."""
        return self.name_at(directory, name, NEWEST) is not None

    def name_rows(self, directory: int, name: bytes) -> Iterator[tuple[Lsn, NodeId]]:
        """(LSN, node) of every row of a name."""
        prefix = key_name_lsn(directory, name, 0)
        for key, row in self._range(self._tables.names, prefix, prefix[:-8]):
            yield Lsn(_lsn(key)), NodeId(_number(row))

    def all_names(self, directory: int) -> Iterator[bytes]:
        """Every name that the directory ever had."""
        prefix = key_lsn(directory)
        return (key[8:-1] for key in self._skip(self._tables.names, prefix, prefix))

    def all_name_rows(self, directory: int) -> Iterator[tuple[bytes, Lsn, NodeId]]:
        """(name, LSN, node) of every row of every name of a directory."""
        prefix = key_lsn(directory)
        for key, row in self._range(self._tables.names, prefix, prefix):
            yield key[8:-9], Lsn(_lsn(key)), NodeId(_number(row))

    def dir_complete(self, directory: int) -> bool:
        """Whether the journal has all names of a directory that it knows."""
        base = self.base(directory)
        if base is not None:
            return base.complete
        return self._floor(self._tables.nodes, key_node_lsn(directory, NEWEST)) is not None

    def listing(self, directory: int, lsn: int) -> dict[bytes, int]:
        """Names of a complete directory at `lsn`."""
        cursor = self._cursor(self._tables.dirlog)
        state, visited = read_history(cursor, key_lsn(directory), lsn, _listing)
        self.rows_visited += visited
        return state

    def links(self, node: int, lsn: int) -> dict[bytes, int]:
        """Links of a node at `lsn` (see `index_listing`)."""
        cursor = self._cursor(self._tables.links)
        state, visited = read_history(cursor, key_lsn(node), lsn, _listing)
        self.rows_visited += visited
        return state

    def xattrs(self, node: int, lsn: int) -> dict[bytes, bytes]:
        """Extended attributes of a node at `lsn`."""
        found: dict[bytes, bytes] = {}
        for name in self._skip(self._tables.xattrs, key_lsn(node), key_lsn(node)):
            row = self._floor(self._tables.xattrs, name + key_lsn(lsn))
            if row is not None and row[1] != REMOVED:
                found[name[8:-1]] = row[1][1:]
        return found

    def _skip(self, table: Table, start: bytes, prefix: bytes) -> Iterator[bytes]:
        """The distinct keys without their LSNs, by one seek each."""
        cursor = self._txn.cursor(table)
        found = cursor.set_range(start)
        while found and cursor.key().startswith(prefix):
            self.rows_visited += 1
            owner = cursor.key()[:-8]
            yield owner
            found = cursor.set_range(owner + key_lsn(NEWEST))

    # --- content ---------------------------------------------------------------------------------

    def region(self, node: int, generation: int, region: int, lsn: int) -> list[RegionPiece]:
        """Pieces of one region at `lsn`."""
        cursor = self._cursor(self._tables.extents)
        prefix = key_extent(node, generation, region, 0)[:-8]
        pieces, visited = read_history(cursor, prefix, lsn, _regions)
        self.rows_visited += visited
        return pieces

    def regions(self, node: int, generation: int, start: int, stop: int) -> Iterator[int]:
        """Numbers in `[start, stop)` of the regions that have a row."""
        first = key_extent(node, generation, start, 0)
        for owner in self._skip(self._tables.extents, first, first[:16]):
            region = int.from_bytes(owner[16:20], "big")
            if region >= stop:
                return
            yield region

    def region_based(self, node: int, since: int, region: int) -> bool:
        """Whether the base content of a region is there."""
        return self._floor(self._tables.extents, key_extent(node, since, region, since)) is not None


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _lsn(key: bytes) -> int:
    return int.from_bytes(key[-8:], "big")


def text_of(name: bytes) -> str:
    """A mark's name."""
    return name.decode("utf-8", "surrogateescape")
