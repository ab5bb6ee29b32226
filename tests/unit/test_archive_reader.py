"""The reader of archives, of whatever it is given: whole, damaged, cut, foreign, newer, hostile."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tape.archive_reader import ArchiveReader, read_head
from tape.archive_writer import ArchiveWriter
from tape.errors import BadArchive, BadCartridge, EndOfData, NewerCartridge, NoLabel
from tape.layout import HEAD_NAME, ArchiveHead
from tape.pax import Facts, Note, decode_records, encode_records, entry_header, plain_header
from tape.sealed_writer import write_catalogue_archive
from tape.sparse import MAX_AREAS, cut_parts, decode_map, encode_map, joined
from tests.unit.archives import BLOCK_BYTES, blocks_of, full_archives
from tests.unit.recorded_tree import START_NS, RecordedTree
from timetravel.view import View

HEAD = ArchiveHead(
    set_id="5e" * 16, sequence=3, kind="full", volume_uuid="3c" * 16, volume_name="books",
    directory="/srv/books", first_lsn=9, last_lsn=9, time_ns=START_NS, created_ns=START_NS,
)  # fmt: skip
FACTS = Facts(0o100644, 1, 2, 0, 3, 4, 5)


def archive_with(*members: bytes, head: ArchiveHead = HEAD) -> bytes:
    out = io.BytesIO()
    archive = ArchiveWriter(out, head, BLOCK_BYTES)
    for member in members:
        archive.begin(member)
    archive.finish()
    return out.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """An archive of a little of everything."""
    tree = RecordedTree(tmp_path_factory.mktemp("whole"))
    tree.mkdir(b"d")
    tree.write(b"d/f", os.urandom(70_000))
    tree.write(b"sparse", b"x", 400_000)
    tree.symlink(b"d/f", b"link")
    tree.link(b"d/f", b"hard")
    tree.setxattr(b"d/f", b"user.a", b"b")
    [(data, _)] = full_archives(tree, View(tree.journal, tree.commit()))
    yield data
    tree.close()


def read_all(data: bytes, block_bytes: int = BLOCK_BYTES) -> int:
    """Read to the end; returns the bytes of content that came."""
    reader = ArchiveReader(blocks_of(data, block_bytes))
    return sum(len(piece) for member in reader.members() for _, piece in member.pieces())


def test_an_archive_reads_the_same_however_its_bytes_are_cut(whole: bytes) -> None:
    wanted = ArchiveReader([whole]).check()
    for block_bytes in (1, 511, 512, 4096, len(whole)):
        assert ArchiveReader(blocks_of(whole, block_bytes)).check() == wanted


def test_the_head_is_read_from_the_first_block_alone(whole: bytes) -> None:
    def blocks() -> Iterator[bytes]:
        yield whole[:BLOCK_BYTES]
        pytest.fail("more was read")

    assert read_head(blocks()).kind == "full"


def test_content_that_nobody_took_is_passed_and_verified(whole: bytes) -> None:
    taken = [next(m.pieces(), None) for m in ArchiveReader([whole]).members()]
    assert any(taken)
    reader = ArchiveReader([whole])
    for member in reader.members():
        next(member.pieces(), None)
    assert reader.written == ArchiveReader([whole]).check()


@pytest.mark.parametrize("step", [512, 4099])
def test_an_archive_that_is_cut_anywhere_is_not_whole(whole: bytes, step: int) -> None:
    end = len(whole.rstrip(b"\0")) + 1
    for stop in range(0, end, step):
        with pytest.raises(BadCartridge):
            read_all(whole[:stop])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_taken_for_right(whole: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(whole)
    changed[at] ^= 1 << bit
    with pytest.raises(BadCartridge):
        read_all(bytes(changed))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=600),
            st.builds(
                lambda size, body: plain_header("cdpfs/x", size, 1) + body,
                st.integers(0, 1 << 30),
                st.binary(max_size=600),
            ),
            st.builds(
                lambda keys: encode_records(keys),
                st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=4),
            ),
            st.sampled_from([bytes(512), bytes(1024), b"\xff" * 512]),
        ),
        max_size=8,
    )
)
def test_bytes_of_any_kind_end_in_an_error_of_ours(pieces: list[bytes]) -> None:
    rest = b"".join(pieces)
    with pytest.raises(BadCartridge):
        read_all(rest)
    head = plain_header(HEAD_NAME, len(text := msgspec.json.encode(HEAD)), 1) + text
    with pytest.raises(BadCartridge):
        read_all(head + bytes(-len(head) % 512) + rest)


def test_hostile_lengths_are_refused_before_anything_is_read_by_them() -> None:
    huge = tarfile.TarInfo("././@PaxHeader")
    huge.type, huge.size = tarfile.XHDTYPE, 8 << 30
    with pytest.raises(BadArchive, match="pax records of"):
        read_all(archive_with(huge.tobuf(tarfile.GNU_FORMAT)))
    areas = entry_header(b"books/f", FACTS, Note(node=7), 1 << 40, 1 << 50)
    with pytest.raises(BadArchive, match="sparse map of"):
        read_all(archive_with(areas + b"9" * 18 + b"\n" + bytes(493)))
    with pytest.raises(BadArchive, match="numbers"):
        read_all(archive_with(areas + b"9" * 512))
    with pytest.raises(BadArchive, match="cut short"):
        read_all(archive_with(entry_header(b"books/f", FACTS, Note(node=7), 1 << 60)))
    with pytest.raises(BadArchive, match=r"negative|number"):
        info = tarfile.TarInfo("books/f")
        info.size = -5
        read_all(archive_with(info.tobuf(tarfile.GNU_FORMAT)))


@pytest.mark.parametrize(
    "name",
    [b"books/../x", b"books//x", b"/etc/passwd", b"other/x", b"books/./x", b"../x", b"cdpfs"],
)
def test_members_outside_of_the_tree_are_refused(name: bytes) -> None:
    with pytest.raises(BadArchive):
        read_all(archive_with(entry_header(name, FACTS, Note(node=7))))


@pytest.mark.parametrize("path", [b"../x", b"/x", b"a//b", b"."])
def test_paths_in_notes_are_refused_just_so(path: bytes) -> None:
    note = Note(node=7, path=path, parts=2)
    with pytest.raises(BadArchive):
        read_all(archive_with(entry_header(b"books/x", FACTS, note)))


def test_members_that_cdpfs_never_writes_are_refused() -> None:
    for name in ("cdpfs/other", "etc/passwd"):
        with pytest.raises(BadArchive, match="does not belong"):
            read_all(archive_with(plain_header(name, 0, 1)))
    info = tarfile.TarInfo("books/x")
    info.type = tarfile.CONTTYPE
    with pytest.raises(BadArchive, match="kind"):
        read_all(archive_with(info.tobuf()))


def test_blank_foreign_and_newer_are_told_apart() -> None:
    with pytest.raises(NoLabel) as blank:
        ArchiveReader([])
    assert blank.value.blank

    def behind_the_end() -> Iterator[bytes]:
        raise EndOfData("blank check")
        yield b""

    with pytest.raises(NoLabel) as blank:
        ArchiveReader(behind_the_end())
    assert blank.value.blank
    foreign = io.BytesIO()
    with tarfile.open(fileobj=foreign, mode="w") as file:
        file.addfile(tarfile.TarInfo("somebody/else"))
    for data in (foreign.getvalue(), bytes(BLOCK_BYTES), os.urandom(BLOCK_BYTES)):
        with pytest.raises(NoLabel) as caught:
            ArchiveReader([data])
        assert not caught.value.blank
    newer = archive_with().replace(b'"format_version": 1', b'"format_version": 9')
    with pytest.raises(NewerCartridge, match="version 9"):
        ArchiveReader([newer])


def test_what_follows_the_end_is_not_passed_over() -> None:
    whole = archive_with()
    with pytest.raises(BadArchive, match="follows"):
        read_all(whole + b"x" + bytes(511))
    with pytest.raises(BadArchive, match="follows"):
        read_all(whole + bytes(3 << 20))


def test_a_catalogue_comes_back() -> None:
    out = io.BytesIO()
    head = msgspec.structs.replace(HEAD, kind="catalogue")
    written = write_catalogue_archive(head, b'{"known": 1}', out, block_bytes=BLOCK_BYTES)
    reader = ArchiveReader(blocks_of(out.getvalue()))
    assert [(m.kind, m.data(99)) for m in reader.members()] == [("catalogue", b'{"known": 1}')]
    assert reader.written == written


# --- parts ---------------------------------------------------------------------------------------

BYTES = st.binary(max_size=30)


@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=200).filter(lambda key: b"=" not in key), BYTES, max_size=5
    )
)
def test_records_come_back(records: dict[bytes, bytes]) -> None:
    assert decode_records(encode_records(records.items())) == records


@given(st.integers(0, 130))
def test_the_length_of_a_record_counts_itself(size: int) -> None:
    record = encode_records([(b"k", b"v" * size)])
    assert int(record.split(b" ")[0]) == len(record)


RUNS = st.lists(st.tuples(st.integers(0, 300_000), st.integers(1, 200_000)), max_size=12)


def areas_of(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    areas, at = [], 0
    for hole, data in runs:
        areas.append((at + hole, at + hole + data))
        at += hole + data
    return areas


@given(RUNS, st.integers(0, 300_000))
def test_a_map_covers_all_data_and_comes_back(runs: list[tuple[int, int]], tail: int) -> None:
    areas = areas_of(runs)
    size = (areas[-1][1] if areas else 0) + tail
    found = list(joined(areas, 0, size))
    for start, stop in areas:
        assert any(low <= start and stop <= high for low, high in found)
    assert all(low % 512 == 0 and (high % 512 == 0 or high == size) for low, high in found)
    stream = io.BytesIO(encode_map(found, 0, size))
    assert decode_map(stream.read, size) == found
    assert stream.read() == b""


@given(RUNS, st.integers(0, 300_000), st.integers(5_000, 200_000))
def test_parts_hold_everything_once_and_fit(
    runs: list[tuple[int, int]], tail: int, part_bytes: int
) -> None:
    areas = areas_of(runs)
    size = (areas[-1][1] if areas else 0) + tail
    whole = list(joined(areas, 0, size))
    cuts = cut_parts(whole, size, part_bytes)
    assert cuts[0] == 0 and cuts[-1] == size and sorted(set(cuts[1:])) == cuts[1:]
    for start, stop in pairwise(cuts):
        part = list(joined(areas, start, stop))
        stored = sum(high - low for low, high in part) + len(encode_map(part, start, stop))
        assert stored <= part_bytes + 512


def test_a_file_with_very_many_areas_is_cut() -> None:
    areas = [(n << 20, (n << 20) + 512) for n in range(MAX_AREAS + 5)]
    cuts = cut_parts(areas, areas[-1][1], 1 << 40)
    assert cuts == [0, MAX_AREAS << 20, areas[-1][1]]


def test_a_path_of_a_part_is_what_its_note_says(tmp_path: Path) -> None:
    note = Note(node=7, path=b"d/f", part=1, parts=2, offset=512, file_bytes=600)
    headers = entry_header(b"books/d/f.cdpfs-part-0002-of-0002", FACTS, note)
    [member] = ArchiveReader([archive_with(headers)]).members()
    assert member.path == b"d/f"
