"""An open file of the past: reading ahead in whole regions.

Duty: answer the kernel's reads (128 KiB at a time) from regions of 1 MiB that are read from the
journal in worker threads, one thread hop for eight requests, the next one while the kernel takes
the present one. Random access reads only what is asked. Bounded: MAX_REGIONS for each open file.
Loop's thread; the view is asked in threads.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable

import trio

from store.format import CHUNK_BYTES
from store.types import NodeId
from timetravel.view import View

MAX_REGIONS = 4


class PastFile:
    """One open file below `.snapshots`. `start_soon` starts a task, to read ahead; None: don't."""

    def __init__(self, view: View, node: NodeId, start_soon: Callable[..., object] | None) -> None:
        self._view = view
        self._node = node
        self._start_soon = start_soon
        self._regions: OrderedDict[int, bytes] = OrderedDict()
        self._coming: dict[int, trio.Event] = {}
        self._expected = 0

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on; fewer, or none, at the end of the file."""
        # The kernel's read-ahead may overtake itself by a little.
        sequential = self._expected - CHUNK_BYTES <= offset <= self._expected + CHUNK_BYTES
        self._expected = offset + size
        if not sequential:
            return await trio.to_thread.run_sync(self._view.read, self._node, offset, size)
        first, last = offset // CHUNK_BYTES, (offset + size - 1) // CHUNK_BYTES
        start = offset - first * CHUNK_BYTES
        if first == last:
            region = await self._region(first)
            if len(region) == CHUNK_BYTES:
                self._read_ahead(first + 1)
            return region[start : start + size]
        parts = [await self._region(region) for region in range(first, last + 1)]
        return b"".join(parts)[start : start + size]

    async def _region(self, region: int) -> bytes:
        """A whole region, from memory if it was read just now."""
        while (known := self._regions.get(region)) is None:
            coming = self._coming.get(region)
            if coming is not None:
                await coming.wait()
                continue
            await self._fetch(region)
        return known

    def _read_ahead(self, region: int) -> None:
        """Begin to fetch a region that will be asked for next."""
        if self._start_soon and region not in self._regions and region not in self._coming:
            self._coming[region] = trio.Event()
            self._start_soon(self._fetch_unasked, region)

    async def _fetch_unasked(self, region: int) -> None:
        """An error is for nobody yet, and must not end the nursery: who asks meets it again."""
        with contextlib.suppress(Exception):
            await self._fetch(region)

    async def _fetch(self, region: int) -> None:
        done = self._coming.setdefault(region, trio.Event())
        try:
            self._regions[region] = await trio.to_thread.run_sync(
                self._view.read, self._node, region * CHUNK_BYTES, CHUNK_BYTES
            )
            if len(self._regions) > MAX_REGIONS:
                self._regions.popitem(last=False)
        finally:
            del self._coming[region]
            done.set()
