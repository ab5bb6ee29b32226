"""A store made from the archives of a set: all from the full's barrier on, as at the site."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from store.baseline_state import collect_state
from store.errors import (
    BaselineError,
    KeyMissing,
    NeverCaptured,
    RecoveryUnfinished,
    VolumeExists,
)
from store.format import Kind
from store.journal import Journal
from store.keys import KeyRing, SealingKey
from store.relocation import refuse_unfinished
from store.types import NO_NODE, Lsn
from store.verify import verify
from store.volume import Store, new_config
from tape.archive_reader import ArchiveReader
from tape.archive_writer import ArchiveWriter, new_head
from tape.errors import BadArchive, WrongCartridge
from tape.layout import ArchiveHead
from tape.log_archive import log_range, write_log_archive
from tape.pax import Facts, Note, entry_header
from tape.rebuild import Rebuild, Rebuilt
from tests.model.tree_walk import walk_tree
from tests.unit.archives import BLOCK_BYTES, SET_ID, blocks_of, full_archives, untar
from tests.unit.recorded_tree import START_NS, RecordedTree, capture_view
from timetravel.view import View

RING = KeyRing(b"c" * 32, (SealingKey(b"k" * 32, 1),))


def set_of(
    tree: RecordedTree, lsn: Lsn, archive_bytes: int = 1 << 20, ring: KeyRing | None = None
) -> list[bytes]:
    """All archives of a set with a full at `lsn` and the log up to the end."""
    view = View(tree.journal, lsn)
    archives = [
        data for data, _ in full_archives(tree, view, archive_bytes, ring, collect=collect_state)
    ]
    first = lsn
    while found := log_range(
        tree.journal, first, tree.lsn, archive_bytes, BLOCK_BYTES, sealed=ring is not None
    ):
        head = new_head(
            tree.store, set_id=SET_ID, sequence=len(archives), kind="log",
            first_lsn=found.first_lsn, last_lsn=found.last_lsn, time_ns=found.time_ns,
            created_ns=START_NS,
        )  # fmt: skip
        out = io.BytesIO()
        write_log_archive(
            tree.journal, head, out, block_bytes=BLOCK_BYTES, barrier_lsn=Lsn(0), ring=ring
        )
        archives.append(out.getvalue())
        first = Lsn(found.last_lsn + 1)
    return archives


def rebuilt(archives: list[bytes], root: Path, ring: KeyRing | None = None) -> Rebuilt:
    with Rebuild(root) as rebuild:
        for data in archives:
            rebuild.take(ArchiveReader(blocks_of(data), ring))
        return rebuild.finish()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    """A volume with some history; the full is to be at the LSN `BASE` of it."""
    recorded = RecordedTree(tmp_path)
    recorded.act_as(10, b"before")
    recorded.mkdir(b"d")
    recorded.mkdir(b"d/deep")
    recorded.write(b"d/f", Random(1).randbytes(700_000))
    for part in range(5):
        recorded.commit()
        recorded.write(b"large", Random(part).randbytes(500_000), part * 500_000)
    recorded.write(b"large", b"end", 30 << 20)
    recorded.link(b"d/f", b"twin")
    recorded.link(b"large", b"z-twin")
    recorded.symlink(b"d/f", b"pointer")
    recorded.link(b"pointer", b"pointer-twin")
    recorded.mkfifo(b"pipe")
    os.mknod(recorded.path(b"socket"), stat.S_IFSOCK | 0o600)
    recorded.created(b"socket")
    recorded.setxattr(b"d/f", b"user.odd=%", b"\0red\n")
    recorded.chown(b"d/f", 77, 3_000_000)
    recorded.utime(b"d/f", 123, -1_500_000_001)
    recorded.write(b"\xff\n", b"odd name")
    recorded.chmod(b"d", 0o2750)
    for number in range(12):
        recorded.write(b"log", b"line %d\n" % number, number * 8)
    recorded.commit()
    yield recorded
    recorded.close()


def go_on(tree: RecordedTree) -> None:
    """More history, in several batches."""
    tree.act_as(11, b"behind")
    for number in range(5):
        tree.write(b"large", b"%d" % number * 1000, 100 + number)
        tree.write(b"new%d" % number, b"x" * 2000)
        tree.rename(b"new%d" % number, b"d/deep/n%d" % number)
        tree.commit()
    tree.remove(b"twin")
    tree.write(b"z-twin", b"changed under its other name", 1 << 20)
    tree.remove(b"socket")
    tree.truncate(b"d/f", 100)
    tree.commit()


def assert_same_history(tree: RecordedTree, copy: Store, base: Lsn) -> None:
    """Every LSN from `base` on shows the same tree, of the same nodes."""
    with Journal(copy) as journal:
        for number in range(base, tree.lsn + 1):
            mine, theirs = View(tree.journal, Lsn(number)), View(journal, Lsn(number))
            nodes = [(found.path, found.state._replace(inode=0, generation=0, changed=Lsn(0)))
                     for found in walk_tree(mine)]  # fmt: skip
            assert nodes == [
                (found.path, found.state._replace(inode=0, generation=0, changed=Lsn(0)))
                for found in walk_tree(theirs)
            ]
            if number in (base, tree.lsn) or number % 7 == 0:
                assert capture_view(theirs) == capture_view(mine)
    assert not verify(copy).findings


@pytest.mark.parametrize("archive_bytes", [1 << 20, 64 << 20])
def test_a_store_from_a_set_has_every_moment_from_its_full_on(
    tree: RecordedTree, tmp_path: Path, archive_bytes: int
) -> None:
    base = tree.lsn
    go_on(tree)
    done = rebuilt(set_of(tree, base, archive_bytes), tmp_path / "copy")
    assert (done.base_lsn, done.end_lsn, done.lost) == (base, tree.lsn, 0)
    assert_same_history(tree, done.store, base)


def test_a_full_may_part_deep_in_the_tree(tree: RecordedTree, tmp_path: Path) -> None:
    for number in range(6):
        tree.write(b"d/deep/%d" % number, Random(number).randbytes(400_000))
        tree.commit()
    base = tree.lsn
    archives = set_of(tree, base)
    parts = [
        [member.path for member in ArchiveReader(blocks_of(data)).members()]
        for data in archives
        if ArchiveReader(blocks_of(data)).head.kind == "full"
    ]
    assert any(part[:3] == [b"", b"d", b"d/deep"] for part in parts[1:])
    done = rebuilt(archives, tmp_path / "copy")
    assert_same_history(tree, done.store, base)


def test_a_full_in_the_midst_of_a_batch_is_gone_on_with_exactly(
    tree: RecordedTree, tmp_path: Path
) -> None:
    for number in range(5):
        tree.write(b"f%d" % number, b"1")
    base = Lsn(tree.lsn - 4)
    go_on(tree)
    done = rebuilt(set_of(tree, base), tmp_path / "copy")
    assert done.base_lsn == base
    assert_same_history(tree, done.store, base)


def test_a_sealed_set_needs_its_key(tree: RecordedTree, tmp_path: Path) -> None:
    base = tree.lsn
    go_on(tree)
    archives = set_of(tree, base, ring=RING)
    with pytest.raises(KeyMissing):
        rebuilt(archives, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    assert_same_history(tree, rebuilt(archives, tmp_path / "copy", RING).store, base)


def test_what_was_cut_short_goes_on_wherever_it_was(tree: RecordedTree, tmp_path: Path) -> None:
    base = tree.lsn
    go_on(tree)
    archives = set_of(tree, base)
    root = tmp_path / "copy"
    fulls = sum(ArchiveReader(blocks_of(data)).head.kind == "full" for data in archives)
    assert fulls >= 3
    for stop in range(1, len(archives)):
        with Rebuild(root) as rebuild:
            begun = rebuild.begun if root.exists() else False
            for data in archives[fulls if begun else 0 : stop]:
                rebuild.take(ArchiveReader(blocks_of(data)))
            assert rebuild.begun == (stop > fulls)
    assert_same_history(tree, rebuilt(archives, root).store, base)


def test_a_mount_is_refused_until_the_tree_was_made(tree: RecordedTree, tmp_path: Path) -> None:
    base = tree.lsn
    go_on(tree)
    archives = set_of(tree, base)
    with Rebuild(tmp_path / "copy") as rebuild:
        rebuild.take(ArchiveReader(blocks_of(archives[0])))
    store = Store.open(tmp_path / "copy")
    with pytest.raises(RecoveryUnfinished) as caught:
        refuse_unfinished(store)
    assert "cdpfs tape scan" in caught.value.hint
    with pytest.raises(RecoveryUnfinished):
        refuse_unfinished(rebuilt(archives, tmp_path / "copy").store)


def test_a_directory_of_its_own_can_be_named(tree: RecordedTree, tmp_path: Path) -> None:
    archives = set_of(tree, tree.lsn)
    with Rebuild(tmp_path / "copy", "/elsewhere") as rebuild:
        for data in archives:
            rebuild.take(ArchiveReader(blocks_of(data)))
        done = rebuild.finish()
    assert done.store.config.directory == "/elsewhere"
    assert done.store.config.uuid == tree.store.config.uuid


def test_archives_that_do_not_follow_are_refused(tree: RecordedTree, tmp_path: Path) -> None:
    base = tree.lsn
    go_on(tree)
    archives = set_of(tree, base)
    for order in ([1, 0], [0, 2], [len(archives) - 1]):
        with pytest.raises(BadArchive):
            rebuilt(
                [archives[number] for number in order], tmp_path / f"copy{order[0]}{len(order)}"
            )
    with pytest.raises(BadArchive, match="no log"):
        rebuilt([data for data in archives if ArchiveReader([data]).head.kind == "full"],
                tmp_path / "no-log")  # fmt: skip


def test_another_volumes_archive_is_refused(tree: RecordedTree, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = RecordedTree(tmp_path / "b")
    other.write(b"f", b"1")
    other.commit()
    archives = set_of(other, other.lsn)
    other.close()
    rebuilt(set_of(tree, tree.lsn), tmp_path / "copy")
    begun = Store.create(tmp_path / "mine", new_config("/x", 1, uuid=tree.store.config.uuid))
    with pytest.raises(WrongCartridge):
        rebuilt(archives, begun.root)


def test_a_store_with_another_history_is_not_touched(tree: RecordedTree) -> None:
    tree.journal.close()
    archives: list[bytes] = []
    with pytest.raises(VolumeExists):
        rebuilt(archives, tree.store.root)


def test_what_was_never_captured_is_zeros_for_tar_and_an_error_for_the_store(
    tree: RecordedTree, tmp_path: Path
) -> None:
    """A file found at one mount, and changed behind cdpfs's back before it was seeded."""
    with open(tree.path(b"lost"), "wb") as file:
        file.write(b"old" * 1000)
    tree.know(b"lost")
    tree.adopt(b"lost", tree.lsn)
    base = tree.commit()
    mount = tree.log(Kind.MOUNT, NO_NODE, 0, b"{}")
    tree.adopt(b"lost", mount)
    tree.log(Kind.BASE, tree.node(b"lost"), 0, b"old" * 1000)
    tree.commit()
    with pytest.raises(NeverCaptured):
        View(tree.journal, base).read(tree.node(b"lost"), 0, 9)
    done = rebuilt(set_of(tree, base), tmp_path / "copy")
    assert done.lost == 1
    with Journal(done.store) as journal:
        with pytest.raises(NeverCaptured):
            View(journal, base).read(tree.node(b"lost"), 0, 9)
        assert View(journal, tree.lsn).read(tree.node(b"lost"), 0, 3) == b"old"
    fulls = [data for data in set_of(tree, base) if ArchiveReader([data]).head.kind == "full"]
    untar(fulls, tmp_path / "out")
    found = tmp_path / "out" / tree.store.config.name / "lost"
    assert found.read_bytes() == bytes(3000)


FACTS = Facts(0o100644, 1, 2, 0, 3, 4, 5)
FOLDER = FACTS._replace(mode=0o40755)


@pytest.mark.parametrize(
    "members",
    [
        [entry_header(b"v/f", FACTS, Note(node=7))],
        [entry_header(b"v", FOLDER, Note(node=9))],
        [entry_header(b"v", FOLDER, Note(node=1)), entry_header(b"v/a/b", FACTS, Note(node=7))],
        [entry_header(b"v", FOLDER, Note(node=1)),
         entry_header(b"v/f", FACTS, Note(node=7, path=b"f", part=1, parts=2))],
        [entry_header(b"v", FOLDER, Note(node=1)),
         entry_header(b"v/" + b"n" * 256, FACTS, Note(node=7))],
        [entry_header(b"v", FOLDER, Note(node=1)),
         entry_header(b"v/f", FACTS._replace(mtime_ns=1 << 63), Note(node=7))],
        [entry_header(b"v", FOLDER, Note(node=1)),
         entry_header(b"v/f", FACTS._replace(xattrs=((b"x" * 300, b""),)), Note(node=7))],
        [entry_header(b"v", FOLDER, Note(node=1)),
         entry_header(b"v/f", FACTS, Note(node=7, links=1 << 40))],
    ],
)  # fmt: skip
def test_trees_that_cannot_be_are_refused(
    tree: RecordedTree, tmp_path: Path, members: list[bytes]
) -> None:
    head = new_head(
        tree.store, set_id=SET_ID, sequence=0, kind="full", first_lsn=50, last_lsn=50,
        time_ns=START_NS, created_ns=START_NS,
    )  # fmt: skip
    out = io.BytesIO()
    archive = ArchiveWriter(out, named(head), BLOCK_BYTES)
    for member in members:
        archive.begin(member)
    archive.finish(last_part=True)
    with pytest.raises((BadArchive, BaselineError)):
        rebuilt([out.getvalue()], tmp_path / "copy")


def named(head: ArchiveHead) -> ArchiveHead:
    return msgspec.structs.replace(head, volume_name="v")
