"""Shows the op stream of a store as text, one op a line: what a program does, as cdpfs sees it.

    python -m tests.transactions.trace STORE [--start LSN] [--stop LSN]

A line has: LSN, milliseconds since the op before, kind, name, offset, length, what is special
(`zeros`: the first 28 bytes are zeros, which is how SQLite retires a journal; `dir` for mkdir and
rmdir; the new name of a rename, ...), and who: command and pid. Reads the journal only.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from store.format import Flag, Kind
from store.journal import Journal, OpMeta, Snapshot
from store.ops import Actor, Attributes, Created, Renamed
from store.types import Lsn, NodeId
from store.volume import Store

HEADER_BYTES = 28
"""Of a rollback journal of SQLite; zeros there mean that it is not hot."""


class Trace:
    """The lines of one snapshot. Paths are relative to the volume's root."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._before_ns = 0

    def lines(self, start: Lsn, stop: Lsn) -> Iterator[str]:
        """Of the ops of LSN `[start, stop)`."""
        for op in self._snapshot.ops(start, stop):
            since_ms = (op.time_ns - (self._before_ns or op.time_ns)) / 1e6
            self._before_ns = op.time_ns
            kind = Kind(op.kind).name + ("!" if op.aborted else "")
            what = " ".join(filter(None, (self._name(op), self._numbers(op), self._special(op))))
            yield f"{op.lsn:>7} {since_ms:>9.3f} {kind:<9} {what:<60} {self._who(op)}".rstrip()

    def _name(self, op: OpMeta) -> str:
        if not op.node:
            return ""
        moments = [op.lsn, op.lsn - 1]
        if op.kind in {Kind.RENAME, Kind.UNLINK}:
            moments.reverse()  # the name that goes
        return os.fsdecode(next(filter(None, (self.path(op.node, lsn) for lsn in moments)), b"?"))

    def path(self, node: int, lsn: int) -> bytes:
        """One path of a node at an LSN; b"" if it has none."""
        parts: list[bytes] = []
        while names := self._snapshot.names(NodeId(node), Lsn(lsn)):
            node, name = names[0]
            parts.insert(0, name)
        return b"/".join(parts) if parts or node != 1 else b"."

    def _numbers(self, op: OpMeta) -> str:
        if op.kind in {Kind.WRITE, Kind.BASE}:
            return f"@{op.offset} +{op.length}"
        return f"to {op.offset}" if op.kind == Kind.TRUNCATE else ""

    def _special(self, op: OpMeta) -> str:
        payload = self._snapshot.payload(op.lsn) if op.length else b""
        if op.kind == Kind.WRITE:
            zeros = op.offset == 0 and not any(payload[:HEADER_BYTES])
            return "zeros" if zeros else payload[:8].hex()
        if op.kind == Kind.RENAME:
            renamed = Renamed.decode(payload)
            parent = self.path(renamed.new_parent, op.lsn)
            over = f" over {renamed.other}" if renamed.other else ""
            return f"-> {os.fsdecode(parent + b'/' + renamed.new_name)}{over}"
        if op.kind == Kind.CREATE:
            return "dir" if stat.S_ISDIR(Created.decode(payload).mode) else ""
        if op.kind == Kind.LINK:
            parent = self.path(op.offset, op.lsn)
            return f"as {os.fsdecode(parent + b'/' + payload)}"
        if op.kind == Kind.UNLINK:
            parent = self.path(op.offset, op.lsn)
            kind = " dir" if op.flags & Flag.DIRECTORY else ""
            return f"as {os.fsdecode(parent + b'/' + payload)}{kind}"
        if op.kind == Kind.FSYNC:
            return "data" if op.flags & Flag.DATASYNC else ""
        if op.kind == Kind.ACTOR:
            return str(Actor.decode(payload))
        if op.kind == Kind.SETATTR:
            return f"mask {Attributes.decode(payload).mask}"
        if op.kind in {Kind.SETXATTR, Kind.REMOVEXATTR, Kind.MARK, Kind.MOUNT}:
            return repr(payload[: op.offset if op.kind == Kind.SETXATTR else 60])
        return ""

    def _who(self, op: OpMeta) -> str:
        if not op.actor:
            return ""
        actor = Actor.decode(self._snapshot.payload(op.actor))
        return f"{os.fsdecode(actor.command) or '?'}/{actor.pid}"


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--start", type=int, default=1, metavar="LSN")
    parser.add_argument("--stop", type=int, default=1 << 62, metavar="LSN")
    options = parser.parse_args()
    with Journal(Store.open(options.store)) as journal, journal.snapshot() as snapshot:
        stop = min(options.stop, snapshot.indexed_lsn + 1)
        for line in Trace(snapshot).lines(Lsn(options.start), Lsn(stop)):
            print(line)


if __name__ == "__main__":
    main()
