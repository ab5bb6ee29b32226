"""A synthetic full: a view of the journal as archives from which plain tar restores everything.

Duty: what goes into each archive, and where one ends and the next begins. It reads the journal
alone, never the live tree, and each byte of content once. Memory is bounded by the names of the
largest directory and by `MAX_AREAS` areas of a file. Blocking; one thread, and two that read ahead.

An archive begins with the directories that lead to its first entry, so that `tar` can make that
entry, and sets their owners and times again when it has. A node with several names is a file under
the first of them, and links to it under the others, in whichever archive. A file that is larger
than an archive is cut into parts.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeAlias

from store.errors import StoreError
from store.journal import Snapshot
from store.keys import KeyRing
from store.types import Lsn
from tape.archive_writer import TRAILER_BYTES, ArchiveWriter, Output, Written, rounded
from tape.errors import ArchiveTooLarge
from tape.full_members import MIN_WHOLE_BYTES, Member, MemberMaker, too_large
from tape.layout import STATE_NAME, ArchiveHead, Cursor
from tape.pax import BLOCK_BYTES
from tape.sealed_writer import archive_writer
from tape.sealing import overhead_bytes
from tape.tree_names import top_folder
from tape.tree_walk import TREE_DONE, Spot, TreeWalk
from timetravel.content import cut_pieces, read_ahead
from timetravel.view import View

MAX_LOST: Final = 1000
"""Paths of lost content that are remembered."""

_READERS: Final = 2
_HEAD_BYTES: Final = 64 << 10
"""Room for the first member of an archive."""

_ABOVE_BYTES: Final = 4 << 20
"""Room for the directories that an archive begins with; less in small archives."""


def whole_bytes(archive_bytes: int, block_bytes: int, sealed: bool) -> int:
    """The largest member that fits into any archive; ArchiveTooLarge when that is not enough."""
    limit = rounded(archive_bytes, block_bytes)
    found = limit - TRAILER_BYTES - _HEAD_BYTES - min(_ABOVE_BYTES, limit // 4)
    if sealed:
        found -= TRAILER_BYTES + _HEAD_BYTES + overhead_bytes(limit)
    if found < MIN_WHOLE_BYTES:
        raise ArchiveTooLarge(
            f"archives of {archive_bytes} bytes are too small for a full",
            "make the archives larger (archive_bytes), on larger cartridges",
        )
    return found // BLOCK_BYTES * BLOCK_BYTES


Collect: TypeAlias = Callable[[Snapshot, Lsn], tuple[bytes, Lsn]]
"""What a store made from the full needs besides, at an LSN; and up to where its log must reach."""


class FullWriter:
    """The archives of a full of `view`, each by a call of `write`. A context manager.

    An archive is at most `archive_bytes` large; ArchiveTooLarge when that is too small. With a
    ring the archives are sealed, by its newest key.
    """

    def __init__(
        self,
        view: View,
        collect: Collect,
        *,
        archive_bytes: int,
        block_bytes: int,
        ring: KeyRing | None = None,
    ) -> None:
        self._view = view
        self._collect = collect
        self._block_bytes = block_bytes
        self._limit_bytes = rounded(archive_bytes, block_bytes)
        self._whole_bytes = whole_bytes(archive_bytes, block_bytes, ring is not None)
        self._ring = ring
        self._readers = ThreadPoolExecutor(_READERS, "read-ahead")
        self._maker: tuple[bytes, MemberMaker] | None = None
        self.lost: list[bytes] = []
        """Paths of which some content was never captured, and is zeros on tape."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads. Closing twice is fine."""
        self._readers.shutdown(cancel_futures=True)

    def write(self, head: ArchiveHead, out: Output, cursor: Cursor | None) -> Written:
        """One archive, from `cursor` on (None: the first); `end.next` of it is the next cursor.

        Written again from the same cursor it has the same members. NotSeeded when the journal does
        not hold everything yet; StoreError; ArchiveTooLarge when something that can't be cut does
        not fit.
        """
        archive = archive_writer(out, head, self._block_bytes, self._limit_bytes, self._ring)
        maker = self._maker_for(top_folder(head.volume_name))
        walk = TreeWalk(self._view, cursor)
        for path, state in walk.above():
            archive.begin(maker.directory(path, state))
        begun, part = archive.members, cursor.part if cursor is not None else 0
        for spot in walk:
            for number in range(part, maker.parts(spot)):
                member = maker.member(spot, number)
                if member.size_bytes > archive.room_bytes:
                    if archive.members == begun:
                        raise too_large(spot.path, self._limit_bytes)
                    at = spot.cursor
                    rest = Cursor(directory=at.directory, entry=at.entry, part=number)
                    return archive.finish(next_cursor=rest)
                self._put(archive, spot, member)
            part = 0
        return self._finish(archive, cursor)

    def _maker_for(self, top: bytes) -> MemberMaker:
        if self._maker is None or self._maker[0] != top:
            self._maker = top, MemberMaker(self._view, top, self._whole_bytes)
        return self._maker[1]

    def _finish(self, archive: ArchiveWriter, cursor: Cursor | None) -> Written:
        """The end of the last archive, or of the last but one when the state does not fit."""
        with self._view.journal.snapshot() as snapshot:
            data, needs_lsn = self._collect(snapshot, self._view.lsn)
        if len(data) + 4 * BLOCK_BYTES > archive.room_bytes:
            if cursor == TREE_DONE:
                raise too_large(STATE_NAME.encode(), self._limit_bytes)
            return archive.finish(next_cursor=TREE_DONE)
        archive.file(STATE_NAME, data)
        return archive.finish(last_part=True, needs_lsn=needs_lsn, barrier_lsn=self._view.lsn)

    def _put(self, archive: ArchiveWriter, spot: Spot, member: Member) -> None:
        """Write a member with its content."""
        archive.begin(member.headers)
        if member.lost and len(self.lost) < MAX_LOST:
            self.lost.append(spot.path)
        if member.small is not None:
            content = memoryview(member.small)
            for start, stop in member.areas:
                archive.write(content[start:stop])
        else:
            self._copy(archive, spot, member)
        archive.pad()

    def _copy(self, archive: ArchiveWriter, spot: Spot, member: Member) -> None:
        wanted = sum(stop - start for start, stop in member.areas)
        pieces = cut_pieces(member.areas)
        for _, data in read_ahead(self._view, spot.state.node, pieces, self._readers):
            archive.write(data)
            wanted -= len(data)
        if wanted:
            shown = spot.path.decode("utf-8", "backslashreplace")
            raise StoreError(f"{shown!r} has another size than its attributes say", "cdpfs verify")
