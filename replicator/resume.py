"""A restore over a line that was cut goes on where it was, without fetching files again.

Duty: a note at the destination that says which restore is under way, and what of it is there
already. Nothing that is there is trusted: files and the half-made one are compared with the vault
by digest, piece by piece. Blocking; one thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3

from replicator.errors import ReplicationError
from replicator.reading_wire import MAX_CONTENTS_BYTES, MAX_RANGES, Range
from replicator.remote_view import RemoteView
from store import durable
from timetravel.content import pieces_to_read
from timetravel.place import Place, joined
from timetravel.restore import Plan
from timetravel.steps import TEMPORARY_PREFIX, Action, Step

MAX_NOTE_BYTES: Final = 1 << 16


class Unfinished(ReplicationError):
    """Another restore to the same place was cut."""


class RestoreNote(msgspec.Struct, kw_only=True, frozen=True):
    """What a restore is, as it was asked for. `source` and `at` are in base64."""

    volume: str
    line: str
    source: bytes
    at: bytes
    moment: str
    lsn: int


class Resumption:
    """Of one restore: `timetravel.restore.Resume`."""

    def __init__(self, place: Place, volume: str, line: str, source: bytes, at: bytes) -> None:
        self._place = place
        self._what = volume, line, source, at
        words = b"\0".join((volume.encode(), line.encode(), source, at))
        self._id = blake3(words).hexdigest()[:12].encode()
        self.note = self._read()
        self.begun = self.note is not None
        self._view: RemoteView | None = None
        self._moment = ""

    @property
    def note_path(self) -> Path:
        """Where the note is."""
        name = TEMPORARY_PREFIX + self._id + b".note"
        return Path(os.fsdecode(os.path.join(self._place.root, name)))

    def lsn_of(self, moment: str) -> int | None:
        """The LSN that a run with the same moment went to; None: there was no such run.

        Unfinished when a run with another moment was cut.
        """
        if self.note is None:
            return None
        if self.note.moment != moment:
            raise Unfinished(
                f"an earlier restore to here was cut: it was of {self.note.moment}",
                f"go on with it: --at '{self.note.moment}'; or remove what it brought, and its "
                f"note {self.note_path}",
            )
        return self.note.lsn

    def of(self, view: RemoteView, moment: str) -> Resumption:
        """The same, with what it restores and how that was asked for."""
        self._view, self._moment = view, moment
        return self

    def begin(self, plan: Plan) -> None:
        """See `Resume`."""
        assert self._view is not None
        if not self.begun:
            volume, line, source, at = self._what
            note = RestoreNote(
                volume=volume,
                line=line,
                source=source,
                at=at,
                moment=self._moment,
                lsn=self._view.lsn,
            )
            data = msgspec.json.encode(note)
            durable.write_file_atomically(self.note_path, data)
        if self.begun:
            here = [step for step in plan.steps if self._may_be_here(step)]
            whole = self._equal_files(self._view, here)
            plan.steps[:] = [
                Step(Action.KEEP, step.path) if step.path in whole else step for step in plan.steps
            ]
        for step in plan.steps:
            if step.action in (Action.CREATE, Action.REPLACE) and step.size_bytes:
                self._use_partial(self._view, step)

    def finish(self) -> None:
        """It is done: there is nothing to go on with."""
        durable.drop(self.note_path)

    def partial_name(self, path: bytes) -> bytes:
        """See `Resume`."""
        assert self._view is not None
        # Of another LSN it would have other bytes where holes are expected.
        words = b"%d\0%b" % (self._view.lsn, path)
        digest = blake3(words).hexdigest()[:16].encode()
        return TEMPORARY_PREFIX + self._id + b"-" + digest

    # --- what is there already -------------------------------------------------------------------

    def _may_be_here(self, step: Step) -> bool:
        """A file with the size and time that it would have."""
        if step.action is not Action.REPLACE:
            return False
        assert self._view is not None
        state, there = self._view.state(step.node), self._place.stat(step.path)
        return (
            there is not None
            and stat.S_ISREG(state.mode)
            and stat.S_ISREG(there.st_mode)
            and (there.st_size, there.st_mtime_ns) == (state.size_bytes, state.mtime_ns)
        )

    def _equal_files(self, view: RemoteView, steps: list[Step]) -> set[bytes]:
        """The paths of those whose content is that of the vault."""
        differing: set[bytes] = set()
        for batch in _batches(self._pieces(view, steps)):
            said = view.digests([part for _path, part, _digest in batch])
            differing |= {
                path
                for (path, _part, digest), theirs in zip(batch, said, strict=True)
                if digest != theirs
            }
        return {step.path for step in steps} - differing

    def _pieces(self, view: RemoteView, steps: list[Step]) -> Iterator[tuple[bytes, Range, bytes]]:
        for step in steps:
            directory, name = self._place.parent(step.path)
            yield from _local_pieces(view, step, directory, name)

    def _use_partial(self, view: RemoteView, step: Step) -> None:
        """Have the view give what the half-made file has from there, as far as it is right.

        Behind the first piece that is not, the file is cut off: a restore leaves holes where it
        expects nothing.
        """
        above = step.path.rpartition(b"/")[0]
        name = self.partial_name(step.path)
        partial = joined(above, name)
        try:
            found = self._place.stat(partial)
        except OSError:
            return  # a directory above it is still to be made
        if found is None:
            return
        right: list[Range] = []
        if self.begun and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            pieces = _local_pieces(view, step, self._place.directory(above), name)
            right = list(_right_ones(view, pieces))
        full = os.path.join(self._place.root, partial)
        if right:
            os.truncate(full, right[-1].start + right[-1].size)
            for part in right:
                view.use_local(part, full)
        else:
            durable.drop(Path(os.fsdecode(full)))

    def _read(self) -> RestoreNote | None:
        try:
            with open(self.note_path, "rb") as file:
                return msgspec.json.decode(file.read(MAX_NOTE_BYTES), type=RestoreNote)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise Unfinished(
                f"the note of an earlier restore can't be read: {error}",
                f"remove {self.note_path} and what that restore brought",
            ) from error


def _local_pieces(
    view: RemoteView, step: Step, directory: int, name: bytes
) -> Iterator[tuple[bytes, Range, bytes]]:
    """Path, range and digest of the pieces of a file that is there."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=directory)
    try:
        for start, stop in pieces_to_read(view, step.node, step.size_bytes):
            data = os.pread(fd, stop - start, start)
            if len(data) == stop - start:
                part = Range(step.node, start, stop - start)
                yield step.path, part, blake3(data).digest()
            else:
                yield step.path, Range(step.node, start, stop - start), b""
    finally:
        os.close(fd)


def _right_ones(view: RemoteView, pieces: Iterator[tuple[bytes, Range, bytes]]) -> Iterator[Range]:
    """The ranges up to the first one that is not what the vault has."""
    for batch in _batches(pieces):
        said = view.digests([part for _path, part, _digest in batch])
        for (_path, part, digest), theirs in zip(batch, said, strict=True):
            if digest != theirs:
                return
            yield part


def _batches(
    pieces: Iterator[tuple[bytes, Range, bytes]],
) -> Iterator[list[tuple[bytes, Range, bytes]]]:
    """As many as one request may ask for."""
    batch: list[tuple[bytes, Range, bytes]] = []
    size = 0
    for piece in pieces:
        if batch and (size + piece[1].size > MAX_CONTENTS_BYTES or len(batch) == MAX_RANGES):
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += piece[1].size
    if batch:
        yield batch
