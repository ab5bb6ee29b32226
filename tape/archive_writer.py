"""Archives on their way to the stage: members one behind the other, and the first and the last.

Duty: the stream of one archive, its size known at any time, its digest taken on the way. Memory:
what is handed in. Blocking; one thread. It opens and syncs nothing: `out` is the caller's.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import msgspec
from blake3 import blake3

from store.volume import Store, config_values
from tape.errors import ArchiveTooLarge
from tape.layout import (
    END_NAME,
    HEAD_NAME,
    ArchiveEnd,
    ArchiveHead,
    Cursor,
    Kind,
)
from tape.pax import BLOCK_BYTES, padding, plain_header

TRAILER_BYTES: Final = 8 << 10
"""Room for the last member and for the two empty blocks behind it."""

MAX_HEAD_BYTES: Final = 1 << 20


class Output(Protocol):
    """Where an archive goes."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of it."""
        ...


class Written(NamedTuple):
    """An archive that is whole."""

    end: ArchiveEnd
    size_bytes: int
    """Of all of it: whole blocks of the cartridge."""
    digest: str
    """BLAKE3 of all its blocks as they are on the cartridge, in hexadecimal digits."""


class ArchiveWriter:
    """One archive. Members are written by `member`; `finish` makes it whole.

    `limit_bytes` is the most that it may become, a multiple of `block_bytes`; 0 for no limit.
    """

    def __init__(
        self, out: Output, head: ArchiveHead, block_bytes: int, limit_bytes: int = 0
    ) -> None:
        self._out = out
        self._block_bytes = block_bytes
        self._limit_bytes = limit_bytes
        self._digest = blake3()
        self._time_ns = head.created_ns
        self.size_bytes = 0
        self.members = 0
        self._document(HEAD_NAME, head)

    @property
    def room_bytes(self) -> int:
        """What still fits before the last member, in whole tar blocks, headers included."""
        return self._limit_bytes - TRAILER_BYTES - self.size_bytes

    def begin(self, headers: bytes) -> None:
        """Begin a member; its content follows by `write`, then `pad`."""
        self.members += 1
        self.write(headers)

    def write(self, data: bytes | memoryview) -> None:
        """Headers or content."""
        self._out.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)

    def pad(self) -> None:
        """Fill a member's content up to a whole tar block."""
        self.write(padding(self.size_bytes))

    def file(self, name: str, content: bytes | memoryview) -> None:
        """A member that is not of the tree, whole."""
        self.begin(plain_header(name, len(content), self._time_ns))
        self.write(content)
        self.pad()

    def finish(
        self,
        *,
        last_part: bool = False,
        next_cursor: Cursor | None = None,
        needs_lsn: int = 0,
        barrier_lsn: int = 0,
    ) -> Written:
        """Write the last member and fill up the last block."""
        end = ArchiveEnd(
            members=self.members,
            content_bytes=self.size_bytes,
            digest=self._digest.hexdigest(),
            last_part=last_part,
            next=next_cursor,
            needs_lsn=needs_lsn,
            barrier_lsn=barrier_lsn,
        )
        self._document(END_NAME, end)
        self.write(bytes(2 * BLOCK_BYTES))
        self.write(bytes(-self.size_bytes % self._block_bytes))
        if self._limit_bytes and self.size_bytes > self._limit_bytes:
            raise ArchiveTooLarge(
                f"an archive of {self.size_bytes} bytes where {self._limit_bytes} are the most"
            )
        return Written(end, self.size_bytes, self._digest.hexdigest())

    def _document(self, name: str, value: ArchiveHead | ArchiveEnd) -> None:
        text = document(value)
        if len(text) > MAX_HEAD_BYTES:
            raise ArchiveTooLarge(f"{name} of {len(text)} bytes", "shorten volume.toml")
        self.file(name, text)


def document(value: ArchiveHead | ArchiveEnd) -> bytes:
    """The content of the first or last member."""
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"


def new_head(
    store: Store,
    *,
    set_id: str,
    sequence: int,
    kind: Kind,
    first_lsn: int,
    last_lsn: int,
    time_ns: int,
    created_ns: int,
    part: int = 0,
) -> ArchiveHead:
    """The head of an archive of this volume."""
    config = store.config
    return ArchiveHead(
        set_id=set_id,
        sequence=sequence,
        kind=kind,
        volume_uuid=config.uuid,
        volume_name=config.name[:4096],
        directory=printable(config.directory)[:4096],
        first_lsn=first_lsn,
        last_lsn=last_lsn,
        time_ns=time_ns,
        created_ns=created_ns,
        part=part,
        settings=config_values(config) if kind == "full" else {},
    )


def printable(path: str) -> str:
    """A path as JSON can have it: surrogates of undecodable bytes as `\\\\udcXX`."""
    return path.encode("utf-8", "backslashreplace").decode()


def rounded(archive_bytes: int, block_bytes: int) -> int:
    """The most bytes that an archive may have in whole blocks of the cartridge."""
    return archive_bytes // block_bytes * block_bytes
