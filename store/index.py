"""Writing the index: batches of ops become rows that make the past quick to read.

One writer at a time in one process, the indexer's. `begin`, then `apply` each batch after its
segment bytes are durable, then `commit`: after a crash the index is as of the last commit. It can
be thrown away and made again from the segments.

    index.py           order of work, the ops themselves, the hot path of writes
    index_tree.py      what each kind of op does
    index_nodes.py     attributes            index_content.py   bytes of files
    index_history.py   histories with bounded lookups (content, listings, links)
    index_lookup.py    reading               index_env.py       LMDB and the tables
    index_points.py    recovery points       index_baseline.py  where the history of a copy begins
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from store import durable
from store.errors import InconsistentLog
from store.format import Kind, key_lsn
from store.index_env import STATE_KEY, IndexEnvironment, Transaction, mapped_errors
from store.index_lookup import Lookup
from store.index_points import PointWriter
from store.index_rows import ABORTED, OP_ROW, OPS_PER_ROW, Baseline, BatchPlace, IndexState
from store.index_tree import TreeWriter
from store.ops import Op, aborted_in, begins_history
from store.types import Lsn, NodeId, TimeNs
from store.volume import Store

__all__ = ["BatchPlace", "IndexWriter"]

_WRITE = int(Kind.WRITE)


class IndexWriter:
    """The index, open for writing. A context manager; leaving it drops what is not committed."""

    def __init__(self, store: Store) -> None:
        self._env = IndexEnvironment(store.index_dir, write=True)
        self._env.drop_stale_readers()
        self._points = PointWriter(self._env.tables)
        self._tree = TreeWriter(self._env.tables, self._points)
        self._txn: Transaction | None = None
        self._state = self._committed_state()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def indexed_lsn(self) -> Lsn:
        """LSN of the newest op that was applied; 0 when there is none."""
        return self._state.indexed_lsn

    @property
    def last_digest(self) -> bytes:
        """Digest of the newest batch that was applied; zeros when there is none."""
        return self._state.last_digest

    @property
    def segment_first_lsn(self) -> Lsn:
        """First LSN of the segment that holds the newest batch; 0 when there is none."""
        return self._state.segment_first_lsn

    @property
    def segment_end(self) -> int:
        """Where the newest batch ends in its segment."""
        return self._state.segment_end

    @property
    def state(self) -> IndexState:
        """All of the above, and totals."""
        return self._state

    def baseline(self) -> Baseline | None:
        """Where the history of a copy begins, as of the last commit."""
        with self._env.begin() as txn:
            return Lookup(txn, self._env.tables).baseline()

    def begin(self) -> None:
        """Start a transaction; nothing happens when one is open."""
        if self._txn is None:
            self._txn = self._env.begin(write=True)
            self._lookup = Lookup(self._txn, self._env.tables)
            self._tree.begin(self._txn, self._lookup)
            self._points.begin(self._txn, self._lookup)

    def apply(self, ops: Sequence[Op], where: BatchPlace) -> None:
        """Take in one batch, whose bytes are at `where`.

        InconsistentLog when the ops don't follow the indexed ones or refer to unknown nodes;
        StoreFull. After any exception the transaction is gone: back to the last commit.
        """
        assert self._txn is not None, "begin first"
        with self._all_or_nothing():
            assert ops[0].lsn == where.first_lsn, "the place of another batch"
            describes = self._tree.baseline.place(ops, self._state.indexed_lsn)
            if begins_history(ops[0]):
                self._tree.baseline.start(ops[0], ops[-1].lsn)
            aborted = aborted_in(ops)
            self._put_ops(ops, aborted)
            if describes:
                self._describe(ops)
            else:
                self._points.take(ops, aborted)
                self._change_tree(ops, aborted)
            self._tree.flush()
            self._finish_batch(ops, where)

    def commit(self) -> None:
        """Make everything applied durable. StoreFull leaves the last commit."""
        if self._txn is None:
            return
        with self._all_or_nothing():
            self._txn.put(STATE_KEY, self._state.encode(), db=self._env.tables.meta)
            durable.commit(Path(self._env.path), self._txn.commit)
            self._txn = None

    def abort(self) -> None:
        """Back to the last commit."""
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        self._tree.forget()
        self._points.forget()
        self._state = self._committed_state()

    def close(self) -> None:
        """Drop what is not committed and let go of the index. Closing twice is fine."""
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        self._env.close()

    def _committed_state(self) -> IndexState:
        with self._env.begin() as txn:
            return Lookup(txn, self._env.tables).index_state()

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        try:
            with mapped_errors(self._env.path):
                yield
        except BaseException:
            self.abort()
            raise

    def _put_ops(self, ops: Sequence[Op], aborted: set[int]) -> None:
        """The rows of the ops themselves."""
        size, pack = OP_ROW.size, OP_ROW.pack_into
        data = bytearray(size * len(ops))
        at = position = 0
        for lsn, time_ns, kind, flags, node, offset, actor, _, payload in ops:
            length = len(payload)
            if lsn in aborted:
                flags |= ABORTED
            pack(data, at, kind, flags, length, time_ns, node, offset, actor, position)
            at += size
            position += length
        first, step = ops[0].lsn, size * OPS_PER_ROW
        assert self._txn is not None
        with self._txn.cursor(self._env.tables.ops) as cursor:
            cursor.putmulti(
                [
                    (key_lsn(first + start // size), bytes(data[start : start + step]))
                    for start in range(0, len(data), step)
                ],
                append=True,
            )

    def _describe(self, ops: Sequence[Op]) -> None:
        for op in ops:
            with _named(op.lsn):
                self._tree.baseline.apply(op)

    def _change_tree(self, ops: Sequence[Op], aborted: set[int]) -> None:
        nodes, handlers = self._tree.nodes, self._tree.handlers
        used, get, write = nodes.used, nodes.get, self._tree.content.write
        for op in ops:
            lsn, time_ns, kind, _, number, offset, _, _, payload = op
            if lsn in aborted:
                continue
            try:
                if kind != _WRITE:
                    if kind in handlers:
                        handlers[kind](op)
                    continue
                node = used.get(number) or get(number)
                length = len(payload)
                if offset + length > node.size_bytes:
                    node.size_bytes = offset + length
                node.touch(lsn, time_ns)
                write(number, node.generation, lsn, offset, length)
            except InconsistentLog as error:
                raise InconsistentLog(f"LSN {lsn}: {error}") from error
            except (ValueError, struct.error) as error:
                raise InconsistentLog(f"LSN {lsn} has an impossible payload: {error}") from error

    def _finish_batch(self, ops: Sequence[Op], where: BatchPlace) -> None:
        assert self._txn is not None
        self._txn.put(
            key_lsn(where.first_lsn), where.encode(), append=True, db=self._env.tables.batches
        )
        state = self._state
        first_time_ns = TimeNs(0) if begins_history(ops[0]) else state.first_time_ns
        self._state = IndexState(
            indexed_lsn=where.last_lsn,
            max_node=NodeId(max(state.max_node, *(op.node for op in ops))),
            segment_first_lsn=where.segment_first_lsn,
            segment_end=where.offset + where.total_bytes,
            payload_bytes=state.payload_bytes + where.payload_bytes,
            segment_bytes=state.segment_bytes + where.total_bytes,
            first_time_ns=first_time_ns or where.first_time_ns,
            last_time_ns=where.last_time_ns,
            last_digest=where.digest,
        )


@contextlib.contextmanager
def _named(lsn: int) -> Iterator[None]:
    """Errors say which op it was."""
    try:
        yield
    except InconsistentLog as error:
        raise InconsistentLog(f"LSN {lsn}: {error}") from error
    except (ValueError, struct.error) as error:
        raise InconsistentLog(f"LSN {lsn} has an impossible payload: {error}") from error
