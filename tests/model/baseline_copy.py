"""A copy of a store that begins in the midst of its history, made as from a tape set."""

from __future__ import annotations

import stat
from pathlib import Path

from store.baseline import BaselineWriter
from store.baseline_state import collect_state
from store.journal import Journal, Snapshot
from store.types import Lsn
from store.volume import Store, new_config
from tests.model.tree_walk import adopted_of, walk_tree
from timetravel.view import View


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


def batches_from(snapshot: Snapshot, lsn: Lsn) -> list[bytes]:
    """The batches from the one that holds `lsn` on, as they lie in their segments."""
    return [snapshot.batch_bytes(place) for place in snapshot.batches(lsn)]


def new_copy(store: Store, root: Path, **settings: object) -> Store:
    """An empty store for the same volume."""
    directory = str(settings.pop("directory", "/copy"))
    return Store.create(root, new_config(directory, 1, uuid=store.config.uuid, **settings))


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
        first, *rest = batches_from(snapshot, lsn)
        writer.finish(first, collect_state(snapshot, lsn).data)
        for data in rest:
            writer.append(data)
        writer.commit()
    return copy
