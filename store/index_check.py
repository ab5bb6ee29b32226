"""Reading the index row by row, to hold it against the segments. For `verify`.

Duty: one consistent state of the index as rows, and the checks that need nothing but the index.
One thread. Damage that LMDB notices comes out as DamagedError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from store.errors import DamagedError
from store.extents import HOLE, RESOLVED, RegionCodec, RegionPiece, decode_header
from store.format import CHUNK_BYTES, Kind
from store.index_env import IndexEnvironment, mapped_errors
from store.index_lookup import Lookup
from store.index_rows import BatchPlace, IndexState, OpMeta
from store.types import Lsn
from store.volume import Store


class WrongExtent(NamedTuple):
    """A row of the content history that names bytes which no op holds."""

    node: int
    region: int
    source: Lsn
    what: str


class IndexCheck:
    """A state of the index, as of the call. A context manager. DamagedError, RebuildIndex."""

    def __init__(self, store: Store) -> None:
        self._env = IndexEnvironment(store.index_dir)
        self._txn = self._env.begin()
        self._lookup = Lookup(self._txn, self._env.tables)
        with self._checked():
            self.state: IndexState = self._lookup.index_state()
            self.first_lsn = self._lookup.first_lsn()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the state. Closing twice is fine."""
        self._txn.abort()
        self._env.close()

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        """Rows that can't be decoded are damage as well."""
        try:
            with mapped_errors(self._env.path):
                yield
        except (ValueError, IndexError, AssertionError, ArithmeticError, TypeError) as error:
            raise DamagedError(
                self._env.path, 0, f"the index has impossible rows ({error})"
            ) from error

    def batches(self) -> Iterator[BatchPlace]:
        """Every batch, in LSN order."""
        with self._checked():
            yield from self._lookup.batches(0)

    def batch_at(self, lsn: Lsn) -> BatchPlace | None:
        """The batch that holds an op."""
        with self._checked():
            return self._lookup.batch_of(lsn)

    def ops(self, first: Lsn, last: Lsn) -> list[OpMeta]:
        """The ops `first` to `last`, as far as the index has them in a row from `first` on."""
        with self._checked():
            return list(self._lookup.ops(first, last + 1))

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a table (a field of `index_env.Tables`), by key."""
        with self._checked(), self._txn.cursor(getattr(self._env.tables, table)) as cursor:
            yield from cursor

    def wrong_extents(self) -> Iterator[WrongExtent]:
        """Rows of the content history whose bytes are not where they say."""
        codec = RegionCodec()
        with self._checked(), self._txn.cursor(self._env.tables.extents) as cursor:
            for key, row in cursor:
                node, region = _number(key[:8]), int.from_bytes(key[16:20], "big")
                if decode_header(row)[0] & RESOLVED:
                    pieces = codec.decode_state(row)
                else:
                    deltas = codec.decode_deltas(row, _number(key[20:]))
                    pieces = [(start, stop, lsn, offset) for lsn, start, stop, offset in deltas]
                for piece in pieces:
                    if what := self._wrong(node, region, piece):
                        yield WrongExtent(node, region, Lsn(piece[2]), what)

    def _wrong(self, node: int, region: int, piece: RegionPiece) -> str:
        """What is wrong with a piece; empty when its op holds these bytes of that file."""
        start, stop, source, offset = piece
        op = self._lookup.op(source)
        if op is None:
            return "there is no such op"
        if op.node != node or op.aborted:
            return f"that op is of node {op.node}{', aborted' if op.aborted else ''}"
        if offset == HOLE:
            return "" if op.kind == Kind.TRUNCATE else "that op cuts nothing off"
        if op.kind not in (Kind.WRITE, Kind.BASE):
            return "that op holds no content"
        if op.offset + offset != region * CHUNK_BYTES + start or offset + stop - start > op.length:
            return f"that op does not hold bytes {start} to {stop} of the region"
        return ""


def _number(key: bytes) -> int:
    return int.from_bytes(key, "big")
