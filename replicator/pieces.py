"""The payloads of ops, made from payloads that both ends hold. Pure; one thread.

Duty: payload to streams and back. Payloads are cut into *pieces* of a page at the most (a page that
the kernel split at a page boundary of the file is one again). A piece is literal, or refers to
earlier payload: the same bytes, or with changed runs, or with moves. Earlier payload is one long
string of bytes in LSN order, so that a piece may refer across the ends of ops.

References are named by where the last piece's ended (`_ON`), by the recent references (`_RECENT`),
or by LSN distance (`_BY_LSN`, `_IN_CHUNK`). Mode and reference together are the same, mostly, as
when the program last did this (`Columns.context`): then a byte says so, always the same one. So it
is with the layout of changed runs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from replicator import delta
from replicator.columns import PAGE_BYTES, Context, Meta
from replicator.errors import BadShipment
from replicator.sketch import Ref, Sketch
from replicator.streams import Reader, Writer, put
from store.format import CHUNK_BYTES, Kind

PIECE_BYTES: Final = PAGE_BYTES

_KEPT_REFS: Final = 16
_WINDOW_REFS: Final = 8
"""References that moves may copy from besides the piece's own."""

_KEPT_KEYS: Final = 256
"""Pages of windows whose keys are remembered."""

_MAX_EMPTY: Final = 64
"""Ops without payload that a reference may pass over."""

_GOOD_SHARE: Final = 8
"""A candidate that leaves less than this part of a piece to send is good enough."""

_WORTH_MOVING: Final = 64
"""Only where runs take more than this are moves looked for."""

_SMALL_PIECE: Final = 256
"""What is smaller is more likely like what the program wrote at this point before."""

_LITERAL, _SAME, _RUNS, _LAYOUT, _MOVES = range(5)
_BY_LSN, _ON, _RECENT, _IN_CHUNK = range(4)
_NAMINGS: Final = 4
_WRITE: Final = int(Kind.WRITE)
_BASE: Final = int(Kind.BASE)

How: TypeAlias = tuple[int, ...]
"""Mode, naming, and the numbers that the naming takes."""

_PLAIN: How = (_LITERAL, 0)


class Payloads(Protocol):
    """Payloads that may be referred to."""

    def payload(self, lsn: int, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)` of an op's payload. KeyError when there are no such bytes."""

    def size(self, lsn: int) -> int:
        """Bytes of an op's payload. KeyError when the op is not there."""


class Piece(NamedTuple):
    """A run of payload bytes of one op, or of several that follow each other."""

    ref: Ref
    size: int
    node: int
    offset: int
    kind: int
    context: Context


def pieces(first_lsn: int, metas: Sequence[Meta], contexts: Sequence[Context]) -> Iterator[Piece]:
    """How the payload of consecutive ops is cut; both ends do it alike."""
    number = 0
    while number < len(metas):
        head = metas[number]
        lsn = first_lsn + number
        size = head.length
        last = head
        while number + 1 < len(metas) and _goes_on(last, size, metas[number + 1]):
            number += 1
            last = metas[number]
            size += last.length
        context = contexts[number]
        number += 1
        for start in range(0, size, PIECE_BYTES):
            count = min(PIECE_BYTES, size - start)
            yield Piece(Ref(lsn, start), count, head.node, head.offset + start, head.kind, context)


def _goes_on(last: Meta, size: int, following: Meta) -> bool:
    """Whether two ops are one page that the kernel split where a page of the file ends."""
    return (
        last.kind == following.kind == _WRITE
        and last.node == following.node
        and last.offset + last.length == following.offset
        and not following.offset % PAGE_BYTES
        and 0 < size < size + following.length <= PIECE_BYTES
    )


class _State:
    """What both ends know of the pieces so far."""

    def __init__(self, payloads: Payloads) -> None:
        self._payloads = payloads
        self.recent: list[Ref] = []
        self.on: Ref | None = None
        """Behind the bytes that were last referred to."""
        self.how: dict[Context, How] = {}
        self.layouts: dict[Context, Sequence[delta.Run]] = {}

    def read(self, ref: Ref, size: int, stop_lsn: int) -> bytes:
        """Bytes from `ref` on; fewer where LSN `stop_lsn` comes before them. KeyError."""
        lsn, start = ref
        parts = []
        left = size
        empty = 0
        while left and lsn < stop_lsn and empty < _MAX_EMPTY:
            stop = min(self._payloads.size(lsn), start + left)
            if start < stop:
                parts.append(self._payloads.payload(lsn, start, stop))
                left -= stop - start
                empty = 0
            else:
                empty += 1
            lsn, start = lsn + 1, 0
        return b"".join(parts)

    def window(self, ref: Ref, size: int, stop_lsn: int) -> list[tuple[Ref, bytes]]:
        """What moves copy from: the piece's own reference, then pages of the recent ones."""
        others = [other for other in self.recent[:_WINDOW_REFS] if other != ref]
        pages = [(other, self.read(other, PIECE_BYTES, stop_lsn)) for other in others]
        return [(ref, self.read(ref, size, stop_lsn)), *pages]

    def used(self, ref: Ref, size: int, stop_lsn: int) -> None:
        """A piece referred to `size` bytes from `ref` on."""
        if ref in self.recent:
            self.recent.remove(ref)
        self.recent.insert(0, ref)
        del self.recent[_KEPT_REFS:]
        self.on = self._behind(ref, size, stop_lsn)

    def _behind(self, ref: Ref, size: int, stop_lsn: int) -> Ref | None:
        """The place `size` bytes behind `ref`, if there is payload before `stop_lsn`."""
        lsn, start = ref[0], ref[1] + size
        for _ in range(_MAX_EMPTY):
            if lsn >= stop_lsn:
                return None
            length = self._payloads.size(lsn)
            if start < length:
                return Ref(lsn, start)
            lsn, start = lsn + 1, start - length
        return None


class _Choice(NamedTuple):
    """How to make a piece. `old` is what it is made from: with moves, their window."""

    cost: int
    ref: Ref | None
    runs: Sequence[delta.Run] = ()
    moves: Sequence[delta.Move] = ()
    old: bytes = b""


class PieceEncoder:
    """Codes pieces in order. `older` may know what an earlier op wrote at a place of a node."""

    def __init__(
        self,
        payloads: Payloads,
        sketch: Sketch,
        older: Callable[[int, int, int], Ref | None] | None = None,
    ) -> None:
        self._state = _State(payloads)
        self._sketch = sketch
        self._older = older
        self._keys: dict[Ref, tuple[int, delta.Keys]] = {}

    def encode(self, piece: Piece, data: bytes, out: Writer) -> None:
        """Append one piece."""
        state = self._state
        names = self._names(piece)
        found = self._choose(piece, data, names)
        if found.cost > _WORTH_MOVING and piece.size > _WORTH_MOVING:
            found = self._move(piece, data, found)
        if found.ref is None:
            self._put_how(piece, _PLAIN, out)
            out["literals"].extend(data)
            state.on = None
        else:
            self._put_referring(piece, data, found, out)
            state.used(found.ref, piece.size, piece.ref.lsn)
        for name in names[:1]:
            self._sketch.learn(name, piece.ref, data)
        for name in names[1:]:
            self._sketch.learn(name, piece.ref, b"")

    def _names(self, piece: Piece) -> list[Hashable]:
        """Under which the sketch knows a piece: its place, or its part in what the program does."""
        part = ("part", piece.context, piece.ref.start)
        if piece.kind not in (_WRITE, _BASE):
            return [part]
        place = (piece.node, piece.offset)
        return [part, place] if piece.size < _SMALL_PIECE else [place, part]

    def _choose(self, piece: Piece, data: bytes, names: Sequence[Hashable]) -> _Choice:
        """What leaves least to send, with changed runs."""
        best = _Choice(piece.size, None)
        for ref in self._candidates(piece, data, names):
            old = self._try_read(ref, piece)
            if old == data:
                return _Choice(0, ref, old=old)
            if len(old) < piece.size:
                continue
            runs = delta.changed_runs(data, old)
            cost = delta.cost(runs)
            if cost < best.cost:
                best = _Choice(cost, ref, runs, (), old)
            if best.cost < piece.size // _GOOD_SHARE:
                break
        return best

    def _try_read(self, ref: Ref, piece: Piece) -> bytes:
        try:
            return self._state.read(ref, piece.size, piece.ref.lsn)
        except KeyError:
            return b""

    def _candidates(self, piece: Piece, data: bytes, names: Sequence[Hashable]) -> Iterator[Ref]:
        """Earlier payload that may be like a piece, the best guess first."""
        sketch = self._sketch
        if self._state.on is not None:
            yield self._state.on
        known = None
        for name in names:
            if (found := sketch.at(name)) is not None:
                known = found
                yield found
        if known is None and self._older is not None and piece.kind == _WRITE:
            older = self._older(piece.node, piece.offset, piece.ref.lsn)
            if older is not None:
                yield older
        if (found := sketch.like(data)) is not None:
            yield found

    def _move(self, piece: Piece, data: bytes, found: _Choice) -> _Choice:
        """As `found`, or with moves if they leave much less to send."""
        ref = self._sketch.kin(data) or found.ref
        if ref is None or len(self._try_read(ref, piece)) < _WORTH_MOVING:
            return found
        try:
            pages = self._state.window(ref, piece.size, piece.ref.lsn)
        except KeyError:
            return found
        window = b"".join([page for _, page in pages])
        keys = []
        base = 0
        for other, page in pages:
            keys.append((base, self._keys_of(other, page)))
            base += len(page)
        share = 3 if found.ref is None else 2
        moves = delta.find_moves(data, window, keys, found.cost // share)
        return found if moves is None else _Choice(0, ref, (), moves, window)

    def _keys_of(self, ref: Ref, page: bytes) -> delta.Keys:
        """Those of a page that may be in many windows."""
        known = self._keys.get(ref)
        if known is None or known[0] != len(page):
            if len(self._keys) >= _KEPT_KEYS:
                self._keys.clear()
            known = self._keys[ref] = len(page), delta.keys_of(page)
        return known[1]

    def _put_referring(self, piece: Piece, data: bytes, found: _Choice, out: Writer) -> None:
        state = self._state
        ref, runs, old = found.ref, found.runs, found.old
        assert ref is not None
        naming = self._name(piece, ref)
        if found.moves:
            self._put_how(piece, (_MOVES, *naming), out)
            delta.put_moves(data, old, found.moves, out)
            return
        if not runs:
            self._put_how(piece, (_SAME, *naming), out)
            return
        layout = state.layouts.get(piece.context, ())
        if delta.covers(layout, runs):
            self._put_how(piece, (_LAYOUT, *naming), out)
            runs = layout
        else:
            self._put_how(piece, (_RUNS, *naming), out)
            delta.put_layout(runs, layout, out["runs"])
            state.layouts[piece.context] = runs
        delta.put_runs(data, old, runs, out)

    def _name(self, piece: Piece, ref: Ref) -> How:
        state = self._state
        if ref == state.on:
            return (_ON,)
        if ref in state.recent:
            return (_RECENT, state.recent.index(ref))
        distance = piece.ref.lsn - ref.lsn
        if ref.start and ref.start == piece.offset % CHUNK_BYTES:
            return (_IN_CHUNK, distance)
        return (_BY_LSN, distance, ref.start)

    def _put_how(self, piece: Piece, how: How, out: Writer) -> None:
        if self._state.how.get(piece.context) == how:
            out["modes"].append(0)
            return
        out["modes"].append(1 + how[0] * _NAMINGS + how[1])
        for number in how[2:]:
            put(out["references"], number)
        self._state.how[piece.context] = how


class PieceDecoder:
    """Makes pieces in order from the streams of a `PieceEncoder`."""

    def __init__(self, payloads: Payloads, streams: dict[str, Reader]) -> None:
        self._state = _State(payloads)
        self._streams = streams

    def decode(self, piece: Piece) -> bytes:
        """The bytes of the next piece. BadShipment."""
        how = self._take_how(piece)
        if how[0] == _LITERAL:
            self._state.on = None
            return self._streams["literals"].take(piece.size)
        ref = self._find(piece, how)
        try:
            data = self._make(piece, how[0], ref)
            self._state.used(ref, piece.size, piece.ref.lsn)
        except KeyError as error:
            raise BadShipment(f"the shipment refers to LSN {ref.lsn}, which is not held") from error
        return data

    def _make(self, piece: Piece, mode: int, ref: Ref) -> bytes:
        state, stop = self._state, piece.ref.lsn
        if mode == _MOVES and piece.size > _WORTH_MOVING:
            window = b"".join([page for _, page in state.window(ref, piece.size, stop)])
            return delta.take_moves(piece.size, window, self._streams)
        old = state.read(ref, piece.size, stop)
        if len(old) != piece.size:
            raise BadShipment("the shipment refers to bytes that are not before it")
        if mode == _SAME:
            return old
        if mode == _MOVES:
            raise BadShipment("a piece of the shipment is impossible")
        layout = state.layouts.get(piece.context, ())
        if mode == _RUNS:
            layout = delta.take_layout(piece.size, layout, self._streams["runs"])
            state.layouts[piece.context] = layout
        elif layout and layout[-1][1] > piece.size:
            raise BadShipment("a piece of the shipment is impossible")
        return delta.take_runs(old, layout, self._streams)

    def _take_how(self, piece: Piece) -> How:
        state = self._state
        code = self._streams["modes"].byte()
        if not code:
            found = state.how.get(piece.context)
            if found is None:
                raise BadShipment("a piece of the shipment is like none before")
            return found
        mode, naming = divmod(code - 1, _NAMINGS)
        if mode > _MOVES:
            raise BadShipment("a piece of the shipment is impossible")
        count = 0
        if mode != _LITERAL:
            count = {_BY_LSN: 2, _ON: 0, _RECENT: 1, _IN_CHUNK: 1}[naming]
        numbers = (self._streams["references"].number() for _ in range(count))
        how = state.how[piece.context] = (mode, naming, *numbers)
        return how

    def _find(self, piece: Piece, how: How) -> Ref:
        state = self._state
        naming = how[1]
        if naming == _ON and state.on is not None:
            return state.on
        if naming == _RECENT and how[2] < len(state.recent):
            return state.recent[how[2]]
        if naming in (_BY_LSN, _IN_CHUNK):
            lsn = piece.ref.lsn - how[2]
            if 0 < lsn < piece.ref.lsn:
                start = how[3] if naming == _BY_LSN else piece.offset % CHUNK_BYTES
                return Ref(lsn, start)
        raise BadShipment("the shipment refers to what is not before it")
