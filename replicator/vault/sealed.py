"""A line of a sealed volume: the shipments themselves, since what is in them can't be read here.

Duty: keep sealed shipments in LSN order, and tell where they end. `SealedLine` has the interface
of `ingest.LineWriter` and its rules, by the chain that the headers show: a replay changes nothing,
what starts too late is a Gap, what contradicts the chain is Forked. Blocking; one thread at a time.
Reading (`sealed_files`) goes on beside it, from any process: files never change.

    LINE/sealed/FIRST-LAST.shipment    one shipment, as it arrived
    LINE/sealed/FIRST-LAST.pack        consecutive ones, put together so that files stay few

LSNs as 16 hexadecimal digits. Both hold entries (`SEALED_ENTRY`) back to back, each followed by its
shipment. A file appears under its name when it is whole and on disk; packing makes the pack durable
before it drops what went into it. So a power cut leaves nothing but files that are covered by a
pack, and `*.new`; `open` drops both. Where the line ends is read from the last file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from replicator.errors import BadShipment, Forked, Gap
from replicator.sealing import SealedHeader, is_sealed, read_header
from replicator.vault.sealed_files import (
    SealedFile,
    entry_starting_at,
    file_name,
    last_entry,
    list_files,
    pack_entry,
    sealed_dir,
)
from replicator.wire import shipment_id
from store import durable
from store.batch import NO_DIGEST
from store.errors import TemporaryStoreError
from store.types import Lsn
from store.volume import Store, take_lock

PACK_BYTES: Final = 64 << 20
"""A pack of half of this or more is never touched again."""

FEW: Final = 32
"""Single files at the end before they are put together."""

_COPY_BYTES: Final = 1 << 20
_PACKING: Final = "pack.new"


class SealedLine:
    """A line of a sealed volume, open for writing. After an exception it stands where it did."""

    def __init__(self, store: Store, lock_fd: int, pack_bytes: int, few: int) -> None:
        self._store = store
        self._lock_fd = lock_fd
        self._folder = sealed_dir(store)
        self._pack_bytes = pack_bytes
        self._few = few
        self._files: list[SealedFile] = []
        self._next = Lsn(1)
        self._digest = NO_DIGEST
        self._standing = False
        """What is known of the files is what is on the disk."""

    @classmethod
    def open(cls, store: Store, pack_bytes: int = PACK_BYTES, few: int = FEW) -> SealedLine:
        """Open a line where it ends. StoreBusy, StoreFull; DamagedError when it can't go on."""
        lock_fd = take_lock(store.indexer_lock_path, "something else writes this line: wait for it")
        line = cls(store, lock_fd, pack_bytes, few)
        try:
            line._stand()
        except BaseException:
            line.close()
            raise
        return line

    def close(self) -> None:
        """Let others write. Closing twice is fine."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def position(self) -> tuple[Lsn, bytes]:
        """The LSN that comes next, and the keyed digest of the batch before it (zeros for none)."""
        if not self._standing:
            self._stand()
        return self._next, self._digest

    def take(self, data: bytes) -> None:
        """Keep a sealed shipment, durable when it returns.

        BadShipment when it is none, or another volume's; Gap when something else comes next;
        Forked when it contradicts what is held; StoreFull and StoreFault by the disk.
        """
        header = self._checked(data)
        if not self._standing:
            self._stand()
        if header.first_lsn > self._next:
            raise Gap(f"the shipment starts at LSN {header.first_lsn}, LSN {self._next} comes next")
        if header.first_lsn < self._next:
            self._compare(header)
            return
        if header.previous != self._digest:
            raise Forked(f"the shipment follows from another history before LSN {self._next}")
        self._append(header, data)
        self._pack_some()

    # --- what arrives ----------------------------------------------------------------------------

    def _checked(self, data: bytes) -> SealedHeader:
        if not is_sealed(data):
            raise BadShipment(
                "the volume is sealed, and this shipment is not",
                "set [seal] key_file in the site's replica.toml, or replicate a new volume",
            )
        header = read_header(data)
        if header.volume != self._store.uuid:
            raise BadShipment("the shipment is of another volume")
        if len(data) != header.total_bytes:
            raise BadShipment("the sealed shipment has another size than its header says")
        return header

    def _compare(self, header: SealedHeader) -> None:
        """Fine if the shipment's ends are held already, whoever cut and sealed it how."""
        first = entry_starting_at(self._files, header.first_lsn)
        after = entry_starting_at(self._files, Lsn(header.last_lsn + 1))
        digest = self._digest if header.last_lsn + 1 == self._next else None
        if after is not None:
            digest = after.header.previous
        if first is not None and first.header.previous != header.previous:
            raise Forked(f"another history is held before LSN {header.first_lsn}")
        if digest is not None and digest != header.digest:
            raise Forked(f"another history is held up to LSN {header.last_lsn}")
        if first is None or digest is None:
            raise Gap(
                f"LSN {header.first_lsn} to {header.last_lsn} is held otherwise cut; "
                f"LSN {self._next} comes next"
            )

    def _append(self, header: SealedHeader, data: bytes) -> None:
        self._standing = False
        name = file_name(header.first_lsn, header.last_lsn, single=True)
        entry = pack_entry(time.time_ns(), len(data), bytes.fromhex(shipment_id(data)))
        try:
            if not self._folder.is_dir():
                durable.make_dir(self._folder)
            durable.write_file_atomically(self._folder / name, entry + data)
        except (OSError, TemporaryStoreError) as error:
            raise _given_up(error, self._folder / f"{name}.new") from error
        size = len(entry) + len(data)
        self._files.append(
            SealedFile(self._folder / name, header.first_lsn, header.last_lsn, size, True)
        )
        self._next, self._digest = Lsn(header.last_lsn + 1), header.digest
        self._standing = True

    # --- packing ---------------------------------------------------------------------------------

    def _pack_some(self) -> None:
        """Put the newest files together when they have become many, or enough for a pack.

        A full disk is no reason to refuse what is held by now: then it is tried again later.
        """
        count = newest_to_pack(self._files, self._pack_bytes, self._few)
        if count > 1:
            with contextlib.suppress(TemporaryStoreError):
                self._pack(self._files[-count:])

    def _pack(self, files: Sequence[SealedFile]) -> None:
        """One pack of consecutive files; they go when it is on disk."""
        self._standing = False
        temporary = self._folder / _PACKING
        target = self._folder / file_name(files[0].first_lsn, files[-1].last_lsn, single=False)
        try:
            durable.drop(temporary)
            fd = durable.create_file(temporary)
            try:
                size = _copy(files, fd)
                durable.fsync(fd)
            finally:
                durable.close_file(fd)
            durable.rename(temporary, target)
        except (OSError, TemporaryStoreError) as error:
            raise _given_up(error, temporary) from error
        del self._files[-len(files) :]
        first, last = files[0].first_lsn, files[-1].last_lsn
        self._files.append(SealedFile(target, first, last, size, False))
        for file in files:
            durable.drop(file.path)
        self._standing = True

    # --- after a crash ---------------------------------------------------------------------------

    def _stand(self) -> None:
        """Find the end; drop what a crash, or a failure of the disk, left over.

        A file, or the folder, may have got its name just before, and that not be on the disk yet:
        it counts as held only when it is.
        """
        found = list_files(self._store)
        if self._folder.is_dir():
            try:
                durable.fsync_dir(self._folder)
                durable.fsync_dir(self._folder.parent)
            except OSError as error:
                raise durable.mapped(error) from error
        self._files = found.files
        end = last_entry(found.files[-1]) if found.files else None
        self._next, self._digest = Lsn(1), NO_DIGEST
        if end is not None:
            self._next, self._digest = Lsn(end.header.last_lsn + 1), end.header.digest
        for path in found.leftovers:
            durable.drop(path)
        self._standing = True


def _given_up(error: OSError | TemporaryStoreError, temporary: Path) -> TemporaryStoreError:
    """What to raise; on a full disk the file that could not be finished must not take up room."""
    with contextlib.suppress(OSError):
        durable.drop(temporary)
    return durable.mapped(error) if isinstance(error, OSError) else error


def newest_to_pack(files: Sequence[SealedFile], pack_bytes: int, few: int) -> int:
    """How many files at the end to put into one now; 0 for none.

    Those after the last large one come to a whole pack: all of these. Else, when the single ones
    among them are `few`: these, and older packs as long as one has at most twice the bytes of all
    that is newer. So each shipment is copied a few times at the most (the logarithm of a pack's
    size), and small files stay as few.
    """
    tail: list[SealedFile] = []
    for file in reversed(files):
        if file.size_bytes * 2 >= pack_bytes:
            break
        tail.append(file)
    if len(tail) > 1 and sum(file.size_bytes for file in tail) >= pack_bytes:
        return len(tail)
    if sum(file.single for file in tail) < few:
        return 0
    count = total = 0
    for file in tail:
        if not file.single and file.size_bytes > 2 * total:
            break
        count += 1
        total += file.size_bytes
    return count


def _copy(files: Sequence[SealedFile], target: int) -> int:
    """The bytes of files, one after the other; returns how many."""
    at = 0
    for file in files:
        fd = durable.open_file(file.path, os.O_RDONLY)
        try:
            start = 0
            while piece := os.pread(fd, _COPY_BYTES, start):
                durable.pwrite_all(target, piece, at)
                start += len(piece)
                at += len(piece)
        finally:
            durable.close_file(fd)
    return at
