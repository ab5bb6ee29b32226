"""File content from a view into an open file: sparse areas kept, what was written read back.

Duty: fill a new file, or make an existing one equal by writing only what differs. Synchronous;
one thread may read the view ahead of the writer. It knows nothing of names and attributes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future

import xxhash

from store.types import NodeId
from timetravel.errors import VerificationFailed
from timetravel.readable import Readable
from timetravel.view import View

PIECE_BYTES = 1 << 20
"""How much is read from the view and written at once."""

HOLE_BYTES = 64 << 10
"""An aligned run of zeros at least this long is left out: it becomes a hole."""

_AHEAD = 3
"""Pieces read ahead of the writer."""

_CHECK_BYTES = 64 << 20
"""Written bytes are read back and compared at least this often: bounds what is remembered."""

_ZEROS = bytes(HOLE_BYTES)


def fill(
    view: Readable,
    node: NodeId,
    size_bytes: int,
    fd: int,
    *,
    verify: bool,
    readers: Executor,
    advance: Callable[[int], None],
) -> int:
    """Write the content of `node` into the empty file `fd`; returns the bytes written.

    `advance` is told how far the file has come, in bytes since its last call. VerificationFailed.
    """
    os.ftruncate(fd, size_bytes)
    writer = _Writer(fd, verify)
    done = 0
    for start, data in _pieces_of(view, node, size_bytes, readers):
        for run_start, run_stop in nonzero_runs(data, start):
            writer.write(memoryview(data)[run_start - start : run_stop - start], run_start)
        advance(start + len(data) - done)
        done = start + len(data)
    advance(size_bytes - done)
    writer.check()
    return writer.written_bytes


def rewrite(
    view: Readable,
    node: NodeId,
    size_bytes: int,
    fd: int,
    *,
    now: View | None,
    verify: bool,
    advance: Callable[[int], None],
) -> int:
    """Make the existing file `fd` equal to `node`, writing only what differs; returns how much.

    With `now`, a view of the present in which the file is the same node, areas that did not change
    in between are not even read.
    """
    if os.fstat(fd).st_size > size_bytes:
        os.ftruncate(fd, size_bytes)
    writer = _Writer(fd, verify)
    for start in range(0, size_bytes, PIECE_BYTES):
        stop = min(start + PIECE_BYTES, size_bytes)
        if not _same_here(view, now, node, start, stop):
            wanted = view.read(node, start, stop - start)
            found = os.pread(fd, stop - start, start)
            if not found:
                for run_start, run_stop in nonzero_runs(wanted, start):
                    writer.write(
                        memoryview(wanted)[run_start - start : run_stop - start], run_start
                    )
            elif found != wanted:
                writer.write(wanted, start)
        advance(stop - start)
    if os.fstat(fd).st_size != size_bytes:
        os.ftruncate(fd, size_bytes)
    writer.check()
    return writer.written_bytes


def _same_here(view: Readable, now: View | None, node: NodeId, start: int, stop: int) -> bool:
    """Whether nothing in `[start, stop)` was written between the view and `now`."""
    return now is not None and isinstance(view, View) and same_pieces(view, now, node, start, stop)


def same_pieces(old: View, new: View, node: NodeId, start: int, stop: int) -> bool:
    """Whether `[start, stop)` of `node` is made of the same bytes of the same ops in both views.

    False can also mean that the same bytes were written again.
    """
    return old.pieces(node, start, stop) == new.pieces(node, start, stop)


def nonzero_runs(data: bytes, offset: int) -> Iterator[tuple[int, int]]:
    """The file intervals of `data`, which stands at `offset`, without aligned zero blocks."""
    stop = offset + len(data)
    run = at = offset
    while at < stop:
        block_stop = min(stop, (at // HOLE_BYTES + 1) * HOLE_BYTES)
        if block_stop - at == HOLE_BYTES and data.startswith(_ZEROS, at - offset):
            if at > run:
                yield run, at
            run = block_stop
        at = block_stop
    if stop > run:
        yield run, stop


def _pieces_of(
    view: Readable, node: NodeId, size_bytes: int, readers: Executor
) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of everything that is not a hole."""
    if size_bytes <= PIECE_BYTES:
        if size_bytes:
            yield 0, view.read(node, 0, size_bytes)
        return
    yield from read_ahead(view, node, pieces_to_read(view, node, size_bytes), readers)


def pieces_to_read(view: Readable, node: NodeId, size_bytes: int) -> Iterator[tuple[int, int]]:
    """The intervals in which `fill` reads a file, in order."""
    if size_bytes > PIECE_BYTES:
        yield from cut_pieces(view.data_areas(node))
    elif size_bytes:
        # One lookup for small files: holes in them are found as zeros.
        yield 0, size_bytes


def cut_pieces(areas: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The areas cut at multiples of the piece size."""
    for start, stop in areas:
        while start < stop:
            cut = min(stop, (start // PIECE_BYTES + 1) * PIECE_BYTES)
            yield start, cut
            start = cut


def read_ahead(
    view: Readable, node: NodeId, intervals: Iterator[tuple[int, int]], readers: Executor
) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the intervals, in order; the next few are read in the meantime."""
    pending: deque[tuple[int, Future[bytes]]] = deque()
    try:
        for start, stop in intervals:
            pending.append((start, readers.submit(view.read, node, start, stop - start)))
            if len(pending) > _AHEAD:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        for _start, future in pending:
            future.cancel()


class _Writer:
    """Writes into a file and, when asked to verify, reads it all back and compares digests."""

    def __init__(self, fd: int, verify: bool) -> None:
        self.written_bytes = 0
        self._fd = fd
        self._verify = verify
        self._digest = xxhash.xxh3_128()
        self._runs: list[tuple[int, int]] = []
        self._unchecked_bytes = 0

    def write(self, data: bytes | memoryview, offset: int) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.pwrite(self._fd, rest, offset + len(data) - len(rest)) :]
        self.written_bytes += len(data)
        if not self._verify:
            return
        self._digest.update(data)
        self._runs.append((offset, offset + len(data)))
        self._unchecked_bytes += len(data)
        if self._unchecked_bytes >= _CHECK_BYTES:
            self.check()

    def check(self) -> None:
        """Compare everything written since the last check with what the file holds now."""
        if not self._runs:
            return
        found = xxhash.xxh3_128()
        for start, stop in self._runs:
            found.update(os.pread(self._fd, stop - start, start))
        if found.digest() != self._digest.digest():
            raise VerificationFailed(self._runs[0][0], self._runs[-1][1])
        self._runs.clear()
        self._unchecked_bytes = 0
        self._digest.reset()
