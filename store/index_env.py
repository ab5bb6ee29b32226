"""The LMDB environment of a store's index: opening, sharing, tables, and LMDB's errors.

LMDB forbids opening an environment twice in one process, so the open ones are counted here by
their real path and shared by all threads. Every environment is opened writable where the file
system permits; that readers do not write is theirs to keep.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import lmdb

from store.errors import DamagedError, RebuildIndex, StoreError, StoreFull
from store.format import INDEX_VERSION

Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Cursor: TypeAlias = "lmdb.Cursor[bytes]"
Table: TypeAlias = "lmdb._Database"

MAP_BYTES = (1 << 40, 1 << 37, 1 << 34, 1 << 31)
"""Address space for the index, tried in this order: some machines refuse the larger ones."""

MAX_READERS = 1024
VERSION_KEY = b"version"
STATE_KEY = b"state"


class Tables(NamedTuple):
    """The tables. Keys are big-endian (`store.format`); values are in `index_rows` and others."""

    meta: Table
    """VERSION_KEY → version; STATE_KEY → `index_rows.IndexState`."""
    ops: Table
    """LSN of the first → up to OPS_PER_ROW consecutive ops (`index_rows`)."""
    batches: Table
    """First LSN → `index_rows.BatchPlace`."""
    nodes: Table
    """Node, LSN → attributes, or touches (`index_rows`)."""
    names: Table
    """Directory, name, NUL, LSN → node (8 bytes) from then on; 0: the name is gone."""
    dirlog: Table
    """Directory, LSN → its changes or its whole listing (`index_listing`); complete ones only."""
    links: Table
    """Node, LSN → changes of its links or all of them (`index_listing`)."""
    extents: Table
    """Node, generation, region, LSN → deltas or pieces (`extents`)."""
    xattrs: Table
    """Node, name, NUL, LSN → 1 and the value; or 0: removed."""
    inodes: Table
    """st_ino of an adopted node with several links → node (8 bytes)."""
    bases: Table
    """Node, since → `index_rows` base: what an adopted node had; a created one has no row."""
    marks: Table
    """LSN → time (8 bytes) and name of a mark."""


@dataclass
class _Shared:
    env: lmdb.Environment
    tables: Tables
    users: int


_open: dict[str, _Shared] = {}
_open_lock = threading.Lock()


class IndexEnvironment:
    """A share in a store's environment. `close` gives it back; closing twice is fine."""

    def __init__(self, directory: Path) -> None:
        self._path = os.path.realpath(directory)
        self._closed = False
        with _open_lock, mapped_errors(self._path):
            shared = _open.get(self._path)
            if shared is None:
                env = _open_environment(self._path)
                try:
                    shared = _Shared(env, _open_tables(env, self._path), 0)
                except BaseException:
                    env.close()
                    raise
                _open[self._path] = shared
            shared.users += 1
        self._env = shared.env
        self.tables = shared.tables

    @property
    def path(self) -> str:
        """The folder of the environment."""
        return self._path

    def begin(self, write: bool = False) -> Transaction:
        """A transaction; only the indexer's process may write."""
        with mapped_errors(self._path):
            return self._env.begin(write=write, buffers=False)

    def drop_stale_readers(self) -> int:
        """Free the slots of readers that died; returns how many there were."""
        with mapped_errors(self._path):
            return self._env.reader_check()

    def used_bytes(self) -> int:
        """Bytes of the index in use, free pages within it included."""
        return (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]

    def close(self) -> None:
        """Give the share back; the last one closes the environment."""
        if self._closed:
            return
        self._closed = True
        with _open_lock:
            shared = _open[self._path]
            shared.users -= 1
            if not shared.users:
                del _open[self._path]
                shared.env.close()


@contextlib.contextmanager
def mapped_errors(path: str) -> Iterator[None]:
    """Turn LMDB's errors into the store's."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise StoreFull(f"the index at {path} has reached the size it may have") from error
    except lmdb.DiskError as error:
        raise StoreFull(f"the index at {path} can't grow: {error}") from error
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError) as error:
        raise DamagedError(path, 0, f"the index is damaged ({error})") from error
    except lmdb.VersionMismatchError as error:
        raise RebuildIndex(f"the index at {path} was made by another LMDB") from error
    except lmdb.Error as error:
        if getattr(error, "code", 0) == errno.ENOSPC or "No space left" in str(error):
            raise StoreFull(f"no space for the index at {path}") from error
        raise StoreError(f"the index at {path}: {error}") from error


def _open_environment(path: str) -> lmdb.Environment:
    if not os.path.isdir(path):
        raise StoreError(f"{path} is missing", "rebuild the index: cdpfs reindex")
    writable = os.access(path, os.W_OK)
    for map_bytes in MAP_BYTES:
        try:
            return lmdb.open(
                path,
                map_size=map_bytes,
                max_dbs=len(Tables._fields),
                max_readers=MAX_READERS,
                max_spare_txns=0,
                readonly=not writable,
                lock=writable,
                mode=0o600,
                readahead=False,
                meminit=False,
            )
        except lmdb.MemoryError:
            if map_bytes == MAP_BYTES[-1]:
                raise
    raise AssertionError("unreachable")


def _open_tables(env: lmdb.Environment, path: str) -> Tables:
    """The tables, made if they are not there yet. RebuildIndex for those of another version."""
    try:
        # Without a transaction of ours: handles opened in one that only reads end with it.
        tables = Tables(*(env.open_db(n.encode(), create=False) for n in Tables._fields))
    except (lmdb.NotFoundError, lmdb.ReadonlyError):
        with env.begin(write=True) as txn:
            tables = Tables(*(env.open_db(n.encode(), txn) for n in Tables._fields))
            if txn.get(VERSION_KEY, db=tables.meta) is None:
                txn.put(VERSION_KEY, INDEX_VERSION.to_bytes(4, "little"), db=tables.meta)
    with env.begin() as txn:
        version = int.from_bytes(txn.get(VERSION_KEY, b"", db=tables.meta), "little")
    if version != INDEX_VERSION:
        raise RebuildIndex(
            f"the index at {path} has version {version}, this cdpfs needs {INDEX_VERSION}"
        )
    return tables
