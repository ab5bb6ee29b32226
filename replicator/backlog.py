"""What the vault does not have yet: how many bytes, and how old the oldest of them is.

Duty: count. It looks at each batch twice at most, so a long backlog costs no more than a short
one. Blocking calls, one thread at a time; but `note` and `lag_s` are quick, and for the loop's.
"""

from __future__ import annotations

import time
from collections import deque

from store.journal import Journal
from store.statepage import StatePage
from store.types import Lsn

MAX_NOTES = 4096


class Backlog:
    """The ops after `acked_lsn`. `payload_bytes` is what they hold, as far as they are indexed."""

    def __init__(self, journal: Journal, page: StatePage) -> None:
        self._journal = journal
        self._page = page
        self._counted_lsn = 0
        self._oldest_ns = 0
        self._notes: deque[tuple[int, int]] = deque(maxlen=MAX_NOTES)
        self.acked_lsn = 0
        self.indexed_lsn = 0
        self.payload_bytes = 0

    def begin(self, acked_lsn: int) -> None:
        """The vault holds everything up to `acked_lsn`, which ends a batch or not."""
        self.acked_lsn = self._counted_lsn = acked_lsn
        self.payload_bytes = 0
        self.look()

    def acknowledge(self, acked_lsn: int) -> None:
        """The vault got on."""
        if acked_lsn < self.acked_lsn:
            self.begin(acked_lsn)
            return
        self.look()
        with self._journal.snapshot() as snapshot:
            for place in snapshot.batches(Lsn(self.acked_lsn + 1)):
                if place.last_lsn > acked_lsn:
                    break
                self.payload_bytes -= place.payload_bytes
        self.acked_lsn = acked_lsn
        self.look()

    def look(self) -> None:
        """Take in what was indexed since the last look."""
        with self._journal.snapshot() as snapshot:
            for place in snapshot.batches(Lsn(self._counted_lsn + 1)):
                if place.first_lsn > self._counted_lsn:
                    self.payload_bytes += place.payload_bytes
                    self._counted_lsn = place.last_lsn
            self.indexed_lsn = snapshot.indexed_lsn
            oldest = snapshot.op(Lsn(self.acked_lsn + 1))
        self._oldest_ns = oldest.time_ns if oldest is not None else 0

    def note(self) -> None:
        """Look at the shared page: when were ops appended that are not indexed yet? Cheap."""
        appended = self._page.appended_lsn
        newest = self._notes[-1][0] if self._notes else self.indexed_lsn
        if appended > newest and len(self._notes) < MAX_NOTES:
            self._notes.append((appended, time.time_ns()))
        while self._notes and self._notes[0][0] <= max(self.acked_lsn, self.indexed_lsn):
            self._notes.popleft()

    def lag_s(self) -> float:
        """Age of the oldest op that the vault has not acknowledged; 0.0 when there is none."""
        if self._oldest_ns:
            since = self._oldest_ns
        elif self._notes:
            since = self._notes[0][1]
        else:
            return 0.0
        return max(time.time_ns() - since, 0) / 1e9
