"""Golden archives of a cartridge open, unpack, or fail, exactly as stated here."""

from __future__ import annotations

import io
import stat
import subprocess
from pathlib import Path

import pytest

from store.errors import KeyMissing
from store.journal import Journal
from store.types import ROOT, Lsn, NodeId
from store.verify import verify
from tape.archive_reader import ArchiveReader
from tape.errors import BadArchive, NewerCartridge, NoLabel
from tape.label_archive import read_label
from tape.layout import Cursor
from tape.opening import open_archive
from tape.rebuild import Rebuild
from tests.unit.archives import untar
from tests.unit.golden.generate_archives import FOLDER, LABEL, PARTS, RING, variants
from tests.unit.golden.generate_baseline import BEGIN, CONTENT, START_NS, nodes
from timetravel.view import View

FULL = ("full-0", "full-1")


def golden(name: str) -> bytes:
    return (FOLDER / f"{name}.tar").read_bytes()


def test_what_is_written_today_is_what_was_written_then() -> None:
    made = variants()
    for name in ("full-0", "full-1", "log"):
        assert made[name] == golden(name), name


def test_the_golden_label_is_read() -> None:
    assert read_label([golden("label")]) == LABEL
    with pytest.raises(NewerCartridge):
        read_label([golden("label-newer")])
    for name in ("foreign", "full-0"):
        with pytest.raises(NoLabel):
            read_label([golden(name)])


def test_the_golden_ends_are_read() -> None:
    ends = [ArchiveReader([golden(name)]).check().end for name in (*FULL, "log")]
    assert [end.next for end in ends] == [Cursor(directory=1, entry=5, part=1), None, None]
    assert [end.last_part for end in ends] == [False, True, False]
    assert [end.barrier_lsn for end in ends] == [0, BEGIN, 22]


def test_tar_unpacks_the_golden_full(tmp_path: Path) -> None:
    said = untar([golden(name) for name in FULL], tmp_path / "out")
    assert said == ""
    tree = tmp_path / "out" / "golden"
    names = sorted(path.name for path in tree.iterdir())
    parts = [f"z.cdpfs-part-{part:04d}-of-0002" for part in (1, 2)]
    assert names == sorted(["b", "d", "link", "odd\n\udcff", *parts])
    status = (tree / "b").stat()
    assert (status.st_size, status.st_nlink, status.st_mtime_ns) == (1 << 20, 2, START_NS + 1)
    assert (tree / "b").read_bytes()[1000:].startswith(CONTENT)
    assert (tree / "link").readlink() == Path("a")
    first, second = ((tree / name).read_bytes() for name in parts)
    assert first == PARTS[0].ljust(1024, b"\0") and second == PARTS[1]


def test_the_golden_set_makes_a_store(tmp_path: Path) -> None:
    with Rebuild(tmp_path / "store") as rebuild:
        for name in (*FULL, "log"):
            rebuild.take(ArchiveReader([golden(name)]))
        done = rebuild.finish()
    assert (done.base_lsn, done.end_lsn) == (BEGIN, 22)
    assert verify(done.store).findings == []
    with Journal(done.store) as journal:
        view = View(journal, BEGIN)
        assert [name for name, _ in view.entries(ROOT)] == [
            b"b", b"d", b"link", b"odd\n\xff", b"socket", b"z",
        ]  # fmt: skip
        for node, adopted in nodes():
            state = view.state(node)
            assert (state.mode, state.uid, state.gid, state.links, state.target) == (
                (adopted.mode, adopted.uid, adopted.gid, adopted.links, adopted.target)
            )
            assert tuple(view.xattrs(node).items()) == adopted.xattrs
        assert view.read(NodeId(2), 1000, len(CONTENT)) == CONTENT
        assert stat.S_ISSOCK(view.walk(b"socket").mode)
        assert view.read(NodeId(7), 0, 2000) == PARTS[0].ljust(1024, b"\0") + PARTS[1]
        assert View(journal, Lsn(22)).read(NodeId(2), 0, 5) == b"after"


def test_the_golden_sealed_archive_opens_with_its_key() -> None:
    sealed = golden("full-0-sealed")
    assert ArchiveReader([sealed]).check().size_bytes == len(sealed)
    with pytest.raises(KeyMissing):
        next(ArchiveReader([sealed]).members())
    out = io.BytesIO()
    open_archive([sealed], RING, out)
    assert out.getvalue().rstrip(b"\0") == golden("full-0").rstrip(b"\0")


FAILURES = {
    "full-0-flipped-bit-in-content": "not what its last member says",
    "full-0-flipped-bit-in-name": "checksum",
    "full-0-cut": "cut short",
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_damaged_archive_fails_as_stated(name: str) -> None:
    with pytest.raises(BadArchive, match=FAILURES[name]):
        ArchiveReader([golden(name)]).check()


def test_a_newer_archive_is_refused_by_its_version() -> None:
    with pytest.raises(NewerCartridge, match="format version 2; this cdpfs knows 1"):
        ArchiveReader([golden("full-0-newer")])


def test_a_foreign_archive_is_none_of_ours() -> None:
    with pytest.raises(NoLabel) as caught:
        ArchiveReader([golden("foreign")])
    assert not caught.value.blank


def test_tar_lists_every_golden_archive() -> None:
    for name in (*FULL, "log", "label", "full-0-sealed"):
        subprocess.run(["tar", "-tf", "-"], input=golden(name), capture_output=True, check=True)
