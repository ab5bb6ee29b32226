"""The volumes of a vault as their readers see them: journals, heads, views. Blocking; any thread.

Duty: from a line's name to what can be asked of it, and how far it is shown. It knows nothing of
HTTP and of who may read what.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from replicator.errors import Sealed
from replicator.reading_wire import LineMessage, VolumeMessage
from replicator.vault.root import VaultRoot, Volume
from store.errors import StoreError
from store.journal import Journal
from store.types import Lsn
from timetravel.errors import MomentInFuture
from timetravel.head import Head, HeadTracker
from timetravel.standing import BarrierSettings
from timetravel.view import View

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Book:
    """One line of a volume, open for reading."""

    volume: Volume
    line: str
    journal: Journal
    settings: BarrierSettings

    def view(self, lsn: Lsn) -> View:
        """The volume as of an LSN; MomentInFuture for one that has not arrived."""
        held = self.journal.indexed_lsn
        if lsn > held:
            raise MomentInFuture(f"@lsn:{lsn}", f"@lsn:{held}")
        return View(self.journal, lsn)


class Shelf:
    """The volumes of one vault."""

    def __init__(self, root: VaultRoot) -> None:
        self.root = root
        self._heads: dict[tuple[str, str], tuple[threading.Lock, HeadTracker]] = {}
        self._guard = threading.Lock()

    def book(self, volume: Volume, line: str) -> Book:
        """A line; UnknownVolume when there is none, Sealed when nobody here can read it."""
        if volume.description.sealed:
            raise Sealed(f"volume {volume.uuid} is sealed: the vault can't read it")
        journal = self.root.journal(volume.uuid, line)
        about = volume.description
        settings = BarrierSettings(about.point_limit_s, about.quiet_s, live=False)
        return Book(volume, line, journal, settings)

    def head(self, book: Book) -> Head:
        """How far a line is shown at the moment."""
        key = (book.volume.uuid, book.line)
        with self._guard:
            if key not in self._heads:
                self._heads[key] = threading.Lock(), HeadTracker(book.settings)
            lock, tracker = self._heads[key]
        with lock, book.journal.snapshot() as snapshot:
            return tracker.advance(snapshot)

    def describe(self, volume: Volume) -> VolumeMessage:
        """A volume and where its lines stand."""
        about = volume.description
        names = [] if about.sealed else self.root.lines(volume.uuid)
        lines = list(filter(None, (self._line_or_none(volume, name) for name in names)))
        return VolumeMessage(
            uuid=volume.uuid,
            site=volume.site,
            name=about.name,
            directory=about.directory,
            sealed=about.sealed,
            lines=lines,
        )

    def _line_or_none(self, volume: Volume, name: str) -> LineMessage | None:
        """One that can't be read must not keep the others from being told."""
        try:
            return self._line(self.book(volume, name))
        except StoreError as error:
            log.error("line %s of volume %s can't be read: %s", name, volume.uuid, error)
            return None

    def _line(self, book: Book) -> LineMessage:
        head = self.head(book)
        last = book.journal.last()
        return LineMessage(
            line=book.line,
            held_lsn=last.lsn if last is not None else 0,
            held_time_ns=last.time_ns if last is not None else 0,
            visible_lsn=head.lsn,
            visible_time_ns=head.time_ns,
        )
