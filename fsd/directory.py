"""Listing a directory of the live tree.

Duty: hand the entries of one open directory to the kernel, a few at a time. The names are read
from the backing directory as the listing goes on, and kept until it is closed, so that positions
stay true while entries come and go, and no request lists a huge directory at once. Loop's thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyfuse3

from fsd.attributes import entry_of
from fsd.nodes import Node
from fsd.session import Session
from store.errors import StoreError

ENTRIES_PER_REQUEST = 128


class OpenDirectory:
    """One open directory. Positions: 0 is ".", 1 "..", n + 2 the n-th name that was read."""

    def __init__(self, node: Node, fd: int) -> None:
        self.node = node
        self._fd = fd
        self._names: list[bytes] = []
        self._source: Iterator[os.DirEntry[str]] | None = None

    def close(self) -> None:
        """Close the backing directory."""
        self._stop()
        os.close(self._fd)

    def _stop(self) -> None:
        if self._source is not None:
            self._source.close()  # type: ignore[attr-defined]  # scandir's iterator has it
            self._source = None

    def _restart(self) -> None:
        """rewinddir(3): what is listed from here on is the directory as it is now."""
        self._stop()
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._names.clear()
        self._source = os.scandir(self._fd)

    def _name(self, number: int) -> bytes | None:
        """The n-th name, None at the end."""
        while number >= len(self._names):
            entry = next(self._source, None) if self._source is not None else None
            if entry is None:
                return None
            self._names.append(os.fsencode(entry.name))
        return self._names[number]

    async def reply(self, session: Session, start: int, token: Any) -> None:
        """Give the kernel entries from position `start` on, as many as fit."""
        if start == 0:
            self._restart()
        position, sent = start, 0
        # Names may be adopted on the way, each with up to 64 KiB of attributes.
        while sent < ENTRIES_PER_REQUEST and (not sent or session.has_room()):
            if position < 2:
                done = self._reply_dots(session, position, token)
            else:
                name = self._name(position - 2)
                if name is None:
                    return
                try:
                    done = self._reply_name(session, name, position, token)
                except StoreError:
                    if sent:
                        return  # the kernel asks for the rest, and meets it then
                    raise
            if not done:
                return
            position += 1
            sent += 1

    def _reply_dots(self, session: Session, position: int, token: Any) -> bool:
        node = self.node if position == 0 else self.node.parent or self.node
        entry = entry_of(session.nodes.stat(node), node.id, node.touched_ns)
        return bool(pyfuse3.readdir_reply(token, b".." if position else b".", entry, position + 1))

    def _reply_name(self, session: Session, name: bytes, position: int, token: Any) -> bool:
        """False when the buffer is full. Names that are gone meanwhile are passed over."""
        try:
            found = session.adopter.look(self.node, name)
        except FileNotFoundError:
            return True
        if found is None:
            return True
        node, status = found
        entry = entry_of(status, node.id, node.touched_ns)
        if not pyfuse3.readdir_reply(token, name, entry, position + 1):
            session.nodes.drop_if_unused(node)
            return False
        node.lookups += 1
        return True
