"""What a line of history is made of, as far as a second one is made of its beginning.

Duty: does a history have a mark, and a copy of it up to there, sharing the files that never change.
Of open volumes (a journal) and sealed ones (shipments that can't be read here; a mark is the end of
a shipment there, with its keyed digest). Blocking; any thread. Nothing is changed in what is read.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

from replicator.errors import VaultBusy
from replicator.vault.root import VaultRoot
from replicator.vault.sealed_files import (
    HeldEntry,
    SealedFile,
    entries_of,
    file_name,
    list_files,
    sealed_dir,
)
from replicator.wire import Mark
from store import durable
from store.index_rows import BatchPlace
from store.journal import Journal
from store.reindex import reindex
from store.segment import SegmentFile, list_segments, open_name
from store.types import Lsn
from store.volume import Store

_RETRIES = 5
"""A line that is being written renames its files: its folder is read again then."""


class History(Protocol):
    """One line's history."""

    def end(self) -> Lsn:
        """The newest LSN; 0 for none."""

    def has(self, mark: Mark) -> bool:
        """Is the mark in it?"""

    def time_ns(self, mark: Mark) -> int:
        """When the mark's last op was made (of sealed ones: when it arrived)."""

    def share(self, store: Store, mark: Mark) -> None:
        """Give a new store everything up to the mark, on disk but for the store's own name."""


def history_of(root: VaultRoot, uuid: str, line: str) -> History:
    """The history of a line. UnknownVolume."""
    store = root.store(uuid, line)
    if root.volume(uuid).description.sealed:
        return SealedHistory(store)
    return OpenHistory(store, root.journal(uuid, line))


class OpenHistory:
    """Of a journal."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal

    def end(self) -> Lsn:
        """The newest LSN; 0 for none."""
        return self._journal.indexed_lsn

    def has(self, mark: Mark) -> bool:
        """Does a batch end there, with this digest?"""
        return self._batch(mark) is not None

    def time_ns(self, mark: Mark) -> int:
        """Of the batch's last op; 0 if there is no such batch."""
        place = self._batch(mark)
        return place.last_time_ns if place is not None else 0

    def _batch(self, mark: Mark) -> BatchPlace | None:
        with self._journal.snapshot() as snapshot:
            known = 0 < mark.lsn <= snapshot.indexed_lsn
            place = snapshot.batch_of(Lsn(mark.lsn)) if known else None
        if place is None or place.last_lsn != mark.lsn or place.digest.hex() != mark.digest:
            return None
        return place

    def share(self, store: Store, mark: Mark) -> None:
        """The segments, the cut one copied up to there; the index is made, every batch tested."""
        place = self._batch(mark)
        assert place is not None, mark
        for attempt in range(_RETRIES):
            with contextlib.suppress(FileNotFoundError):
                self._share_segments(store, place)
                break
            if attempt == _RETRIES - 1:
                raise VaultBusy("the line is written to too quickly", "try again")
        reindex(store)
        with Journal(store) as journal, journal.snapshot() as snapshot:
            made = snapshot.batch_of(snapshot.indexed_lsn)
        assert made is not None and (made.last_lsn, made.digest) == (mark.lsn, place.digest)

    def _share_segments(self, store: Store, place: BatchPlace) -> None:
        for file in list_segments(self._store):
            if file.first_lsn <= place.last_lsn:
                _share_segment(store, file, place)
        durable.fsync_dir(store.segments_dir)


def _share_segment(store: Store, file: SegmentFile, place: BatchPlace) -> None:
    whole = file.last_lsn is not None and file.last_lsn <= place.last_lsn
    target = store.segments_dir / (file.path.name if whole else open_name(file.first_lsn))
    if target.exists():
        return
    if whole:
        durable.share_file(file.path, target)
        return
    assert file.first_lsn == place.segment_first_lsn, file
    durable.copy_start(file.path, target, place.offset + place.total_bytes)


class SealedHistory:
    """Of sealed shipments."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def end(self) -> Lsn:
        """The newest LSN; 0 for none."""
        files = list_files(self._store).files
        return files[-1].last_lsn if files else Lsn(0)

    def has(self, mark: Mark) -> bool:
        """Does a shipment end there, with this keyed digest?"""
        return self._entry(mark) is not None

    def time_ns(self, mark: Mark) -> int:
        """When the shipment arrived: what is in it can't be read here. 0 if there is none."""
        found = self._entry(mark)
        return found[1].arrived_ns if found is not None else 0

    def _entry(self, mark: Mark) -> tuple[SealedFile, HeldEntry] | None:
        for _ in range(_RETRIES):
            with contextlib.suppress(FileNotFoundError):
                return self._look(mark)
        raise VaultBusy("the line is written to too quickly", "try again")

    def _look(self, mark: Mark) -> tuple[SealedFile, HeldEntry] | None:
        for file in list_files(self._store).files:
            if not file.first_lsn <= mark.lsn <= file.last_lsn:
                continue
            for entry in entries_of(file):
                header = entry.header
                if header.last_lsn == mark.lsn and header.digest.hex() == mark.digest:
                    return file, entry
        return None

    def share(self, store: Store, mark: Mark) -> None:
        """The files, the cut one copied up to there."""
        for _ in range(_RETRIES):
            durable.drop_tree(sealed_dir(store))
            durable.make_dir(sealed_dir(store))
            with contextlib.suppress(FileNotFoundError):
                self._share_files(store, mark)
                return
        raise VaultBusy("the line is written to too quickly", "try again")

    def _share_files(self, store: Store, mark: Mark) -> None:
        found = self._look(mark)
        assert found is not None, mark
        cut, entry = found
        for file in list_files(self._store).files:
            target = sealed_dir(store) / file.path.name
            if file.last_lsn <= mark.lsn:
                durable.share_file(file.path, target)
            elif file.first_lsn <= mark.lsn:
                assert file.path == cut.path, file
                name = file_name(file.first_lsn, Lsn(mark.lsn), single=False)
                stop = entry.offset + entry.header.total_bytes
                durable.copy_start(file.path, target.with_name(name), stop)
        durable.fsync_dir(sealed_dir(store))
