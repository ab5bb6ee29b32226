"""Ring files of the intake log: their headers and how they come to be.

Duty: create ring files (written with zeros, see DESIGN on why not fallocated), take one into use
under a new generation, read their headers. Blocking calls; any thread. It knows nothing of ops.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import xxhash

from store import durable
from store.errors import DamagedError, UnsupportedFormat
from store.format import (
    FORMAT_VERSION,
    KNOWN_FEATURES,
    RING_HEADER,
    RING_HEADER_BYTES,
    RING_MAGIC,
)
from store.volume import Store

_ZEROS = bytes(1 << 20)


@dataclass(frozen=True)
class RingFile:
    """One ring file's header, as read. `first_lsn` is 0 when it was never in use."""

    path: Path
    generation: int
    first_lsn: int
    file_bytes: int


def ring_path(store: Store, number: int) -> Path:
    """The path of ring file `number`."""
    return store.intake_dir / f"{number:04d}.ring"


def make_ring_file(store: Store, number: int) -> None:
    """Create ring file `number`, full of zeros and on disk, unless it exists."""
    path = ring_path(store, number)
    if path.exists():
        return
    temporary = path.with_suffix(".new")
    durable.drop(temporary)
    fd = durable.create_file(temporary)
    try:
        size = store.config.ring_file_bytes
        for at in range(0, size, len(_ZEROS)):
            durable.pwrite_all(fd, _ZEROS[: size - at], at)
        durable.pwrite_all(fd, _encode_header(store, 0, 0, size), 0)
        durable.fsync(fd)
    except BaseException:
        durable.drop(temporary)
        raise
    finally:
        durable.close_file(fd)
    durable.rename(temporary, path)


def take_into_use(
    store: Store,
    fd: int,
    generation: int,
    first_lsn: int,
    durably: bool = False,
    features: int = 0,
) -> None:
    """Write the header of a ring file whose old records nobody needs any more.

    It becomes durable with the first sync of the file, before or together with its records.
    """
    size = os.fstat(fd).st_size
    durable.pwrite_all(fd, _encode_header(store, generation, first_lsn, size, features), 0)
    if durably:
        durable.fdatasync(fd)


def wipe(store: Store, ring: RingFile, start: int = RING_HEADER_BYTES) -> None:
    """Make zeros of a file's records from byte `start` on, durably; of all of them: not in use."""
    fd = durable.open_file(ring.path)
    try:
        if start == RING_HEADER_BYTES:
            durable.pwrite_all(fd, _encode_header(store, 0, 0, ring.file_bytes), 0)
        for at in range(start, ring.file_bytes, len(_ZEROS)):
            durable.pwrite_all(fd, _ZEROS[: ring.file_bytes - at], at)
        durable.fdatasync(fd)
    finally:
        durable.close_file(fd)


def read_header(store: Store, path: Path) -> RingFile:
    """The header of the file at `path`; DamagedError or UnsupportedFormat."""
    with path.open("rb") as file:
        raw = file.read(RING_HEADER.size_bytes)
        size = os.fstat(file.fileno()).st_size
    return parse_header(store, path, raw, size)


def parse_header(store: Store, path: Path, raw: bytes, size: int) -> RingFile:
    """As `read_header`, of bytes at hand."""
    if len(raw) < RING_HEADER.size_bytes or raw[:8] != RING_MAGIC:
        raise DamagedError(path, 0, "not a ring file of the intake log")
    fields = RING_HEADER.unpack(raw)
    version, features = fields["version"], fields["features"]
    if version > FORMAT_VERSION or features & ~KNOWN_FEATURES:
        raise UnsupportedFormat(f"{path}: format {version}, features {features:#x}: too new")
    if fields["check"] != xxhash.xxh3_64_intdigest(raw[: RING_HEADER.size_bytes - 8]):
        raise DamagedError(path, 0, "the ring file's header does not match its checksum")
    if fields["volume"] != store.uuid:
        raise DamagedError(path, 0, "the ring file belongs to another volume")
    return RingFile(path, fields["generation"], fields["first_lsn"], size)


def _encode_header(
    store: Store, generation: int, first_lsn: int, size: int, features: int = 0
) -> bytes:
    body = RING_HEADER.pack(
        magic=RING_MAGIC,
        version=FORMAT_VERSION,
        features=features,
        generation=generation,
        volume=store.uuid,
        first_lsn=first_lsn,
        file_bytes=size,
        check=0,
    )[:-8]
    return body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


def rings_in_use(store: Store) -> list[RingFile]:
    """All ring files that were ever taken into use, by generation."""
    found = (ring for ring in all_rings(store) if ring.generation)
    return sorted(found, key=lambda ring: ring.generation)


def all_rings(store: Store) -> list[RingFile]:
    """All ring files by number."""
    return [read_header(store, path) for path in sorted(store.intake_dir.glob("*.ring"))]
