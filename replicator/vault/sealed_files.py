"""The files of a sealed line: their bytes and names, reading them, and checking them without a key.

Blocking; any thread, any process. Files never change once they have their name; one that went
between listing and reading was packed: list again. See `sealed` for how they are made.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import xxhash

from replicator.errors import BadShipment
from replicator.sealing import HEADER_BYTES, SealedHeader, read_header
from replicator.wire import shipment_id
from store import durable
from store.batch import NO_DIGEST
from store.errors import DamagedError
from store.format import Field, Table
from store.types import Lsn
from store.volume import Store

ENTRY_VERSION = 1
ENTRY_MAGIC = b"CDPENTRY"

SEALED_ENTRY = Table(
    "sealed entry",
    "Before each sealed shipment that a vault keeps; the shipment follows.",
    (
        Field("magic", "8s", "`CDPENTRY`"),
        Field("version", "H", "format version"),
        Field("features", "H", "mandatory-feature bits; unknown ones are refused"),
        Field("reserved", "I", "0"),
        Field("arrived_ns", "Q", "when the vault had all of it, by the vault's clock"),
        Field("shipment_bytes", "Q", "bytes of the shipment"),
        Field("shipment", "16s", "its id: the first half of its blake3 digest"),
        Field("check", "Q", "xxh3-64 of the bytes before this field"),
    ),
)

ENTRY_TABLES = (SEALED_ENTRY,)

T = TypeVar("T")

ENTRY_BYTES = SEALED_ENTRY.size_bytes
_BOTH_BYTES = ENTRY_BYTES + HEADER_BYTES
_RETRIES = 5
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.(shipment|pack)")
_entry = SEALED_ENTRY.codec
_hash = xxhash.xxh3_64_intdigest


class SealedFile(NamedTuple):
    """A file by its name."""

    path: Path
    first_lsn: Lsn
    last_lsn: Lsn
    size_bytes: int
    single: bool
    """It holds one shipment, as it arrived."""


class HeldEntry(NamedTuple):
    """One shipment in a file. `offset` is the first byte of the shipment itself."""

    path: Path
    offset: int
    arrived_ns: int
    shipment: bytes
    header: SealedHeader


class Listing(NamedTuple):
    """A line's files in LSN order, and what a crash left beside them."""

    files: list[SealedFile]
    leftovers: list[Path]


MANY_FILES = 2
"""With more than so many files in a range, the ends of files stand for those of shipments."""


class Held(NamedTuple):
    """What is known of a sealed line without its key."""

    next_lsn: Lsn
    shipments: int
    size_bytes: int
    last_arrived_ns: int
    """0 for none."""


def sealed_dir(store: Store) -> Path:
    """Where a sealed line keeps its shipments."""
    return store.root / "sealed"


def file_name(first: Lsn, last: Lsn, single: bool) -> str:
    """Name of a file with these LSNs."""
    return f"{first:016x}-{last:016x}.{'shipment' if single else 'pack'}"


def pack_entry(arrived_ns: int, shipment_bytes: int, shipment: bytes) -> bytes:
    """What stands before a shipment."""
    start = SEALED_ENTRY.pack(
        magic=ENTRY_MAGIC,
        version=ENTRY_VERSION,
        features=0,
        reserved=0,
        arrived_ns=arrived_ns,
        shipment_bytes=shipment_bytes,
        shipment=shipment,
        check=0,
    )[:-8]
    return start + _hash(start).to_bytes(8, "little")


def list_files(store: Store) -> Listing:
    """The files of a line; DamagedError when one between the first and the last is missing.

    While a line is being written, packing may show its folder neither before nor after: it is read
    again then.
    """
    for _ in range(_RETRIES - 1):
        with contextlib.suppress(FileNotFoundError, DamagedError):
            return _list_once(sealed_dir(store))
    return _list_once(sealed_dir(store))


def _list_once(folder: Path) -> Listing:
    found: list[SealedFile] = []
    leftovers: list[Path] = []
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if match := _NAME.fullmatch(path.name):
            first, last = Lsn(int(match[1], 16)), Lsn(int(match[2], 16))
            size = path.stat().st_size
            found.append(SealedFile(path, first, last, size, match[3] == "shipment"))
        elif path.name.endswith(".new"):
            leftovers.append(path)
    found.sort(key=lambda file: (file.first_lsn, -file.last_lsn, file.single))
    files: list[SealedFile] = []
    last = Lsn(0)
    for file in found:
        if file.last_lsn <= last:
            leftovers.append(file.path)
            continue
        if file.first_lsn != last + 1:
            missing = Lsn(last + 1), Lsn(file.first_lsn - 1)
            raise DamagedError(file.path, 0, "what should come before is missing, read", *missing)
        files.append(file)
        last = file.last_lsn
    return Listing(files, leftovers)


def entries_of(file: SealedFile) -> Iterator[HeldEntry]:
    """The shipments in a file, by their headers, which are checked. DamagedError.

    FileNotFoundError when the file was packed meanwhile.
    """
    with _opened(file.path) as fd:
        at, expected = 0, file.first_lsn
        while at < file.size_bytes:
            entry, size = _read_entry(file, os.pread(fd, _BOTH_BYTES, at), at)
            if entry.header.first_lsn != expected or entry.offset + size > file.size_bytes:
                raise DamagedError(file.path, at, "an impossible shipment", *_lsns(file))
            yield entry
            at, expected = entry.offset + size, Lsn(entry.header.last_lsn + 1)
    if expected != file.last_lsn + 1:
        raise DamagedError(file.path, at, "the end of the file is missing, read", *_lsns(file))


def last_entry(file: SealedFile) -> HeldEntry:
    """The last shipment in a file. DamagedError."""
    *_, last = entries_of(file)
    return last


def entry_starting_at(files: Sequence[SealedFile], lsn: Lsn) -> HeldEntry | None:
    """The shipment that starts at `lsn`; None when none does."""
    number = bisect_right(files, lsn, key=lambda file: file.first_lsn) - 1
    if number < 0 or lsn > files[number].last_lsn:
        return None
    return next((e for e in entries_of(files[number]) if e.header.first_lsn == lsn), None)


def read_shipment(entry: HeldEntry) -> bytes:
    """The shipment of an entry, compared with its id. DamagedError."""
    with _opened(entry.path) as fd:
        data = os.pread(fd, entry.header.total_bytes, entry.offset)
    if shipment_id(data) != entry.shipment.hex():
        lsns = entry.header.first_lsn, entry.header.last_lsn
        raise DamagedError(entry.path, entry.offset, "the shipment is not what arrived", *lsns)
    return data


def held_entries(store: Store, start: int = 1) -> Iterator[HeldEntry]:
    """The shipments of a line from the one that holds `start` on. DamagedError."""
    return _walk(store, start, lambda entry: entry)


def held_shipments(store: Store, start: int = 1) -> Iterator[bytes]:
    """As `held_entries`: the shipments themselves, each compared with its id. DamagedError."""
    return _walk(store, start, read_shipment)


def _walk(store: Store, start: int, read: Callable[[HeldEntry], T]) -> Iterator[T]:
    """What `read` makes of each shipment. Files that are packed meanwhile are found again."""
    wanted, attempts = Lsn(start), 0
    while True:
        try:
            for file in list_files(store).files:
                if file.last_lsn < wanted:
                    continue
                for entry in entries_of(file):
                    if entry.header.last_lsn >= wanted:
                        found = read(entry)
                        wanted, attempts = Lsn(entry.header.last_lsn + 1), 0
                        yield found
            return
        except FileNotFoundError:
            attempts += 1
            if attempts == _RETRIES:
                raise


def ends_between(store: Store, after: int, upto: int, most: int) -> list[Lsn]:
    """LSNs in `(after, upto]` with which a shipment ends: at most `most`, spread evenly.

    None if there is none. DamagedError.
    """
    files = [f for f in list_files(store).files if f.last_lsn > after and f.first_lsn <= upto]
    ends = [file.last_lsn for file in files if file.last_lsn <= upto]
    if len(files) <= MANY_FILES:
        entries = held_entries(store, after + 1)
        found = (entry.header.last_lsn for entry in entries)
        ends = list(itertools.takewhile(lambda lsn: lsn <= upto, found))
    if len(ends) <= most:
        return ends
    return [ends[-(-len(ends) * number // most) - 1] for number in range(1, most + 1)]


def held(store: Store) -> Held:
    """What there is of a line, from its files. DamagedError."""
    count = size = arrived = 0
    following = Lsn(1)
    for entry in held_entries(store):
        count += 1
        size += ENTRY_BYTES + entry.header.total_bytes
        arrived = entry.arrived_ns
        following = Lsn(entry.header.last_lsn + 1)
    return Held(following, count, size, arrived)


def verify_sealed(store: Store) -> Iterator[HeldEntry]:
    """Check all that can be checked without the key, shipment by shipment. DamagedError.

    That is: every byte is what arrived, and the chain of LSNs and keyed digests is whole.
    """
    expected, digest = Lsn(1), NO_DIGEST
    for entry in _walk(store, 1, _checked):
        header = entry.header
        if (header.first_lsn, header.previous) != (expected, digest):
            raise DamagedError(
                entry.path, entry.offset, "the shipment does not follow from the one before it,",
                header.first_lsn, header.last_lsn,
            )  # fmt: skip
        yield entry
        expected, digest = Lsn(header.last_lsn + 1), header.digest


def _checked(entry: HeldEntry) -> HeldEntry:
    read_shipment(entry)
    return entry


def _read_entry(file: SealedFile, raw: bytes, at: int) -> tuple[HeldEntry, int]:
    """The entry and sealed header in `raw`, which stood at `at`, and the shipment's size."""
    if len(raw) < _BOTH_BYTES:
        raise DamagedError(file.path, at, "the end of the file is missing, read", *_lsns(file))
    magic, version, features, _, arrived_ns, size, shipment, check = _entry.unpack_from(raw)
    if magic != ENTRY_MAGIC or check != _hash(raw[: ENTRY_BYTES - 8]):
        raise DamagedError(file.path, at, "the entry does not match its checksum", *_lsns(file))
    if version != ENTRY_VERSION or features:
        raise DamagedError(
            file.path, at, f"entry version {version}, features {features:#x} are not known here,"
        )
    try:
        header = read_header(raw[ENTRY_BYTES:])
    except BadShipment as error:
        raise DamagedError(file.path, at, str(error), *_lsns(file)) from error
    if header.total_bytes != size:
        raise DamagedError(file.path, at, "the entry contradicts its shipment", *_lsns(file))
    return HeldEntry(file.path, at + ENTRY_BYTES, arrived_ns, shipment, header), size


def _lsns(file: SealedFile) -> tuple[Lsn, Lsn]:
    return file.first_lsn, file.last_lsn


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = durable.open_file(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        durable.close_file(fd)
