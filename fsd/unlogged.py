"""What changed while nothing could be logged: names, nodes and ranges, in bounded memory.

Duty: take the ops that do not reach the log and keep what has to be compared with the journal once
there is a log again. Beyond the bounds only "everything" is remembered. Loop's thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from store.format import Kind
from store.ops import Adopted, Created, Renamed, decode_entry
from store.types import NodeId

MAX_NAMES = 50_000
MAX_NODES = 50_000
MAX_RANGES = 500_000
"""Of all nodes together: with these bounds some tens of MiB at the most."""

TO_THE_END = 1 << 62
"""End of a range that goes to the end of the file, wherever that is."""

Range = tuple[int, int]


@dataclass
class Unlogged:
    """Changes that are in the backing tree and not in the log."""

    names: dict[NodeId, set[bytes]] = field(default_factory=dict)
    """Directory → names in it that were given, taken or looked up for the first time."""
    nodes: dict[NodeId, list[Range]] = field(default_factory=dict)
    """Node → ranges that were written or cut; [] when only attributes changed."""
    found: set[NodeId] = field(default_factory=set)
    """Nodes that were there before cdpfs and were met for the first time."""
    everything: bool = False
    """There was more than can be remembered."""
    ops: int = 0
    _names: int = 0
    _ranges: int = 0

    def note(self, kind: int, node: NodeId, offset: int, payload: bytes) -> None:
        """One op, with what the log would have got."""
        self.ops += 1
        if self.everything:
            return
        if kind == Kind.WRITE:
            self._range(node, offset, offset + len(payload))
        elif kind == Kind.TRUNCATE:
            self._range(node, offset, TO_THE_END)
        elif kind in _ATTRIBUTES:
            self.nodes.setdefault(node, [])
        else:
            self._note_names(kind, node, NodeId(offset), payload)
        if len(self.nodes) > MAX_NODES or self._names > MAX_NAMES or self._ranges > MAX_RANGES:
            self.forget()

    def forget(self) -> None:
        """Too much, or too uncertain: everything has to be compared."""
        self.everything = True
        self.names, self.nodes, self.found = {}, {}, set()

    def _note_names(self, kind: int, node: NodeId, parent: NodeId, payload: bytes) -> None:
        if kind == Kind.CREATE:
            self._name(parent, Created.decode(payload).name)
            self._range(node, 0, TO_THE_END)
        elif kind in (Kind.LINK, Kind.UNLINK):
            self._name(parent, payload)
            self.nodes.setdefault(node, [])
        elif kind == Kind.RENAME:
            renamed = Renamed.decode(payload)
            self.nodes.setdefault(node, [])
            self._name(parent, renamed.name)
            self._name(renamed.new_parent, renamed.new_name)
        elif kind == Kind.ADOPT_NAME:
            self._name(*decode_entry(payload))
        elif kind == Kind.ADOPT:
            adopted = Adopted.decode(payload)
            self.found.add(node)
            self.nodes.setdefault(node, [])
            self._name(adopted.parent, adopted.name)

    def _name(self, directory: NodeId, name: bytes) -> None:
        names = self.names.setdefault(directory, set())
        if name not in names:
            names.add(name)
            self._names += 1
        self.nodes.setdefault(directory, [])  # its times

    def _range(self, node: NodeId, start: int, stop: int) -> None:
        ranges = self.nodes.setdefault(node, [])
        if ranges and ranges[-1][0] <= start <= ranges[-1][1]:
            self._ranges -= 1
            start, stop = ranges[-1][0], max(stop, ranges[-1][1])
            ranges.pop()
        ranges.append((start, stop))
        self._ranges += 1


_ATTRIBUTES = frozenset((Kind.SETATTR, Kind.SETXATTR, Kind.REMOVEXATTR))
