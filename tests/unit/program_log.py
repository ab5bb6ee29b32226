"""Ops as programs make them, by file names, and the points that inference finds in them.

`ProgramLog` plays a volume without a disk: it numbers ops and nodes as fsd does and keeps the rows
of inference in dictionaries. Its batches end wherever the test says, or nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from store.barrier_state import Place, decode_point
from store.barriers import Inference
from store.format import Kind
from store.index_rows import Point
from store.ops import Actor, Created, Op, Renamed
from store.types import NO_LSN, ROOT, Lsn, NodeId, TimeNs

START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000


class DictRows:
    """Rows in memory (see `barrier_groups.Rows`)."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.groups: dict[int, bytes] = {}
        self.points: dict[tuple[int, int], bytes] = {}
        self.places: dict[int, Place] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def put(self, key: bytes, row: bytes) -> None:
        self.rows[key] = row

    def remove(self, key: bytes) -> None:
        del self.rows[key]

    def starting_with(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter([item for item in sorted(self.rows.items()) if item[0].startswith(prefix)])

    def get_group(self, number: int) -> bytes | None:
        return self.groups.get(number)

    def put_group(self, number: int, row: bytes) -> None:
        self.groups[number] = row

    def put_point(self, group: int, lsn: int, row: bytes | None) -> None:
        if row is None:
            self.points.pop((group, lsn), None)
        else:
            self.points[group, lsn] = row

    def place_of(self, node: int) -> Place | None:
        return self.places.get(node)


class Found(NamedTuple):
    """A point as tests look at it: the number of ops up to it, its grade and why."""

    lsn: int
    grade: str
    reason: str


class ProgramLog:
    """The log. `now_ns` may be moved between ops; `program` names who does what follows."""

    def __init__(self) -> None:
        self.rows = DictRows()
        self.ops: list[Op] = []
        self.now_ns = START_NS
        self._nodes: dict[str, NodeId] = {"": ROOT}
        self._last_node = 1
        self._actor = NO_LSN
        self._actors: dict[tuple[int, int], Lsn] = {}
        self._inference = Inference(self.rows)
        self._taken = 0

    # --- who and when ----------------------------------------------------------------------------

    def program(self, pid: int, parent: int = 900) -> None:
        """Who does the following ops."""
        key = (pid, parent)
        if key not in self._actors:
            actor = Actor(0, 0, pid, parent, parent, b"program")
            self._actors[key] = self.op(Kind.ACTOR, payload=actor.encode())
        self._actor = self._actors[key]

    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.now_ns += int(seconds * 1e9)

    def op(
        self, kind: Kind, node: int = 0, offset: int = 0, payload: bytes = b"", flags: int = 0
    ) -> Lsn:
        """Any op; returns its LSN."""
        self.now_ns += STEP_NS
        lsn = Lsn(len(self.ops) + 1)
        actor = NO_LSN if kind is Kind.ACTOR else self._actor
        self.ops.append(
            Op(lsn, TimeNs(self.now_ns), int(kind), flags, NodeId(node), offset, actor, 0, payload)
        )
        return lsn

    # --- what programs do ------------------------------------------------------------------------

    def mkdir(self, path: str) -> Lsn:
        """A new directory."""
        return self.create(path, 0o040755)

    def create(self, path: str, mode: int = 0o100644) -> Lsn:
        """A new file."""
        self._last_node += 1
        node = NodeId(self._last_node)
        self._nodes[path] = node
        payload = Created(_name(path), mode, 0, 0).encode()
        return self.op(Kind.CREATE, node, self._nodes[_above(path)], payload)

    def write(self, path: str, offset: int = 0, data: bytes = b"data", flags: int = 0) -> Lsn:
        """Write, creating the file if it is missing."""
        if path not in self._nodes:
            self.create(path)
        return self.op(Kind.WRITE, self._nodes[path], offset, data, flags)

    def truncate(self, path: str, size: int = 0) -> Lsn:
        """Set the size."""
        return self.op(Kind.TRUNCATE, self._nodes[path], size)

    def sync(self, path: str) -> Lsn:
        """Fsync."""
        return self.op(Kind.FSYNC, self._nodes[path])

    def close(self, path: str) -> Lsn:
        """Close after writing."""
        return self.op(Kind.CLOSE, self._nodes[path])

    def unlink(self, path: str) -> Lsn:
        """Remove a name."""
        node = self._nodes.pop(path)
        return self.op(Kind.UNLINK, node, self._nodes[_above(path)], _name(path))

    def link(self, path: str, new: str) -> Lsn:
        """A further name."""
        node = self._nodes[new] = self._nodes[path]
        return self.op(Kind.LINK, node, self._nodes[_above(new)], _name(new))

    def rename(self, path: str, new: str) -> Lsn:
        """Rename, over what is there."""
        other = self._nodes.get(new, NodeId(0))
        node = self._nodes[new] = self._nodes.pop(path)
        parent = self._nodes[_above(new)]
        payload = Renamed(_name(path), parent, _name(new), 0, other).encode()
        return self.op(Kind.RENAME, node, self._nodes[_above(path)], payload)

    # --- what is found ---------------------------------------------------------------------------

    def commit(self, restart: bool = False) -> None:
        """End a batch here; `restart`: and go on from the rows alone."""
        batch = self.ops[self._taken :]
        if batch:
            aborted = {op.offset for op in batch if op.kind == Kind.ABORT}
            self._inference.take(batch, aborted)
            self._inference.flush()
            self._taken = len(self.ops)
        self.rows.places = {
            node: (self._nodes[_above(path)], _name(path))
            for path, node in self._nodes.items()
            if path
        }
        if restart:
            self._inference = Inference(self.rows)

    def points(self) -> list[Point]:
        """Every point so far, by LSN and group."""
        self.commit()
        found = [decode_point(group, lsn, row) for (group, lsn), row in self.rows.points.items()]
        return sorted(found, key=lambda point: (point.lsn, point.group))

    def transactions(self) -> list[int]:
        """LSNs of the transaction points."""
        return [point.lsn for point in self.points() if point.grade == "transaction"]

    def found(self) -> list[Found]:
        """Every point so far, briefly."""
        return [Found(point.lsn, point.grade, point.reason) for point in self.points()]


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> bytes:
    return path.rpartition("/")[2].encode()
