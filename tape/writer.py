"""Appending one archive to the cartridge in a drive, so that it counts (I-7).

Duty: stream a file of whole blocks to a drive, mark it synchronously, and read it back. What is
raised here means that the archive is not on this cartridge. A second thread reads ahead from the
disk, so that the drive is not kept waiting; at most MEMORY_BYTES are held. The drive is used by
the caller's thread only. It knows nothing of sets, and of tar.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Final, NamedTuple, Self

from blake3 import blake3

from tape.drive import Drive
from tape.errors import BadArchive, EndOfData, MediaError

MEMORY_BYTES: Final = 32 << 20
"""Read ahead at the most: more than a drive's buffer empties while a disk seeks."""

_PIECE_BYTES: Final = 4 << 20
_LOOK_S: Final = 0.1
"""A thread that waits for the other looks this often whether it has given up."""


class Written(NamedTuple):
    """An archive as it is on a cartridge."""

    blocks: int
    digest: str
    """BLAKE3 of all blocks, in hexadecimal digits."""


Progress = Callable[[int], None]
"""Told how many more bytes have been written or read back."""


def append(
    drive: Drive, file: int, archive: Path, block_bytes: int, progress: Progress | None = None
) -> Written:
    """Write `archive` as file `file`, cutting off what stands there, and read it back.

    The head stands behind the archive's filemark afterwards. EarlyWarning, EndOfMedium,
    WriteProtected, MediaError (also when other bytes come back) and DriveDead, from whichever
    block or mark, mean that the archive belongs on another cartridge, or that another drive is
    needed. BadArchive when it is not a row of whole blocks; OSError when it can't be read.
    """
    written = write(drive, file, archive, block_bytes, progress)
    drive.to_file(file)
    found = read_back(drive, progress)
    if found != written:
        raise MediaError(
            f"{drive.name}: file {file} is not read back as it was written:"
            f" {found.blocks} blocks of {written.blocks}, digest {found.digest[:16]}"
            f" for {written.digest[:16]}"
        )
    return written


def to_file(drive: Drive, file: int) -> None:
    """As `Drive.to_file`, without moving when the head stands there already."""
    position = drive.position()
    if (position.file, position.block) != (file, 0):
        drive.to_file(file)


def write(
    drive: Drive, file: int, archive: Path, block_bytes: int, progress: Progress | None = None
) -> Written:
    """As `append`, up to the synchronous filemark; whether it can be read is not known then."""
    to_file(drive, file)
    digest = blake3()
    blocks = 0
    with ReadAhead(archive, block_bytes) as pieces:
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(piece), block_bytes):
                drive.write_block(view[start : start + block_bytes])
            digest.update(piece)
            blocks += len(piece) // block_bytes
            if progress is not None:
                progress(len(piece))
    if not blocks:
        raise BadArchive(f"{archive} is empty")
    drive.write_filemark()
    return Written(blocks, digest.hexdigest())


def read_back(drive: Drive, progress: Progress | None = None) -> Written:
    """Read the file that the head stands at, to behind its filemark. MediaError, DriveDead."""
    digest = blake3()
    blocks = 0
    for block in blocks_of(drive):
        digest.update(block)
        blocks += 1
        if progress is not None:
            progress(len(block))
    return Written(blocks, digest.hexdigest())


def blocks_of(drive: Drive) -> Iterator[bytes]:
    """The blocks of the file that the head stands at, to behind its filemark.

    None at all at the end of what was written. MediaError when the medium ends in the midst of the
    file: then it was not finished.
    """
    begun = False
    while True:
        try:
            block = drive.read_block()
        except EndOfData as error:
            if not begun:
                return
            raise MediaError(f"{drive.name}: the file has no filemark behind it") from error
        if not block:
            return
        begun = True
        yield block


class ReadAhead:
    """The pieces of a file, read by a thread of its own. A context manager; iterate once."""

    def __init__(self, path: Path, block_bytes: int) -> None:
        self._piece_bytes = max(_PIECE_BYTES // block_bytes, 1) * block_bytes
        self._block_bytes = block_bytes
        self._path = path
        # One piece is being filled, one is being written; the others wait.
        waiting = max(MEMORY_BYTES // self._piece_bytes - 2, 1)
        self._pieces: Queue[bytes | BaseException] = Queue(waiting)
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._given_up.set()
        self._thread.join()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                piece = self._pieces.get(timeout=_LOOK_S)
            except Empty:
                assert self._thread.is_alive() or not self._pieces.empty(), "no end was said"
                continue
            if isinstance(piece, BaseException):
                raise piece
            if not piece:
                return
            yield piece

    def _read(self) -> None:
        try:
            with self._path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while piece := self._fill(file.fileno()):
                    if not self._offer(piece):
                        return
            self._offer(b"")
        except (OSError, BadArchive) as error:
            self._offer(error)

    def _fill(self, fd: int) -> bytes:
        piece = os.read(fd, self._piece_bytes)
        while piece and len(piece) < self._piece_bytes:
            more = os.read(fd, self._piece_bytes - len(piece))
            if not more:
                break
            piece += more
        if len(piece) % self._block_bytes:
            raise BadArchive(f"{self._path} does not end with a whole block")
        return piece

    def _offer(self, piece: bytes | BaseException) -> bool:
        while not self._given_up.is_set():
            try:
                self._pieces.put(piece, timeout=_LOOK_S)
                return True
            except Full:
                continue
        return False
