"""A sealed archive as the plain one that it holds, for whoever has the key and wants to use tar.

    python -m tape.opening KEY-FILE <SEALED.tar >PLAIN.tar

Blocking. What comes out is right as far as it goes: a chunk is written only when its seal was
whole, and a broken one ends it with an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from store.errors import StoreError
from store.key_file import read_key_file
from store.keys import KeyRing
from tape.archive_reader import ArchiveReader
from tape.archive_writer import Output, Written
from tape.errors import TapeError
from tape.layout import MAX_BLOCK_BYTES


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


def main(arguments: list[str]) -> int:
    """The command: exit code 1, with a message on standard error, when it can't be done."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    blocks = iter(lambda: sys.stdin.buffer.read(MAX_BLOCK_BYTES), b"")
    try:
        open_archive(blocks, read_key_file(Path(arguments[0])), sys.stdout.buffer)
    except (TapeError, StoreError) as error:
        print(f"{error}\n  next: {error.hint}", file=sys.stderr)
        return 1
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
