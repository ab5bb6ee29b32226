"""Made the golden archives of a cartridge (format version 1), once.

    python -m tests.unit.golden.generate_archives

The files under version control are the truth; see `generate`. The set is that of the copy in
`generate_baseline`, with a file in two parts, a socket and a fifo besides.
"""

from __future__ import annotations

import io
import stat
from pathlib import Path

import msgspec

from store.batch import NO_DIGEST, encode_batch
from store.keys import KeyRing, SealingKey
from store.types import ROOT, NodeId
from store.volume import config_values, new_config
from tape.archive_writer import ArchiveWriter
from tape.label_archive import write_label_archive
from tape.layout import STATE_NAME, ArchiveHead, Cursor, Label
from tape.log_archive import batch_name
from tape.pax import Facts, Note, entry_header, link_header
from tape.sealed_writer import SealedArchiveWriter
from tape.sparse import encode_map
from tape.tree_names import part_name
from tests.unit.golden.generate import VOLUME, flipped
from tests.unit.golden.generate_baseline import BEGIN, CONTENT, START_NS, site_ops, state

FOLDER = Path(__file__).parent / "tape-v1"
BLOCK_BYTES = 1024
RING = KeyRing(b"c" * 32, (SealingKey(b"k" * 32, 1),))
PARTS = (b"first part, " * 50, b"and the second")
"""Of the file in parts; the first is filled up to 1024 bytes by a hole."""

LABEL = Label(
    label_id="1a" * 16, barcode="A00001L8", pool="onsite", library_id="2b" * 16,
    volume_uuid=VOLUME.hex(), volume_name="golden", block_bytes=BLOCK_BYTES, created_ns=START_NS,
)  # fmt: skip


def head(**values: object) -> ArchiveHead:
    config = new_config("/nowhere", 1, uuid=VOLUME.hex(), name="golden")
    same = {
        "set_id": "5e" * 16, "volume_uuid": VOLUME.hex(), "volume_name": "golden",
        "directory": "/nowhere", "created_ns": START_NS, "kind": "full", "first_lsn": BEGIN,
        "last_lsn": BEGIN, "time_ns": site_ops()[0][1].time_ns, "settings": config_values(config),
    }  # fmt: skip
    return msgspec.convert({**same, **values}, ArchiveHead)


def facts(mode: int, target: bytes = b"", xattrs: tuple[tuple[bytes, bytes], ...] = ()) -> Facts:
    return Facts(mode, 1000, 100, 0, START_NS, START_NS + 1, START_NS + 2, target, xattrs)


def put_tree(archive: ArchiveWriter) -> None:
    """Everything of the tree but the file in parts."""
    archive.begin(entry_header(b"golden", facts(0o40755), Note(node=ROOT)))
    areas = [(512, 1536)]
    data = bytes(1000 - 512) + CONTENT
    data += bytes(1024 - len(data))
    stored_map = encode_map(areas, 0, 1 << 20)
    marked = facts(0o100644, xattrs=((b"user.x", b"y"),))
    size = len(stored_map) + 1024
    archive.begin(
        entry_header(b"golden/b", marked, Note(node=2, links=2), size, 1 << 20) + stored_map
    )
    archive.write(data)
    archive.begin(entry_header(b"golden/d", facts(0o40700), Note(node=3)))
    archive.begin(link_header(b"golden/d/a", b"golden/b", facts(0o100644), Note(node=2, links=2)))
    archive.begin(entry_header(b"golden/link", facts(0o120777, b"a"), Note(node=4)))
    archive.begin(entry_header(b"golden/odd\n\xff", facts(stat.S_IFIFO | 0o600), Note(node=5)))
    note = Note(node=6, socket=True, path=b"socket")
    archive.begin(entry_header(b"cdpfs/sockets/1-4", facts(stat.S_IFSOCK | 0o600), note))


def put_part(archive: ArchiveWriter, part: int) -> None:
    note = Note(
        node=NodeId(7), path=b"z", part=part, parts=2, offset=1024 * part,
        file_bytes=1024 + len(PARTS[1]),
    )  # fmt: skip
    name = part_name(b"golden/z", 7, part, 2)
    if part:
        archive.begin(entry_header(name, facts(0o100600), note, len(PARTS[1])))
    else:
        stored_map = encode_map([(0, 600)], 0, 1024)
        size = len(stored_map) + len(PARTS[0])
        archive.begin(entry_header(name, facts(0o100600), note, size, 1024) + stored_map)
    archive.write(PARTS[part])
    archive.pad()


def full(part: int, sealed: bool = False) -> bytes:
    out = io.BytesIO()
    told = head(sequence=part, part=part)
    archive = (
        SealedArchiveWriter(out, told, BLOCK_BYTES, 0, RING)
        if sealed
        else ArchiveWriter(out, told, BLOCK_BYTES)
    )
    if part == 0:
        put_tree(archive)
        put_part(archive, 0)
        archive.finish(next_cursor=Cursor(directory=1, entry=5, part=1))
    else:
        archive.begin(entry_header(b"golden", facts(0o40755), Note(node=ROOT)))
        put_part(archive, 1)
        archive.file(STATE_NAME, state())
        archive.finish(last_part=True, needs_lsn=0, barrier_lsn=BEGIN)
    return out.getvalue()


def log() -> bytes:
    out = io.BytesIO()
    told = head(sequence=2, kind="log", first_lsn=19, last_lsn=22, settings={})
    archive = ArchiveWriter(out, told, BLOCK_BYTES)
    previous = NO_DIGEST
    for ops in site_ops():
        batch = encode_batch(ops, previous)
        archive.file(batch_name(ops[0].lsn, ops[-1].lsn), batch.data)
        previous = batch.header.digest
    archive.finish(barrier_lsn=22)
    return out.getvalue()


def label() -> bytes:
    out = io.BytesIO()
    write_label_archive(LABEL, out)
    return out.getvalue()


def variants() -> dict[str, bytes]:
    """Every golden file by its name."""
    first = full(0)
    newer = first.replace(b'"format_version": 1', b'"format_version": 2', 1)
    labelled = label()
    return {
        "label": labelled,
        "label-newer": labelled.replace(b'"format_version": 1', b'"format_version": 2', 1),
        "full-0": first,
        "full-1": full(1),
        "log": log(),
        "full-0-sealed": full(0, sealed=True),
        "full-0-newer": newer,
        "full-0-flipped-bit-in-content": flipped(first, first.index(CONTENT[:20]) + 3),
        "full-0-flipped-bit-in-name": flipped(first, first.index(b"golden/link")),
        "full-0-cut": first[: first.index(b"cdpfs/end.json")],
        "foreign": b"a".ljust(512, b"\0") + bytes(1024),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in variants().items():
        path = FOLDER / f"{name}.tar"
        assert not path.exists(), "golden files are never written over"
        path.write_bytes(content)
