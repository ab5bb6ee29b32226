"""The intake log's writer: the only door through which ops enter a store.

Duty: give each op its LSN and time, put it behind the previous one in the ring, and make the log
durable on demand. `append` runs on one thread (fsd's loop) and never waits for anything but the
page cache; `sync` may run on another one at the same time. It knows nothing of what ops mean and
has no policy: who waits when the ring is full, and when a ring file may be reused, is decided by
its caller.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Callable

import xxhash

from store import durable
from store.errors import DamagedError, StoreError
from store.format import (
    ALIGN,
    MANY_UNSYNCED,
    MAX_PAYLOAD_BYTES,
    RECORD,
    RING_HEADER_BYTES,
    TIME_STEP_NS,
)
from store.ring import all_rings, make_ring_file, ring_path, rings_in_use, take_into_use, wipe
from store.tail import EndOfLog, records_in
from store.types import Lsn, TimeNs
from store.volume import Store

RESERVE_BYTES = 3 << 20
"""Room that `has_room` promises: the largest run of ops that one request may append."""

LITTLE_BYTES = 256 << 10
"""Of that, what is kept for ops without content when the store's disk is full."""

_RECORD_BYTES = RECORD.size_bytes
_HEADER = struct.Struct(RECORD.codec.format.replace("<I", "<", 1))
_CHECK = struct.Struct("<I")
_MASK = 0xFFFFFFFF
_hash = xxhash.xxh3_64_intdigest


def stamp_ns() -> int:
    """The machine's time, as ops are stamped with it."""
    now = time.time_ns()
    return now - now % TIME_STEP_NS


class Intake:
    """The writer of one store's intake log. Open it with `Intake.open`."""

    def __init__(self, store: Store, clock_ns: Callable[[], int] = stamp_ns) -> None:
        self._store = store
        self._clock_ns = clock_ns
        self._record = bytearray(_RECORD_BYTES)
        self._tail = memoryview(self._record)[4:]
        self._fds: dict[int, int] = {}
        self._last_lsns: dict[int, int] = {}
        self._number = 0
        self._fd = -1
        self._generation = 0
        self._position = 0
        self._limit = 0
        self._next_number: int | None = None
        self._unsynced: set[int] = set()
        self._untrusted: StoreError | None = None
        self.lsn = Lsn(0)
        """The newest op's LSN."""
        self.time_ns = TimeNs(0)
        """The newest op's time."""
        self.durable_lsn = Lsn(0)
        """Every op up to it is on disk."""

    @classmethod
    def open(
        cls,
        store: Store,
        end: EndOfLog,
        indexed: Lsn,
        clock_ns: Callable[[], int] = stamp_ns,
        power_cut: bool = True,
    ) -> Intake:
        """Go on where the log ends, cutting off what stands behind it.

        When the journal is ahead of the log (`indexed`), the log starts anew behind it.
        `power_cut`: not everything that was written need be on disk (looking for what is takes a
        reading of the whole ring). DamagedError when the end was not the end once: then nothing is
        touched.
        """
        if end.damaged:
            raise DamagedError(
                store.intake_dir, end.position, f"the intake log is damaged: {end.damaged}"
            )
        intake = cls(store, clock_ns)
        intake.lsn, intake.time_ns = end.lsn, end.time_ns
        intake._generation = end.ring.generation if end.ring else 0
        durable.make_dir(store.intake_dir)
        make_ring_file(store, 0)
        if power_cut:
            _wipe_leftovers(store, end)
        if end.ring is None or end.lsn < indexed:
            intake.lsn = max(end.lsn, indexed)
            number = int(end.ring.path.stem) + 1 if end.ring else 0
            intake._switch_to(number % store.config.ring_files, synced=True)
        else:
            intake._number = int(end.ring.path.stem)
            intake._use(intake._number, end.position, end.ring.generation)
            intake._clear_torn()
        intake._learn_rings()
        intake.sync()
        return intake

    def _clear_torn(self) -> None:
        """Overwrite a torn record: its remains must not be taken for damage at a later start."""
        header = os.pread(self._fd, _RECORD_BYTES, self._position)
        if len(header) < _RECORD_BYTES or _CHECK.unpack_from(header, 4)[0] != self._generation:
            return
        for at in range(self._position, self._limit, 1 << 20):
            durable.pwrite_all(self._fd, bytes(min(1 << 20, self._limit - at)), at)

    def _learn_rings(self) -> None:
        """What each file of an earlier session holds, so that none is reused too early.

        That session may have been killed before it had synced them.
        """
        rings = rings_in_use(self._store)
        for ring, successor in itertools.pairwise(rings):
            number = int(ring.path.stem)
            self._last_lsns[number] = successor.first_lsn - 1
            self._unsynced.add(self._open_ring(number))

    def _open_ring(self, number: int) -> int:
        fd = self._fds.get(number, -1)
        if fd < 0:
            fd = self._fds[number] = durable.open_file(ring_path(self._store, number))
        return fd

    def _use(self, number: int, position: int, generation: int) -> None:
        fd = self._open_ring(number)
        self._number, self._fd, self._generation = number, fd, generation
        self._position = position
        self._limit = os.fstat(fd).st_size

    def _switch_to(self, number: int, synced: bool = False, features: int = 0) -> None:
        """Go on at the start of ring file `number`, which nobody needs any more."""
        make_ring_file(self._store, number)
        self._use(number, RING_HEADER_BYTES, self._generation + 1)
        take_into_use(
            self._store,
            self._fd,
            self._generation,
            self.lsn + 1,
            durably=synced,
            features=features,
        )
        self._unsynced.add(self._fd)

    def start_anew(self, features: int = 0) -> None:
        """Go on in another ring file; what is in the ones so far nobody needs any more.

        The caller saw to it that the journal and the backing tree hold every op, both on disk.
        That also holds after a failed flush, which leaves nobody knowing what is on the disk. The
        files are opened anew, since the disk may have come back as another one. Blocking;
        StoreFull, StoreFault, with nothing changed that counts.
        """
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        self._unsynced.clear()
        self._untrusted = None
        self._last_lsns.clear()
        self._next_number = None
        self._fd, self._position, self._limit = -1, 0, 0
        try:
            self._switch_to((self._number + 1) % self._store.config.ring_files, True, features)
        except OSError as error:
            raise durable.mapped(error) from error
        self.durable_lsn = self.lsn

    # --- the way of an op -------------------------------------------------------------------

    def tick(self) -> None:
        """Let `time_ns` go on without an op: something changed that is not logged."""
        self.time_ns = TimeNs(max(self._clock_ns(), self.time_ns + 1))

    def append(
        self,
        kind: int,
        node: int,
        offset: int = 0,
        payload: bytes | memoryview = b"",
        flags: int = 0,
        actor: int = 0,
    ) -> Lsn:
        """Log one op; returns its LSN. It survives the death of this process at once.

        The caller made sure of `has_room`. StoreFull or StoreFault with nothing logged.
        """
        length = len(payload)
        if self._position + _RECORD_BYTES + length > self._limit:
            self._roll(length)
        lsn = self.lsn + 1
        unsynced = lsn - self.durable_lsn
        now = self._clock_ns()
        if now <= self.time_ns:
            now = self.time_ns + 1
        _HEADER.pack_into(
            self._record,
            4,
            self._generation,
            kind,
            flags,
            unsynced if unsynced < MANY_UNSYNCED else MANY_UNSYNCED,
            length,
            lsn,
            now,
            node,
            offset,
            _hash(payload),
            actor,
        )
        _CHECK.pack_into(self._record, 0, _hash(self._tail) & _MASK)
        wanted = _RECORD_BYTES + length
        try:
            written = durable.disk.pwritev(self._fd, (self._record, payload), self._position)
        except OSError as error:
            fault = durable.mapped(error)
            fault.lost = kind, node, offset, bytes(payload)
            raise fault from error
        if written != wanted:
            self._complete(payload, written)
        self._position += (wanted + ALIGN - 1) & -ALIGN
        self.lsn = Lsn(lsn)
        self.time_ns = TimeNs(now)
        return Lsn(lsn)

    def _complete(self, payload: bytes | memoryview, written: int) -> None:
        """Write what a short write left over."""
        rest = (bytes(self._record) + bytes(payload))[written:]
        durable.pwrite_all(self._fd, rest, self._position + written)

    def _roll(self, length: int) -> None:
        if length > MAX_PAYLOAD_BYTES:
            raise StoreError(f"an op of {length} bytes is larger than any may be")
        if self._next_number is None:
            raise StoreError("the intake ring is full", "this is a defect: no one asked has_room")
        self._last_lsns[self._number] = self.lsn
        self._unsynced.add(self._fd)
        number, self._next_number = self._next_number, None
        self._switch_to(number)

    # --- room ---------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """May a request append up to RESERVE_BYTES now?"""
        return self._next_number is not None or self._limit - self._position >= RESERVE_BYTES

    def has_little_room(self) -> bool:
        """May a request append a few ops without content, though `has_room` says no?"""
        return self._next_number is not None or self._limit - self._position >= LITTLE_BYTES

    @property
    def needs_next(self) -> bool:
        """Is there no file yet to go on in when the current one is full?"""
        return self._next_number is None

    def prepare_next(self, safe: Lsn) -> bool:
        """Choose the file to go on in. Blocking (may write a file full of zeros); any thread.

        `safe`: ops up to it are in the journal and in the backing tree, both on disk, so that
        files with nothing newer may be reused. Returns whether there is one.
        """
        if self._next_number is not None:
            return True
        number = (self._number + 1) % self._store.config.ring_files
        if ring_path(self._store, number).exists():
            if self._last_lsns.get(number, 0) > safe:
                return False
        else:
            make_ring_file(self._store, number)
        self._next_number = number
        return True

    @property
    def used_fraction(self) -> float:
        """How much of the current file is used, 0 to 1."""
        return self._position / self._limit

    # --- durability ---------------------------------------------------------------------------

    def sync(self) -> Lsn:
        """Everything appended before the call is on disk when it returns; returns up to which LSN.

        One thread at a time; `append` may go on beside it. StoreFull or StoreFault, and from then
        on always, until `start_anew`.
        """
        if self._untrusted is not None:
            raise self._untrusted
        upto, current = self.lsn, self._fd
        try:
            for fd in tuple(self._unsynced):
                if fd != current:
                    durable.fdatasync(fd)
                    self._unsynced.discard(fd)
            durable.fdatasync(current)
        except StoreError as error:
            # The kernel may have dropped what it could not write: a second try that succeeds
            # would say nothing about it (see fsync(2), NOTES on errors).
            self._untrusted = error
            raise
        self.durable_lsn = max(self.durable_lsn, upto)
        return upto

    def close(self) -> None:
        """Close the files; the log stays as it is."""
        for fd in self._fds.values():
            durable.close_file(fd)
        self._fds.clear()
        self._fd = -1


def _wipe_leftovers(store: Store, end: EndOfLog) -> None:
    """After a power cut, take away records behind the end, which were never synced.

    They are valid by themselves, and would count as the log's own as soon as it has grown up to
    them by records of the same sizes, or has taken their file into use under the same generation.
    """
    generation = end.ring.generation if end.ring else 0
    current = int(end.ring.path.stem) if end.ring else store.config.ring_files - 1
    for ring in all_rings(store):
        ahead = (int(ring.path.stem) - current) % store.config.ring_files
        if end.ring is not None and not ahead:
            if any(records_in(ring.path, end.position, generation, 0)):
                wipe(store, ring, end.position)
            continue
        lost = generation + (ahead or store.config.ring_files)
        if ring.generation > generation or any(records_in(ring.path, RING_HEADER_BYTES, lost, 0)):
            wipe(store, ring)
