"""The shipment that is half received: every byte that came in counts, whatever happens then.

Duty: `LINE/incoming/`, which holds at most one file, with what has arrived of one shipment. Its
name says which shipment and how long that will be; how much there is of it is read from the file.
The bytes stand in pieces with a checksum each: after a power cut the whole pieces at the start
count, and the rest is asked for again.

What arrives is written down after SAVE_S at the latest, when more is still to come, and when its
connection ends: on a fast line a shipment is complete, and part of the journal, before that. A
kill costs what a line carries in that time; a power cut, what it carries in SYNC_S.

Only `append` and `begin` never block for long; one thread at a time.

    incoming/ID-TOTAL.part      pieces: length (4 bytes), xxh3 seeded with its offset (8), the bytes
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import xxhash

from replicator.errors import BadRequest, BadShipment, TooLarge
from replicator.wire import MAX_SHIPMENT_BYTES, Partial, shipment_id
from store import durable
from store.errors import TemporaryStoreError

SAVE_S: Final = 0.25
SYNC_S: Final = 5.0

MAX_PIECE_BYTES: Final = 1 << 20

_PIECE = struct.Struct("<IQ")
_NAME = re.compile(r"([0-9a-f]{32})-([0-9]{1,10})\.part")
_ID = re.compile(r"[0-9a-f]{32}")


class Spool:
    """The incoming shipment of one line."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._fd = -1
        self._id = ""
        self._total = 0
        self._received = 0
        """Bytes of the shipment that are there."""
        self._saved = 0
        """Those of them that are in the file."""
        self._end = 0
        """Where the file ends, pieces with their checksums."""
        self._unsynced = False
        self._saved_at = self._synced_at = 0.0
        self._fresh: list[bytes] = []
        """What is not in the file yet."""
        self._pieces: list[bytes] = []
        """What arrived on this connection; with it alone the file need not be read again."""
        self._from = 0
        """Offset in the shipment at which `_pieces` start."""

    @classmethod
    def open(cls, folder: Path, clock: Callable[[], float] = time.monotonic) -> Spool:
        """What an earlier run left, cut back to its whole pieces."""
        durable.make_dir(folder)
        spool = cls(folder, clock)
        found = [(path, _NAME.fullmatch(path.name)) for path in sorted(folder.iterdir())]
        for path, name in found:
            if name is None or spool._id or int(name[2]) > MAX_SHIPMENT_BYTES:
                durable.drop(path)  # of a version that does this differently, or half replaced
            else:
                spool._take_up(path, name[1], int(name[2]))
        return spool

    @property
    def partial(self) -> Partial | None:
        """What has arrived; None for nothing."""
        if not self._received:
            return None
        return Partial(shipment=self._id, received_bytes=self._received, total_bytes=self._total)

    @property
    def complete(self) -> bool:
        """Has all of the shipment arrived?"""
        return self._received > 0 and self._received == self._total

    def begin(self, shipment: str, total_bytes: int) -> int:
        """This shipment comes next; how many bytes of it are there. Another one gives way.

        BadRequest, TooLarge.
        """
        if not _ID.fullmatch(shipment):
            raise BadRequest("a shipment is named by 32 hexadecimal digits")
        if not 0 < total_bytes <= MAX_SHIPMENT_BYTES:
            raise TooLarge(f"a shipment has 1 to {MAX_SHIPMENT_BYTES} bytes")
        if (shipment, total_bytes) != (self._id, self._total):
            self.clear()
            self._id, self._total = shipment, total_bytes
        return self._received

    def append(self, data: bytes) -> bool:
        """What arrived next; is it time to `save`? TooLarge beyond the shipment's end."""
        if self._received + len(data) > self._total:
            raise TooLarge("there are more bytes than the shipment was said to have")
        if not self._fresh:
            self._saved_at = self._clock()
        self._pieces.append(data)
        self._fresh.append(data)
        self._received += len(data)
        return not self.complete and self._clock() - self._saved_at >= SAVE_S

    def save(self) -> None:
        """Write down what is not in the file yet. StoreFull, StoreFault leave what is in it."""
        if self._fresh:
            self._write(b"".join(self._fresh))
            self._fresh = []
            if self._clock() - self._synced_at >= SYNC_S:
                self._sync()

    def finish(self) -> bytes:
        """The whole shipment, all of whose bytes have arrived; BadShipment unless it is its id's.

        It stays until `clear`.
        """
        assert self.complete
        data = b"".join([*self._read_pieces(self._from), *self._pieces])
        if shipment_id(data) != self._id:
            self.clear()
            raise BadShipment("what arrived is not the shipment that its id names")
        return data

    def clear(self) -> None:
        """Forget what has arrived. Should the file come back after a power cut, it does no harm."""
        if self._fd >= 0:
            self._close_file()
            durable.drop(self._path)
        self._id, self._total = "", 0
        self._forget()

    def keep_or_clear(self) -> None:
        """A complete shipment could not be used yet: it stays if it is on the disk."""
        if self._fresh:
            self.clear()

    def pause(self) -> None:
        """The connection has ended. What has arrived is on disk, and not in memory, afterwards."""
        self.save()
        if self._fd >= 0:
            self._sync()
            self._pieces, self._from = [], self._received

    def close(self) -> None:
        """Give the file back; what has arrived stays. Closing twice is fine."""
        if not self.complete:
            with contextlib.suppress(TemporaryStoreError):
                self.save()
        self._close_file()

    # --- the file --------------------------------------------------------------------------------

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._id}-{self._total}.part"

    def _forget(self) -> None:
        self._received = self._saved = self._from = self._end = 0
        self._pieces, self._fresh, self._unsynced = [], [], False

    def _close_file(self) -> None:
        if self._fd >= 0:
            durable.close_file(self._fd)
            self._fd = -1

    def _sync(self) -> None:
        if self._unsynced:
            durable.fdatasync(self._fd)
            self._unsynced, self._synced_at = False, self._clock()

    def _write(self, data: bytes) -> None:
        try:
            if self._fd < 0:
                self._fd = durable.create_file(self._path)
                durable.fsync_dir(self._folder)
            for start in range(0, len(data), MAX_PIECE_BYTES):
                piece = data[start : start + MAX_PIECE_BYTES]
                head = _PIECE.pack(len(piece), _check(self._saved, piece))
                durable.pwrite_all(self._fd, head + piece, self._end)
                self._saved += len(piece)
                self._end += len(head) + len(piece)
                self._unsynced = True
        except (TemporaryStoreError, OSError) as error:
            self._reopen()
            if isinstance(error, OSError):
                raise durable.mapped(error) from error
            raise

    def _reopen(self) -> None:
        """After a failure: what counts is what the file holds."""
        path, shipment, total = self._path, self._id, self._total
        self._close_file()
        self._forget()
        if path.exists():
            self._take_up(path, shipment, total)

    def _take_up(self, path: Path, shipment: str, total: int) -> None:
        """Stand behind the whole pieces of a file."""
        self._id, self._total = shipment, total
        self._fd = durable.open_file(path)
        for piece in self._read_pieces(total):
            self._received += len(piece)
            self._end += _PIECE.size + len(piece)
        self._saved = self._from = self._received
        if self._end < os.fstat(self._fd).st_size:
            durable.truncate(self._fd, self._end)

    def _read_pieces(self, stop: int) -> Iterator[bytes]:
        """The whole pieces of the file before byte `stop` of the shipment, in order."""
        at = place = 0
        while at < stop:
            head = os.pread(self._fd, _PIECE.size, place)
            if len(head) < _PIECE.size:
                return
            length, check = _PIECE.unpack(head)
            if not 0 < length <= min(MAX_PIECE_BYTES, stop - at):
                return
            piece = os.pread(self._fd, length, place + _PIECE.size)
            if len(piece) < length or check != _check(at, piece):
                return
            yield piece
            at += length
            place += _PIECE.size + length


def _check(offset: int, piece: bytes) -> int:
    return xxhash.xxh3_64_intdigest(piece, seed=offset)
