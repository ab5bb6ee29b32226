"""Lines of history: what to do when two machines write under one volume's UUID.

Duty: tell how far two histories are the same, and make a line of its own for the one that came
second. Batches are a chain of digests, so a batch that both have means that everything before it is
the same as well. Blocking; any thread; making a line takes a lock of the volume.

A new line is a store beside the others. It is made under a name that no line can have, out of the
parent's files up to the mark (`line_history`: hard links; the one that the mark cuts is copied),
and then it is renamed: a cut at any point leaves a line that is whole or none, and what is half
made goes when it is asked for again, or at the vault's next start. The parent stays as it is.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from replicator.errors import BadRequest, Refused, VaultBusy
from replicator.vault.line_history import history_of
from replicator.vault.root import MAX_LINES, VaultRoot, checked_line
from replicator.wire import Common, LineInfo, Lines, Mark, NewLine, Origin
from store import durable
from store.batch import NO_DIGEST
from store.errors import StoreBusy, StoreError
from store.volume import Store, take_lock

ORIGIN_NAME: Final = "origin.json"
LOCK_NAME: Final = "lines.lock"
MAKING: Final = ".making-"
"""Start of a half-made line's folder; no line's name starts so."""


def find_common(root: VaultRoot, uuid: str, line: str, marks: Sequence[Mark]) -> Common:
    """The newest of the marks that a line has, too. UnknownVolume."""
    history = history_of(root, uuid, line)
    for mark in sorted(marks, key=lambda mark: mark.lsn, reverse=True):
        if history.has(mark):
            return Common(lsn=mark.lsn)
    return Common(lsn=0)


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
    """A volume and every line of it, with where it parts from which."""
    volume = root.volume(uuid)
    lines = [
        LineInfo(
            line=name,
            next_lsn=history_of(root, uuid, name).end() + 1,
            origin=read_origin(root.store(uuid, name)),
        )
        for name in root.lines(uuid)
    ]
    return Lines(site=volume.site, description=volume.description, lines=lines)


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
        self._mark = Mark(lsn=wanted.lsn, digest=wanted.digest)
        self._folder = folder
        self._now_ns = now_ns
        self._parent = history_of(root, uuid, wanted.parent)

    def run(self) -> str:
        """Make it, or take the one that is there."""
        wanted = self._wanted
        at_nothing = not wanted.lsn and wanted.digest == NO_DIGEST.hex()
        if not at_nothing and not self._parent.has(self._mark):
            raise Refused(
                f"in line {wanted.parent} nothing ends with LSN {wanted.lsn} and that digest",
                "ask again what both histories have in common",
            )
        name = self._unused()
        if name is None:
            name = self._free_name()
            self._make(name)
        return name

    def _unused(self) -> str | None:
        """A line that was made for this already, and that nobody has used."""
        wanted = self._wanted
        mark = (wanted.parent, wanted.lsn, wanted.digest)
        for line in list_lines(self._root, self._uuid).lines:
            origin = line.origin
            if origin is None or not line.line.startswith(wanted.name):
                continue
            same = (origin.parent, origin.lsn, origin.digest) == mark
            if same and line.next_lsn == wanted.lsn + 1:
                return line.line
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

    def _make(self, name: str) -> None:
        wanted = self._wanted
        making = self._folder / (MAKING + name)
        durable.drop_tree(making)
        config = self._root.store(self._uuid, wanted.parent).config
        store = Store.create(making, copy.deepcopy(config))
        if wanted.lsn:
            self._parent.share(store, self._mark)
        origin = Origin(
            parent=wanted.parent,
            lsn=wanted.lsn,
            digest=wanted.digest,
            time_ns=self._parent.time_ns(self._mark),
            made_ns=self._now_ns,
        )
        durable.write_file_atomically(making / ORIGIN_NAME, msgspec.json.encode(origin))
        durable.rename(making, self._folder / name)
