"""When the backing disk is full: has removing files just made room that is not back yet?

Duty: the backing file of a removed node is held (O_PATH) until the kernel forgets the node, and the
kernel may hand over the next change before that FORGET. Someone who removes a large file and goes
on writing at once must not be told that there is no space. So, before a request gets that answer,
the kernel's words that are under way are heard first. Loop's thread.
"""

from __future__ import annotations

import trio

from fsd.nodes import NodeTable
from fsd.readiness import Readiness

MAX_ROUNDS = 1000
"""So many times others are let run, at the most: while requests keep coming, they never end."""


class Space:
    """The backing disk's space that removed nodes still hold."""

    def __init__(self, nodes: NodeTable, readiness: Readiness) -> None:
        self._nodes = nodes
        self._readiness = readiness

    async def may_have_come(self) -> bool:
        """Take in what the kernel has to say; did a removed file let go of its space meanwhile?"""
        before = self._nodes.released
        for _ in range(MAX_ROUNDS):
            if not self._nodes.removed or not self._readiness.pending():
                break
            await trio.lowlevel.checkpoint()
        return self._nodes.released != before
