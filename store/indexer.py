"""The indexer: turns the tail of the intake log into segments and their index.

    python -m store.indexer STORE_ROOT

Duty: the only writer of a store's journal. It follows the intake log up to the op that fsd
declares applied, cuts batches, appends them to a segment, makes the segment durable, commits the
index, and says so in the shared page. One thread, one process. It knows nothing of FUSE.

Order of a commit: batch bytes, fdatasync of the segment (and fsync of its folder when it is new),
LMDB commit, shared page, sealing. Wherever it is cut, the index names only what is on disk, and
what the index does not name is made again from the intake log.

Standard input is the line to fsd: any byte asks for everything applied so far to be committed at
once; its end means that fsd is gone, and the indexer finishes what is applied and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from store.batch import encode_batch
from store.batcher import MAX_AGE_NS, Batcher
from store.durable import NO_SPACE
from store.errors import DamagedError, IndexStale, IntakeGap, StoreError, StoreFault, StoreFull
from store.index import BatchPlace, IndexWriter
from store.ops import Op
from store.segment import SEGMENT_BYTES, SegmentWriter, list_segments
from store.statepage import StatePage
from store.tail import IntakeTail
from store.types import Lsn
from store.volume import Store

log = logging.getLogger(__name__)

READ_BYTES = 4 << 20
"""Log read at a time: between two reads the indexer is ready to commit."""

COMMIT_NS = 1_000_000_000
AWAITED_NS = 300_000_000
"""Age of a batch, and between commits, while a consumer waits for what comes: its lag is that."""

AWAITED_FRESH_NS = 3_000_000_000
"""A consumer that has not said for so long that it waits does not."""

MAX_UNCOMMITTED_BYTES = 64 << 20
IDLE_S = (0.02, 0.05)
"""Shortest and longest pause when there is nothing to do."""

RETRY_S = (0.25, 5.0)
"""First and longest pause while the disk is full."""

MAX_MAPPED_BLOCK_BYTES = 32 << 20
KEPT_BYTES = 64 << 20
"""Free memory that malloc may keep; see `keep_memory`."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
NICENESS = 5
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_DAMAGED = 0, 1, 2, 3


class Indexer:
    """The work, to be driven by `step`. A StoreError leaves it usable after `reset`."""

    def __init__(
        self,
        store: Store,
        segment_bytes: int = SEGMENT_BYTES,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._segment_bytes = segment_bytes
        self._wall_ns = wall_ns
        self._index = IndexWriter(store)
        self._refuse_stale_index()
        self._page = StatePage(store.state_path)
        self._tail: IntakeTail | None = None
        self._committed_ns = 0
        self._start()
        self._publish()
        self._page.indexer_pid = os.getpid()

    def _start(self) -> None:
        """Stand behind the last commit."""
        self._writer = SegmentWriter(self._store, self._segment_bytes)
        self._batcher = Batcher()
        self._read_lsn = self._index.indexed_lsn
        self._uncommitted_bytes = 0

    def _refuse_stale_index(self) -> None:
        indexed = self._index.indexed_lsn
        for file in list_segments(self._store):
            if file.last_lsn is not None and file.last_lsn > indexed:
                self._index.close()
                raise IndexStale(f"the index ends at LSN {indexed}, {file.path} goes on")

    def close(self) -> None:
        """Drop what is not committed. Closing twice is fine."""
        self._drop_files()
        self._index.close()
        self._page.indexer_pid = 0

    def _drop_files(self) -> None:
        self._writer.close()
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def reset(self) -> None:
        """Back to the last commit, as after a restart."""
        self._drop_files()
        self._index.abort()
        self._start()

    def step(self, now_ns: int, everything: bool = False) -> bool:
        """Do what is due at the monotonic time `now_ns`; returns whether there was anything.

        `everything`: index and commit all ops that are applied at this moment. StoreFull when the
        disk is full (`reset`, and try again later), DamagedError when the log is.
        """
        applied = Lsn(self._page.applied_lsn)
        worked = self._read(now_ns, applied)
        while everything and self._read_lsn < applied:
            self._read(now_ns, applied)
        settled = self._read_lsn >= applied
        interval_ns = self._interval_ns()
        age_ns = min(interval_ns, MAX_AGE_NS)
        self._write_all(self._batcher.take(now_ns, settled, everything, age_ns))
        due = now_ns - self._committed_ns >= interval_ns
        if self._uncommitted_bytes and (everything or due or self._much_uncommitted()):
            self.commit()
            self._committed_ns = now_ns
            worked = True
        self._beat()
        return worked

    def _interval_ns(self) -> int:
        """Between commits: shorter while somebody waits for them."""
        silent_ns = self._wall_ns() - self._page.awaited_ns
        return AWAITED_NS if 0 <= silent_ns < AWAITED_FRESH_NS else COMMIT_NS

    def set_trouble(self, number: int) -> None:
        """Tell the others the errno of what keeps commits from happening; 0: nothing does."""
        self._page.indexer_trouble = number

    def _beat(self) -> None:
        self._page.indexer_beat_ns = self._wall_ns()

    def _much_uncommitted(self) -> bool:
        return self._writer.full or self._uncommitted_bytes >= MAX_UNCOMMITTED_BYTES

    def _read(self, now_ns: int, applied: Lsn) -> bool:
        """Take in some of the ops that are applied; was there one?"""
        if self._read_lsn >= applied:
            return False
        tail = self._tail or self._attach()
        ops = tail.read_ops(READ_BYTES, applied)
        if not ops:
            missing = self._read_lsn + 1
            raise DamagedError(
                self._store.intake_dir,
                0,
                f"the log has no valid record of LSN {missing}, yet ops are applied to {applied},",
                missing,
                applied,
            )
        self._read_lsn = ops[-1].lsn
        self._batcher.add(ops, now_ns)
        self._write_all(self._batcher.take(now_ns, settled=False))
        self._beat()
        return True

    def _attach(self) -> IntakeTail:
        """Stand in the log and in the segment where the index ends.

        The log comes first: the segment is cut back only if the log can give the rest again.
        """
        state = self._index.state
        tail = IntakeTail(self._store)
        try:
            tail.seek(Lsn(state.indexed_lsn + 1))
            self._writer.resume(state.indexed_lsn, state.segment_first_lsn, state.segment_end)
        except IntakeGap as gap:
            tail.close()
            if any(file.first_lsn > state.indexed_lsn for file in list_segments(self._store)):
                raise IndexStale(f"the index ends at LSN {state.indexed_lsn}") from gap
            raise
        except BaseException:
            tail.close()
            raise
        self._tail = tail
        return tail

    def _write_all(self, batches: list[list[Op]]) -> None:
        for ops in batches:
            self._write(ops)
            if self._much_uncommitted():
                self.commit()

    def _write(self, ops: list[Op]) -> None:
        """One batch to the segment and, uncommitted, to the index."""
        encoded = encode_batch(ops, self._index.last_digest)
        segment, offset = self._writer.append(encoded)
        header = encoded.header
        place = BatchPlace(
            header.first_lsn,
            header.last_lsn,
            header.first_time_ns,
            header.last_time_ns,
            segment,
            offset,
            header.total_bytes,
            header.payload_bytes,
            header.digest,
        )
        self._index.begin()
        self._index.apply(ops, place)
        self._uncommitted_bytes += header.total_bytes

    def commit(self) -> None:
        """Make everything written durable, in the order that the module's docstring states."""
        self._writer.sync()
        self._index.commit()
        self._uncommitted_bytes = 0
        self._publish()
        if self._writer.full:
            self._writer.seal()

    def _publish(self) -> None:
        state = self._index.state
        self._page.segment_bytes = state.segment_bytes
        self._page.payload_bytes = state.payload_bytes
        self._page.indexed_lsn = state.indexed_lsn
        self._beat()


class Loop:
    """Drives an indexer until its line to fsd ends or it is told to stop."""

    def __init__(self, indexer: Indexer, line_fd: int) -> None:
        self._indexer = indexer
        self._line_fd = line_fd
        self._poll = select.poll()
        self._poll.register(line_fd, select.POLLIN)
        self._stopping = False
        self._idle_s = IDLE_S[0]
        self._retry_s = 0.0
        self._troubled = True
        """May the page still tell of trouble, of this process or of the one before?"""

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Finish what is applied, then end (also as a signal handler)."""
        self._stopping = True

    def run(self) -> None:
        """Work until the end; whatever was applied by then is committed."""
        pause_s = 0.0
        while True:
            poked = self._wait(pause_s)
            if self._stopping:
                break
            pause_s = self._work(poked)
        self._indexer.step(time.monotonic_ns(), everything=True)

    def _work(self, everything: bool) -> float:
        """One step; returns how long to wait before the next, in seconds."""
        try:
            worked = self._indexer.step(time.monotonic_ns(), everything)
        except (StoreFull, StoreFault, OSError) as error:
            if not isinstance(error, StoreFull):
                number = error.number if isinstance(error, StoreFault) else error.errno
                if number not in NO_SPACE:
                    self._indexer.set_trouble(number or errno.EIO)
                    raise
            return self._back_off(error)
        if self._retry_s:
            log.info("there is space for the journal again")
            self._retry_s = 0.0
            self._troubled = True
        if self._troubled:
            self._indexer.set_trouble(0)
            self._troubled = False
        self._idle_s = IDLE_S[0] if worked or everything else min(self._idle_s * 1.2, IDLE_S[1])
        return 0.0 if worked else self._idle_s

    def _back_off(self, error: Exception) -> float:
        """The disk is full: nothing is lost, the ops wait in the intake log."""
        if not self._retry_s:
            log.warning("the journal waits for space: %s", error)
        self._retry_s = min(self._retry_s * 2 or RETRY_S[0], RETRY_S[1])
        self._indexer.reset()
        self._indexer.set_trouble(errno.ENOSPC)
        return self._retry_s

    def _wait(self, pause_s: float) -> bool:
        """Wait for a poke, that long at the most; was there one? The line's end means `stop`.

        While the disk is full, pokes do not cut the pause short: attaching anew costs too much.
        """
        deadline = time.monotonic() + pause_s
        poked = False
        while self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            if not self._read_line():
                self._stopping = True
                return False
            poked = True
            if not self._retry_s:
                break
        return poked

    def _read_line(self) -> bool:
        """Take the pokes from the line; False at its end."""
        try:
            return bool(os.read(self._line_fd, 4096))
        except OSError as error:
            log.warning("the line to fsd broke: %s", error)
            return False


def take_indexer_lock(store: Store) -> int:
    """Become the store's only journal writer; waits for another one to end. The descriptor."""
    fd = os.open(store.indexer_lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def keep_memory() -> None:
    """Have malloc keep what it has: each batch's buffers are as large as those of the last one.

    By default glibc gives blocks of megabytes back at once, and faulting them in again took more
    time than compressing, hashing and copying the batch together (measured: 15 of 21 ms).
    """
    with contextlib.suppress(AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, MAX_MAPPED_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def main(arguments: list[str]) -> int:
    """The process; returns its exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s indexer[%(process)d] %(levelname)s: %(message)s"
    )
    if len(arguments) != 1:
        log.error("usage: python -m store.indexer STORE_ROOT")
        return EXIT_USAGE
    # Ctrl-C reaches the whole process group; it is fsd that says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    keep_memory()
    try:
        store = Store.open(Path(arguments[0]))
        take_indexer_lock(store)
        with contextlib.closing(Indexer(store)) as indexer:
            loop = Loop(indexer, sys.stdin.fileno())
            signal.signal(signal.SIGTERM, loop.stop)
            loop.run()
    except DamagedError as error:
        _say(error)
        return EXIT_DAMAGED
    except (StoreError, OSError) as error:
        _say(error)
        return EXIT_FAILED
    return EXIT_OK


def _say(error: Exception) -> None:
    """To the log, and to fsd on standard output."""
    hint = getattr(error, "hint", "the indexer is started again")
    log.error("%s; %s", error, hint)
    words = {"kind": type(error).__name__, "message": str(error), "hint": hint}
    with contextlib.suppress(OSError):  # nobody may be listening any more
        print(json.dumps(words), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
