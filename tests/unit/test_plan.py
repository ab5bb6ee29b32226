"""The sender's plan: whatever the two ends hold, the next step is the right one."""

from __future__ import annotations

from bisect import bisect_left

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from replicator.plan import BatchEnd, Fork, Kept, Lost, Resume, Send, Step, UpToDate, plan
from replicator.wire import Partial, Position
from store.batch import NO_DIGEST


class History:
    """A chain of batches, as the digests of a journal make it; `kept_from` cuts its beginning."""

    def __init__(self, sizes: list[int], words: list[bytes], kept_from: int = 0) -> None:
        self.batches: list[BatchEnd] = []
        digest, lsn = NO_DIGEST, 1
        for size, word in zip(sizes, words, strict=True):
            digest = blake3(digest + word + size.to_bytes(4, "little")).digest()
            self.batches.append(BatchEnd(lsn, lsn + size - 1, digest))
            lsn += size
        self.kept = self.batches[kept_from:]

    @property
    def first_lsn(self) -> int:
        return self.kept[0].first_lsn if self.kept else 0

    @property
    def sendable_lsn(self) -> int:
        return self.first_lsn

    @property
    def indexed_lsn(self) -> int:
        return self.kept[-1].last_lsn if self.kept else 0

    def batch_of(self, lsn: int) -> BatchEnd | None:
        at = bisect_left([batch.last_lsn for batch in self.kept], lsn)
        found = self.kept[at] if at < len(self.kept) else None
        return found if found is not None and found.first_lsn <= lsn else None

    def position(self, count: int, partial: Partial | None = None) -> Position:
        """That of a vault which holds the first `count` batches."""
        end = self.batches[count - 1] if count else BatchEnd(0, 0, NO_DIGEST)
        return Position(
            line="main",
            next_lsn=end.last_lsn + 1,
            digest=end.digest.hex(),
            visible_lsn=0,
            partial=partial,
        )


batches = st.lists(st.tuples(st.integers(1, 9), st.binary(min_size=1, max_size=2)), max_size=12)


def history(parts: list[tuple[int, bytes]], kept_from: int = 0) -> History:
    return History([size for size, _ in parts], [word for _, word in parts], kept_from)


@given(batches, st.data())
def test_a_vault_that_holds_a_beginning_is_sent_the_rest(
    parts: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    ours = history(parts)
    count = data.draw(st.integers(0, len(parts)))
    step = plan(ours.position(count), ours, None)
    held = ours.batches[count - 1] if count else BatchEnd(0, 0, NO_DIGEST)
    if count == len(parts):
        assert step == UpToDate(held.last_lsn)
    else:
        assert step == Send(held.last_lsn + 1)


@given(batches, st.data())
def test_following_the_plan_ends_up_to_date_whatever_is_replayed(
    parts: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    ours = history(parts)
    count = 0
    for _ in range(3 * len(parts) + 1):
        step = plan(ours.position(count), ours, None)
        if isinstance(step, UpToDate):
            break
        assert isinstance(step, Send)
        sent = data.draw(st.integers(1, len(parts) - count))
        lost_answer = data.draw(st.booleans())
        # Whether the answer arrives or not, the vault holds it: the next position tells.
        count += sent
        if lost_answer:
            replayed = plan(ours.position(count - sent), ours, None)
            assert replayed == step
    assert count == len(parts)


@given(batches, batches, batches, st.data())
def test_another_history_is_a_fork_and_nothing_is_sent(
    common: list[tuple[int, bytes]],
    ours_after: list[tuple[int, bytes]],
    theirs_after: list[tuple[int, bytes]],
    data: st.DataObject,
) -> None:
    ours = history(common + ours_after)
    theirs = history(common + theirs_after)
    count = data.draw(st.integers(0, len(theirs.batches)))
    step = plan(theirs.position(count), ours, None)
    end = theirs.batches[count - 1] if count else None
    if end is None or end in ours.batches:
        assert isinstance(step, Send | UpToDate)
    else:
        assert step == Fork(end.last_lsn, ahead=end.last_lsn > ours.indexed_lsn)


@given(batches, st.data())
def test_what_the_journal_no_longer_keeps_is_said(
    parts: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    kept_from = data.draw(st.integers(0, max(len(parts) - 1, 0)))
    count = data.draw(st.integers(0, len(parts)))
    ours = history(parts, kept_from)
    step = plan(ours.position(count), ours, None)
    if count < kept_from:
        end = ours.batches[count - 1].last_lsn if count else 0
        assert step == Lost(end + 1, ours.first_lsn)
    else:
        assert isinstance(step, Send | UpToDate)


@given(batches.filter(bool), st.data())
def test_a_kept_shipment_goes_on_where_the_vault_has_it_or_is_left(
    parts: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    ours = history(parts)
    first = data.draw(st.integers(0, len(parts) - 1))
    last = data.draw(st.integers(first, len(parts) - 1))
    total = data.draw(st.integers(1, 10_000))
    kept = Kept("a" * 32, ours.batches[first].first_lsn, ours.batches[last].last_lsn, total)
    partial = data.draw(
        st.none()
        | st.builds(
            Partial,
            shipment=st.sampled_from(["a" * 32, "b" * 32]),
            received_bytes=st.integers(0, 20_000),
            total_bytes=st.sampled_from([total, total + 1]),
        )
    )
    count = data.draw(st.integers(0, len(parts)))
    step: Step = plan(ours.position(count, partial), ours, kept)
    if count != first:
        assert not isinstance(step, Resume)
        return
    same = (
        partial is not None
        and (partial.shipment, partial.total_bytes) == ("a" * 32, total)
        and partial.received_bytes <= total
    )
    assert step == Resume("a" * 32, partial.received_bytes if same and partial else 0)


def test_an_empty_journal_and_an_empty_vault_agree() -> None:
    ours = history([])
    assert plan(ours.position(0), ours, None) == UpToDate(0)


def test_a_vault_that_counts_from_zero_is_an_empty_one() -> None:
    ours = history([(3, b"a")])
    empty = Position(line="main", next_lsn=0, digest=NO_DIGEST.hex(), visible_lsn=0)
    assert plan(empty, ours, None) == Send(1)
