"""Bytes to write: text-like and random ones, the same in every run. Pure; any thread.

Text is cut from the standard library's own sources in small slices put together anew, so that it
compresses like text and yet no two blocks are equal: a program that finds duplicates gains nothing.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 1 << 20
_POOL_BYTES = 8 << 20
_SLICE_BYTES = 512


class Content:
    """A source of blocks; `seed` decides all of them."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._pool = b""

    def random(self, size: int) -> bytes:
        """Bytes that can't be compressed."""
        return self._random.randbytes(size)

    def text(self, size: int) -> bytes:
        """Bytes that compress as program text does."""
        if not self._pool:
            self._pool = _python_sources()
        last = len(self._pool) - _SLICE_BYTES
        pick = self._random.randrange
        slices = []
        for _ in range(-(-size // _SLICE_BYTES)):
            at = pick(last)
            slices.append(self._pool[at : at + _SLICE_BYTES])
        return b"".join(slices)[:size]

    def blocks(
        self, kind: str, total_bytes: int, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[bytes]:
        """`total_bytes` of "text", "random" or "mixed" (by turns) content."""
        kinds = ("text", "random") if kind == "mixed" else (kind,)
        for number, at in enumerate(range(0, total_bytes, block_bytes)):
            make = self.text if kinds[number % len(kinds)] == "text" else self.random
            yield make(min(block_bytes, total_bytes - at))

    def write_file(self, path: Path, kind: str, total_bytes: int) -> None:
        """Make a file of that content."""
        with open(path, "wb", buffering=0) as file:
            for block in self.blocks(kind, total_bytes):
                file.write(block)


def _python_sources() -> bytes:
    pool = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        pool += path.read_bytes()
        if len(pool) >= _POOL_BYTES:
            break
    return bytes(pool)
