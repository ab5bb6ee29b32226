"""Op metadata in columns, coded by what the ops before let one expect. Pure; one thread.

Duty: the metadata of a run of ops to streams and back. Programs repeat themselves: what follows
the last three ops is most often what followed when they came last. So each op becomes a *symbol*
(kind, flags, and how its node, offset, length and actor follow from the ops before), and a symbol
that was expected costs a byte that is the same all the time, which compresses to nothing. What
can't be said relative to the ops before stands in `values`.

Both ends begin with the ops before the shipment (`Columns.prime`), so that a small shipment knows
the program's habits too. LSNs are implied; checksums of payloads are computed anew by the receiver.

Nodes are named by how recently they came up, a new one by "the next". Offsets of content are
compared with where the node's last write ended, and with page offsets at which it was written
recently. Times are steps since the op before, in `TIME_STEP_NS` and a rest that is mostly 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from replicator.errors import BadShipment
from replicator.streams import Reader, Writer, put, zigzag
from store.format import MAX_PAYLOAD_BYTES, TIME_STEP_NS, Kind

PAGE_BYTES: Final = 4096
PRIMING_OPS: Final = 512
"""So many ops before a shipment are looked at by both ends."""

_KEPT_NODES: Final = 16
_KEPT_OFFSETS: Final = 16
_TRACKED_NODES: Final = 4096
_MAX_SYMBOLS: Final = 4096
_MAX_CONTEXTS: Final = 1 << 16

# How a member follows from the ops before. Numbers from _RANKED on are places in a list.
_EXPECTED, _FAR, _FAR_PAGES, _RANKED = 0, 1, 2, 3
_TO_PAGE_END, _REST_OF_PAGE, _OTHER_LENGTH, _THIS_LENGTH = 0, 1, 2, 3

# What a byte of `symbols` says; from _KNOWN on, which symbol of the table.
_AS_BEFORE, _AS_OFTEN, _NEW, _KNOWN = 0, 1, 2, 3

_WRITE, _TRUNCATE, _BASE = int(Kind.WRITE), int(Kind.TRUNCATE), int(Kind.BASE)
_FOLDED: Final = int(Kind.FOLDED)
_OF_CONTENT: Final = frozenset((_WRITE, _TRUNCATE, _BASE, _FOLDED))
_BY_PAGES: Final = frozenset((_WRITE, _FOLDED))
_LIMIT: Final = 1 << 63

Context: TypeAlias = tuple[int, int, int]


class Meta(NamedTuple):
    """What is coded of an op."""

    kind: int
    flags: int
    length: int
    time_ns: int
    node: int
    offset: int
    actor: int


class Symbol(NamedTuple):
    """How an op follows from those before it, without the numbers that do not."""

    kind: int
    flags: int
    node: int
    offset: int
    length: int
    actor: int


class Columns:
    """The state that both ends have alike. `prime`, then only `encode` or only `decode`."""

    def __init__(self) -> None:
        self._nodes: list[int] = []
        self._newest_node = 0
        self._ends: dict[int, int] = {}
        self._pages: dict[int, list[int]] = {}
        self._other_offsets: dict[int, int] = {}
        self._length = 0
        self._actor = 0
        self._time_ns = 0
        self._symbols: list[Symbol] = []
        self._numbers: dict[Symbol, int] = {}
        self._following: dict[Context | int, Symbol] = {}
        self.context: Context = (0, 0, 0)
        """What the last three ops were: ops with equal ones play the same part."""

    def prime(self, metas: Iterable[Meta]) -> None:
        """Take in the ops before."""
        for meta in metas:
            self._learn(self._relate(meta, []), meta)

    # --- to streams ------------------------------------------------------------------------------

    def encode(self, meta: Meta, out: Writer) -> None:
        """Append one op."""
        values: list[int] = []
        symbol = self._relate(meta, values)
        exact = symbol._replace(length=_THIS_LENGTH + meta.length)
        if symbol.length == _OTHER_LENGTH and exact in self._numbers:
            symbol = exact
            del values[-1]
        self._put_symbol(symbol, out)
        for value in values:
            put(out["values"], value)
        steps, rest = divmod(
            meta.time_ns - self._time_ns + self._time_ns % TIME_STEP_NS, TIME_STEP_NS
        )
        out["times_low"].append(steps & 255)
        put(out["times_high"], steps >> 8)
        put(out["times_rest"], rest)
        self._learn(symbol, meta)

    def _put_symbol(self, symbol: Symbol, out: Writer) -> None:
        following = self._following
        if symbol == following.get(self.context):
            out["symbols"].append(_AS_BEFORE)
        elif symbol == following.get(self.context[2]):
            out["symbols"].append(_AS_OFTEN)
        elif symbol in self._numbers:
            put(out["symbols"], _KNOWN + self._numbers[symbol])
        else:
            out["symbols"].append(_NEW)
            for member in symbol:
                put(out["new_symbols"], member)

    def _relate(self, meta: Meta, values: list[int]) -> Symbol:
        """The op's symbol; what it does not say is appended to `values`."""
        kind, flags, length, _, node, offset, actor = meta
        if node in self._nodes:
            node_code = _RANKED + self._nodes.index(node)
        elif node == self._newest_node + 1:
            node_code = _EXPECTED
        else:
            node_code = _FAR
            values.append(zigzag(node - self._newest_node))
        expected = self._expected_offset(kind, node)
        offset_code = _EXPECTED
        if offset != expected:
            pages = self._pages.get(node, ())
            if kind in _OF_CONTENT and offset in pages:
                offset_code = _RANKED + pages.index(offset)
            elif (offset - expected) % PAGE_BYTES:
                offset_code = _FAR
                values.append(zigzag(offset - expected))
            else:
                offset_code = _FAR_PAGES
                values.append(zigzag((offset - expected) // PAGE_BYTES))
        actor_code = _EXPECTED
        if actor != self._actor:
            actor_code = _FAR
            values.append(zigzag(actor - self._actor))
        if length == PAGE_BYTES - offset % PAGE_BYTES:
            length_code = _TO_PAGE_END
        elif length == PAGE_BYTES - self._length:
            length_code = _REST_OF_PAGE
        else:
            length_code = _OTHER_LENGTH
            values.append(length)
        return Symbol(kind, flags, node_code, offset_code, length_code, actor_code)

    def _expected_offset(self, kind: int, node: int) -> int:
        if kind in _OF_CONTENT:
            return self._ends.get(node, 0)
        return self._other_offsets.get(kind, 0)

    # --- from streams ----------------------------------------------------------------------------

    def decode(self, streams: dict[str, Reader]) -> Meta:
        """The next op. BadShipment."""
        symbol = self._take_symbol(streams)
        values = streams["values"]
        node = self._take_node(symbol.node, values)
        offset = self._take_offset(symbol, node, values)
        actor = self._actor + (values.signed() if symbol.actor == _FAR else 0)
        if symbol.length == _TO_PAGE_END:
            length = PAGE_BYTES - offset % PAGE_BYTES
        elif symbol.length == _REST_OF_PAGE:
            length = PAGE_BYTES - self._length
        elif symbol.length == _OTHER_LENGTH:
            length = values.number()
        else:
            length = symbol.length - _THIS_LENGTH
        steps = streams["times_low"].byte() | streams["times_high"].number() << 8
        whole = self._time_ns - self._time_ns % TIME_STEP_NS + steps * TIME_STEP_NS
        time_ns = whole + streams["times_rest"].number()
        possible = (
            0 <= length <= MAX_PAYLOAD_BYTES
            and self._time_ns < time_ns < _LIMIT
            and 0 <= node < _LIMIT
            and 0 <= offset < _LIMIT
            and 0 <= actor < _LIMIT
            and symbol.kind < 256
            and symbol.flags < 256
        )
        if not possible:
            raise BadShipment("an op of the shipment is impossible")
        meta = Meta(symbol.kind, symbol.flags, length, time_ns, node, offset, actor)
        self._learn(symbol, meta)
        return meta

    def _take_symbol(self, streams: dict[str, Reader]) -> Symbol:
        code = streams["symbols"].number()
        if code == _NEW:
            new = streams["new_symbols"]
            return Symbol(*(new.number() for _ in Symbol._fields))
        if code >= _KNOWN:
            if code - _KNOWN >= len(self._symbols):
                raise BadShipment("an op of the shipment is like none before")
            return self._symbols[code - _KNOWN]
        found = self._following.get(self.context if code == _AS_BEFORE else self.context[2])
        if found is None:
            raise BadShipment("an op of the shipment is like none before")
        return found

    def _take_node(self, code: int, values: Reader) -> int:
        if code == _EXPECTED:
            return self._newest_node + 1
        if code == _FAR:
            return self._newest_node + values.signed()
        return _ranked(self._nodes, code)

    def _take_offset(self, symbol: Symbol, node: int, values: Reader) -> int:
        if symbol.offset >= _RANKED:
            return _ranked(self._pages.get(node, ()), symbol.offset)
        expected = self._expected_offset(symbol.kind, node)
        if symbol.offset == _FAR:
            return expected + values.signed()
        if symbol.offset == _FAR_PAGES:
            return expected + values.signed() * PAGE_BYTES
        return expected

    # --- both ------------------------------------------------------------------------------------

    def _learn(self, symbol: Symbol, meta: Meta) -> None:
        """Take an op in, which was `symbol`."""
        kind, _, length, time_ns, node, offset, actor = meta
        nodes = self._nodes
        if not nodes or nodes[0] != node:
            if node in nodes:
                nodes.remove(node)
            nodes.insert(0, node)
            del nodes[_KEPT_NODES:]
        self._newest_node = max(self._newest_node, node)
        if kind in _OF_CONTENT:
            self._learn_content(kind, node, offset, length)
        else:
            self._other_offsets[kind] = offset
        self._length, self._actor, self._time_ns = length, actor, time_ns
        # The next op of this length is known by it.
        if symbol.length == _OTHER_LENGTH:
            self._number(symbol)
            symbol = symbol._replace(length=_THIS_LENGTH + length)
        number = self._number(symbol)
        if len(self._following) >= _MAX_CONTEXTS:
            self._following.clear()
        self._following[self.context] = self._following[self.context[2]] = symbol
        self.context = (*self.context[1:], number)

    def _learn_content(self, kind: int, node: int, offset: int, length: int) -> None:
        if len(self._ends) >= _TRACKED_NODES:
            self._ends.clear()
            self._pages.clear()
        self._ends[node] = offset + length
        if kind in _BY_PAGES and not offset % PAGE_BYTES:
            pages = self._pages.setdefault(node, [])
            if offset in pages:
                pages.remove(offset)
            pages.insert(0, offset)
            del pages[_KEPT_OFFSETS:]

    def _number(self, symbol: Symbol) -> int:
        """The symbol's number in the table, from 1; it is entered if there is room. 0: none."""
        number = self._numbers.get(symbol)
        if number is None:
            if len(self._symbols) >= _MAX_SYMBOLS:
                return 0
            number = self._numbers[symbol] = len(self._symbols)
            self._symbols.append(symbol)
        return number + 1


def _ranked(kept: Sequence[int], code: int) -> int:
    if not 0 <= code - _RANKED < len(kept):
        raise BadShipment("an op of the shipment refers to none")
    return kept[code - _RANKED]
