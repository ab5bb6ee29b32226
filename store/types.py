"""The integer kinds of the store. Pure; no threading rule; knows nothing else of the project."""

from __future__ import annotations

from typing import NewType

Lsn = NewType("Lsn", int)
"""An op's log sequence number: the volume's total order. 1 is the first op; 0 means "none"."""

NodeId = NewType("NodeId", int)
"""A file, directory, symlink or special file; 64 bits, never reused. 1 is the root; 0 is "none"."""

TimeNs = NewType("TimeNs", int)
"""Nanoseconds since the Unix epoch, UTC."""

ROOT = NodeId(1)
NO_NODE = NodeId(0)
NO_LSN = Lsn(0)
