"""Content fetched ahead: in order, bounded, whatever the reader leaves out."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import LinkDown
from replicator.prefetch import MAX_LOAD_BYTES, MAX_WINDOW_BYTES, FileToCome, Prefetch
from replicator.reading_wire import Range

PIECE = 1 << 20


def content(part: Range) -> bytes:
    """What stands there: told by node and offset, short so that tests are quick."""
    return b"%d:%d" % (part.node, part.start)


class Far:
    """The other end; counts what is asked for and not taken yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked_bytes = 0
        self.requests: list[list[Range]] = []
        self.fails = False

    def fetch(self, ranges: list[Range]) -> list[bytes]:
        with self.lock:
            self.requests.append(ranges)
            self.asked_bytes += sum(part.size for part in ranges)
        if self.fails:
            raise LinkDown("the line is down")
        return [content(part) for part in ranges]


def files(sizes: list[int]) -> tuple[list[FileToCome], list[Range]]:
    """Files of so many bytes, and all their ranges in order."""
    found, ranges = [], []
    for node, size in enumerate(sizes, 2):
        parts = [Range(node, at, min(PIECE, size - at)) for at in range(0, size, PIECE)]
        found.append(FileToCome(node, lambda parts=parts: iter(parts)))  # type: ignore[misc]
        ranges += parts
    return found, ranges


def fast() -> float:
    return 1e9


sizes = st.lists(st.sampled_from([1, 100, 4096, PIECE - 1, PIECE, 3 * PIECE + 5]), max_size=30)


@given(sizes, st.randoms(use_true_random=False))
def test_a_reader_gets_what_it_reads_whatever_it_leaves_out(
    chosen: list[int], dice: random.Random
) -> None:
    far = Far()
    found, ranges = files(chosen)
    skipped_nodes = {file.node for file in found if dice.random() < 0.3}
    with closing(Prefetch(found, far.fetch, fast)) as prefetch:
        for part in ranges:
            if part.node in skipped_nodes or dice.random() < 0.1:
                continue
            data = prefetch.get(part)
            assert data in (None, content(part))


@given(sizes)
def test_a_reader_that_reads_everything_asks_for_nothing_itself(chosen: list[int]) -> None:
    far = Far()
    found, ranges = files(chosen)
    with closing(Prefetch(found, far.fetch, fast)) as prefetch:
        assert [prefetch.get(part) for part in ranges] == [content(part) for part in ranges]
    assert {part for request in far.requests for part in request} == set(ranges)
    assert sum(map(len, far.requests)) == len(ranges)
    for request in far.requests:
        assert len(request) == 1 or sum(part.size for part in request) <= MAX_LOAD_BYTES


def test_what_is_under_way_is_bounded() -> None:
    far = Far()
    found, ranges = files([200 * PIECE])
    with closing(Prefetch(found, far.fetch, fast)) as prefetch:
        read = 0
        for part in ranges:
            assert prefetch.get(part) == content(part)
            read += part.size
            with far.lock:
                assert far.asked_bytes - read <= MAX_WINDOW_BYTES + MAX_LOAD_BYTES


def test_little_is_under_way_on_a_slow_line() -> None:
    far = Far()
    found, ranges = files([20 * PIECE])
    with closing(Prefetch(found, far.fetch, lambda: 7_000.0)) as prefetch:
        assert prefetch.get(ranges[0]) == content(ranges[0])
        assert far.asked_bytes <= 3 * PIECE


def test_something_unexpected_is_not_waited_for() -> None:
    far = Far()
    found, ranges = files([3 * PIECE, 10])
    with closing(Prefetch(found, far.fetch, fast)) as prefetch:
        assert prefetch.get(Range(99, 0, 5)) is None
        assert prefetch.get(ranges[1]) == content(ranges[1])
        assert prefetch.get(ranges[0]) in (None, content(ranges[0]))  # gone by, perhaps
        assert prefetch.get(Range(2, PIECE + 1, 7)) is None
        assert prefetch.get(ranges[3]) == content(ranges[3])


def test_what_fails_is_raised_to_who_reads_it() -> None:
    far = Far()
    far.fails = True
    found, ranges = files([10])
    with closing(Prefetch(found, far.fetch, fast)) as prefetch, pytest.raises(LinkDown):
        prefetch.get(ranges[0])


def test_files_whose_pieces_can_not_be_told_are_left_to_the_reader() -> None:
    def broken() -> Iterator[Range]:
        raise LinkDown("the line is down")
        yield Range(1, 0, 1)

    far = Far()
    prefetch = Prefetch([FileToCome(2, broken)], far.fetch, fast)
    with closing(prefetch):
        assert prefetch.get(Range(2, 0, 10)) is None
