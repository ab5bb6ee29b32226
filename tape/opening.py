"""A sealed archive as the plain one that it holds, for whoever has the key and wants to use tar.

Blocking; one thread. What comes out is right as far as it goes: a chunk is written only when its
seal was whole, and a broken one ends it with an error.
"""

from __future__ import annotations

from collections.abc import Iterable

from store.keys import KeyRing
from tape.archive_reader import ArchiveReader
from tape.archive_writer import Output, Written
from tape.errors import TapeError


def open_archive(blocks: Iterable[bytes], ring: KeyRing, out: Output) -> Written:
    """Write the plain archive in a sealed one to `out`; how the sealed one ended.

    KeyMissing; NoLabel, NewerCartridge, BadArchive; TapeError when it is not sealed.
    """
    reader = ArchiveReader(blocks, ring)
    if not reader.head.key_id:
        raise TapeError("the archive is not sealed", "use tar with it as it is")
    for piece in reader.opened():
        out.write(piece)
    return reader.written
