"""Sealed archives: what opens them, what is readable without, and that no tampering goes unseen."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.exit_codes import ExitCode
from store.errors import KeyMissing
from store.key_file import create_key_file
from store.keys import KeyRing, SealingKey
from store.types import Lsn
from tape.archive_reader import ArchiveReader, read_head
from tape.archive_writer import new_head
from tape.errors import BadArchive, BadCartridge, TapeError
from tape.layout import ArchiveHead
from tape.log_archive import log_range, write_log_archive
from tape.opening import open_archive
from tape.sealed_writer import archive_writer, write_catalogue_archive
from tape.sealing import CHUNK_BYTES, ChunkOpener, ChunkSealer, sealed_head
from tests.commandline import run_cdpfs
from tests.mount.fingerprint import assert_equal, fingerprint
from tests.unit.archives import BLOCK_BYTES, SET_ID, blocks_of, full_archives, untar
from tests.unit.recorded_tree import START_NS, RecordedTree
from timetravel.view import View

RING = KeyRing(b"c" * 32, (SealingKey(b"k" * 32, 1),))
OTHER = KeyRing(b"c" * 32, (SealingKey(b"o" * 32, 1),))
SECRET_NAME = b"the-merger-with-Initech"

HEAD = ArchiveHead(
    set_id=SET_ID, sequence=3, kind="catalogue", volume_uuid="3c" * 16, volume_name="books",
    directory="/srv/books", first_lsn=9, last_lsn=9, time_ns=START_NS, created_ns=START_NS,
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    recorded.write(SECRET_NAME, b"content " * 20_000)
    for number in range(20):
        recorded.write(b"f%d" % number, Random(number).randbytes(150_000))
    yield recorded
    recorded.close()


def sealed_catalogue(size: int = 3 * CHUNK_BYTES + 5) -> bytes:
    out = io.BytesIO()
    write_catalogue_archive(
        HEAD, Random(5).randbytes(size), out, block_bytes=BLOCK_BYTES, ring=RING
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return sealed_catalogue()


def chunks_of(data: bytes) -> list[bytes]:
    """What stands between the ends, each with its header."""
    found = []
    for member in ArchiveReader([data])._members():
        content = member.data(2 * CHUNK_BYTES)
        at = data.index(content)
        found.append(data[at - 512 : at + len(content) + -len(content) % 512])
    return found


def test_sealed_fulls_come_back_through_tar(tree: RecordedTree, tmp_path: Path) -> None:
    view = View(tree.journal, tree.commit())
    archives = full_archives(tree, view, 1 << 20, ring=RING)
    assert len(archives) >= 4
    plain = []
    for data, written in archives:
        assert len(data) <= 1 << 20
        assert ArchiveReader(blocks_of(data)).check() == written
        out = io.BytesIO()
        assert open_archive(blocks_of(data), RING, out) == written
        plain.append(out.getvalue())
    untar(plain, tmp_path / "out")
    found = fingerprint(tmp_path / "out" / tree.store.config.name)
    assert_equal(found, fingerprint(Path(os.fsdecode(tree.root))))


def test_a_sealed_log_fits_and_comes_back(tree: RecordedTree) -> None:
    end = tree.commit()
    found = log_range(tree.journal, Lsn(1), end, 8 << 20, BLOCK_BYTES, sealed=True)
    assert found is not None
    head = new_head(
        tree.store, set_id=SET_ID, sequence=1, kind="log", first_lsn=found.first_lsn,
        last_lsn=found.last_lsn, time_ns=found.time_ns, created_ns=START_NS,
    )  # fmt: skip
    out = io.BytesIO()
    written = write_log_archive(
        tree.journal, head, out, block_bytes=BLOCK_BYTES, barrier_lsn=end, ring=RING
    )
    assert written.size_bytes <= found.archive_bytes
    reader = ArchiveReader(blocks_of(out.getvalue()), RING)
    batches = [m.data(48 << 20) for m in reader.members()]
    with tree.journal.snapshot() as snapshot:
        assert batches == [snapshot.batch_bytes(place) for place in snapshot.batches(Lsn(1))]
    assert reader.written == written and written.end.barrier_lsn == end


def test_nothing_but_the_head_is_readable(tree: RecordedTree) -> None:
    [(data, _)] = full_archives(tree, View(tree.journal, tree.commit()), ring=RING)
    assert SECRET_NAME not in data and b"content content" not in data
    head = read_head(blocks_of(data))
    assert head.key_id == RING.newest.id.hex() and head.settings == {}
    assert head.volume_uuid == tree.store.config.uuid


def test_the_settings_are_known_when_it_is_opened(tree: RecordedTree) -> None:
    [(data, _)] = full_archives(tree, View(tree.journal, tree.commit()), ring=RING)
    reader = ArchiveReader(blocks_of(data), RING)
    assert next(reader.members()).kind == "entry"
    assert reader.head.settings["uuid"] == tree.store.config.uuid


def test_without_the_key_it_can_be_verified_and_not_opened(sealed: bytes) -> None:
    written = ArchiveReader(blocks_of(sealed)).check()
    assert written.size_bytes == len(sealed)
    for ring in (None, OTHER):
        with pytest.raises(KeyMissing, match=RING.newest.id.hex()):
            next(ArchiveReader(blocks_of(sealed), ring).members())


def test_an_older_key_of_the_ring_opens_what_it_sealed(sealed: bytes) -> None:
    rotated = RING.rotated(b"n" * 32, 2)
    [member] = [m.kind for m in ArchiveReader(blocks_of(sealed), rotated).members()]
    assert member == "catalogue"


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 5000, CHUNK_BYTES, 2 * CHUNK_BYTES - 3])
def test_archives_of_any_size_come_back(size: int) -> None:
    reader = ArchiveReader([sealed_catalogue(size)], RING)
    assert [m.data(size) for m in reader.members()] == [Random(5).randbytes(size)]


def test_the_same_archive_is_never_sealed_with_the_same_key_twice() -> None:
    assert sealed_catalogue(100) != sealed_catalogue(100)
    heads = {sealed_head(HEAD, RING, bytes([n]) * 32).salt for n in range(5)}
    assert len(heads) == 5


def test_equal_entropy_for_another_archive_gives_another_key() -> None:
    other = msgspec.structs.replace(HEAD, sequence=4)
    assert sealed_head(HEAD, RING, b"e" * 32).salt != sealed_head(other, RING, b"e" * 32).salt


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_opened(sealed: bytes, data: st.DataObject) -> None:
    changed = bytearray(sealed)
    changed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((BadCartridge, KeyMissing)):
        for member in ArchiveReader([bytes(changed)], RING).members():
            member.data(8 << 20)


def resealed(order: list[bytes], head: ArchiveHead | None = None) -> bytes:
    """What somebody without the key can make of chunks: an archive that is whole as tar."""
    out = io.BytesIO()
    archive = archive_writer(out, head or HEAD, BLOCK_BYTES)
    for chunk in order:
        archive.begin(chunk)
    archive.finish()
    return out.getvalue()


@pytest.mark.parametrize("trick", ["cut", "drop", "swap", "double", "other archive", "other head"])
def test_chunks_that_were_tampered_with_are_noticed(sealed: bytes, trick: str) -> None:
    head = read_head([sealed])
    chunks = chunks_of(sealed)
    assert [m.kind for m in ArchiveReader([resealed(chunks, head)], RING).members()]
    if trick == "cut":
        chunks = chunks[:-1]
    elif trick == "drop":
        del chunks[1]
    elif trick == "swap":
        chunks[1], chunks[2] = chunks[2], chunks[1]
    elif trick == "double":
        chunks.insert(1, chunks[1])
    elif trick == "other archive":
        chunks[2] = chunks_of(sealed_catalogue())[2]
    else:
        head = msgspec.structs.replace(head, last_lsn=10)
    with pytest.raises(BadArchive, match="seal is broken"):
        for member in ArchiveReader([resealed(chunks, head)], RING).members():
            member.data(8 << 20)


def test_an_archive_without_a_chunk_is_refused(sealed: bytes) -> None:
    with pytest.raises(BadArchive, match="nothing in it"):
        list(ArchiveReader([resealed([], read_head([sealed]))], RING).members())


def test_chunks_open_in_their_order_alone() -> None:
    head = sealed_head(HEAD, RING, b"e" * 32)
    sealer = ChunkSealer(RING, head, b"text")
    chunks = [*sealer.take(bytes(2 * CHUNK_BYTES + 1)), sealer.end()]
    opener = ChunkOpener(RING, head, b"text")
    with pytest.raises(BadArchive):
        opener.open(chunks[1], last=False)


def test_the_command_opens_an_archive_for_tar(tmp_path: Path) -> None:
    ring = create_key_file(tmp_path / "key")
    create_key_file(tmp_path / "other")
    with (tmp_path / "sealed.tar").open("wb") as out:
        write_catalogue_archive(HEAD, b"known", out, block_bytes=BLOCK_BYTES, ring=ring)
    arguments = ["tape", "open", str(tmp_path / "sealed.tar"), "--key-file"]
    done = run_cdpfs(*arguments, str(tmp_path / "key"))
    listed = subprocess.run(["tar", "-tf", "-"], input=done.stdout, capture_output=True, check=True)
    assert b"cdpfs/catalogue.json" in listed.stdout
    failed = run_cdpfs(*arguments, str(tmp_path / "other"), code=ExitCode.PERMISSION)
    assert b"key file lacks" in failed.stderr and not failed.stdout


def test_a_plain_archive_is_not_opened() -> None:
    with pytest.raises(TapeError, match="not sealed"):
        open_archive([resealed([])], RING, io.BytesIO())
