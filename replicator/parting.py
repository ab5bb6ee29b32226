"""Where two histories part: questions to the vault, and what follows from the answers. Pure.

Duty: find the newest batch that the journal and a line at the vault have in common, in few
questions of many marks each. A batch's digest is that of everything before it, too, so that what
lies before a common batch is common and what lies behind a different one is different.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from replicator.plan import BatchEnd, BatchTable

MARKS: Final = 64
"""Batches asked about at once: about 5 KB, so that a million batches take four questions."""


class CommonSearch:
    """One search among the batches up to LSN `last`. Ask `question`, tell `answer`, repeat.

    When `question` is empty, `common` is the batch, None if there is none. A sealed line has marks
    only where its shipments end: then it is first asked for some of these `between`, and
    `question_at` takes the place of `question`.
    """

    def __init__(self, table: BatchTable, last: int) -> None:
        self._table = table
        self.first_lsn = table.first_lsn
        self._low = max(table.first_lsn - 1, 0)
        self._high = min(last, table.indexed_lsn)
        self._asked: list[BatchEnd] = []
        self._strange: list[int] = []
        """Ends of the vault's shipments where none of our batches ends."""
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

    @property
    def between(self) -> tuple[int, int]:
        """LSNs after which, and up to which, the newest common batch may end."""
        return self._low, self._high

    def question_at(self, ends: Sequence[int]) -> list[BatchEnd]:
        """As `question`, of batches that end at these LSNs, which are `between`.

        When it is empty though there were ends, the answer is 0.
        """
        told = sorted(set(ends))
        found = [self._table.batch_of(end) for end in told]
        self._asked = [b for b in found if b is not None and b.last_lsn in told]
        self._strange = [end for end in told if end not in {b.last_lsn for b in self._asked}]
        return self._asked

    def _ending_by(self, lsn: int) -> BatchEnd | None:
        """The newest batch that ends at or before an LSN."""
        batch = self._table.batch_of(lsn) if lsn else None
        if batch is not None and batch.last_lsn > lsn:
            batch = self._table.batch_of(batch.first_lsn - 1) if batch.first_lsn > 1 else None
        return batch

    def answer(self, lsn: int) -> None:
        """The LSN of the newest one of those asked about that the vault has; 0: none."""
        different = list(self._strange)
        for batch in self._asked:
            if batch.last_lsn <= lsn:
                self._low, self.common = batch.last_lsn, batch
            else:
                different.append(batch.last_lsn)
        self._strange = []
        if different:
            self._high = min(self._high, min(different) - 1)


def line_name(lsn: int, day: str) -> str:
    """What to call a line that parts after an LSN, made on a day such as `20261125`."""
    return f"fork-{lsn}-{day}"
