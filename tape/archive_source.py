"""The bytes of an archive as its reader asks for them, counted and digested on the way.

Duty: exactly so many bytes from blocks of any size; BadArchive where they end too early. Memory:
one block, and what is asked for. Blocking; one thread. It knows nothing of tar.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blake3 import blake3

from tape.errors import BadArchive, EndOfData, NoLabel

PIECE_BYTES: Final = 1 << 20
"""The most that is asked for at once, but for documents."""

_MAX_PADDING_BYTES: Final = 2 << 20
"""Behind the last member: never as much as two of the largest blocks."""


class Source:
    """Bytes in order."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._block = memoryview(b"")
        self._digest = blake3()
        self.size_bytes = 0
        """Read so far."""

    def hexdigest(self) -> str:
        """BLAKE3 of everything read so far."""
        return self._digest.hexdigest()

    def read(self, size_bytes: int) -> bytes:
        """Exactly so many bytes. BadArchive when there are not as many."""
        found = self._upto(size_bytes)
        if len(found) < size_bytes:
            raise BadArchive("the archive is cut short: it was never finished, or is damaged")
        return found

    def read_first(self, size_bytes: int) -> bytes:
        """The first bytes of all; NoLabel, blank, when there are none."""
        try:
            found = self._upto(size_bytes)
        except EndOfData:
            found = b""
        if not found:
            raise NoLabel("nothing is there", blank=True)
        return found

    def rest_is_empty(self) -> None:
        """Read to the end; BadArchive unless zeros, and few enough, are all that is there."""
        left = _MAX_PADDING_BYTES
        while piece := self._upto(1 << 16):
            left -= len(piece)
            if left < 0 or piece.count(0) != len(piece):
                raise BadArchive("something follows the end of the archive")

    def _upto(self, size_bytes: int) -> bytes:
        parts: list[memoryview] = []
        missing = size_bytes
        while missing:
            if not self._block:
                block = next(self._blocks, b"")
                if not block:
                    break
                self._block = memoryview(block)
            part, self._block = self._block[:missing], self._block[missing:]
            parts.append(part)
            missing -= len(part)
        found = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        self._digest.update(found)
        self.size_bytes += len(found)
        return found
