"""Segments: files of consecutive batches, written once, read for ever.

Duty: name, write, seal and read segment files. `SegmentWriter` is for the one thread of the
indexer. `SegmentReader` is for any number of threads: its caches stand under one lock, which is
never held while the disk is read. Neither knows what ops mean, nor the index.

Names: `{first}-open.seg` while batches are appended, `{first}-{last}.seg` once sealed (LSNs as 16
hexadecimal digits). A reader finds a segment by its first LSN, which sealing does not change.
Sealed segments hold nothing that the index has not committed; what the open one holds beyond the
index's word is cut off and made again from the intake log when the indexer starts.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import xxhash

from store import batch, durable
from store.batch import BatchHeader, BatchOp, EncodedBatch
from store.errors import DamagedError, IndexStale, UnsupportedFormat
from store.format import (
    FORMAT_VERSION,
    FRAME_BYTES,
    KNOWN_FEATURES,
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
)
from store.ops import Op
from store.types import Lsn
from store.volume import Store

SEGMENT_BYTES = 64 << 20
"""A segment that has grown to this size is sealed after the next commit."""

MAX_OPEN_FILES = 64
MAX_DIRECTORIES = 4096
MAX_FRAME_CACHE_BYTES = 32 << 20
_FIRST_READ_BYTES = 4096
_RENAME_RETRIES = 3

HEADER_BYTES = SEGMENT_HEADER.size_bytes
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16}|open)\.seg")


class SegmentFile(NamedTuple):
    """A segment by its name; `last_lsn` is None while it is open."""

    path: Path
    first_lsn: Lsn
    last_lsn: Lsn | None


def list_segments(store: Store) -> list[SegmentFile]:
    """The store's segments in LSN order; other files in the folder are left out."""
    found = []
    for name in os.listdir(store.segments_dir):
        if match := _NAME.fullmatch(name):
            last = None if match[2] == "open" else Lsn(int(match[2], 16))
            found.append(SegmentFile(store.segments_dir / name, Lsn(int(match[1], 16)), last))
    return sorted(found, key=lambda file: file.first_lsn)


def open_name(first_lsn: Lsn) -> str:
    """Name of the segment that is being written."""
    return f"{first_lsn:016x}-open.seg"


def sealed_name(first_lsn: Lsn, last_lsn: Lsn) -> str:
    """Name of a segment that is complete."""
    return f"{first_lsn:016x}-{last_lsn:016x}.seg"


def encode_header(volume: bytes, first_lsn: Lsn) -> bytes:
    """The first bytes of a segment."""
    body = SEGMENT_HEADER.pack(
        magic=SEGMENT_MAGIC,
        version=FORMAT_VERSION,
        features=0,
        reserved=0,
        volume=volume,
        first_lsn=first_lsn,
        check=0,
    )[:-8]
    return body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


def check_header(path: Path, raw: bytes, volume: bytes, first_lsn: Lsn) -> None:
    """Is `raw` the header of that volume's segment? DamagedError or UnsupportedFormat if not."""
    if len(raw) < HEADER_BYTES or raw[: len(SEGMENT_MAGIC)] != SEGMENT_MAGIC:
        raise DamagedError(path, 0, "not a segment", first_lsn, first_lsn)
    fields = SEGMENT_HEADER.unpack(raw)
    version, features = fields["version"], fields["features"]
    assert isinstance(version, int) and isinstance(features, int)
    if version > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{path}: format version {version} is newer than this cdpfs knows ({FORMAT_VERSION})"
        )
    if features & ~KNOWN_FEATURES:
        raise UnsupportedFormat(f"{path}: features {features:#x} are not known to this cdpfs")
    body = raw[: HEADER_BYTES - 8]
    if version < 1 or fields["check"] != xxhash.xxh3_64_intdigest(body):
        raise DamagedError(
            path, 0, "the segment header does not match its checksum", first_lsn, first_lsn
        )
    if fields["volume"] != volume:
        raise DamagedError(path, 0, "the segment belongs to another volume", first_lsn, first_lsn)
    if fields["first_lsn"] != first_lsn:
        raise DamagedError(path, 0, f"the segment starts with LSN {fields['first_lsn']}")


class SegmentWriter:
    """Appends batches to the store's open segment, which it makes and seals as needed."""

    def __init__(self, store: Store, limit_bytes: int = SEGMENT_BYTES) -> None:
        self._store = store
        self._limit_bytes = limit_bytes
        self._fd = -1
        self._first = Lsn(0)
        self._last = Lsn(0)
        self._end = 0
        self._name_durable = True

    @property
    def place(self) -> tuple[Lsn, int]:
        """First LSN of the current segment and the offset at which its next batch will stand."""
        return self._first, self._end

    def place_of(self, first_lsn: Lsn) -> tuple[Lsn, int]:
        """First LSN of the segment, and the offset there, at which a batch that comes next and
        starts with `first_lsn` will stand."""
        return self.place if self._fd >= 0 else (first_lsn, HEADER_BYTES)

    @property
    def full(self) -> bool:
        """The segment has reached its size: commit, then `seal`."""
        return self._fd >= 0 and self._end >= self._limit_bytes

    def resume(self, indexed: Lsn, first: Lsn, end: int) -> None:
        """Go on where the index ends: LSN `indexed`, byte `end` of the segment of LSN `first`.

        What stands behind is cut off. IndexStale when sealed segments know more than the index;
        DamagedError when the index names bytes that are not there.
        """
        current = None
        for file in list_segments(self._store):
            if file.first_lsn <= indexed:
                current = file
            elif file.last_lsn is None:
                durable.unlink(file.path)
            else:
                raise IndexStale(f"the index ends at LSN {indexed}, before {file.path}")
        if not indexed:
            return
        if current is None or current.first_lsn != first:
            raise DamagedError(
                self._store.segments_dir,
                0,
                f"segment {open_name(first)} is missing",
                first,
                indexed,
            )
        self._first, self._last, self._end = first, indexed, end
        self._resume_file(current, indexed, end)

    def _resume_file(self, file: SegmentFile, indexed: Lsn, end: int) -> None:
        size = file.path.stat().st_size
        if size < end:
            raise DamagedError(file.path, size, "the segment lost its end", file.first_lsn, indexed)
        if file.last_lsn is not None:
            if file.last_lsn != indexed or size != end:
                raise IndexStale(f"the index ends at LSN {indexed}, inside {file.path}")
            return
        self._fd = durable.open_file(file.path)
        check_header(
            file.path, os.pread(self._fd, HEADER_BYTES, 0), self._store.uuid, file.first_lsn
        )
        if size > end:
            durable.truncate(self._fd, end)

    def append(self, encoded: EncodedBatch) -> tuple[Lsn, int]:
        """Write a batch behind the last one, not yet durable.

        Returns the first LSN of its segment and its offset there. StoreFull when it doesn't fit on
        the disk: then `close`, and `resume` from the index.
        """
        if self._fd < 0:
            self._create(encoded.header.first_lsn)
        offset = self._end
        durable.pwrite_all(self._fd, encoded.data, offset)
        self._end += len(encoded.data)
        self._last = encoded.header.last_lsn
        return self._first, offset

    def _create(self, first: Lsn) -> None:
        path = self._store.segments_dir / open_name(first)
        try:
            self._fd = durable.create_file(path)
        except OSError as error:
            raise durable.mapped(error) from error
        self._name_durable = False
        self._first, self._end = first, HEADER_BYTES
        durable.pwrite_all(self._fd, encode_header(self._store.uuid, first), 0)

    def sync(self) -> None:
        """Every appended batch is on disk, and so is the segment's name, when it returns."""
        if self._fd < 0:
            return
        durable.fdatasync(self._fd)
        if not self._name_durable:
            durable.fsync_dir(self._store.segments_dir)
            self._name_durable = True

    def seal(self) -> None:
        """Give the open segment, all of it committed, its final name; the next batch starts one."""
        assert self._fd >= 0
        folder = self._store.segments_dir
        durable.rename(
            folder / open_name(self._first), folder / sealed_name(self._first, self._last)
        )
        self.close()

    def close(self) -> None:
        """Give the file back. Closing twice is fine."""
        if self._fd >= 0:
            durable.close_file(self._fd)
            self._fd = -1


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Lru(Generic[K, V]):
    """The values used last, up to a summed cost. Its user holds the lock."""

    def __init__(self, limit: int, cost: Callable[[V], int]) -> None:
        self._limit = limit
        self._cost = cost
        self._sum = 0
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        found = self._values.get(key)
        if found is not None:
            self._values.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> None:
        old = self._values.pop(key, None)
        if old is not None:
            self._sum -= self._cost(old)
        self._values[key] = value
        self._sum += self._cost(value)
        while self._sum > self._limit:
            _, dropped = self._values.popitem(last=False)
            self._sum -= self._cost(dropped)

    def clear(self) -> None:
        self._values.clear()
        self._sum = 0


class _OpenSegment:
    """A segment's descriptor, closed when the cache and the last thread that reads let go of it."""

    def __init__(self, store: Store, file: SegmentFile) -> None:
        self.fd = -1
        self.file = file
        self.fd = durable.open_file(file.path, os.O_RDONLY)
        check_header(file.path, os.pread(self.fd, HEADER_BYTES, 0), store.uuid, file.first_lsn)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _one(_: object) -> int:
    return 1


class SegmentReader:
    """Reads payloads and metadata out of a store's segments. Any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[Lsn, SegmentFile] = {}
        self._files: _Lru[Lsn, _OpenSegment] = _Lru(MAX_OPEN_FILES, _one)
        self._headers: _Lru[tuple[Lsn, int], BatchHeader] = _Lru(MAX_DIRECTORIES, _one)
        self._frames: _Lru[tuple[Lsn, int, int], bytes] = _Lru(MAX_FRAME_CACHE_BYTES, len)

    def close(self) -> None:
        """Forget everything; descriptors close as soon as no thread reads from them."""
        with self._lock:
            self._files.clear()
            self._headers.clear()
            self._frames.clear()

    def read_payload(self, segment: Lsn, offset: int, position: int, length: int) -> bytes:
        """`length` bytes from `position` on of the raw payload of a batch.

        `segment` is the first LSN of the batch's segment, `offset` its place there. DamagedError
        when they are not what was written, or are not there.
        """
        if not length:
            return b""
        header = self.header(segment, offset)
        if position < 0 or length < 0 or position + length > header.payload_bytes:
            raise self._damage(segment, offset, header, f"no payload at position {position}")
        first, last = position // FRAME_BYTES, (position + length - 1) // FRAME_BYTES
        keys = [(segment, offset, number) for number in range(first, last + 1)]
        with self._lock:
            frames = [self._frames.get(key) for key in keys]
        missing = [number for number, frame in enumerate(frames, first) if frame is None]
        if missing:
            fresh = self._read_frames(segment, offset, header, missing[0], missing[-1])
            for number, raw in enumerate(fresh, missing[0]):
                frames[number - first] = raw
        start = position - first * FRAME_BYTES
        whole = [frame for frame in frames if frame is not None]
        raw = whole[0] if len(whole) == 1 else b"".join(whole)
        return raw[start : start + length]

    def _read_frames(
        self, segment: Lsn, offset: int, header: BatchHeader, first: int, last: int
    ) -> list[bytes]:
        """Frames `first` to `last` (inclusive) of a batch, by one read; into the cache as well."""
        frames = header.frames[first : last + 1]
        start, stop = frames[0].offset, frames[-1].offset + frames[-1].stored_bytes
        file = self._open(segment)
        stored = memoryview(os.pread(file.fd, stop - start, offset + start))
        found = []
        for frame in frames:
            at = frame.offset - start
            try:
                found.append(batch.decode_frame(frame, stored[at : at + frame.stored_bytes]))
            except ValueError as error:
                raise self._damage(segment, offset, header, str(error), frame.offset) from error
        with self._lock:
            for number, raw in enumerate(found, first):
                self._frames.put((segment, offset, number), raw)
        return found

    def read_ops(self, segment: Lsn, offset: int) -> list[BatchOp]:
        """The metadata of a batch's ops; DamagedError when it is not what was written."""
        header = self.header(segment, offset)
        file = self._open(segment)
        stored = os.pread(file.fd, header.meta_stored_bytes, offset + header.meta_offset)
        try:
            return batch.decode_ops(header, batch.decode_meta(header, stored))
        except ValueError as error:
            raise self._damage(segment, offset, header, str(error)) from error

    def read_batch(self, segment: Lsn, offset: int) -> tuple[BatchHeader, list[Op]]:
        """The whole batch at `offset`, its digest tested; past the caches. DamagedError."""
        header = self.header(segment, offset)
        data = os.pread(self._open(segment).fd, header.total_bytes, offset)
        try:
            return batch.decode_batch(data)
        except ValueError as error:
            raise self._damage(segment, offset, header, str(error)) from error

    def batch_bytes(self, segment: Lsn, offset: int) -> bytes:
        """The batch at `offset` as it is stored, its checksums tested; past the caches."""
        header = self.header(segment, offset)
        data = os.pread(self._open(segment).fd, header.total_bytes, offset)
        try:
            batch.check_stored(header, data)
        except ValueError as error:
            raise self._damage(segment, offset, header, str(error)) from error
        return data

    def header(self, segment: Lsn, offset: int) -> BatchHeader:
        """The header of the batch at `offset`, checked; DamagedError, UnsupportedFormat."""
        key = (segment, offset)
        with self._lock:
            found = self._headers.get(key)
        if found is not None:
            return found
        opened = self._open(segment)
        path = opened.file.path
        try:
            data = os.pread(opened.fd, _FIRST_READ_BYTES, offset)
            needed = batch.header_bytes(data)
            if needed > len(data):
                data = os.pread(opened.fd, needed, offset)
            found = batch.decode_header(data)
        except ValueError as error:
            raise DamagedError(
                path, offset, str(error), segment, opened.file.last_lsn or 0
            ) from error
        except UnsupportedFormat as error:
            raise UnsupportedFormat(f"{path}: at byte {offset}: {error}") from error
        with self._lock:
            self._headers.put(key, found)
        return found

    def _damage(
        self, segment: Lsn, offset: int, header: BatchHeader, what: str, within: int = 0
    ) -> DamagedError:
        path = self._open(segment).file.path
        return DamagedError(path, offset + within, what, header.first_lsn, header.last_lsn)

    def _open(self, segment: Lsn) -> _OpenSegment:
        """The open file of a segment, which may be sealed (renamed) at any time."""
        with self._lock:
            found = self._files.get(segment)
            known = self._known.get(segment)
        if found is not None:
            return found
        for _ in range(_RENAME_RETRIES):
            if known is not None:
                try:
                    found = _OpenSegment(self._store, known)
                except FileNotFoundError:
                    pass
                else:
                    with self._lock:
                        self._files.put(segment, found)
                    return found
            known = self._look_up(segment)
        raise DamagedError(
            self._store.segments_dir, 0, f"segment {segment:016x} is missing", segment, segment
        )

    def _look_up(self, segment: Lsn) -> SegmentFile | None:
        """Read the folder anew."""
        known = {file.first_lsn: file for file in list_segments(self._store)}
        with self._lock:
            self._known = known
        return known.get(segment)
