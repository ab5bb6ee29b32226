"""The search for what two histories have in common."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.parting import MARKS, CommonSearch
from replicator.plan import BatchEnd


class Table:
    """Batches of these sizes; the first is at LSN `first`."""

    def __init__(self, sizes: list[int], first: int = 1) -> None:
        self.batches: list[BatchEnd] = []
        lsn = first
        for size in sizes:
            self.batches.append(BatchEnd(lsn, lsn + size - 1, b"%32d" % lsn))
            lsn += size
        self.first_lsn = first if sizes else 0
        self.indexed_lsn = lsn - 1

    def batch_of(self, lsn: int) -> BatchEnd | None:
        return next((b for b in self.batches if b.first_lsn <= lsn <= b.last_lsn), None)


def search(table: Table, shared: int, held: int) -> tuple[BatchEnd | None, int]:
    """The result when the vault has the first `shared` batches in common; questions it took."""
    common = {batch.last_lsn for batch in table.batches[:shared]}
    found, questions = CommonSearch(table, held), 0
    while asked := found.question():
        questions += 1
        assert len(asked) <= MARKS
        found.answer(max((b.last_lsn for b in asked if b.last_lsn in common), default=0))
    return found.common, questions


@given(
    st.lists(st.integers(1, 9), max_size=200),
    st.integers(0, 200),
    st.sampled_from([1, 1000]),
    st.integers(0, 50),
)
def test_the_newest_common_batch_is_found(
    sizes: list[int], shared: int, first: int, further: int
) -> None:
    table = Table(sizes, first)
    shared = min(shared, len(sizes))
    expected = table.batches[shared - 1] if shared else None
    held = (expected.last_lsn if expected else 0) + further
    assert search(table, shared, held)[0] == expected


def test_a_long_history_takes_few_questions() -> None:
    table = Table([1] * 5000)
    assert search(table, 2718, 5000) == (table.batches[2717], 2)
