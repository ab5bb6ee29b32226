"""Scanning segments from end to end, for rebuilding the index and for verification.

Duty: find every batch by the segments alone, without the index. Blocking reads; any thread. It
checks segment and batch headers; what is in the batches is the caller's to check.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from store import batch, durable
from store.batch import BatchHeader
from store.errors import DamagedError, UnsupportedFormat
from store.format import BATCH_MAGIC
from store.segment import HEADER_BYTES, SegmentFile, check_header, list_segments
from store.volume import Store

_FIRST_READ_BYTES = 4096
_SEARCH_BYTES = 4 << 20


class ScannedBatch(NamedTuple):
    """A batch as found in a segment: its header is checked, the rest of `data` is not."""

    file: SegmentFile
    offset: int
    header: BatchHeader
    data: bytes


def read_batch(file: SegmentFile, fd: int, offset: int) -> ScannedBatch | None:
    """The batch at `offset`; None at the end of the file. DamagedError, UnsupportedFormat."""
    head = os.pread(fd, _FIRST_READ_BYTES, offset)
    if not head:
        return None
    try:
        needed = batch.header_bytes(head)
        if needed > len(head):
            head = os.pread(fd, needed, offset)
        header = batch.decode_header(head)
        data = os.pread(fd, header.total_bytes, offset)
        if len(data) < header.total_bytes:
            raise ValueError(f"the batch of {header.total_bytes} bytes is cut short")
    except ValueError as error:
        first = file.first_lsn
        raise DamagedError(file.path, offset, str(error), first, file.last_lsn or 0) from error
    except UnsupportedFormat as error:
        raise UnsupportedFormat(f"{file.path}: at byte {offset}: {error}") from error
    return ScannedBatch(file, offset, header, data)


def scan_segment(store: Store, file: SegmentFile) -> Iterator[ScannedBatch]:
    """The batches of one segment in order; DamagedError at the first place that is not one."""
    fd = durable.open_file(file.path, os.O_RDONLY)
    try:
        check_header(file.path, os.pread(fd, HEADER_BYTES, 0), store.uuid, file.first_lsn)
        offset = HEADER_BYTES
        while found := read_batch(file, fd, offset):
            yield found
            offset += found.header.total_bytes
    finally:
        os.close(fd)


def scan_segments(store: Store) -> Iterator[ScannedBatch]:
    """The batches of all segments in LSN order, as `scan_segment`."""
    for file in list_segments(store):
        yield from scan_segment(store, file)


def find_batch(file: SegmentFile, fd: int, offset: int) -> ScannedBatch | None:
    """The first whole batch that starts at `offset` or later; None when there is none.

    With it a scan goes on behind damage.
    """
    while data := os.pread(fd, _SEARCH_BYTES, offset):
        at = data.find(BATCH_MAGIC)
        while at >= 0:
            try:
                return read_batch(file, fd, offset + at)
            except (DamagedError, UnsupportedFormat):
                at = data.find(BATCH_MAGIC, at + 1)
        if len(data) < _SEARCH_BYTES:
            break
        offset += len(data) - len(BATCH_MAGIC) + 1
    return None
