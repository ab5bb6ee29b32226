"""A copy of a store that begins in the midst of its history, made as from a tape set."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from store.baseline import BaselineWriter
from store.baseline_state import collect_state
from store.index_rows import BatchPlace
from store.journal import Journal, Snapshot
from store.types import Lsn
from store.volume import Store, new_config
from timetravel.view import View
from timetravel.walk import adopted_of, walk_tree


def describe(writer: BaselineWriter, view: View) -> None:
    """Everything that the view has."""
    for found in walk_tree(view):
        if not found.first:
            writer.name(found.node, found.parent, found.name)
            continue
        writer.node(found.node, adopted_of(found))
        if stat.S_ISREG(found.state.mode):
            for start, stop in view.data_areas(found.node):
                writer.data(found.node, start, view.read(found.node, start, stop - start))


def batch_bytes(store: Store, place: BatchPlace) -> bytes:
    """A batch as it lies in its segment."""
    (path,) = store.segments_dir.glob(f"{place.segment_first_lsn:016x}-*.seg")
    with path.open("rb") as file:
        return os.pread(file.fileno(), place.total_bytes, place.offset)


def batches_from(store: Store, snapshot: Snapshot, lsn: Lsn) -> list[bytes]:
    """The batches from the one that holds `lsn` on."""
    return [batch_bytes(store, place) for place in snapshot.batches(lsn)]


def new_copy(store: Store, root: Path, **settings: object) -> Store:
    """An empty store for the same volume."""
    return Store.create(root, new_config("/copy", 1, uuid=store.config.uuid, **settings))


def copy_from(store: Store, lsn: Lsn, root: Path) -> Store:
    """A copy of `store` whose history begins at `lsn`."""
    with Journal(store) as journal:
        return copy_of(store, journal, lsn, root)


def copy_of(store: Store, journal: Journal, lsn: Lsn, root: Path) -> Store:
    """As `copy_from`, of a journal that is open."""
    copy = new_copy(store, root)
    with BaselineWriter.open(copy) as writer, journal.snapshot() as snapshot:
        view = View(journal, lsn)
        writer.start(lsn, view.time_ns)
        describe(writer, view)
        first, *rest = batches_from(store, snapshot, lsn)
        writer.finish(first, collect_state(snapshot, lsn).data)
        for data in rest:
            writer.append(data)
        writer.commit()
    return copy
