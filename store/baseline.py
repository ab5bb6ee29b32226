"""Making a store whose history begins in the midst of a volume's: at its baseline.

Duty: write the journal of such a store from what describes the tree at that LSN, then the site's
own batches behind it: the same LSNs, the same NodeIds, the same chain of digests. Whatever comes in
is checked (`store.batch`, `store.index`). Blocking; one thread. It knows nothing of where all this
comes from.

    LSN 1 to n      baseline batches, n < L
    LSN L ...       the BASELINE op, and what follows on LSN L in the site's batch that holds it
    ...             the site's batches as they are

Until `finish` has returned, a file in the store's folder says that what is there counts for
nothing: whatever cut it short, `start` begins anew. From then on, what is committed stays.
"""

from __future__ import annotations

import dataclasses
import os
from types import TracebackType
from typing import Final, Self

import xxhash

from store import batch, durable
from store.appender import Appender
from store.baseline_state import MAX_ENTRY_BYTES, Entry, State, decode_state, encode_entries
from store.baseline_state import Kind as Stated
from store.batch import BatchHeader, EncodedBatch, encode_batch
from store.errors import (
    BaselineError,
    BaselineTooLong,
    InconsistentLog,
    IndexStale,
    VolumeExists,
)
from store.format import CHUNK_BYTES, MAX_PAYLOAD_BYTES, Flag, Kind
from store.index_rows import ABORTED
from store.ops import Adopted, Folded, Op, encode_entry
from store.segment import SEGMENT_BYTES, list_segments
from store.types import NO_LSN, NO_NODE, Lsn, NodeId, TimeNs
from store.volume import Store, take_lock

NOTE_NAME: Final = "baseline.new"
"""In the store's folder while the baseline is not whole."""

BATCH_BYTES: Final = 8 << 20
BATCH_OPS: Final = 1 << 16
"""Payload and ops of a baseline batch, about."""

ROWS_BYTES: Final = MAX_PAYLOAD_BYTES - MAX_ENTRY_BYTES
"""Payload from which on an op with rows of inference takes no more of them."""

_hash = xxhash.xxh3_64_intdigest


class _Description:
    """Ops that describe the tree at `lsn`, numbered from 1 on, and the data that is to be one."""

    def __init__(self, lsn: Lsn, time_ns: TimeNs) -> None:
        self.lsn = lsn
        self.time_ns = time_ns
        self.ops: list[Op] = []
        self._next = 1
        self._bytes = 0
        self._node = NO_NODE
        self._start = 0
        self._data = bytearray()
        self.add(Kind.BASELINE, NO_NODE, lsn)

    @property
    def full(self) -> bool:
        """There are enough ops for a batch."""
        return self._bytes >= BATCH_BYTES or len(self.ops) >= BATCH_OPS

    def add(
        self, kind: Kind, node: NodeId, offset: int, payload: bytes = b"", flags: int = 0
    ) -> None:
        """One more op. They lie right before the beginning in time, too."""
        if self._next >= self.lsn:
            raise BaselineTooLong(
                f"it takes more ops to describe the tree at LSN {self.lsn} than there were by then"
            )
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise BaselineError(f"node {node} has {len(payload)} bytes of attributes")
        time_ns = TimeNs(self.time_ns - self.lsn + self._next)
        flags |= int(Flag.BASELINE)
        head = Lsn(self._next), time_ns, int(kind), flags, node, offset, NO_LSN
        self.ops.append(Op(*head, _hash(payload), payload))
        self._next += 1
        self._bytes += len(payload)

    def add_node(self, node: NodeId, adopted: Adopted, flags: int) -> None:
        """Its extended attributes are in ops of their own if all of them together are too long."""
        payload = adopted.encode()
        if len(payload) <= MAX_PAYLOAD_BYTES:
            self.add(Kind.ADOPT, node, self.lsn, payload, flags)
            return
        bare = dataclasses.replace(adopted, xattrs=())
        self.add(Kind.ADOPT, node, self.lsn, bare.encode(), flags)
        for name, value in adopted.xattrs:
            self.add(Kind.SETXATTR, node, len(name), name + value)

    def add_data(self, node: NodeId, offset: int, data: bytes | memoryview) -> None:
        """Content; what follows on what came before goes into the same op, up to a chunk."""
        view = memoryview(data)
        while view:
            if (node, offset) != (self._node, self._start + len(self._data)):
                self.end_data()
                self._node, self._start = node, offset
            taken = min(len(view), CHUNK_BYTES - len(self._data))
            self._data += view[:taken]
            view, offset = view[taken:], offset + taken
            if len(self._data) == CHUNK_BYTES:
                self.end_data()

    def end_data(self) -> None:
        """The content that came last is an op of its own."""
        if self._data:
            self.add(Kind.BASE, self._node, self._start, bytes(self._data))
        self._node, self._start = NO_NODE, 0
        self._data.clear()

    def take(self) -> list[Op]:
        """The ops so far, which are forgotten here."""
        ops, self.ops, self._bytes = self.ops, [], 0
        return ops


class BaselineWriter:
    """The journal of a store that begins with a baseline. A context manager.

    After any exception it is of no use any more: close it, and open it again.
    """

    def __init__(self, store: Store, lock_fd: int, segment_bytes: int) -> None:
        self._store = store
        self._lock_fd = lock_fd
        self._segment_bytes = segment_bytes
        self._note = store.root / NOTE_NAME
        if self._note.exists():
            durable.make_dir(store.index_dir)  # it may have been cut while it was emptied
        self._appender = Appender(store, segment_bytes)
        self._description: _Description | None = None
        self._last_ns = 0
        self.begun = False
        """The baseline is whole and on disk: batches can be appended."""

    @classmethod
    def open(cls, store: Store, segment_bytes: int = SEGMENT_BYTES) -> Self:
        """A new store, or one that was begun here. StoreBusy, StoreFull, DamagedError.

        VolumeExists when its history began otherwise; IndexStale when its index is gone.
        """
        hint = "something else writes this store: wait for it"
        lock_fd = take_lock(store.indexer_lock_path, hint)
        try:
            writer = cls(store, lock_fd, segment_bytes)
        except BaseException:
            os.close(lock_fd)
            raise
        try:
            writer._look()
        except BaseException:
            writer.close()
            raise
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is not committed, and let others write. Closing twice is fine."""
        self._appender.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def position(self) -> tuple[Lsn, bytes]:
        """The LSN that comes next, and the digest of the site's batch before it."""
        assert self.begun, "there is no position before the beginning"
        return self._appender.position()

    def _look(self) -> None:
        """Is the baseline there, or a part of one, or something else?"""
        index = self._appender.index
        baseline, noted = index.baseline(), self._note.exists()
        if baseline is not None and baseline.whole:
            self._appender.stand()
            self._last_ns = index.state.last_time_ns
            self.begun = True
            if noted:
                durable.unlink(self._note)
        elif noted or baseline is not None:
            return
        elif index.indexed_lsn:
            raise VolumeExists(
                f"{self._store.root} has a history from its first op on", "name another --store"
            )
        elif list_segments(self._store):
            raise IndexStale(f"{self._store.root} has segments and no index")

    # --- the tree at the beginning ---------------------------------------------------------------

    def start(self, lsn: Lsn, time_ns: TimeNs) -> None:
        """History begins at `lsn`, whose op had that time. What an earlier run left is dropped."""
        assert not self.begun, "the baseline is there already"
        if not 1 < lsn < 1 << 63 or not lsn <= time_ns < 1 << 63:
            raise BaselineError(f"no history can begin at LSN {lsn} and time {time_ns}")
        self._appender.close()
        durable.write_file_atomically(self._note, b"what is here is not whole\n")
        for file in list_segments(self._store):
            durable.unlink(file.path)
        durable.drop_tree(self._store.index_dir)
        durable.make_dir(self._store.index_dir)
        self._appender = Appender(self._store, self._segment_bytes)
        self._description = _Description(lsn, time_ns)

    @property
    def _described(self) -> _Description:
        assert self._description is not None, "start first"
        return self._description

    def node(self, node: NodeId, adopted: Adopted, *, lost: bool = False) -> None:
        """A node with one of its names (the root has none) and all of its attributes.

        `links` and `size_bytes` as they were; `inode` does not count. `lost`: of a file, some of
        its content was never captured, so that chunks without any data are no holes.
        """
        self._described.end_data()
        self._described.add_node(node, adopted, int(Flag.LOST) if lost else 0)
        self._flush_full()

    def name(self, node: NodeId, parent: NodeId, name: bytes) -> None:
        """A further hard link of a node that came before."""
        self._described.end_data()
        payload = encode_entry(parent, name)
        self._described.add(Kind.ADOPT_NAME, node, self._described.lsn, payload)
        self._flush_full()

    def data(self, node: NodeId, offset: int, data: bytes | memoryview) -> None:
        """Content of a file that came before; what no data says is a hole."""
        self._described.add_data(node, offset, data)
        self._flush_full()

    def _flush_full(self) -> None:
        if self._described.full:
            self._flush()

    def _flush(self) -> None:
        ops = self._described.take()
        if ops:
            self._write(ops, encode_batch(ops, self._appender.position()[1]))

    # --- history ---------------------------------------------------------------------------------

    def finish(self, data: bytes, state: bytes = b"") -> None:
        """The tree is described: history begins, with what follows in the site's batch `data`,
        which holds the LSN of the beginning. `state` is what `collect_state` gathered; without it
        nobody knows who made what follows, points are inferred anew, and NodeIds that were given
        by then may be given again. All of it is on disk when this returns.
        """
        described = self._described
        header, ops = _decoded(data)
        if not header.first_lsn <= described.lsn <= header.last_lsn:
            raise BaselineError(
                f"LSN {described.lsn} is not in the batch of LSN {header.first_lsn}"
            )
        known = _decoded_state(state, described.lsn, header)
        described.end_data()
        self._add_state(known)
        self._flush()
        begin = _beginning(ops[described.lsn - header.first_lsn], described.time_ns, known)
        rest = ops[described.lsn - header.first_lsn + 1 :]
        _refuse_fold(ops, described.lsn)
        previous = self._appender.position()[1]
        encoded = encode_batch([begin, *rest], previous, site_digest=header.digest)
        self._write([begin, *rest], encoded)
        self.commit()
        durable.unlink(self._note)
        self.begun, self._description = True, None

    def _add_state(self, state: State) -> None:
        described = self._described
        rows: list[Entry] = []
        held_bytes = 0
        for entry in state.entries:
            if entry.kind == Stated.ACTOR:
                described.add(Kind.ACTOR, NO_NODE, int.from_bytes(entry.key, "big"), entry.row)
                self._flush_full()
                continue
            rows.append(entry)
            held_bytes += entry.size_bytes
            if held_bytes >= ROWS_BYTES:
                described.add(Kind.BASELINE_ROWS, NO_NODE, 0, encode_entries(rows))
                self._flush_full()
                rows, held_bytes = [], 0
        if rows:
            described.add(Kind.BASELINE_ROWS, NO_NODE, 0, encode_entries(rows))

    def append(self, data: bytes) -> None:
        """The site's next batch as it is; durable after `commit`, which is called now and then."""
        header, ops = _decoded(data)
        lsn, digest = self.position()
        if header.first_lsn != lsn or header.previous != digest:
            raise BaselineError(
                f"the batch of LSN {header.first_lsn} does not follow on what is here, which ends "
                f"at LSN {lsn - 1}"
            )
        if header.first_time_ns <= self._last_ns:
            raise BaselineError(f"LSN {lsn} is not later than the op before it")
        self._write(ops, EncodedBatch(bytes(data), header))

    def commit(self) -> None:
        """Everything that was written is on disk when it returns."""
        self._appender.commit()

    def _write(self, ops: list[Op], encoded: EncodedBatch) -> None:
        try:
            self._appender.write(ops, encoded)
        except InconsistentLog as error:
            raise BaselineError(str(error)) from error
        self._last_ns = encoded.header.last_time_ns
        if self._appender.due:
            self.commit()


def _decoded(data: bytes) -> tuple[BatchHeader, list[Op]]:
    """A batch of a site, all of it checked."""
    try:
        header, ops = batch.decode_batch(data)
    except ValueError as error:
        raise BaselineError(f"a batch is damaged: {error}") from error
    if header.describes_beginning:
        raise BaselineError("a batch describes the beginning of another copy")
    for op in ops:
        if op.flags & (ABORTED | Flag.BASELINE) or _hash(op.payload) != op.payload_xxh3:
            raise BaselineError(f"LSN {op.lsn} is not as any site logs it")
    return header, ops


def _decoded_state(data: bytes, lsn: Lsn, header: BatchHeader) -> State:
    """What was gathered beside the tree."""
    if not data:
        return State(lsn, NO_LSN, NO_NODE, [])
    try:
        state = decode_state(data)
    except ValueError as error:
        raise BaselineError(f"what is stated beside the tree is damaged: {error}") from error
    if state.lsn != lsn:
        raise BaselineError(f"what is stated beside the tree is as of LSN {state.lsn}")
    if state.end_lsn and state.end_lsn < header.last_lsn:
        raise BaselineError(f"groups are stated up to LSN {state.end_lsn}, within a batch")
    return state


def _beginning(at: Op, time_ns: TimeNs, state: State) -> Op:
    """The BASELINE op in place of the site's op at that LSN."""
    if at.time_ns != time_ns:
        raise BaselineError(f"LSN {at.lsn} had the time {at.time_ns}, not {time_ns}")
    head = at.lsn, at.time_ns, int(Kind.BASELINE), 0, state.max_node, int(state.end_lsn), NO_LSN
    mark = bytes(at.payload) if at.kind in (Kind.MARK, Kind.BASELINE) else b""
    return Op(*head, _hash(mark), mark)


def _refuse_fold(ops: list[Op], lsn: Lsn) -> None:
    """States within a fold are not to be had."""
    for op in ops:
        if op.kind == Kind.FOLDED and op.payload:
            fold = Folded.decode(op.payload)
            if fold.first <= lsn < fold.until:
                raise BaselineError(f"LSN {lsn} was folded on the way to a replica")
