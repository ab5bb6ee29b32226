"""A past state of a volume at a vault: `timetravel.readable.Readable` over HTTP.

Duty: answer what a restore asks, with few requests: a tree comes in one answer and is remembered,
contents are fetched ahead of the reader. What it remembers is the bytes of the entries as they
came (about 500 bytes each), MAX_ENTRIES at the most; beyond that it asks again. Threads as
`Readable` says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from replicator.errors import BadShipment, PastRefused
from replicator.prefetch import FileToCome, Prefetch
from replicator.reading_wire import (
    MAX_RANGE_BYTES,
    Areas,
    Entry,
    Failure,
    Range,
    State,
    decode_path,
    encode_name,
    node_state,
    xattrs_of,
)
from replicator.remote import Line, RemoteVault
from store.errors import StoreError
from store.journal import NodeState
from store.types import ROOT, Lsn, NodeId
from timetravel.content import pieces_to_read
from timetravel.errors import NoSuchNode, NoSuchPath
from timetravel.moment import format_time

MAX_ENTRIES: Final = 1_000_000
MAX_AREA_LISTS: Final = 64
"""Files whose areas are remembered: asked for when they are planned, and when they are read."""

MAX_QUERY_PATH_CHARS: Final = 2_000
"""A longer path is walked name by name."""


class NotTold(StoreError):
    """A vault could not tell something of a volume, such as what was never copied there."""

    hint = "see the vault's log"


class RemoteView:
    """The volume as of `lsn`."""

    def __init__(self, vault: RemoteVault, line: Line, lsn: Lsn, time_ns: int) -> None:
        self._vault = vault
        self._line = line
        self._lsn = lsn
        self._when = format_time(time_ns)
        self._entries: dict[NodeId, Entry] = {}
        self._listings: dict[NodeId, list[tuple[bytes, NodeId]] | Failure] = {}
        self._above: dict[NodeId, NodeId] = {}
        self._areas: dict[NodeId, list[tuple[int, int]]] = {}
        self._local: dict[tuple[int, int, int], bytes] = {}
        self._prefetch: Prefetch | None = None

    @property
    def lsn(self) -> Lsn:
        """See `Readable`, as for the other methods here."""
        return self._lsn

    def root(self) -> NodeState:
        """The volume's top directory."""
        return self.state(ROOT)

    def state(self, node: NodeId) -> NodeState:
        """NoSuchNode."""
        known = self._entries.get(node)
        if known is not None:
            return node_state(known.state)
        try:
            return node_state(self._message("state", State, node=node))
        except PastRefused as error:
            if error.kind == "NoSuchNode":
                raise NoSuchNode(node, self._lsn) from error
            raise NotTold(str(error), error.hint) from error

    def lookup(self, directory: NodeId, name: bytes) -> NodeState | None:
        """None if nothing did."""
        for found, node in self._names(directory):
            if found == name:
                return self.state(node)
        return None

    def listing(self, directory: NodeId) -> list[tuple[bytes, NodeState]]:
        """StoreError when the vault can't tell it."""
        return [(name, self.state(node)) for name, node in self._names(directory)]

    def find(self, path: bytes) -> NodeState | None:
        """None if nothing stood there."""
        text = encode_name(path)
        if len(text) <= MAX_QUERY_PATH_CHARS:
            try:
                return node_state(self._message("state", State, path=text))
            except PastRefused as error:
                if error.kind in ("NoSuchPath", "NotADirectory"):
                    return None
                raise
        state: NodeState | None = self.root()
        for name in path.split(b"/"):
            if state is None:
                return None
            state = self.lookup(state.node, name)
        return state

    def walk(self, path: bytes) -> NodeState:
        """NoSuchPath if nothing stood there."""
        state = self.find(path)
        if state is None:
            raise NoSuchPath(path, self._when)
        return state

    def xattrs(self, node: NodeId) -> dict[bytes, bytes]:
        """Those of a node that came with a listing; of others none are known here."""
        known = self._entries.get(node)
        if known is None:
            known = self._entry(node)
        return xattrs_of(known.xattrs)

    def _entry(self, node: NodeId) -> Entry:
        """A node by itself."""
        with _telling():
            entry: Entry = self._message("entry", Entry, node=node)
        if len(self._entries) < MAX_ENTRIES:
            self._entries[node] = entry
        return entry

    def load_tree(self, top: NodeId) -> None:
        """Have everything below a directory come in one answer."""
        names: list[tuple[bytes, NodeId]] = []
        paths = {b"": top}
        current: bytes | None = None
        for row in self._rows(top, deep=True):
            path = decode_path(row.path)
            if isinstance(row, Failure):
                self._listings[_known(paths, path)] = row
                continue
            above, _slash, name = path.rpartition(b"/")
            _known(paths, above if name else None)
            if above != current:
                names, current = [], above
                self._listings[paths[above]] = names
            node = NodeId(row.state.node)
            names.append((name, node))
            self._entries[node] = row
            if stat.S_ISDIR(row.state.mode):
                self._place(node, paths[above])
                paths[path] = node
            if len(self._entries) >= MAX_ENTRIES:
                self._listings.pop(paths[above], None)  # the rest of it does not come any more
                return
        for node in paths.values():
            self._listings.setdefault(node, [])

    def _names(self, directory: NodeId) -> list[tuple[bytes, NodeId]]:
        known = self._listings.get(directory)
        if known is None:
            known = self._ask_names(directory)
        if isinstance(known, Failure):
            raise NotTold(known.message, known.hint or None)
        return known

    def _ask_names(self, directory: NodeId) -> list[tuple[bytes, NodeId]] | Failure:
        names = []
        for row in self._rows(directory, deep=False):
            if isinstance(row, Failure):
                return row
            name = decode_path(row.path)
            if b"/" in name or not name:
                raise BadShipment("the vault told a name that is none", _MISTRUST)
            if stat.S_ISDIR(row.state.mode):
                self._place(NodeId(row.state.node), directory)
            names.append((name, NodeId(row.state.node)))
            if len(self._entries) < MAX_ENTRIES:
                self._entries[NodeId(row.state.node)] = row
        if len(self._entries) < MAX_ENTRIES:
            self._listings[directory] = names
        return names

    def _place(self, node: NodeId, above: NodeId) -> None:
        """A directory stands in one other: a tree that says otherwise would have no end."""
        if self._above.setdefault(node, above) != above or node in (above, ROOT):
            raise BadShipment("the vault told a tree that is none", _MISTRUST)

    def _rows(self, node: NodeId, deep: bool) -> Iterator[Entry | Failure]:
        params = self._params(node=node, deep=int(deep))
        return self._vault.lines(self._line.url("tree"), params, Entry | Failure)

    # --- content ---------------------------------------------------------------------------------

    def read(self, node: NodeId, start: int, size: int) -> bytes:
        """From what was fetched ahead, else by a request of its own."""
        wanted = Range(node, start, size) if 0 < size <= MAX_RANGE_BYTES else None
        local = self._local.get((node, start, size))
        if local is not None:
            return _read_local(local, start, size)
        if wanted is not None and self._prefetch is not None:
            data = self._prefetch.get(wanted)
            if data is not None:
                return self._checked(node, start, size, data)
        parts = []
        for at in range(start, start + size, MAX_RANGE_BYTES):
            length = min(MAX_RANGE_BYTES, start + size - at)
            with _telling():
                parts += self._fetch([Range(node, at, length)])
            if len(parts[-1]) < length:
                break
        return self._checked(node, start, size, b"".join(parts))

    def _checked(self, node: NodeId, start: int, size: int, data: bytes) -> bytes:
        """NotTold when the file is shorter than the vault said."""
        known = self._entries.get(node)
        if known is not None and len(data) < min(size, max(known.state.size_bytes - start, 0)):
            raise NotTold(f"node {node}: the vault gives fewer bytes than the file has")
        return data

    def _fetch(self, ranges: list[Range]) -> list[bytes]:
        return self._vault.contents(self._line, self._lsn, ranges)

    def use_local(self, part: Range, path: bytes) -> None:
        """The bytes of a range stand in a file here as well, at the same offset."""
        self._local[part.node, part.start, part.size] = path

    def digests(self, ranges: list[Range]) -> list[bytes]:
        """The blake3 digests of many ranges."""
        return self._vault.digests(self._line, self._lsn, ranges)

    def data_areas(self, node: NodeId) -> Iterator[tuple[int, int]]:
        """What of a file is no hole."""
        known = self._areas.get(node)
        if known is None:
            known = list(self._ask_areas(node))
            if len(self._areas) >= MAX_AREA_LISTS:
                self._areas.pop(next(iter(self._areas)), None)
            self._areas[node] = known
        return iter(known)

    def _ask_areas(self, node: NodeId) -> Iterator[tuple[int, int]]:
        start: int | None = 0
        while start is not None:
            with _telling():
                said: Areas = self._message("areas", Areas, node=node, start=start)
            yield from said.areas
            start = said.next

    @contextmanager
    def expecting(self, files: Iterable[tuple[NodeId, int]]) -> Iterator[None]:
        """Fetch them ahead."""
        self._prefetch = Prefetch(
            (self._to_come(node, size) for node, size in files if size),
            self._fetch,
            lambda: self._vault.speed.bytes_s,
        )
        try:
            yield
        except BaseException:
            self._vault.give_up()
            raise
        finally:
            prefetch, self._prefetch = self._prefetch, None
            prefetch.close()

    def _to_come(self, node: NodeId, size: int) -> FileToCome:
        def ranges() -> Iterator[Range]:
            for start, stop in pieces_to_read(self, node, size):
                if (node, start, stop - start) not in self._local:
                    yield Range(node, start, stop - start)

        return FileToCome(node, ranges)

    # --- requests --------------------------------------------------------------------------------

    def _params(self, **params: Any) -> dict[str, Any]:
        return {"lsn": self._lsn, "line": self._line.line, **params}

    def _message(self, what: str, kind: Any, **params: Any) -> Any:
        return self._vault.message(self._line.url(what), self._params(**params), kind)


_MISTRUST = "nothing more was restored; see to the vault, it may be damaged or not yours"


def _known(paths: dict[bytes, NodeId], path: bytes | None) -> NodeId:
    """The directory at a path that was told before; None: of an entry without a name."""
    if path is None or path not in paths:
        raise BadShipment("the vault told entries of a directory that is not there", _MISTRUST)
    return paths[path]


@contextmanager
def _telling() -> Iterator[None]:
    """What can't be told of one file must not end everything: NotTold is met file by file."""
    try:
        yield
    except PastRefused as error:
        raise NotTold(str(error), error.hint) from error


def _read_local(path: bytes, start: int, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), size, start)
