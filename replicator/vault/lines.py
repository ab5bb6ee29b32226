"""Lines of history: what to do when two machines write under one volume's UUID.

Duty: tell how far two histories are the same, and make a line of its own for the one that came
second. Batches are a chain of digests, so a batch that both have means that everything before it is
the same as well. Blocking; any thread; making a line takes a lock of the volume.

A new line is a store beside the others. It is made under a name that no line can have, out of the
parent's segments up to the mark (hard links; the one that the mark cuts is copied up to there), its
index is made from them, which tests every batch, and then it is renamed: a cut at any point leaves
a line that is whole or none, and what is half made goes when it is asked for again, or at the
vault's next start. Nothing of the parent is changed.
"""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from replicator.errors import BadRequest, Refused, VaultBusy
from replicator.vault.root import MAX_LINES, VaultRoot, checked_line
from replicator.wire import Common, LineInfo, Lines, Mark, NewLine, Origin
from store import durable
from store.batch import NO_DIGEST
from store.errors import StoreBusy, StoreError
from store.index_rows import BatchPlace
from store.journal import Journal, Snapshot
from store.reindex import reindex
from store.segment import SegmentFile, list_segments, open_name
from store.types import Lsn, TimeNs
from store.volume import Store, take_lock

ORIGIN_NAME: Final = "origin.json"
LOCK_NAME: Final = "lines.lock"
MAKING: Final = ".making-"
"""Start of a half-made line's folder; no line's name starts so."""

_SEAL_RETRIES: Final = 5


def find_common(snapshot: Snapshot, marks: Sequence[Mark]) -> Common:
    """The newest of the marks that this history has, too."""
    for mark in sorted(marks, key=lambda mark: mark.lsn, reverse=True):
        if has_mark(snapshot, mark):
            return Common(lsn=mark.lsn)
    return Common(lsn=0)


def has_mark(snapshot: Snapshot, mark: Mark) -> bool:
    """Does a batch of this history end there, with this digest?"""
    return _batch_at(snapshot, mark.lsn, mark.digest) is not None


def _batch_at(snapshot: Snapshot, lsn: int, digest: str) -> BatchPlace | None:
    place = snapshot.batch_of(Lsn(lsn)) if 0 < lsn <= snapshot.indexed_lsn else None
    if place is None or place.last_lsn != lsn or place.digest.hex() != digest:
        return None
    return place


def read_origin(store: Store) -> Origin | None:
    """Where a line parts from another; None for a first line. StoreError."""
    path = store.root / ORIGIN_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Origin)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreError(f"{path} can't be read: {error}") from error


def list_lines(root: VaultRoot, uuid: str) -> Lines:
    """Every line of a volume, with where it parts from which."""
    found = []
    for name in root.lines(uuid):
        with root.journal(uuid, name).snapshot() as snapshot:
            lsn = snapshot.indexed_lsn
        found.append(
            LineInfo(line=name, next_lsn=lsn + 1, origin=read_origin(root.store(uuid, name)))
        )
    return Lines(lines=found)


def make_line(root: VaultRoot, uuid: str, wanted: NewLine, now_ns: int | None = None) -> str:
    """Make a line that parts from another at a mark; returns its name.

    One that was made for the same mark and has got nothing since is taken: whoever asks did not
    hear the answer. Refused when the parent has no such mark, BadRequest for too many lines,
    VaultBusy while another one is made, StoreFull.
    """
    folder = root.store(uuid, wanted.parent).root.parent
    try:
        lock = take_lock(folder / LOCK_NAME)
    except StoreBusy as busy:
        raise VaultBusy("a line of this volume is being made", "it is ready soon") from busy
    try:
        return _Maker(root, uuid, wanted, folder, now_ns or time.time_ns()).run()
    finally:
        os.close(lock)


def clear_half_made(root: VaultRoot) -> None:
    """Take away what was cut short. For the process that has the vault locked, at its start."""
    for uuid in root.volumes():
        for entry in (root.volumes_dir / uuid).iterdir():
            if entry.name.startswith(MAKING):
                durable.drop_tree(entry)


class _Maker:
    """One line being made."""

    def __init__(
        self, root: VaultRoot, uuid: str, wanted: NewLine, folder: Path, now_ns: int
    ) -> None:
        self._root = root
        self._uuid = uuid
        self._wanted = wanted
        self._folder = folder
        self._now_ns = now_ns
        self._parent = root.store(uuid, wanted.parent)

    def run(self) -> str:
        wanted = self._wanted
        with self._root.journal(self._uuid, wanted.parent).snapshot() as snapshot:
            place = _batch_at(snapshot, wanted.lsn, wanted.digest)
            nothing = not wanted.lsn and wanted.digest == NO_DIGEST.hex()
        if place is None and not nothing:
            raise Refused(
                f"in line {wanted.parent} no batch ends with LSN {wanted.lsn} and that digest",
                "ask again what both histories have in common",
            )
        name = self._unused() or self._free_name()
        if not (self._folder / name).exists():
            self._make(name, place)
        return name

    def _unused(self) -> str | None:
        """A line that was made for this already, and that nobody has used."""
        wanted = self._wanted
        for name in self._root.lines(self._uuid):
            origin = read_origin(self._root.store(self._uuid, name))
            if origin is None or not name.startswith(wanted.name):
                continue
            if (origin.parent, origin.lsn, origin.digest) != (
                wanted.parent,
                wanted.lsn,
                wanted.digest,
            ):
                continue
            with self._root.journal(self._uuid, name).snapshot() as snapshot:
                if snapshot.indexed_lsn == wanted.lsn:
                    return name
        return None

    def _free_name(self) -> str:
        lines = self._root.lines(self._uuid)
        if len(lines) >= MAX_LINES:
            raise BadRequest(
                f"volume {self._uuid} has {MAX_LINES} lines, which is as many as it may"
            )
        name, number = checked_line(self._wanted.name), 1
        while name in lines:
            number += 1
            name = f"{self._wanted.name}-{number}"
        return name

    def _make(self, name: str, place: BatchPlace | None) -> None:
        making = self._folder / (MAKING + name)
        durable.drop_tree(making)
        store = Store.create(making, copy.deepcopy(self._parent.config))
        time_ns = TimeNs(0)
        if place is not None:
            time_ns = place.last_time_ns
            self._share_segments(store, place)
            reindex(store)
            _check(store, place)
        wanted = self._wanted
        origin = Origin(
            parent=wanted.parent,
            lsn=wanted.lsn,
            digest=wanted.digest,
            time_ns=time_ns,
            made_ns=self._now_ns,
        )
        durable.write_file_atomically(making / ORIGIN_NAME, msgspec.json.encode(origin))
        durable.rename(making, self._folder / name)

    def _share_segments(self, store: Store, place: BatchPlace) -> None:
        """Everything up to the end of a batch."""
        for _ in range(_SEAL_RETRIES):
            # The parent's open segment may be given its final name at any moment.
            with contextlib.suppress(FileNotFoundError):
                for file in list_segments(self._parent):
                    if file.first_lsn <= place.last_lsn:
                        self._share_segment(store, file, place)
                durable.fsync_dir(store.segments_dir)
                return
        raise VaultBusy("the line is written to too quickly", "try again")

    def _share_segment(self, store: Store, file: SegmentFile, place: BatchPlace) -> None:
        last = file.first_lsn == place.segment_first_lsn
        whole = file.last_lsn is not None and file.last_lsn <= place.last_lsn
        target = store.segments_dir / (file.path.name if whole else open_name(file.first_lsn))
        if target.exists():
            return
        if whole:
            durable.share_file(file.path, target)
            return
        assert last, file
        durable.copy_start(file.path, target, place.offset + place.total_bytes)


def _check(store: Store, place: BatchPlace) -> None:
    with Journal(store) as journal, journal.snapshot() as snapshot:
        made = snapshot.batch_of(snapshot.indexed_lsn)
    assert made is not None and (made.last_lsn, made.digest) == (place.last_lsn, place.digest)
