"""The writer of sealed archives: as `ArchiveWriter`, and what comes out is sealed. Blocking."""

from __future__ import annotations

from store.key_file import new_entropy
from store.keys import KeyRing
from tape.archive_writer import TRAILER_BYTES, ArchiveWriter, Output, Written, document
from tape.layout import CATALOGUE_NAME, ArchiveHead, Cursor
from tape.pax import BLOCK_BYTES
from tape.sealing import ChunkSealer, chunk_name, overhead_bytes, sealed_head


class _Sealed:
    """Where the plain archive goes: each full chunk becomes a member of the outer one."""

    def __init__(self, outer: ArchiveWriter, sealer: ChunkSealer) -> None:
        self._outer = outer
        self._sealer = sealer
        self._number = 0

    def write(self, data: bytes | memoryview, /) -> None:
        for chunk in self._sealer.take(data):
            self._put(chunk)

    def end(self) -> None:
        self._put(self._sealer.end())

    def _put(self, chunk: bytes) -> None:
        self._outer.file(chunk_name(self._number), chunk)
        self._number += 1


class SealedArchiveWriter(ArchiveWriter):
    """One sealed archive, with the newest key of the ring. See `ArchiveWriter`."""

    def __init__(
        self, out: Output, head: ArchiveHead, block_bytes: int, limit_bytes: int, ring: KeyRing
    ) -> None:
        readable = sealed_head(head, ring, new_entropy())
        self._outer = ArchiveWriter(out, readable, block_bytes, limit_bytes)
        self._sealer = ChunkSealer(ring, readable, document(readable))
        self._inside = _Sealed(self._outer, self._sealer)
        super().__init__(self._inside, head, BLOCK_BYTES)

    @property
    def room_bytes(self) -> int:
        """What still fits, whatever sealing adds to it."""
        outside = self._outer.room_bytes
        return outside - self._sealer.waiting_bytes - overhead_bytes(outside) - TRAILER_BYTES

    def finish(
        self,
        *,
        last_part: bool = False,
        next_cursor: Cursor | None = None,
        needs_lsn: int = 0,
        barrier_lsn: int = 0,
    ) -> Written:
        """The ends of the plain and of the sealed archive; the latter's is what comes back."""
        ends = {"needs_lsn": needs_lsn, "barrier_lsn": barrier_lsn}
        super().finish(last_part=last_part, next_cursor=next_cursor, **ends)
        self._inside.end()
        return self._outer.finish(last_part=last_part, next_cursor=next_cursor, **ends)


def archive_writer(
    out: Output,
    head: ArchiveHead,
    block_bytes: int,
    limit_bytes: int = 0,
    ring: KeyRing | None = None,
) -> ArchiveWriter:
    """The writer of an archive, sealed when there is a ring."""
    if ring is None:
        return ArchiveWriter(out, head, block_bytes, limit_bytes)
    return SealedArchiveWriter(out, head, block_bytes, limit_bytes, ring)


def write_catalogue_archive(
    head: ArchiveHead,
    catalogue: bytes,
    out: Output,
    *,
    block_bytes: int,
    ring: KeyRing | None = None,
) -> Written:
    """An archive of what the library knows."""
    archive = archive_writer(out, head, block_bytes, ring=ring)
    archive.file(CATALOGUE_NAME, catalogue)
    return archive.finish()
