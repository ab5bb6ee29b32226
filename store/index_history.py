"""Histories in the index that stay quick to look up however long they grow.

A history is what happened to one owner (a file region, a directory, a node's links): rows of
deltas in LSN order and, whenever the deltas since the last one outnumber its entries, a *resolved*
row with the outcome. A lookup walks back from its LSN to a resolved row at the most, and the
resolved rows together cost no more than about as much again as the deltas.

Keys are the owner's prefix followed by an LSN: of a resolved row the LSN of the last delta in it,
of a row of deltas the LSN of its first. Resolved rows take in the deltas of their own LSN, so no
two rows share a key. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from store.extents import MAX_SPAN, RESOLVED, decode_header, resolve_due
from store.format import key_lsn
from store.index_env import Cursor, Table, Transaction

StateT = TypeVar("StateT")
ItemT = TypeVar("ItemT", bound=tuple[Any, ...])

NEWEST = (1 << 64) - 1
"""Later than any LSN."""

ROW_DELTAS = 64
"""Deltas in one row at the most: with the header, well below half a page."""

KEEP_ENTRIES = 16
"""Outcomes of at most this many entries are kept in memory from batch to batch."""

KEEP_OWNERS = 1 << 13
"""Owners that are remembered from batch to batch; a few hundred bytes each."""


class Codec(Protocol[StateT, ItemT]):
    """How the outcome and the deltas of a history look. A delta's first member is its LSN."""

    def empty(self) -> StateT:
        """The outcome of no deltas; it has a length, its entries."""

    def apply(self, state: StateT, item: ItemT) -> None:
        """Change an outcome by one delta."""

    def encode_deltas(self, items: Sequence[ItemT], since: int, size: int) -> bytes:
        """A row of deltas."""

    def decode_deltas(self, row: bytes, first: int) -> list[ItemT]:
        """The deltas of a row with key LSN `first`."""

    def encode_state(self, state: StateT) -> bytes:
        """A resolved row."""

    def decode_state(self, row: bytes) -> StateT:
        """The outcome in a resolved row."""


def read_history(
    cursor: Cursor, prefix: bytes, lsn: int, codec: Codec[StateT, ItemT]
) -> tuple[StateT, int]:
    """The outcome of an owner's deltas up to `lsn`, and how many deltas that took.

    A resolved row counts as one.
    """
    length = len(prefix)
    deltas: list[ItemT] = []
    resolved = rows = 0
    state: StateT | None = None
    found = seek_floor(cursor, prefix + key_lsn(lsn))
    while found:
        key, row = cursor.item()
        if key[:length] != prefix:
            break
        if decode_header(row)[0] & RESOLVED:
            resolved = 1
            state = codec.decode_state(row)
            break
        rows += 1
        deltas += codec.decode_deltas(row, int.from_bytes(key[length:], "big"))
        found = cursor.prev()
    if rows > 1:
        deltas.sort(key=_lsn_of)
    if state is None:
        state = codec.empty()
    for item in deltas:
        if item[0] > lsn:
            break
        codec.apply(state, item)
    return state, resolved + len(deltas)


def _lsn_of(item: tuple[Any, ...]) -> int:
    lsn: int = item[0]
    return lsn


def seek_floor(cursor: Cursor, key: bytes) -> bool:
    """Move to the last row with a key of at most `key`; False when there is none."""
    if not cursor.set_range(key):
        return cursor.last()
    return cursor.key() == key or cursor.prev()


class _Tail(Generic[StateT, ItemT]):
    """The end of one owner's history, as the writer remembers it."""

    __slots__ = ("fresh", "open_lsn", "pending", "prefix", "since", "size", "state")

    def __init__(self, prefix: bytes, since: int, size: int, state: StateT | None) -> None:
        self.prefix = prefix
        self.since = since
        """Deltas since the last resolved row, `pending` ones included."""
        self.size = size
        """Entries of the last resolved row."""
        self.state = state
        """Outcome up to before `fresh`; None when only the index knows it."""
        self.fresh: list[ItemT] = []
        """Deltas that are in the index but not in `state` (none while that is None)."""
        self.pending: list[ItemT] = []
        """Deltas of this batch, neither in the index nor in `state`."""
        self.open_lsn = 0
        """LSN of a resolved row that `state` holds and that is still to be written; 0: none."""


class HistoryWriter(Generic[StateT, ItemT]):
    """Writes histories of one table. `flush` at the end of each batch; `forget` after an abort."""

    def __init__(self, table: Table, codec: Codec[StateT, ItemT]) -> None:
        self._table = table
        self._codec = codec
        self._known: dict[bytes, _Tail[StateT, ItemT]] = {}
        self._dirty: dict[bytes, _Tail[StateT, ItemT]] = {}
        self._late: dict[tuple[bytes, int], list[ItemT]] = {}
        self._rows: dict[bytes, bytes] = {}
        self._txn: Transaction | None = None

    def begin(self, txn: Transaction) -> None:
        """Work in this write transaction from now on."""
        self._txn = txn

    def append(self, owner: bytes, item: ItemT, whole: bool = False, new: bool = False) -> None:
        """A delta that is later than all of the owner's.

        `whole`: after it nothing older can be seen. `new`: the owner has no history yet.
        """
        tail = self._dirty.get(owner) or self._take(owner, new)
        if tail.open_lsn:
            if tail.open_lsn == item[0]:
                assert tail.state is not None
                self._codec.apply(tail.state, item)
                return
            self._write_resolved(tail)
        since = tail.since + 1
        if whole or resolve_due(since, tail.size):
            if self._late:
                # What was inserted may have changed again since: only rows from before have to
                # learn of it, so it goes in before there are newer ones.
                self._insert_late()
                tail = self._dirty.get(owner) or self._take(owner, False)
            self._resolve(tail, item, whole)
        else:
            tail.since = since
            tail.pending.append(item)

    def insert(self, owner: bytes, lsn: int, item: ItemT) -> None:
        """A delta in the past, at an LSN where the owner has no ordinary delta.

        What it is about (the name) must have no delta at a later LSN.
        """
        self._late.setdefault((owner, lsn), []).append(item)

    def put_first(self, owner: bytes, lsn: int, state: StateT) -> None:
        """The outcome at an LSN before all of the owner's; nothing happens if it is there."""
        self._release(owner)
        self._write_rows()
        assert self._txn is not None
        row = self._codec.encode_state(state)
        self._txn.put(owner + key_lsn(lsn), row, overwrite=False, db=self._table)

    def holds(self, owner: bytes) -> bool:
        """Whether the owner has anything at all that shows: False after a `whole` emptiness."""
        tail = self._dirty.get(owner) or self._take(owner, False)
        return bool(tail.since or tail.size or tail.open_lsn)

    def flush(self) -> None:
        """Write everything that is pending."""
        if self._late:
            self._insert_late()
        for owner, tail in self._dirty.items():
            self._write_tail(tail)
            if tail.state is not None and len(tail.state) > KEEP_ENTRIES:  # type: ignore[arg-type]
                tail.state = None
                tail.fresh = []
            self._known.pop(owner, None)
            self._known[owner] = tail
        self._dirty = {}
        self._write_rows()
        for oldest in list(islice(self._known, max(len(self._known) - KEEP_OWNERS, 0))):
            del self._known[oldest]

    def forget(self) -> None:
        """Drop everything that is pending or remembered."""
        self._known, self._dirty, self._late, self._rows = {}, {}, {}, {}
        self._txn = None

    def read(self, owner: bytes, lsn: int = NEWEST) -> StateT:
        """The outcome up to `lsn`. Flushes."""
        self.flush()
        return self._read_written(owner, lsn)

    def _read_written(self, owner: bytes, lsn: int) -> StateT:
        assert self._txn is not None
        with self._txn.cursor(self._table) as cursor:
            return read_history(cursor, owner, lsn, self._codec)[0]

    def _take(self, owner: bytes, new: bool) -> _Tail[StateT, ItemT]:
        """The owner's tail, made dirty."""
        tail = self._known.get(owner)
        if tail is None:
            tail = _Tail(owner, 0, 0, self._codec.empty()) if new else self._load(owner)
        self._dirty[owner] = tail
        return tail

    def _load(self, owner: bytes) -> _Tail[StateT, ItemT]:
        assert self._txn is not None
        if self._rows:
            self._write_rows()
        with self._txn.cursor(self._table) as cursor:
            found = seek_floor(cursor, owner + key_lsn(NEWEST))
            if not found or cursor.key()[: len(owner)] != owner:
                return _Tail(owner, 0, 0, self._codec.empty())
            _, since, size = decode_header(cursor.value())
        return _Tail(owner, since, size, None)

    def _resolve(self, tail: _Tail[StateT, ItemT], item: ItemT, whole: bool) -> None:
        """Make the outcome after `item` the tail's; it is written when its LSN is over."""
        if whole:
            state = self._codec.empty()
        else:
            state = (
                tail.state if tail.state is not None else self._read_written(tail.prefix, NEWEST)
            )
            for older in tail.fresh:
                self._codec.apply(state, older)
            for older in tail.pending:
                self._codec.apply(state, older)
        self._codec.apply(state, item)
        tail.state = state
        tail.fresh = []
        while tail.pending and tail.pending[-1][0] == item[0]:
            tail.pending.pop()
            tail.since -= 1
        self._write_pending(tail)
        tail.pending = []
        tail.open_lsn = item[0]

    def _write_resolved(self, tail: _Tail[StateT, ItemT]) -> None:
        assert tail.state is not None
        self._rows[tail.prefix + key_lsn(tail.open_lsn)] = self._codec.encode_state(tail.state)
        tail.size = len(tail.state)  # type: ignore[arg-type]
        tail.since = 0
        tail.open_lsn = 0

    def _write_tail(self, tail: _Tail[StateT, ItemT]) -> None:
        if tail.open_lsn:
            self._write_resolved(tail)
        elif tail.pending:
            self._write_pending(tail)
            if tail.state is not None:
                tail.fresh += tail.pending
            tail.pending = []

    def _write_pending(self, tail: _Tail[StateT, ItemT]) -> None:
        since = tail.since - len(tail.pending)
        for row in _rows_of(tail.pending):
            since += len(row)
            self._rows[tail.prefix + key_lsn(row[0][0])] = self._codec.encode_deltas(
                row, since, tail.size
            )

    def _write_rows(self) -> None:
        if self._rows:
            assert self._txn is not None
            with self._txn.cursor(self._table) as cursor:
                cursor.putmulti(sorted(self._rows.items()))
            self._rows = {}

    def _insert_late(self) -> None:
        """Bring the late deltas into the rows at their LSNs and into the resolved ones after."""
        late, self._late = self._late, {}
        for owner, _ in late:
            self._release(owner)
        self._write_rows()
        for (owner, lsn), items in late.items():
            self._insert_at(owner, lsn, items)

    def _release(self, owner: bytes) -> None:
        """Forget an owner's tail; what is pending becomes rows."""
        tail = self._dirty.pop(owner, None)
        if tail is not None:
            self._write_tail(tail)
        self._known.pop(owner, None)

    def _insert_at(self, owner: bytes, lsn: int, items: list[ItemT]) -> None:
        assert self._txn is not None
        changed: dict[bytes, bytes] = {}
        first = owner + key_lsn(lsn)
        row = self._txn.get(first, db=self._table)
        if row is None:
            changed[first] = self._codec.encode_deltas(items, *self._counts_with(first, items))
        elif not decode_header(row)[0] & RESOLVED:
            _, since, size = decode_header(row)
            old = self._codec.decode_deltas(row, lsn)
            merged = sorted(old + items, key=_lsn_of)
            changed[first] = self._codec.encode_deltas(merged, since + len(items), size)
        with self._txn.cursor(self._table) as cursor:
            found = cursor.set_range(first)
            while found and cursor.key()[: len(owner)] == owner:
                key, row = cursor.item()
                if decode_header(row)[0] & RESOLVED:
                    changed[key] = self._codec.encode_state(self._with(row, items))
                found = cursor.next()
            cursor.putmulti(sorted(changed.items()))

    def _counts_with(self, key: bytes, items: list[ItemT]) -> tuple[int, int]:
        """What the header of a new row of deltas at `key` says."""
        owner = key[:-8]
        assert self._txn is not None
        with self._txn.cursor(self._table) as cursor:
            if seek_floor(cursor, key) and cursor.key()[:-8] == owner:
                _, since, size = decode_header(cursor.value())
                return since + len(items), size
        return len(items), 0

    def _with(self, row: bytes, items: Iterable[ItemT]) -> StateT:
        state = self._codec.decode_state(row)
        for item in items:
            self._codec.apply(state, item)
        return state


def _rows_of(items: list[ItemT]) -> Iterable[list[ItemT]]:
    """Cut deltas into rows of at most ROW_DELTAS.

    No two rows begin with the same LSN: an op makes two deltas of an owner at the most.
    """
    start = 0
    while start < len(items):
        stop = min(start + ROW_DELTAS, len(items))
        while items[stop - 1][0] - items[start][0] >= MAX_SPAN:
            stop -= 1
        yield items[start:stop]
        start = stop
