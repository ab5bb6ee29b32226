"""Archives as they come from a cartridge: members one after the other, everything verified.

Duty: the head at once, then each member with its content, then whether the archive is whole: its
last member is there, and the digest in it fits. What is read may be damaged, cut short, foreign or
hostile: every length is bounded before anything is read by it, and every failure is a BadCartridge.
Memory: one member's names and attributes, its map, and pieces of content. Blocking; one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

from store.errors import KeyMissing
from store.keys import KeyRing
from tape.archive_source import PIECE_BYTES, Source
from tape.archive_writer import MAX_HEAD_BYTES, Written
from tape.errors import BadArchive, NewerCartridge, NoLabel
from tape.layout import (
    BATCH_FOLDER,
    CATALOGUE_NAME,
    END_NAME,
    FORMAT_VERSION,
    HEAD_NAME,
    SEALED_FOLDER,
    SOCKET_FOLDER,
    STATE_NAME,
    ArchiveEnd,
    ArchiveHead,
)
from tape.pax import (
    BLOCK_BYTES,
    MAX_RECORDS_BYTES,
    Header,
    decode_records,
    is_records,
    padding,
    read_block,
    read_header,
)
from tape.sealing import CHUNK_BYTES, TAG_BYTES, ChunkOpener, check_inside
from tape.sparse import Area, decode_map
from tape.tree_names import top_folder

MAX_STATE_BYTES: Final = 64 << 20
MAX_CATALOGUE_BYTES: Final = 1 << 30

Kind: TypeAlias = Literal["entry", "batch", "state", "catalogue", "sealed"]

_Document = TypeVar("_Document", ArchiveHead, ArchiveEnd)


class Member:
    """A member. Its content must be taken, by `pieces` or `data`, before the next one is asked for;
    what is left of it then is skipped."""

    def __init__(self, kind: Kind, header: Header, path: bytes, source: Source) -> None:
        self.kind = kind
        """`entry`: something of the tree; `header` says what."""
        self.header = header
        self.path = path
        """Of an entry: relative to the volume's root."""
        self._source = source
        self._left = header.stored_bytes
        self._areas: list[Area] = []
        if header.sparse_bytes is not None:
            self._read_map(header.sparse_bytes)
        elif header.stored_bytes:
            self._areas = [(0, header.stored_bytes)]

    def _read_map(self, size_bytes: int) -> None:
        self._areas = decode_map(self._take, size_bytes)
        if sum(stop - start for start, stop in self._areas) != self._left:
            raise BadArchive(f"{self._shown}: the map of its areas does not fit its size")

    def _take(self, size_bytes: int) -> bytes:
        if size_bytes > self._left:
            raise BadArchive(f"{self._shown} is shorter than it says")
        self._left -= size_bytes
        return self._source.read(size_bytes)

    @property
    def size_bytes(self) -> int:
        """Of the content, holes included."""
        header = self.header
        return header.stored_bytes if header.sparse_bytes is None else header.sparse_bytes

    @property
    def _shown(self) -> str:
        return repr(self.header.name.decode("utf-8", "backslashreplace"))

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of all that is no hole, in order; of at most PIECE_BYTES each."""
        for start, stop in self._areas:
            for at in range(start, stop, PIECE_BYTES):
                yield at, self._take(min(PIECE_BYTES, stop - at))

    def data(self, limit_bytes: int) -> bytes:
        """All of the content, which must be no more than the limit and without holes."""
        if self.size_bytes > limit_bytes or self.header.sparse_bytes is not None:
            raise BadArchive(f"{self._shown} of {self.size_bytes} bytes is impossible")
        return b"".join(data for _, data in self.pieces())

    def skip(self) -> None:
        """Pass what is left, and the padding."""
        while self._left:
            self._take(min(self._left, PIECE_BYTES))
        self._source.read(len(padding(self.header.stored_bytes)))


class ArchiveReader:
    """One archive from its blocks, which may be cut in any way. The head is read at once.

    `ring` opens a sealed one. NoLabel when what is there is none of ours, NewerCartridge,
    BadArchive.
    """

    def __init__(self, blocks: Iterable[bytes], ring: KeyRing | None = None) -> None:
        self._source = Source(blocks)
        self._ring = ring
        self.head, self._head_text = _first_member(self._source)
        """Of a sealed archive what is readable of it: without the settings."""
        self._top = top_folder(self.head.volume_name)
        self._written: Written | None = None

    @property
    def written(self) -> Written:
        """How the archive ended; known when `members` came to its end."""
        assert self._written is not None, "the members were not read to the end"
        return self._written

    def members(self) -> Iterator[Member]:
        """All members but the first and the last. BadArchive at the end if it is not whole.

        KeyMissing when the archive is sealed and the ring can't open it.
        """
        if not self.head.key_id:
            yield from self._members()
            return
        inside = ArchiveReader(self.opened())
        check_inside(self.head, inside.head)
        self.head = msgspec.structs.replace(self.head, settings=inside.head.settings)
        yield from inside.members()

    def opened(self) -> Iterator[bytes]:
        """The plain archive in a sealed one, chunk by chunk, verified. KeyMissing, BadArchive."""
        if self._ring is None:
            raise KeyMissing(f"the archive is sealed with key {self.head.key_id}")
        opener = ChunkOpener(self._ring, self.head, self._head_text)
        sealed: bytes | None = None
        for member in self._members():
            if sealed is not None:
                yield opener.open(sealed, last=False)
            sealed = member.data(CHUNK_BYTES + TAG_BYTES)
        if sealed is None:
            raise BadArchive("a sealed archive with nothing in it")
        yield opener.open(sealed, last=True)

    def _members(self) -> Iterator[Member]:
        count = 1
        while True:
            before = self._source.size_bytes, self._source.hexdigest()
            header = _next_header(self._source)
            if header.name == END_NAME.encode():
                self._finish(header, count, *before)
                return
            member = self._member(header)
            count += 1
            yield member
            member.skip()

    def check(self) -> Written:
        """Read to the end and verify; of a sealed archive that it is what was written, which needs
        no key."""
        for _ in self._members():
            pass
        return self.written

    def _member(self, header: Header) -> Member:
        name, note = header.name, header.note
        if self.head.key_id:
            if not name.startswith(SEALED_FOLDER.encode() + b"/"):
                raise BadArchive("a sealed archive with something that is not sealed")
            return Member("sealed", header, b"", self._source)
        if note is not None and self.head.kind == "full":
            return Member("entry", header, self._path_of(header), self._source)
        known: dict[bytes, Kind] = {
            STATE_NAME.encode(): "state",
            CATALOGUE_NAME.encode(): "catalogue",
        }
        kind = known.get(name)
        if name.startswith(BATCH_FOLDER.encode() + b"/"):
            kind = "batch"
        if kind is None or header.link is not None or header.sparse_bytes is not None:
            shown = name.decode("utf-8", "backslashreplace")
            raise BadArchive(f"{shown!r} does not belong into an archive")
        return Member(kind, header, b"", self._source)

    def _path_of(self, header: Header) -> bytes:
        """Where in the tree; BadArchive when it would be outside of it."""
        note = header.note
        assert note is not None
        path = note.path
        if path is None:
            top, _, path = header.name.partition(b"/")
            if top != self._top:
                raise BadArchive("a member that is outside of the tree")
        elif note.socket and not header.name.startswith(SOCKET_FOLDER.encode() + b"/"):
            raise BadArchive("a socket where none can be")
        if path and any(part in (b"", b".", b"..") for part in path.split(b"/")):
            raise BadArchive("a member with a path that none can have")
        return path

    def _finish(self, header: Header, count: int, size_bytes: int, digest: str) -> None:
        end, _ = _document(self._source, header, ArchiveEnd)
        if (end.members, end.content_bytes, end.digest) != (count, size_bytes, digest):
            raise BadArchive("the archive is not what its last member says: damaged")
        self._source.rest_is_empty()
        self._written = Written(end, self._source.size_bytes, self._source.hexdigest())


def read_head(blocks: Iterable[bytes]) -> ArchiveHead:
    """What an archive is, from its beginning; reads no more blocks than that takes."""
    return _first_member(Source(blocks))[0]


def _first_member(source: Source) -> tuple[ArchiveHead, bytes]:
    block = source.read_first(BLOCK_BYTES)
    try:
        header = read_header(block, {})
    except BadArchive as error:
        raise NoLabel("what is there is no archive of cdpfs", blank=False) from error
    if header.name != HEAD_NAME.encode():
        raise NoLabel("what is there is an archive, but not of cdpfs", blank=False)
    return _document(source, header, ArchiveHead)


def _next_header(source: Source) -> Header:
    block = source.read(BLOCK_BYTES)
    info = read_block(block)
    if not is_records(info):
        return read_header(block, {})
    if info.size > MAX_RECORDS_BYTES:
        raise BadArchive(f"pax records of {info.size} bytes")
    body = source.read(info.size)
    source.read(len(padding(info.size)))
    return read_header(source.read(BLOCK_BYTES), decode_records(body))


class _Version(msgspec.Struct):
    format_version: int


def _document(source: Source, header: Header, kind: type[_Document]) -> tuple[_Document, bytes]:
    """The first or last member, and its text."""
    member = Member("state", header, b"", source)
    text = member.data(MAX_HEAD_BYTES)
    member.skip()
    try:
        if kind is ArchiveHead:
            version = msgspec.json.decode(text, type=_Version).format_version
            if version > FORMAT_VERSION:
                raise NewerCartridge(
                    f"the archive is of format version {version}; this cdpfs knows {FORMAT_VERSION}"
                )
        return msgspec.json.decode(text, type=kind), text
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        name = header.name.decode("utf-8", "backslashreplace")
        raise BadArchive(f"{name} can't be read: {error}") from error
