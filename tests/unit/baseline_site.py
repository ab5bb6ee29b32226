"""A volume with some history, of which copies are made that begin in its midst."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from store.baseline import BaselineWriter
from store.ops import Adopted
from store.types import Lsn, NodeId
from store.volume import Store
from tests.model.baseline_copy import batches_from, copy_from, describe
from tests.unit.recorded_tree import Entry, RecordedTree
from timetravel.view import View


class Site(NamedTuple):
    """A volume with some history; a copy of it is to begin at `lsn`."""

    tree: RecordedTree
    lsn: Lsn
    then: dict[bytes, Entry]
    """The tree at `lsn`."""

    @property
    def store(self) -> Store:
        return self.tree.store

    def copy(self, root: Path) -> Store:
        return copy_from(self.store, self.lsn, root)


@contextmanager
def made_site(tmp_path: Path) -> Iterator[Site]:
    """It is closed in the end."""
    tree = RecordedTree(tmp_path)
    tree.act_as(10, b"before")
    tree.mkdir(b"d")
    tree.write(b"d/f", b"a" * 3000)
    tree.write(b"sparse", b"end", 5 << 20)
    tree.link(b"d/f", b"twin")
    tree.symlink(b"d/f", b"pointer")
    tree.mkfifo(b"pipe")
    tree.setxattr(b"d/f", b"user.color", b"red")
    tree.write(b"gone", b"x")
    tree.remove(b"gone")
    for number in range(12):
        tree.write(b"log", b"line %d\n" % number, number * 8)
    tree.commit()
    lsn = tree.lsn
    then = tree.capture()
    tree.wait(10)
    tree.write(b"d/f", b"b" * 10, 100)
    tree.act_as(11, b"behind")
    tree.rename(b"twin", b"d/other")
    tree.commit()
    tree.mark("here")
    tree.remove(b"pipe")
    tree.commit()
    yield Site(tree, lsn, then)
    tree.close()


def described(site: Site, writer: BaselineWriter) -> list[bytes]:
    """The tree is described; the site's batches that follow."""
    view = View(site.tree.journal, site.lsn)
    writer.start(site.lsn, view.time_ns)
    describe(writer, view)
    with site.tree.journal.snapshot() as snapshot:
        return batches_from(snapshot, site.lsn)


def directory(parent: NodeId, name: bytes) -> Adopted:
    return Adopted(parent, name, 0o040755, 0, 0, 0, 0, 1, 1, 1, 0, 1)


def file(parent: NodeId, name: bytes, size: int = 0) -> Adopted:
    return Adopted(parent, name, 0o100644, 0, 0, 0, size, 1, 1, 1, 0, 1)
