"""Content that will be read soon, fetched by several connections at once and given out in order.

Duty: keep requests under way ahead of a reader that reads files one after the other, so that a long
line is filled. Bounded: MAX_WINDOW_BYTES that are under way or wait to be read, MAX_LOAD_BYTES in
one request, and less of both on a slow line, where much under way is much lost. A reader that skips
something lets go of it. Any thread, one reader at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

from replicator.errors import PastRefused
from replicator.reading_wire import Range

MAX_WINDOW_BYTES: Final = 48 << 20
MIN_WINDOW_BYTES: Final = 1 << 20
WINDOW_S: Final = 4.0
"""So much of what the line brings may be under way or wait to be read."""
MAX_LOAD_BYTES: Final = 4 << 20
LOAD_S: Final = 0.1
LOAD_RANGES: Final = 1000
CONNECTIONS: Final = 6

Fetch = Callable[[list[Range]], list[bytes]]


class FileToCome(NamedTuple):
    """A file that will be read. `ranges` says in which pieces; it is asked when it is near."""

    node: int
    ranges: Callable[[], Iterable[Range]]


class _Load(NamedTuple):
    """Ranges of one request."""

    ranges: list[Range]
    size_bytes: int
    bytes_of: Future[list[bytes]]


class Prefetch:
    """Reads `files` ahead, in their order. `close` ends it; what is under way is dropped.

    `bytes_s` is how fast content comes at the moment.
    """

    def __init__(
        self, files: Iterable[FileToCome], fetch: Fetch, bytes_s: Callable[[], float]
    ) -> None:
        self._bytes_s = bytes_s
        self._files = list(files)
        self._order = {file.node: place for place, file in enumerate(self._files)}
        self._fetch = fetch
        self._changed = threading.Condition()
        self._loads: deque[_Load] = deque()
        self._waiting_bytes = 0
        self._planned = -1
        """Place of the newest file of which something is in a load."""
        self._ended = False
        self._pool = ThreadPoolExecutor(CONNECTIONS, "restore-fetch")
        self._feeder = threading.Thread(target=self._feed, name="restore-plan", daemon=True)
        self._feeder.start()

    def close(self) -> None:
        """End; returns when no thread of it is left."""
        with self._changed:
            self._ended = True
            self._drop(len(self._loads))
            self._changed.notify_all()
        self._feeder.join()
        self._pool.shutdown(cancel_futures=True)

    def get(self, wanted: Range) -> bytes | None:
        """The bytes of a range that was to come; None if it was not, or could not be told.

        Raises what fetching raised.
        """
        place = self._order.get(wanted.node)
        if place is None:
            return None
        with self._changed:
            while (number := self._find(wanted)) is None:
                if self._ended or not self._may_come(place, wanted):
                    return None
                if self._loads:
                    self._drop(len(self._loads))  # the reader is beyond all that waits
                else:
                    self._changed.wait()
            self._drop(number)
            load = self._loads[0]
        try:
            data = load.bytes_of.result()[load.ranges.index(wanted)]
        except PastRefused:
            return None  # one of them can't be told; by itself it is found out which
        if wanted == load.ranges[-1]:
            with self._changed:
                if self._loads and self._loads[0] is load:
                    self._drop(1)
        return data

    def _find(self, wanted: Range) -> int | None:
        """Which load has the range."""
        for number, load in enumerate(self._loads):
            if wanted in load.ranges:
                return number
        return None

    def _may_come(self, place: int, wanted: Range) -> bool:
        """Whether the range, which is in no load, can still get into one."""
        if place != self._planned or not self._loads:
            return place >= self._planned
        newest = self._loads[-1].ranges[-1]
        return newest.start < wanted.start

    def _drop(self, count: int) -> None:
        for _ in range(count):
            load = self._loads.popleft()
            load.bytes_of.cancel()
            self._waiting_bytes -= load.size_bytes
        self._changed.notify_all()

    def _feed(self) -> None:
        """Put loads under way whenever there is room for them."""
        try:
            for ranges in self._plan():
                size = sum(part.size for part in ranges)
                with self._changed:
                    while self._is_full(size) and not self._ended:
                        self._changed.wait()
                    if self._ended:
                        return
                    load = _Load(ranges, size, self._pool.submit(self._fetch, ranges))
                    self._loads.append(load)
                    self._waiting_bytes += size
                    self._planned = self._order[ranges[-1].node]
                    self._changed.notify_all()
        except Exception:  # noqa: BLE001 - whoever reads the file meets it again, and reports it
            pass
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _is_full(self, size: int) -> bool:
        window = min(max(self._bytes_s() * WINDOW_S, MIN_WINDOW_BYTES), MAX_WINDOW_BYTES)
        return bool(self._loads) and self._waiting_bytes + size > window

    def _plan(self) -> Iterator[list[Range]]:
        ranges: list[Range] = []
        size = 0
        for file in self._files:
            for part in file.ranges():
                load_bytes = min(self._bytes_s() * LOAD_S, MAX_LOAD_BYTES)
                if ranges and (size + part.size > load_bytes or len(ranges) == LOAD_RANGES):
                    yield ranges
                    ranges, size = [], 0
                ranges.append(part)
                size += part.size
        if ranges:
            yield ranges
