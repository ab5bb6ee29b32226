"""What restoring needs of a past state, wherever that state is kept.

Duty: the interface between `timetravel/restore.py`, `steps.py`, `content.py` and the two kinds of
past: `timetravel.view.View` over a journal here, and a vault's volume over a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from store.journal import NodeState
from store.types import Lsn, NodeId


class Readable(Protocol):
    """The past as of `lsn`, as `View` has it. One thread, and one that reads content ahead."""

    @property
    def lsn(self) -> Lsn:
        """As of when."""
        ...

    def root(self) -> NodeState:
        """The volume's top directory."""
        ...

    def state(self, node: NodeId) -> NodeState:
        """Attributes."""
        ...

    def lookup(self, directory: NodeId, name: bytes) -> NodeState | None:
        """What stood under a name."""
        ...

    def listing(self, directory: NodeId) -> list[tuple[bytes, NodeState]]:
        """All names with their attributes, sorted."""
        ...

    def find(self, path: bytes) -> NodeState | None:
        """What stood at a path."""
        ...

    def walk(self, path: bytes) -> NodeState:
        """The same; NoSuchPath if nothing did."""
        ...

    def xattrs(self, node: NodeId) -> dict[bytes, bytes]:
        """Extended attributes."""
        ...

    def read(self, node: NodeId, start: int, size: int) -> bytes:
        """Bytes of a file; fewer at its end."""
        ...

    def data_areas(self, node: NodeId) -> Iterator[tuple[int, int]]:
        """What of a file is no hole."""
        ...

    def expecting(self, files: Iterable[tuple[NodeId, int]]) -> AbstractContextManager[object]:
        """Inside, these files (node, size) will be read from their beginnings, in this order, as
        `timetravel.content.pieces_to_read` cuts them; some may be skipped."""
        ...
