"""Archives of a recorded tree, in memory, and what plain tar makes of them."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from store.journal import Snapshot
from store.keys import KeyRing
from store.types import Lsn
from tape.archive_writer import Written, new_head
from tape.full import Collect, FullWriter
from tape.layout import ArchiveHead, Cursor, Label
from tests.unit.recorded_tree import START_NS, RecordedTree
from timetravel.view import View

BLOCK_BYTES = 64 << 10
SET_ID = "5e" * 16
STATE = b"what the journal knows besides"

LABEL = Label(
    label_id="1a" * 16,
    barcode="A00012L8",
    pool="onsite",
    library_id="2b" * 16,
    volume_uuid="3c" * 16,
    volume_name="srv-data-0011aabb",
    block_bytes=BLOCK_BYTES,
    created_ns=START_NS,
)


def stated(_snapshot: Snapshot, lsn: Lsn) -> tuple[bytes, Lsn]:
    """In place of what the store collects."""
    return STATE, Lsn(lsn + 7)


def full_head(tree: RecordedTree, view: View, part: int = 0) -> ArchiveHead:
    """The head of an archive of a full."""
    return new_head(
        tree.store,
        set_id=SET_ID,
        sequence=part,
        kind="full",
        first_lsn=view.lsn,
        last_lsn=view.lsn,
        time_ns=view.time_ns,
        created_ns=START_NS,
        part=part,
    )


def full_archives(
    tree: RecordedTree,
    view: View,
    archive_bytes: int = 64 << 20,
    ring: KeyRing | None = None,
    collect: Collect = stated,
) -> list[tuple[bytes, Written]]:
    """All archives of a full."""
    found: list[tuple[bytes, Written]] = []
    cursor: Cursor | None = None
    with FullWriter(
        view, collect, archive_bytes=archive_bytes, block_bytes=BLOCK_BYTES, ring=ring
    ) as writer:
        while True:
            out = io.BytesIO()
            written = writer.write(full_head(tree, view, len(found)), out, cursor)
            found.append((out.getvalue(), written))
            cursor = written.end.next
            if cursor is None:
                return found


def blocks_of(data: bytes, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """As a drive gives them."""
    for start in range(0, len(data), block_bytes):
        yield data[start : start + block_bytes]


def untar(archives: Iterable[bytes], folder: Path) -> str:
    """Unpack with plain tar, as the README says; returns what tar said."""
    folder.mkdir(exist_ok=True)
    said = ""
    for number, data in enumerate(archives):
        path = folder.parent / f"archive-{number}.tar"
        path.write_bytes(data)
        done = subprocess.run(
            ["tar", "--numeric-owner", "-p", "--xattrs", "--xattrs-include=*", "-xf", path],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said += done.stderr
    return said
