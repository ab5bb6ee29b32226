"""The LMDB environment of a store's index: opening, sharing, tables, and LMDB's errors.

LMDB forbids opening an environment twice in one process, so the open ones are counted here by
their real path and shared by all threads. Readers open it read-only; where one process writes and
reads, the writer comes first.
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

from store.errors import DamagedError, RebuildIndex, StoreBusy, StoreError, StoreFull
from store.format import INDEX_VERSION

Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Cursor: TypeAlias = "lmdb.Cursor[bytes]"
Table: TypeAlias = "lmdb._Database"

MAP_BYTES = (1 << 40, 1 << 37, 1 << 34, 1 << 31)
"""Address space for the index, tried in this order: some machines refuse the larger ones."""

MAX_READERS = 1024
REINDEX_HINT = "the segments are the truth: unmount the volume and run cdpfs reindex"
VERSION_KEY = b"version"
STATE_KEY = b"state"
GAP_PREFIX = b"gap"
CLOCK_PREFIX = b"clock"
FOLD_PREFIX = b"fold"
BASELINE_KEY = b"baseline"
ACTOR_PREFIX = b"actor"


class Tables(NamedTuple):
    """The tables. Keys are big-endian (`store.format`); values are in `index_rows` and others."""

    meta: Table
    """VERSION_KEY → version; STATE_KEY → `index_rows.IndexState`; GAP_PREFIX, LSN of a GAP op →
    when the gap began (8 bytes), and the op's payload; CLOCK_PREFIX, wall time → LSN: what the
    machine's clock said while the log's was ahead of it, without those that a later op undid;
    FOLD_PREFIX, LSN of a fold's end → `ops.Folded`; BASELINE_KEY → `index_rows.Baseline`;
    ACTOR_PREFIX, LSN of a site's ACTOR op from before a baseline → LSN of the op that says the
    same here."""
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
    points: Table
    """Group, LSN → a recovery point (`barrier_state.encode_point`)."""
    point_order: Table
    """LSN, group → nothing: the points in the order of the log."""
    groups: Table
    """Group → what is known of a consistency group (`barrier_state.GroupState`)."""
    barriers: Table
    """The rest of what barrier inference remembers (`barrier_groups`)."""


@dataclass
class _Shared:
    env: lmdb.Environment
    tables: Tables
    writable: bool
    users: int


_open: dict[str, _Shared] = {}
_open_lock = threading.Lock()


class IndexEnvironment:
    """A share in a store's environment. `close` gives it back; closing twice is fine."""

    def __init__(self, directory: Path, write: bool = False) -> None:
        self._path = os.path.realpath(directory)
        self._closed = False
        with _open_lock, mapped_errors(self._path):
            shared = _open.get(self._path)
            if shared is None:
                shared = _open[self._path] = _open_shared(self._path, write)
            elif write and not shared.writable:
                raise StoreBusy(
                    f"this process reads the index at {self._path} already",
                    "open the index for writing before it is opened for reading",
                )
            shared.users += 1
        self._env = shared.env
        self.tables = shared.tables

    @property
    def path(self) -> str:
        """The folder of the environment."""
        return self._path

    def begin(self, write: bool = False) -> Transaction:
        """A transaction; to write, the environment must have been opened for it."""
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
        damaged = DamagedError(path, 0, f"the index is damaged ({error})")
        damaged.hint = REINDEX_HINT
        raise damaged from error
    except lmdb.VersionMismatchError as error:
        raise RebuildIndex(f"the index at {path} was made by another LMDB") from error
    except lmdb.Error as error:
        if getattr(error, "code", 0) == errno.ENOSPC or "No space left" in str(error):
            raise StoreFull(f"no space for the index at {path}") from error
        raise StoreError(f"the index at {path}: {error}", REINDEX_HINT) from error


def _open_shared(path: str, write: bool) -> _Shared:
    if not os.path.isdir(path):
        raise StoreError(f"{path} is missing", "rebuild the index: cdpfs reindex")
    if not write and not _has_pages(path):
        _make_tables(path)
    env = _open_environment(path, write)
    try:
        try:
            tables = _open_tables(env, create=write)
        except lmdb.NotFoundError:  # between the birth of the file and the first commit
            env.close()
            _make_tables(path)
            env = _open_environment(path, write)
            tables = _open_tables(env, create=False)
        _check_version(env, tables, path)
    except BaseException:
        env.close()
        raise
    return _Shared(env, tables, write, 0)


def _has_pages(path: str) -> bool:
    """Was anything ever written? LMDB takes an empty file for new, but not to read from."""
    try:
        return os.path.getsize(os.path.join(path, "data.mdb")) > 0
    except FileNotFoundError:
        return False


def _make_tables(path: str) -> None:
    env = _open_environment(path, write=True)
    try:
        _open_tables(env, create=True)
    finally:
        env.close()


def _open_environment(path: str, write: bool) -> lmdb.Environment:
    for map_bytes in MAP_BYTES:
        try:
            return lmdb.open(
                path,
                map_size=map_bytes,
                max_dbs=len(Tables._fields),
                max_readers=MAX_READERS,
                max_spare_txns=8,
                readonly=not write,
                mode=0o600,
                readahead=False,
                meminit=False,
            )
        except lmdb.MemoryError:
            if map_bytes == MAP_BYTES[-1]:
                raise
    raise AssertionError("unreachable")


def _open_tables(env: lmdb.Environment, create: bool) -> Tables:
    if create:
        with env.begin(write=True) as txn:
            tables = Tables(*(env.open_db(n.encode(), txn) for n in Tables._fields))
            if txn.get(VERSION_KEY, db=tables.meta) is None:
                txn.put(VERSION_KEY, INDEX_VERSION.to_bytes(4, "little"), db=tables.meta)
        return tables
    # Without a transaction of ours: LMDB forgets handles opened in one that only reads.
    return Tables(*(env.open_db(name.encode(), create=False) for name in Tables._fields))


def _check_version(env: lmdb.Environment, tables: Tables, path: str) -> None:
    with env.begin() as txn:
        version = int.from_bytes(txn.get(VERSION_KEY, b"", db=tables.meta), "little")
    if version != INDEX_VERSION:
        raise RebuildIndex(
            f"the index at {path} has version {version}, this cdpfs needs {INDEX_VERSION}"
        )
