"""Checking a whole store: segments, index and intake log against their checksums and each other.

Duty: read everything, report everything that is not as it was written, change nothing. Works on a
mounted store as well: it holds to what the index had committed when it began. Blocking; one
thread. `batch` knows the bytes, `index_check` the index.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import xxhash

from store import batch
from store.batch import NO_DIGEST, BatchOp
from store.errors import (
    DamagedError,
    IntakeGap,
    StoreBusy,
    StoreError,
    StoreFull,
    UnsupportedFormat,
)
from store.index_check import IndexCheck
from store.index_compare import wrong_tables
from store.index_rows import OpMeta
from store.ops import aborted_in
from store.reindex import batch_place
from store.scan import ScannedBatch, find_batch, read_batch
from store.segment import HEADER_BYTES, SegmentFile, check_header, list_segments
from store.statepage import StatePage
from store.tail import IntakeTail
from store.types import Lsn
from store.volume import Store, take_lock

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

SEGMENT_HINT = (
    "moments whose content needs these ops can't be read; copy the segment back from a backup of "
    "the store if there is one"
)
INDEX_HINT = "the segments are the truth: unmount the volume and run cdpfs reindex"
LOG_HINT = "keep the store as it is; what the log still holds is indexed up to there"
READ_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written. LSNs are 0 when unknown."""

    path: str
    offset: int
    first_lsn: Lsn
    last_lsn: Lsn
    what: str
    hint: str

    def __str__(self) -> str:
        lsns = f", LSN {self.first_lsn} to {self.last_lsn}" if self.last_lsn else ""
        return f"{self.path}: byte {self.offset}{lsns}: {self.what}"


@dataclasses.dataclass
class VerifyReport:
    """What was read, and what was found wrong."""

    segments: int = 0
    batches: int = 0
    ops: int = 0
    payload_bytes: int = 0
    intake_ops: int = 0
    """Ops of the intake log that the journal does not hold yet."""
    findings: list[Finding] = dataclasses.field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Everything is as it was written."""
        return not self.findings


def verify(store: Store, progress: Progress | None = None) -> VerifyReport:
    """Read the whole store. Damage of any kind is in the report, not raised."""
    return _Verification(store, progress).run()


class _Verification:
    """One run. `_expected` is the LSN that comes next, `_digest` what its batch must name."""

    def __init__(self, store: Store, progress: Progress | None) -> None:
        self._store = store
        self._progress = progress
        self._report = VerifyReport()
        self._index: IndexCheck | None = None
        self._expected = Lsn(1)
        self._digest: bytes | None = NO_DIGEST
        self._segment_bytes = 0
        self._done_bytes = self._total_bytes = 0
        """Of the segments before the current one; of all."""

    def run(self) -> VerifyReport:
        # The list before the index: whatever is sealed in it, the index must know.
        files = list_segments(self._store)
        try:
            self._index = IndexCheck(self._store)
        except (StoreError, OSError) as error:
            self._index_trouble(error)
        try:
            self._check_segments(files)
            self._ask_index(self._check_totals)
            self._ask_index(self._check_extents)
            self._ask_index(self._check_rows)
        finally:
            if self._index is not None:
                self._index.close()
        self._check_intake()
        return self._report

    def _find(
        self, path: Path | str, offset: int, first: int, last: int, what: str, hint: str
    ) -> None:
        self._report.findings.append(Finding(str(path), offset, Lsn(first), Lsn(last), what, hint))

    # --- segments --------------------------------------------------------------------------------

    def _check_segments(self, files: list[SegmentFile]) -> None:
        if self._index is not None and self._index.first_lsn:
            self._expected = self._index.first_lsn
            self._digest = NO_DIGEST if self._expected == 1 else None
        work = [(file, end) for file in files if (end := self._end_of(file))]
        self._total_bytes = sum(end for _, end in work)
        if self._index is not None:
            self._total_bytes *= 2  # they are read a second time to make an index to compare with
        for file, end in work:
            self._report.segments += 1
            try:
                self._check_segment(file, end)
            except OSError as error:
                first, last = file.first_lsn, file.last_lsn or 0
                self._find(file.path, 0, first, last, str(error), SEGMENT_HINT)
            self._done_bytes += end
            self._show(0)
        if self._index is not None and self._expected <= self._index.state.indexed_lsn:
            last = self._index.state.indexed_lsn
            self._gap(self._store.segments_dir, 0, last)

    def _show(self, offset: int) -> None:
        if self._progress is not None:
            self._progress(self._done_bytes + offset, self._total_bytes)

    def _end_of(self, file: SegmentFile) -> int:
        """Where the committed part of a segment ends; 0 when none of it counts."""
        size = _size(self._store, file)
        if self._index is None or file.last_lsn is not None:
            return size
        state = self._index.state
        return min(size, state.segment_end) if file.first_lsn == state.segment_first_lsn else 0

    def _last_of(self, file: SegmentFile) -> Lsn:
        """The last LSN that the segment must hold; 0 when that is not known."""
        if file.last_lsn is not None:
            return file.last_lsn
        state = self._index.state if self._index is not None else None
        known = state is not None and state.segment_first_lsn == file.first_lsn
        return state.indexed_lsn if state is not None and known else Lsn(0)

    def _check_segment(self, file: SegmentFile, end: int) -> None:
        fd = _open(self._store, file)
        try:
            try:
                check_header(
                    file.path, os.pread(fd, HEADER_BYTES, 0), self._store.uuid, file.first_lsn
                )
            except (DamagedError, UnsupportedFormat) as error:
                first, last = file.first_lsn, file.last_lsn or 0
                self._find(file.path, 0, first, last, str(error), SEGMENT_HINT)
            offset = HEADER_BYTES
            while offset < end:
                found = self._batch_at(file, fd, offset)
                if found is None:
                    break
                self._check_batch(found)
                offset = found.offset + found.header.total_bytes
                self._show(min(offset, end))
        finally:
            os.close(fd)
        last = self._last_of(file)
        if self._expected <= last:
            self._gap(file.path, offset, last)

    def _batch_at(self, file: SegmentFile, fd: int, offset: int) -> ScannedBatch | None:
        """The batch at `offset`, or behind the damage there."""
        try:
            return read_batch(file, fd, offset)
        except UnsupportedFormat as error:
            self._find(file.path, offset, self._expected, 0, str(error), error.hint)
        except DamagedError as error:
            # Without an index there is no telling a crash's unfinished batch from damage.
            found = find_batch(file, fd, offset + 1)
            if file.last_lsn is not None or self._index is not None or found is not None:
                self._find(file.path, offset, self._expected, 0, error.what, SEGMENT_HINT)
            return found
        return find_batch(file, fd, offset + 1)

    def _gap(self, path: Path, offset: int, last: Lsn) -> None:
        """The ops from the expected one to `last` are in no segment."""
        what = "these ops are in no readable batch"
        self._find(path, offset, self._expected, last, what, SEGMENT_HINT)
        self._expected, self._digest = Lsn(last + 1), None

    def _check_batch(self, found: ScannedBatch) -> None:
        header, path = found.header, found.file.path
        if header.begins_history and header.follows(self._expected - 1):
            self._expected = header.first_lsn  # the jump from a baseline's description to history
        if header.first_lsn > self._expected:
            self._gap(path, found.offset, Lsn(header.first_lsn - 1))
        elif header.first_lsn < self._expected:
            what = f"LSN {self._expected} should come here"
            self._find(path, found.offset, header.first_lsn, header.last_lsn, what, SEGMENT_HINT)
        elif self._digest is not None and header.previous != self._digest:
            what = "the batch does not follow from the one before it"
            self._find(path, found.offset, header.first_lsn, header.last_lsn, what, SEGMENT_HINT)
        self._expected, self._digest = Lsn(header.last_lsn + 1), header.digest
        self._report.batches += 1
        self._report.ops += header.op_count
        self._report.payload_bytes += header.payload_bytes
        self._segment_bytes += header.total_bytes
        ops = self._check_content(found)
        if ops is not None:
            self._ask_index(lambda index: self._compare(index, found, ops))

    def _check_content(self, found: ScannedBatch) -> list[BatchOp] | None:
        """Metadata, frames, digest and each op's payload; the ops if they can be read."""
        header = found.header
        start = header.meta_offset
        stored = memoryview(found.data)[start : start + header.meta_stored_bytes]
        try:
            meta = batch.decode_meta(header, stored)
            ops = batch.decode_ops(header, meta)
        except ValueError as error:
            self._bad_part(found, start, header.first_lsn, header.last_lsn, str(error))
            return None
        frames = self._read_frames(found, ops)
        if None in frames:
            return ops
        payload = b"".join([frame for frame in frames if frame is not None])
        try:
            batch.check_digest(header, meta, payload)
        except ValueError as error:
            self._bad_part(found, 0, header.first_lsn, header.last_lsn, str(error))
        at = 0
        view = memoryview(payload)
        for op in ops:
            if xxhash.xxh3_64_intdigest(view[at : at + op.length]) != op.payload_xxh3:
                what = "the op's payload does not match its checksum"
                self._bad_part(found, 0, op.lsn, op.lsn, what)
            at += op.length
        return ops

    def _read_frames(self, found: ScannedBatch, ops: list[BatchOp]) -> list[bytes | None]:
        """The raw frames, None for those that are damaged."""
        view = memoryview(found.data)
        frames: list[bytes | None] = []
        position = 0
        for frame in found.header.frames:
            stored = view[frame.offset : frame.offset + frame.stored_bytes]
            try:
                frames.append(batch.decode_frame(frame, stored))
            except ValueError as error:
                frames.append(None)
                touched = ops_between(ops, position, position + frame.raw_bytes)
                self._bad_part(found, frame.offset, touched[0], touched[1], str(error))
            position += frame.raw_bytes
        return frames

    def _bad_part(self, found: ScannedBatch, within: int, first: int, last: int, what: str) -> None:
        self._find(found.file.path, found.offset + within, first, last, what, SEGMENT_HINT)

    # --- index -----------------------------------------------------------------------------------

    def _index_trouble(self, error: Exception) -> None:
        hint = getattr(error, "hint", INDEX_HINT)
        what = error.what if isinstance(error, DamagedError) else str(error)
        self._find(self._store.index_dir, 0, 0, 0, what, hint)

    def _ask_index(self, question: Callable[[IndexCheck], None]) -> None:
        """Hold something against the index, unless it turned out to be unreadable."""
        if self._index is None:
            return
        try:
            question(self._index)
        except (StoreError, OSError) as error:
            self._index_trouble(error)
            self._index.close()
            self._index = None

    def _index_wrong(self, first: int, last: int, what: str) -> None:
        self._find(self._store.index_dir, 0, first, last, what, INDEX_HINT)

    def _compare(self, index: IndexCheck, found: ScannedBatch, ops: list[BatchOp]) -> None:
        """Are the batch and its ops in the index what they are in the segment?"""
        header = found.header
        if index.batch_at(header.first_lsn) != batch_place(found):
            what = f"the index has another place or size of the batch in {found.file.path.name}"
            self._index_wrong(header.first_lsn, header.last_lsn, what)
        wanted = expected_rows(ops)
        rows = index.ops(header.first_lsn, header.last_lsn)
        if rows == wanted:
            return
        known = {row.lsn: row for row in rows}
        wrong = [op.lsn for op in wanted if known.get(op.lsn) != op]
        what = f"{len(wrong)} ops of the index are not those of {found.file.path.name}"
        self._index_wrong(wrong[0], wrong[-1], what)

    def _check_totals(self, index: IndexCheck) -> None:
        state, report = index.state, self._report
        rows = sum(1 for _ in index.batches())
        if any(finding.hint == SEGMENT_HINT for finding in report.findings):
            return  # the totals can't agree then, and saying so would help nobody
        for name, indexed, counted in (
            ("batches", rows, report.batches),
            ("newest LSN", state.indexed_lsn, self._expected - 1),
            ("payload bytes", state.payload_bytes, report.payload_bytes),
            ("segment bytes", state.segment_bytes, self._segment_bytes),
        ):
            if indexed != counted:
                what = f"the index has {indexed} as {name}, the segments {counted}"
                self._index_wrong(0, 0, what)

    def _check_extents(self, index: IndexCheck) -> None:
        for wrong in index.wrong_extents():
            where = f"content of node {wrong.node}, region {wrong.region}"
            self._index_wrong(wrong.source, wrong.source, f"{where}: {wrong.what}")

    def _check_rows(self, index: IndexCheck) -> None:
        """The last word on the index; it needs sound segments, and space for another one."""
        if any(finding.hint == SEGMENT_HINT for finding in self._report.findings):
            return
        try:
            wrong = wrong_tables(self._store, index, self._show)
        except StoreFull as full:
            what = f"it could not be compared with the segments: {full}"
            self._find(self._store.index_dir, 0, 0, 0, what, full.hint)
            return
        for name, rows, first in wrong:
            what = f"{rows} rows of {name} are not what the segments say, from {first.hex()} on"
            self._index_wrong(0, 0, what)

    # --- intake log ------------------------------------------------------------------------------

    def _check_intake(self) -> None:
        """What the journal does not hold yet must be readable from the log."""
        try:
            lock = take_lock(self._store.lock_path)
        except StoreBusy:
            self._check_live_log()
            return
        try:
            self._check_resting_log()
        except (StoreError, OSError) as error:
            self._log_trouble(error)
        finally:
            os.close(lock)

    def _log_trouble(self, error: Exception) -> None:
        if isinstance(error, DamagedError):
            self._find(error.path, error.offset, error.first, error.last, error.what, LOG_HINT)
        else:
            self._find(self._store.intake_dir, 0, 0, 0, str(error), LOG_HINT)

    def _check_resting_log(self) -> None:
        tail = IntakeTail(self._store)
        try:
            end = tail.end_of_log(Lsn(self._expected - 1))
            if end.damaged:
                first = end.lsn + 1
                path = end.ring.path if end.ring else self._store.intake_dir
                self._find(path, end.position, first, 0, f"broken here: {end.damaged}", LOG_HINT)
            if end.lsn < self._expected:
                return  # the journal holds everything
            self._read_log(tail, end.lsn)
        finally:
            tail.close()

    def _check_live_log(self) -> None:
        """As fsd goes on writing, and the indexer indexing, only what both leave alone counts."""
        page = StatePage(self._store.state_path, writable=False)
        tail = IntakeTail(self._store)
        try:
            self._read_log(tail, Lsn(page.applied_lsn))
        except (StoreError, OSError) as error:
            if page.indexed_lsn < self._expected + self._report.intake_ops:
                self._log_trouble(error)  # else the log may have been recycled under our feet
        finally:
            tail.close()
            page.close()

    def _read_log(self, tail: IntakeTail, last: Lsn) -> None:
        """Read the log from the journal's end to `last`."""
        if last < self._expected:
            return
        tail.seek(self._expected)
        lsn = Lsn(self._expected - 1)
        while lsn < last:
            ops = tail.read_ops(READ_BYTES, last)
            if not ops:
                what = "the log breaks off"
                raise IntakeGap(self._store.intake_dir, 0, what, lsn + 1, last)
            lsn = ops[-1].lsn
            self._report.intake_ops += len(ops)


def expected_rows(ops: list[BatchOp]) -> list[OpMeta]:
    """What the index must say about the ops of a batch."""
    aborted = aborted_in(ops)
    rows = []
    position = 0
    for op in ops:
        rows.append(
            OpMeta(
                op.lsn,
                op.time_ns,
                op.kind,
                op.flags,
                op.node,
                op.offset,
                op.length,
                op.actor,
                op.lsn in aborted,
                position,
            )
        )
        position += op.length
    return rows


def ops_between(ops: list[BatchOp], start: int, stop: int) -> tuple[Lsn, Lsn]:
    """First and last op whose payload touches `[start, stop)` of the batch's raw payload."""
    touched = []
    position = 0
    for op in ops:
        if op.length and position < stop and position + op.length > start:
            touched.append(op.lsn)
        position += op.length
    return touched[0], touched[-1]


def _open(store: Store, file: SegmentFile) -> int:
    """Open a segment that may have been sealed since it was listed."""
    try:
        return os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(_renamed(store, file), os.O_RDONLY | os.O_CLOEXEC)


def _size(store: Store, file: SegmentFile) -> int:
    try:
        return file.path.stat().st_size
    except FileNotFoundError:
        return _renamed(store, file).stat().st_size


def _renamed(store: Store, file: SegmentFile) -> Path:
    for now in list_segments(store):
        if now.first_lsn == file.first_lsn:
            return now.path
    return file.path
