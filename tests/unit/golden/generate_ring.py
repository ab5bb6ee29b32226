"""Makes the golden ring files of the intake log: `python -m tests.unit.golden.generate_ring`.

Run once for each format version; what it made is kept for ever. The files whose names end in
`-unsynced-unsaid` are from before records said how much of the log was on disk.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import xxhash

from store.format import RECORD, RING_HEADER, RING_HEADER_BYTES, Kind
from store.intake import Intake
from store.ops import Created
from store.ring import ring_path
from store.tail import IntakeTail
from store.types import Lsn
from store.volume import Store, new_config
from tests.unit.golden.generate import FOLDER, VOLUME

FILE_BYTES = 16384
TIME_NS = 1_700_000_000_000_000_000
DATA = bytes(range(256)) * 4
SECOND_RECORD = RING_HEADER_BYTES + RECORD.size_bytes + 32
"""CREATE has 22 bytes of numbers and a name of 9: 31, padded to 32."""


def store_at(root: Path) -> Store:
    """An empty store that the golden files fit."""
    config = new_config("/nowhere", 1, uuid=VOLUME.hex(), ring_files=3, ring_file_bytes=FILE_BYTES)
    return Store.create(root / "store", config)


def whole(root: Path) -> bytes:
    """A ring file with three ops: a file is created, written and synced.

    The first one was on disk when the second came.
    """
    store = store_at(root)
    clock = itertools.count(TIME_NS, 1000)
    end = IntakeTail(store).end_of_log()
    intake = Intake.open(store, end, Lsn(0), clock_ns=lambda: next(clock))
    intake.append(Kind.CREATE, 2, 1, Created(b"caf\xe9.txt!", 0o100644, 1000, 100).encode())
    intake.sync()
    intake.append(Kind.WRITE, 2, 4096, DATA, actor=1)
    intake.append(Kind.FSYNC, 2)
    intake.close()
    return ring_path(store, 0).read_bytes()


def flipped(data: bytes, at: int) -> bytes:
    """One bit is another one."""
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def with_header(data: bytes, **changes: int) -> bytes:
    """Another header, with the checksum that belongs to it."""
    body = RING_HEADER.pack(**{**RING_HEADER.unpack(data), **changes})[:-8]
    header = body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")
    return header + data[len(header) :]


def variants(root: Path) -> dict[str, bytes]:
    """All golden ring files by name."""
    good = whole(root)
    return {
        "whole": good,
        "flipped-bit-in-ring-header": flipped(good, 20),
        "flipped-bit-in-first-record": flipped(good, RING_HEADER_BYTES + 70),
        "flipped-bit-in-last-record": flipped(good, good.rindex(DATA) + len(DATA) + 30),
        "newer-ring-version": with_header(good, version=2),
        "unknown-ring-feature": with_header(good, features=0x8000),
        "not-a-ring": b"not a ring".ljust(FILE_BYTES, b"\0"),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for name, data in variants(Path(folder)).items():
            (FOLDER / f"{name}.ring").write_bytes(data)
