"""The index held against what the segments make of it, row by row. For `verify`.

Duty: LMDB has no checksums, so a flipped bit can turn an index row into another valid one. What
the indexer writes follows from the batches alone: an index made anew beside the old one, up to
the same LSN, must have the same rows. Blocking; one thread; the old index is only read.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from store import batch, durable
from store.index import IndexWriter
from store.index_check import IndexCheck
from store.index_env import Tables
from store.reindex import COMMIT_BYTES, batch_place
from store.scan import scan_segments
from store.segment import HEADER_BYTES
from store.types import Lsn
from store.volume import Store

NEW_PREFIX = "index.check-"


class WrongTable(NamedTuple):
    """A table with rows that differ, are missing or are too many."""

    name: str
    rows: int
    first_key: bytes


def wrong_tables(
    store: Store, index: IndexCheck, progress: Callable[[int], None]
) -> list[WrongTable]:
    """The tables of `index` that are not what the segments make of them; [] when all are.

    `progress` gets the bytes of segments taken in. StoreFull or OSError when there is no space
    for another index; DamagedError, InconsistentLog when the segments are damaged.
    """
    folder = _make_folder(store)
    target = copy.copy(store)
    target.index_dir = folder
    try:
        _fill(store, target, index.state.indexed_lsn, progress)
        with IndexCheck(target) as right:
            found = (_compare(name, index, right) for name in Tables._fields)
            return [wrong for wrong in found if wrong is not None]
    finally:
        durable.drop_tree(folder)


def _make_folder(store: Store) -> Path:
    """Beside the old index, where there is space, or else wherever temporary files go."""
    try:
        return Path(tempfile.mkdtemp(prefix=NEW_PREFIX, dir=store.root))
    except OSError:
        return Path(tempfile.mkdtemp(prefix=NEW_PREFIX))


def _fill(store: Store, target: Store, last: Lsn, progress: Callable[[int], None]) -> None:
    done = uncommitted = 0
    with IndexWriter(target) as writer:
        for scanned in scan_segments(store):
            if scanned.header.first_lsn > last:
                break
            writer.begin()
            writer.apply(batch.decode_batch(scanned.data)[1], batch_place(scanned))
            header = HEADER_BYTES if scanned.offset == HEADER_BYTES else 0
            done += header + scanned.header.total_bytes
            uncommitted += scanned.header.total_bytes
            if uncommitted >= COMMIT_BYTES:
                writer.commit()
                uncommitted = 0
            progress(done)
            if writer.indexed_lsn >= last:
                break
        writer.commit()


def _compare(name: str, index: IndexCheck, right: IndexCheck) -> WrongTable | None:
    wrong, first = 0, b""
    for key in _differing_keys(index.rows(name), right.rows(name)):
        first = first or key
        wrong += 1
    return WrongTable(name, wrong, first) if wrong else None


def _differing_keys(
    have: Iterator[tuple[bytes, bytes]], want: Iterator[tuple[bytes, bytes]]
) -> Iterator[bytes]:
    """Keys, in order, whose rows are not in both or not the same."""
    mine, theirs = next(have, None), next(want, None)
    while mine is not None or theirs is not None:
        if mine == theirs:
            mine, theirs = next(have, None), next(want, None)
        elif theirs is None or (mine is not None and mine[0] < theirs[0]):
            assert mine is not None
            yield mine[0]
            mine = next(have, None)
        elif mine is None or theirs[0] < mine[0]:
            yield theirs[0]
            theirs = next(want, None)
        else:
            yield mine[0]
            mine, theirs = next(have, None), next(want, None)
