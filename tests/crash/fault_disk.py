"""A disk that can lose its power: what was written to a store since the last sync may be gone.

`FaultDisk` stands in beneath `store/durable.py`: every call is made for real, and noted. From the
notes, any cut can be made afterwards: `cuts` walks through them, stops before each sync (of a file,
a folder, or the index) and lays down in a folder what a disk may hold then. What was synced is
there. Of the rest, by `Mode`:

    KEEP     everything
    DROP     nothing
    REORDER  some of the writes, and some of the changes of names
    TEAR     some sectors (of 512 or 4096 bytes) of the writes, and some of the changes of names

The index is LMDB's, whose commits are all or nothing by its own word: before the sync of a commit
it is the old one, or, when anything was kept, the old or the new one.
"""

from __future__ import annotations

import enum
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store import durable

SECTORS = (512, 4096)
INDEX_FILE = "data.mdb"


class Mode(enum.Enum):
    """What becomes of what was not synced."""

    KEEP = "keep"
    DROP = "drop"
    REORDER = "reorder"
    TEAR = "tear"


@dataclass(eq=False)
class _File:
    """What is known of one file: its bytes on disk, and what was written since."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, bytes), or (size, None) for a truncation."""


_Folder = None
"""What stands under the name of a folder."""

Change = tuple[str, _File | None, str]
"""(name, what it is given to, "") or ("", None, name that goes) or both: a rename."""


@dataclass(frozen=True)
class Cut:
    """One place in the notes: before the event of this number, and what was promised by then."""

    event: int
    what: str
    promised: int


class FaultDisk(durable.Disk):
    """Notes what happens below `root`. Use `standing_in`."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._fds: dict[int, _File | str] = {}
        self._names: dict[str, _File | None] = {}
        self._events: list[tuple[str, Any, Any]] = []
        self._start: dict[str, bytes | None] = {}
        for folder, folders, files in os.walk(root):
            for name in folders:
                self._start[self._relative(os.path.join(folder, name))] = _Folder
            for name in files:
                path = os.path.join(folder, name)
                if not name.startswith(("lock", "state", "indexer", INDEX_FILE)):
                    self._start[self._relative(path)] = Path(path).read_bytes()
        self._names.update(
            (name, _Folder if data is None else _File(bytearray(data)))
            for name, data in self._start.items()
        )
        self._start_files = dict(self._names)
        index = root / "index" / INDEX_FILE
        self._start_index = index.read_bytes() if index.exists() else None

    def __enter__(self) -> FaultDisk:
        self._before, durable.disk = durable.disk, self
        return self

    def __exit__(self, *_: object) -> None:
        durable.disk = self._before

    def promise(self, number: int) -> None:
        """From now on this is to survive; a number grows."""
        self._events.append(("promise", number, None))

    def note_index(self, folder: Path) -> None:
        """The index as it is now is on disk (LMDB makes its tables by itself)."""
        path = folder / INDEX_FILE
        if path.exists():
            self._events.append(("index", None, path.read_bytes()))

    def _relative(self, path: str | Path) -> str:
        return os.path.relpath(path, self._root)

    # --- the calls ------------------------------------------------------------------------------

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        name = self._relative(path)
        fd = os.open(path, flags, mode)
        if os.path.isdir(path):
            self._fds[fd] = name
            return fd
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = _File()
            self._events.append(("names", _folder_of(name), (name, known, "")))
        self._fds[fd] = known
        return fd

    def close(self, fd: int) -> None:
        self._fds.pop(fd, None)
        os.close(fd)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        if fd in self._fds:
            self._events.append(("write", self._fds[fd], (offset, bytes(data))))
        return os.pwrite(fd, data, offset)

    def pwritev(self, fd: int, buffers: Any, offset: int) -> int:
        self._events.append(("write", self._fds[fd], (offset, b"".join(map(bytes, buffers)))))
        return os.pwritev(fd, buffers, offset)

    def ftruncate(self, fd: int, size: int) -> None:
        self._events.append(("write", self._fds[fd], (size, None)))
        os.ftruncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        self._events.append(("sync", self._fds[fd], None))
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self.fdatasync(fd)

    def mkdir(self, path: Any, mode: int) -> None:
        os.mkdir(path, mode)
        name = self._relative(path)
        self._names[name] = _Folder
        self._events.append(("names", _folder_of(name), (name, _Folder, "")))

    def rename(self, old: Any, new: Any) -> None:
        os.rename(old, new)
        before, after = self._relative(old), self._relative(new)
        moved = self._names[after] = self._names.pop(before)
        self._events.append(("names", _folder_of(after), (after, moved, before)))

    def link(self, old: Any, new: Any) -> None:
        os.link(old, new)
        name = self._relative(new)
        linked = self._names[name] = self._names[self._relative(old)]
        self._events.append(("names", _folder_of(name), (name, linked, "")))

    def unlink(self, path: Any) -> None:
        os.unlink(path)
        name = self._relative(path)
        self._names.pop(name, None)
        self._events.append(("names", _folder_of(name), ("", _Folder, name)))

    def commit(self, index: Path, commit: Callable[[], object]) -> None:
        commit()
        self._events.append(("index", None, (index / INDEX_FILE).read_bytes()))

    # --- the cuts -------------------------------------------------------------------------------

    def cuts(self) -> Iterator[tuple[Cut, Callable[[Path, Mode, random.Random], None]]]:
        """Each sync, with a function that lays down in a folder what a cut before it may leave.

        The function is good until the next cut is asked for.
        """
        state = _State(dict(self._start_files), [], self._start_index)
        for file in self._start_files.values():
            if file is not None:
                file.pending.clear()
        promised = 0
        for number, (kind, about, value) in enumerate(self._events):
            if kind in ("sync", "index"):
                cut = Cut(number, f"{kind} {about if isinstance(about, str) else ''}", promised)
                upcoming = value if kind == "index" else None

                def lay_down(
                    folder: Path, mode: Mode, rng: random.Random, new: bytes | None = upcoming
                ) -> None:
                    state.lay_down(folder, mode, rng, new)

                yield cut, lay_down
            if kind == "promise":
                promised = about
            else:
                state.take(kind, about, value)
        yield Cut(len(self._events), "the end", promised), state.lay_down


@dataclass
class _State:
    """The disk at some moment. `names` is what its folders say on disk."""

    names: dict[str, _File | None]
    changes: list[tuple[str, Change]]
    index: bytes | None

    def take(self, kind: str, about: Any, value: Any) -> None:
        """One event more."""
        if kind == "write":
            about.pending.append(value)
        elif kind == "names":
            self.changes.append((about, value))
        elif kind == "index":
            self.index = value
        elif isinstance(about, str):
            for folder, change in self.changes:
                if folder == about:
                    _rename(self.names, change)
            self.changes = [item for item in self.changes if item[0] != about]
        else:
            for write in about.pending:
                _apply(about.synced, *write)
            about.pending.clear()

    def lay_down(
        self, folder: Path, mode: Mode, rng: random.Random, new_index: bytes | None = None
    ) -> None:
        """Make the folder what the disk may hold."""
        names = dict(self.names)
        for _, change in self.changes:
            if mode is Mode.KEEP or (mode is not Mode.DROP and rng.random() < 0.5):
                _rename(names, change)
        sector = rng.choice(SECTORS)
        folder.mkdir()
        for name in sorted(name for name, file in names.items() if file is None):
            (folder / name).mkdir(exist_ok=True)
        for name, file in names.items():
            if file is not None and (folder / name).parent.is_dir():
                (folder / name).write_bytes(_survivors(file, mode, rng, sector))
        index = self.index
        if new_index is not None and (
            mode is Mode.KEEP or (mode is not Mode.DROP and rng.random() < 0.5)
        ):
            index = new_index
        if index is not None and (folder / "index").is_dir():
            (folder / "index" / INDEX_FILE).write_bytes(index)


def _folder_of(name: str) -> str:
    return os.path.dirname(name) or "."


def _rename(names: dict[str, _File | None], change: Change) -> None:
    new, what, old = change
    if old and old in names:
        what = names.pop(old)
    elif old and new:
        return  # a rename of a name that never reached the disk
    if new:
        names[new] = what


def _survivors(file: _File, mode: Mode, rng: random.Random, sector: int) -> bytes:
    if mode is Mode.DROP or not file.pending:
        return bytes(file.synced)
    data = bytearray(file.synced)
    for offset, written in file.pending:
        if mode is Mode.KEEP or written is None:
            _apply(data, offset, written)
        elif mode is Mode.REORDER:
            if rng.random() < 0.5:
                _apply(data, offset, written)
        else:
            _apply_some(data, offset, written, rng, sector)
    return bytes(data)


def _apply(data: bytearray, offset: int, written: bytes | None) -> None:
    if written is None:
        del data[offset:]
        data.extend(bytes(offset - len(data)))
        return
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(written)] = written


def _apply_some(
    data: bytearray, offset: int, written: bytes, rng: random.Random, sector: int
) -> None:
    """Each sector that the write touches reaches the disk by itself."""
    at = 0
    while at < len(written):
        stop = min(len(written), at + sector - (offset + at) % sector)
        if rng.random() < 0.5:
            _apply(data, offset + at, written[at:stop])
        at = stop
