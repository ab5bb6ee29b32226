"""Where like content was seen: a sender's soft state. Pure; one thread.

Duty: guess which earlier payload a new one resembles. Tables of bounded size: the payload that was
last written at a place, hashes of blocks of payloads, hashes of what stands at their anchors.
Nothing depends on what they say: each guess is compared with the payload itself, and a table that
was lost costs only bytes on the wire.

Blocks stand at fixed places of a piece. Anchors are where two bytes of certain classes meet,
wherever that is, so that content which has shifted is known again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

import xxhash

BLOCK_BYTES: Final = 512
MAX_BLOCKS: Final = 1 << 18
"""Blocks that are remembered: those of 128 MiB of payload, in about 50 MB of memory."""

MAX_PLACES: Final = 1 << 17
MAX_ANCHORS: Final = 1 << 18
ANCHOR_BYTES: Final = 16
_ANCHORS_PER_PIECE: Final = 16
_KIN_SHARE: Final = 4
"""A kin has one of so many anchors in common, at the least."""

# One pair of random bytes in 256, and some of letters and of digits.
_ANCHOR: Final = re.compile(
    b"[%b][%b]" % (bytes(range(0x01, 256, 16)), bytes(range(0x05, 256, 16))), re.DOTALL
)

_hash = xxhash.xxh3_64_intdigest


class Ref(NamedTuple):
    """A place in the payloads of the log: from byte `start` of an op's on."""

    lsn: int
    start: int


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A table that forgets what was entered longest ago, half of its entries at a time."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """What was entered under a key, if it is still there."""
        found = self._young.get(key)
        return self._old.get(key) if found is None else found

    def __setitem__(self, key: Key, value: Value) -> None:
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = value


class Sketch:
    """What was sent lately. `learn` each piece of payload in order; `at` and `like` ask."""

    def __init__(self) -> None:
        self._places: Recent[Hashable, Ref] = Recent(MAX_PLACES)
        self._blocks: Recent[int, tuple[Ref, int]] = Recent(MAX_BLOCKS)
        self._anchors: Recent[int, Ref] = Recent(MAX_ANCHORS)

    def learn(self, place: Hashable, ref: Ref, piece: bytes) -> None:
        """A piece of payload that stands at `ref` was written at `place`."""
        self._places[place] = ref
        for start in range(0, len(piece) - BLOCK_BYTES + 1, BLOCK_BYTES):
            self._blocks[_hash(piece[start : start + BLOCK_BYTES])] = (ref, start)
        if len(piece) >= BLOCK_BYTES:
            for anchor in _anchors(piece):
                self._anchors[anchor] = ref

    def at(self, place: Hashable) -> Ref | None:
        """What was last written there."""
        return self._places.get(place)

    def like(self, piece: bytes) -> Ref | None:
        """The payload that has most blocks of a piece, at the same places; the newest of those."""
        votes: Counter[Ref] = Counter()
        for start in range(0, len(piece) - BLOCK_BYTES + 1, BLOCK_BYTES):
            found = self._blocks.get(_hash(piece[start : start + BLOCK_BYTES]))
            if found is not None and found[1] == start:
                votes[found[0]] += 1
        return max(votes, key=lambda ref: (votes[ref], ref)) if votes else None

    def kin(self, piece: bytes) -> Ref | None:
        """The payload that has most of its anchors, anywhere; the newest of those.

        None when even that has few of them: then like words were used, and no more.
        """
        anchors = list(_anchors(piece))
        votes = Counter(filter(None, map(self._anchors.get, anchors)))
        if not votes:
            return None
        found = max(votes, key=lambda ref: (votes[ref], ref))
        return found if votes[found] * _KIN_SHARE >= len(anchors) else None


def _anchors(piece: bytes) -> Iterator[int]:
    """Hashes of what stands at a piece's anchors."""
    for found in islice(_ANCHOR.finditer(piece), _ANCHORS_PER_PIECE):
        start = found.start()
        yield _hash(piece[start : start + ANCHOR_BYTES])
