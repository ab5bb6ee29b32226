"""Reading the intake log, behind its writer or after it.

Duty: hand out the ops of the log in LSN order, each one checked. One reader object per thread;
blocking reads from the page cache. It knows nothing of what the ops mean.

A record counts when its checksum, its ring generation and its LSN fit; the first place where one
does not is the end of the log. What stands behind it tells damage from the end of a power cut,
after which any part of what was not yet synced may be on disk: each record says how much of the
log before it was on disk when it was appended.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from store.errors import IntakeGap
from store.format import ALIGN, MANY_UNSYNCED, MAX_PAYLOAD_BYTES, RECORD, RING_HEADER_BYTES
from store.ops import Op
from store.ring import RingFile, rings_in_use
from store.types import NO_LSN, Lsn, NodeId, TimeNs
from store.volume import Store

_RECORD = RECORD.codec
_RECORD_BYTES = RECORD.size_bytes
_CHECK = struct.Struct("<I")
_READ_BYTES = 4 << 20
_hash = xxhash.xxh3_64_intdigest


@dataclass(frozen=True)
class EndOfLog:
    """Where the log ends: the next record's place, and the last op's number and time."""

    ring: RingFile | None
    position: int
    lsn: Lsn
    time_ns: TimeNs
    damaged: str = ""
    """Not empty when a broken record was on disk once: a later one says so."""


class IntakeTail:
    """A reader of one store's intake log."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fd = -1
        self._ring: RingFile | None = None
        self._position = 0
        self._next = 0

    def close(self) -> None:
        """Give the open ring file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def seek(self, lsn: Lsn) -> None:
        """Stand before `lsn`; IntakeGap if the log neither holds it nor ends just before it."""
        candidates = [ring for ring in rings_in_use(self._store) if ring.first_lsn <= lsn]
        if not candidates:
            raise IntakeGap(self._store.intake_dir, 0, f"the log starts after LSN {lsn}", lsn, lsn)
        self._open(candidates[-1])
        while self._next < lsn:
            found = self._read(_READ_BYTES, lsn - 1)
            if not found and not self._skip_to(lsn):
                raise IntakeGap(
                    candidates[-1].path, self._position, f"the log ends before LSN {lsn}", lsn, lsn
                )

    def _skip_to(self, lsn: int) -> bool:
        """Stand before the record of just this LSN, further on in the current file, if it is there.

        What lies between is broken; whoever asks does not need it.
        """
        assert self._ring is not None
        at = self._position
        for position, found, _ in records_in(self._ring.path, at, self._ring.generation, lsn):
            if found == lsn:
                self._position, self._next = position, lsn
                return True
        return False

    def read_ops(self, limit_bytes: int, up_to: Lsn) -> list[Op]:
        """The next ops, about `limit_bytes` of them and none past `up_to`; [] at the end."""
        found = self._read(limit_bytes, up_to)
        if not found and self._next <= up_to and self._step_to_next_ring():
            found = self._read(limit_bytes, up_to)
        return found

    def _open(self, ring: RingFile) -> None:
        self.close()
        self._fd = os.open(ring.path, os.O_RDONLY | os.O_CLOEXEC)
        self._ring = ring
        self._position = RING_HEADER_BYTES
        self._next = ring.first_lsn

    def _step_to_next_ring(self) -> bool:
        """Go on in the file that starts with the next LSN, if it is in use."""
        assert self._ring is not None
        for ring in rings_in_use(self._store):
            if ring.first_lsn == self._next and ring.generation == self._ring.generation + 1:
                self._open(ring)
                return True
        return False

    def _read(self, limit_bytes: int, up_to: int) -> list[Op]:
        """Ops of the current file from the current place."""
        assert self._ring is not None
        want = min(max(limit_bytes, _RECORD_BYTES), _READ_BYTES)
        data = os.pread(self._fd, want, self._position)
        ops, used, needed = parse_records(data, self._ring.generation, self._next, up_to)
        if not ops and needed > len(data):
            data = os.pread(self._fd, needed, self._position)
            ops, used, _ = parse_records(data, self._ring.generation, self._next, up_to)
        self._position += used
        if ops:
            self._next = ops[-1].lsn + 1
        return ops

    def end_of_log(self, indexed: Lsn = NO_LSN) -> EndOfLog:
        """Walk to the end. Slow: reads up to the whole ring.

        What the journal holds (ops up to `indexed`) is skipped, damage in it does not count.
        """
        rings = rings_in_use(self._store)
        if not rings:
            return EndOfLog(None, 0, Lsn(0), TimeNs(0))
        last = TimeNs(0)
        # Not simply the newest chain of generations: of files taken into use one after the other,
        # a power cut may have kept the header of the last one alone.
        wanted = [ring for ring in rings if ring.first_lsn <= indexed + 1]
        self._open(wanted[-1] if wanted else rings[_start_of_chain(rings)])
        while True:
            while ops := self._read(_READ_BYTES, 1 << 63):
                last = ops[-1].time_ns
            if self._step_to_next_ring():
                continue
            if self._next > indexed or not self._skip_to(indexed + 1):
                break
        damaged = self._look_behind(indexed)
        return EndOfLog(self._ring, self._position, Lsn(self._next - 1), last, damaged)

    def _look_behind(self, indexed: Lsn) -> str:
        """Does a record behind the end, here or in a newer ring, say that it was on disk once?"""
        assert self._ring is not None
        # The record at the end itself is the torn one; only a later one speaks of damage. What
        # looks like a record inside its payload is an application's data.
        at = self._position + self._extent_of_torn()
        after = max(self._next + 1, indexed + 1)
        places = [(self._ring, at)]
        newer = (r for r in rings_in_use(self._store) if r.generation > self._ring.generation)
        places += [(ring, RING_HEADER_BYTES) for ring in newer]
        needed = max(self._next, indexed + 1)
        for ring, start in places:
            for position, lsn, unsynced in records_in(ring.path, start, ring.generation, after):
                if unsynced < MANY_UNSYNCED and lsn - max(unsynced, 1) >= needed:
                    return f"{ring.path.name} has LSN {lsn} at byte {position}"
        return ""

    def _extent_of_torn(self) -> int:
        """Bytes that the record at the end was to take, 0 if its header is not whole."""
        assert self._ring is not None
        data = os.pread(self._fd, _RECORD_BYTES, self._position)
        if len(data) < _RECORD_BYTES:
            return 0
        check, generation, _, _, _, length, lsn = _RECORD.unpack_from(data)[:7]
        whole = check == _hash(data[4:]) & 0xFFFFFFFF and generation == self._ring.generation
        if not whole or lsn != self._next or length > MAX_PAYLOAD_BYTES:
            return 0
        return padded(_RECORD_BYTES + length)


def _start_of_chain(rings: list[RingFile]) -> int:
    """Index of the oldest ring from which the generations run without a gap to the newest."""
    start = len(rings) - 1
    while start and rings[start - 1].generation == rings[start].generation - 1:
        start -= 1
    return start


def parse_records(
    data: bytes, generation: int, next_lsn: int, up_to: int
) -> tuple[list[Op], int, int]:
    """Decode consecutive records at the start of `data`.

    Returns the ops, the bytes that they take, and how many bytes the first record needs when
    `data` ends inside of it (0 when that is not why it stopped).
    """
    ops: list[Op] = []
    view = memoryview(data)
    at, size = 0, len(data)
    while at + _RECORD_BYTES <= size and next_lsn <= up_to:
        header = _RECORD.unpack_from(data, at)
        check, found_generation, kind, flags, _, length, lsn = header[:7]
        if lsn != next_lsn or found_generation != generation or length > MAX_PAYLOAD_BYTES:
            break
        if check != _hash(view[at + 4 : at + _RECORD_BYTES]) & 0xFFFFFFFF:
            break
        start = at + _RECORD_BYTES
        stop = start + length
        if stop > size:
            return ops, at, _RECORD_BYTES + length
        time_ns, node, offset, payload_xxh3, actor = header[7:]
        payload = data[start:stop]
        if _hash(payload) != payload_xxh3:
            break
        ops.append(
            Op(
                Lsn(lsn),
                TimeNs(time_ns),
                kind,
                flags,
                NodeId(node),
                offset,
                Lsn(actor),
                payload_xxh3,
                payload,
            )
        )
        at += padded(_RECORD_BYTES + length)
        next_lsn += 1
    return ops, at, 0


def padded(length: int) -> int:
    """`length` rounded up to the alignment of records."""
    return (length + ALIGN - 1) & ~(ALIGN - 1)


def records_in(path: Path, at: int, generation: int, least: int) -> Iterator[tuple[int, int, int]]:
    """(place, LSN, `unsynced`) of each valid record header from byte `at` on, wherever it is.

    Of the given generation, with an LSN of at least `least`. Payloads are not looked at.
    """
    with path.open("rb", buffering=0) as file:
        while data := os.pread(file.fileno(), _READ_BYTES, at):
            for place, lsn, unsynced in _headers(data, generation):
                if lsn >= least:
                    yield at + place, lsn, unsynced
            if len(data) < _READ_BYTES:
                return
            at += len(data) - _OVERLAP


_OVERLAP = padded(_RECORD_BYTES)
"""Read again, so that no header falls between two reads."""


def _headers(data: bytes, generation: int) -> Iterator[tuple[int, int, int]]:
    mark = generation.to_bytes(4, "little")
    at = data.find(mark, 4)
    while at >= 0:
        start = at - 4
        if start % ALIGN == 0 and start + _RECORD_BYTES <= len(data):
            header = _RECORD.unpack_from(data, start)
            if header[0] == _hash(data[start + 4 : start + _RECORD_BYTES]) & 0xFFFFFFFF:
                yield start, header[6], header[4]
        at = data.find(mark, at + 1)
