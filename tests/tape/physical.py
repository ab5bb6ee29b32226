"""What really is on the cartridges of a virtual library, whatever any books say.

`Cartridges` reads the plain files in the folders, each archive once for as long as its file stays
as it is, and tells which sets could be restored from the cartridges that one has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from tape.archive_reader import ArchiveReader
from tape.errors import BadCartridge
from tape.label_archive import read_label
from tape.layout import ArchiveEnd, ArchiveHead, Label

_PIECE_BYTES = 1 << 20


class Found(NamedTuple):
    """An archive that is whole."""

    path: Path
    head: ArchiveHead
    end: ArchiveEnd
    digest: str
    """BLAKE3 of the whole file."""


@dataclass
class FoundSet:
    """What is there of a set, by sequence and without gaps from 0."""

    pool: str
    archives: list[Found] = field(default_factory=list)

    @property
    def base_lsn(self) -> int:
        """Where its full stands."""
        return self.archives[0].head.first_lsn

    @property
    def last_lsn(self) -> int:
        """How far its log goes; 0 when it can't be restored."""
        full = [found for found in self.archives if found.head.kind == "full"]
        logs = [found for found in self.archives if found.head.kind == "log"]
        if not full or not full[-1].end.last_part or not logs:
            return 0
        last = logs[-1].head.last_lsn
        return last if last >= full[-1].end.needs_lsn else 0

    @property
    def barrier_lsn(self) -> int:
        """The newest barrier in it."""
        return max([self.base_lsn, *(found.end.barrier_lsn for found in self.archives)])

    def holds(self, lsn: int) -> bool:
        """Can that LSN be restored from it?"""
        return self.base_lsn <= lsn <= self.last_lsn


class Cartridges:
    """The cartridges below a library home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "cartridges"
        self._known: dict[tuple[Path, int, int, int], Found | None] = {}

    def label(self, barcode: str) -> Label | None:
        """Of the cartridge with that sticker; None when it has none of ours."""
        try:
            return read_label(pieces_of(self._folder / barcode / "000000"))
        except (BadCartridge, OSError):
            return None

    def labels(self) -> dict[str, str]:
        """Sticker → label id, of those that have one."""
        found = {folder.name: self.label(folder.name) for folder in self._folder.iterdir()}
        return {barcode: label.label_id for barcode, label in found.items() if label is not None}

    def archive(self, barcode: str, file: int) -> Found | None:
        """A tape file, if it is marked, and an archive that is whole."""
        folder = self._folder / barcode
        if file >= _marked(folder):
            return None
        path = folder / f"{file:06d}"
        facts = path.stat()
        key = (path, facts.st_ino, facts.st_mtime_ns, facts.st_size)
        if key not in self._known:
            self._known[key] = _read(path)
        return self._known[key]

    def sets(self, barcodes: Iterable[str]) -> dict[str, FoundSet]:
        """The sets that are on these cartridges, as far as they go without a gap."""
        pieces: dict[str, tuple[str, dict[int, Found]]] = {}
        for barcode in barcodes:
            label = self.label(barcode)
            if label is None:
                continue
            for file in range(1, _marked(self._folder / barcode)):
                found = self.archive(barcode, file)
                if found is not None and found.head.kind != "catalogue":
                    _, mine = pieces.setdefault(found.head.set_id, (label.pool, {}))
                    mine.setdefault(found.head.sequence, found)
        sets = {}
        for set_id, (pool, by_sequence) in pieces.items():
            whole = FoundSet(pool)
            while len(whole.archives) in by_sequence:
                whole.archives.append(by_sequence[len(whole.archives)])
            if whole.archives:
                sets[set_id] = whole
        return sets


def pieces_of(path: Path) -> Iterator[bytes]:
    """A plain file, as its blocks would come from a drive."""
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


class _Marks(msgspec.Struct):
    files: list[list[tuple[int, int]]] = []


def _marked(folder: Path) -> int:
    marks = folder / "marks.json"
    if not marks.exists():
        return 0
    return len(msgspec.json.decode(marks.read_bytes(), type=_Marks).files)


def _read(path: Path) -> Found | None:
    try:
        reader = ArchiveReader(pieces_of(path))
        written = reader.check()
    except BadCartridge:
        return None
    return Found(path, reader.head, written.end, written.digest)
