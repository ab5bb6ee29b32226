"""`cdpfs tape open`: a sealed archive as the plain one in it, for tar. Blocking.

The archive comes from a file or from standard input, a drive by way of `dd`; the plain one goes to
standard output.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from console.errors import WrongUse
from store.key_file import read_key_file
from tape.layout import MAX_BLOCK_BYTES
from tape.opening import open_archive


def open_sealed(archive: str | None, key_file: str) -> None:
    """Write the plain archive to standard output. A broken seal ends it with an error."""
    ring = read_key_file(Path(key_file))
    out = sys.stdout.buffer
    if out.isatty():
        raise WrongUse("an archive is nothing for a terminal", "add: >PLAIN.tar")
    given = cast(BinaryIO, sys.stdin.buffer)
    with Path(archive).open("rb") if archive is not None else nullcontext(given) as source:
        open_archive(iter(lambda: source.read(MAX_BLOCK_BYTES), b""), ring, out)
    out.flush()
