"""Two files without a journal: records appended to `data`, found through the GDBM file `index`.

GDBM is called as the C library that it is, since Python's module can't say "no mmap".
"""

from __future__ import annotations

import ctypes
import os
import random
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.transactions.program import Broken, Counts, Program, Transact

KEYS = 40
MIDDLE, THINK_S = 2, 0.01
"""Before which step a program thinks, and how long at the most."""

COUNT_KEY = b"count"

READER, WRITER, CREATE = 0, 1, 2
NO_MMAP = 0x80
"""From gdbm.h."""


class _Datum(ctypes.Structure):
    _fields_ = (("pointer", ctypes.c_void_p), ("size", ctypes.c_int))


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libgdbm.so.6")
    library.gdbm_open.restype = ctypes.c_void_p
    for name in ("gdbm_fetch", "gdbm_firstkey", "gdbm_nextkey"):
        getattr(library, name).restype = _Datum
    return library


_libc = ctypes.CDLL(None)


class Gdbm:
    """One open GDBM file. OSError when a call fails."""

    def __init__(self, path: Path, flags: int) -> None:
        self._library = _library()
        name = os.fsencode(path)
        handle = self._library.gdbm_open(name, 0, flags, 0o644, None)
        if handle is None:
            raise OSError(f"gdbm_open failed on {path}")
        self._handle = ctypes.c_void_p(handle)

    def close(self) -> None:
        """Write what is held back, and close."""
        self._library.gdbm_close(self._handle)

    def store(self, key: bytes, value: bytes) -> None:
        """Set, or replace."""
        self._done(self._library.gdbm_store(self._handle, _datum(key), _datum(value), 1))

    def sync(self) -> None:
        """On the disk when it returns."""
        self._done(self._library.gdbm_sync(self._handle))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key with its value."""
        key = self._library.gdbm_firstkey(self._handle)
        while key.pointer:
            name = ctypes.string_at(key.pointer, key.size)
            found = self._library.gdbm_fetch(self._handle, key)
            if not found.pointer:
                raise OSError(f"the key {name!r} has no value")
            yield name, _taken(found)
            following = self._library.gdbm_nextkey(self._handle, key)
            _libc.free(ctypes.c_void_p(key.pointer))
            key = following
        if self._library.gdbm_last_errno(self._handle) not in {0, 15}:
            raise OSError("the keys can't all be read")

    @staticmethod
    def _done(code: int) -> None:
        if code:
            raise OSError(f"gdbm: {code}")


def _datum(data: bytes) -> _Datum:
    pointer = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
    return _Datum(pointer, len(data))


def _taken(datum: _Datum) -> bytes:
    data = ctypes.string_at(datum.pointer, datum.size)
    _libc.free(ctypes.c_void_p(datum.pointer))
    return data


class Pair(Program):
    """The data is synced, then the index is written and synced; `variant` varies that."""

    VARIANTS = ("data-first", "both-first", "index-first")
    """`both-first`: both are written, then both are synced. `index-first`: the index is created
    first, and written and synced first."""

    strict_files = ("data", "index")

    def __init__(self, variant: str, mmap: bool, thinks: bool = False) -> None:
        """`thinks`: the program takes its time in the middle of a transaction, not between two."""
        self.name = f"pair-{variant}{'' if mmap else '-nommap'}{'-thinking' if thinks else ''}"
        self._thinks = thinks
        self._variant = variant
        self._flags = 0 if mmap else NO_MMAP

    def prepare(self, place: Path) -> None:
        if self._variant != "index-first":
            (place / "data").touch()
        index = Gdbm(place / "index", CREATE | self._flags)
        index.store(COUNT_KEY, b"0")
        index.sync()
        index.close()
        (place / "data").touch()

    @contextmanager
    def session(self, place: Path, chance: random.Random, client: int) -> Iterator[Transact]:
        index = Gdbm(place / "index", WRITER | self._flags)
        data = os.open(place / "data", os.O_WRONLY | os.O_APPEND)

        def do(number: int) -> None:
            key = b"key %d" % chance.randrange(KEYS)
            value = chance.randbytes(chance.randrange(400)).hex().encode()
            record = b"%d %s %s\n" % (number, key, value)
            entry = b"%d %d %d" % (os.fstat(data).st_size, len(record), zlib.crc32(record))

            def write_data() -> None:
                assert os.write(data, record) == len(record)

            def write_index() -> None:
                index.store(key, entry)
                index.store(COUNT_KEY, b"%d" % number)

            def sync_data() -> None:
                os.fsync(data)

            orders = {
                "data-first": (write_data, sync_data, write_index, index.sync),
                "both-first": (write_data, write_index, sync_data, index.sync),
                "index-first": (write_index, index.sync, write_data, sync_data),
            }
            for at, step in enumerate(orders[self._variant]):
                if self._thinks and at == MIDDLE:
                    time.sleep(chance.random() * THINK_S)
                step()

        try:
            yield do
        finally:
            index.close()
            os.close(data)

    def check(self, copy: Path) -> Counts:
        try:
            index = Gdbm(copy / "index", READER | NO_MMAP)
            try:
                entries = dict(index.items())
            finally:
                index.close()
            data = (copy / "data").read_bytes()
        except OSError as error:
            raise Broken(f"can't be read: {error}") from error
        if COUNT_KEY not in entries:
            raise Broken("the index has no count")
        return _compare(data, entries)


def _compare(data: bytes, entries: dict[bytes, bytes]) -> Counts:
    """The index has the newest record of each key and nothing else, and the other way round."""
    if data and not data.endswith(b"\n"):
        raise Broken("the data ends inside a record")
    wanted = {}
    offset = 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        found, word, name, _ = line.split(b" ", 3)
        if int(found) != number:
            raise Broken(f"record {number} says that it is number {found.decode()}")
        wanted[word + b" " + name] = b"%d %d %d" % (offset, len(line), zlib.crc32(line))
        offset += len(line)
    wanted[COUNT_KEY] = b"%d" % len(lines)
    for key in wanted.keys() | entries.keys():
        if wanted.get(key) != entries.get(key):
            raise Broken(f"{key.decode()}: data {wanted.get(key)!r}, index {entries.get(key)!r}")
    return (len(lines),)
