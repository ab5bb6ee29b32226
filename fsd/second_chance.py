"""A request failed for want of space or of a store: is it worth another try?

Duty: say so, once for each request. When the backing disk is full, the file of a removed node is
held (O_PATH) until the kernel forgets the node, and the kernel may hand over the next change before
that FORGET: someone who removes a large file and goes on writing at once must not be told that
there is no space. So the kernel's words that are under way are heard first; and a removed file that
is kept until it is seeded is seeded now. When the store is full or fails, it is for
`fsd/protection.py` to decide. Loop's thread.
"""

from __future__ import annotations

import trio

from fsd.readiness import Readiness
from fsd.session import Session
from store.durable import NO_SPACE
from store.errors import StoreFault, StoreFull, TemporaryStoreError

RELEASE_LOOKS, LOOK_S = 50, 0.02
"""How often, and at what distance: the initial backup may hold a file that it is at work on."""

MAX_ROUNDS = 1000
"""So many times others are let run, at the most: while requests keep coming, they never end."""


class SecondChance:
    """What can be done about a request that failed."""

    def __init__(self, session: Session, readiness: Readiness) -> None:
        self._nodes = session.nodes
        self._seeder = session.seeder
        self._readiness = readiness
        self._protection = session.protection

    async def is_worth_it(self, error: Exception) -> bool:
        """Has something changed, so that the request may succeed now?"""
        if isinstance(error, StoreFull | StoreFault):
            return self._protection.suspend_for(error)
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return await self._space_came() or await self._hidden_place_emptied()
        return False

    async def _hidden_place_emptied(self) -> bool:
        """Seed what was removed before it was seeded; has it let go of its space?"""
        before = self._nodes.released
        with self._seeder.hurry():
            try:
                if not await self._seeder.seed_kept():
                    return self._nodes.released != before
            except (TemporaryStoreError, OSError):
                return False
            for _ in range(RELEASE_LOOKS):
                if self._nodes.released != before:
                    return True
                await trio.sleep(LOOK_S)
        return False

    async def _space_came(self) -> bool:
        """Take in what the kernel has to say; did a removed file let go of its space meanwhile?"""
        before = self._nodes.released
        for _ in range(MAX_ROUNDS):
            if not self._nodes.removed or not self._readiness.pending():
                break
            await trio.lowlevel.checkpoint()
        return await self._nodes.wait_freed() or self._nodes.released != before
