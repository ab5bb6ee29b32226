"""Where two histories part: questions to the vault, and what follows from the answers. Pure.

Duty: find the newest batch that the journal and a line at the vault have in common, in few
questions of many marks each. A batch's digest is that of everything before it, too, so that what
lies before a common batch is common and what lies behind a different one is different.
"""

from __future__ import annotations

from typing import Final

from replicator.plan import BatchEnd, BatchTable

MARKS: Final = 64
"""Batches asked about at once: about 5 KB, so that a million batches take four questions."""


class CommonSearch:
    """One search among the batches up to LSN `last`. Ask `question`, tell `answer`, repeat.

    When `question` is empty, `common` is the batch, None if there is none.
    """

    def __init__(self, table: BatchTable, last: int) -> None:
        self._table = table
        self.first_lsn = table.first_lsn
        self._low = max(table.first_lsn - 1, 0)
        self._high = min(last, table.indexed_lsn)
        self._asked: list[BatchEnd] = []
        self.common: BatchEnd | None = None

    def question(self) -> list[BatchEnd]:
        """Batches, oldest first: which of them is the newest that the vault has as well?"""
        low, high = self._low, self._high
        found: dict[int, BatchEnd] = {}
        for number in range(1, MARKS + 1):
            batch = self._ending_by(low + -(-(high - low) * number // MARKS))
            if batch is not None and batch.last_lsn > low:
                found[batch.last_lsn] = batch
        self._asked = sorted(found.values(), key=lambda batch: batch.last_lsn)
        return self._asked

    def _ending_by(self, lsn: int) -> BatchEnd | None:
        """The newest batch that ends at or before an LSN."""
        batch = self._table.batch_of(lsn) if lsn else None
        if batch is not None and batch.last_lsn > lsn:
            batch = self._table.batch_of(batch.first_lsn - 1) if batch.first_lsn > 1 else None
        return batch

    def answer(self, lsn: int) -> None:
        """The LSN of the newest one of those asked about that the vault has; 0: none."""
        for batch in self._asked:
            if batch.last_lsn <= lsn:
                self._low, self.common = batch.last_lsn, batch
            else:
                self._high = min(self._high, batch.last_lsn - 1)
                return


def line_name(lsn: int, day: str) -> str:
    """What to call a line that parts after an LSN, made on a day such as `20261125`."""
    return f"fork-{lsn}-{day}"
