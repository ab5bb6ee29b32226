"""Where to cut the stream of ops into batches. Pure; one thread; no clock of its own.

A batch ends at a barrier once it has 1 MiB, anywhere once it has 8 MiB (or very many ops), and
when its oldest op has waited for a second. An op and the ABORT that cancels it, which stand side
by side, are never parted. The barriers here are merely good places to cut: kinds of ops at which
applications complete something. What is consistent at them is for others to say.
"""

from __future__ import annotations

from collections.abc import Iterable

from store.format import OP_META, Kind
from store.ops import Op

MIN_BATCH_BYTES = 1 << 20
FORCED_BATCH_BYTES = 8 << 20
MAX_OPS = 8192
"""Bounds the time that one batch of small ops keeps the index busy."""

MAX_AGE_NS = 1_000_000_000

BARRIERS = frozenset(
    map(int, (Kind.FSYNC, Kind.CLOSE, Kind.RENAME, Kind.UNLINK, Kind.MARK, Kind.CLEAN))
)
_ABORT = int(Kind.ABORT)
_META_BYTES = OP_META.size_bytes


class Batcher:
    """Collects ops with `add`; hands out complete batches with `take`."""

    def __init__(self) -> None:
        self._ops: list[Op] = []
        self._bytes = 0
        self._since_ns = 0
        self._cut_next = False
        self._last_barrier = 0
        """How many of the pending ops end with the newest barrier among them; 0: none does."""
        self._ready: list[list[Op]] = []

    @property
    def empty(self) -> bool:
        """Nothing is pending."""
        return not self._ops and not self._ready

    def add(self, ops: Iterable[Op], now_ns: int) -> None:
        """Take in the ops that follow, at the (monotonic) time `now_ns`."""
        pending, size, cut = self._ops, self._bytes, self._cut_next
        for op in ops:
            kind = op[2]
            if kind == _ABORT and pending and op[5] == pending[-1][0]:
                if self._last_barrier == len(pending):
                    self._last_barrier += 1
            elif cut:
                self._ready.append(pending)
                pending, size, cut = [], 0, False
                self._last_barrier = 0
            if not pending:
                self._since_ns = now_ns
            pending.append(op)
            size += _META_BYTES + len(op[8])
            if kind in BARRIERS:
                self._last_barrier = len(pending)
                cut = cut or size >= MIN_BATCH_BYTES
            cut = cut or size >= FORCED_BATCH_BYTES or len(pending) >= MAX_OPS
        self._ops, self._bytes, self._cut_next = pending, size, cut

    def take(
        self,
        now_ns: int,
        settled: bool,
        everything: bool = False,
        max_age_ns: int = MAX_AGE_NS,
    ) -> list[list[Op]]:
        """The batches that are due at `now_ns`, in order.

        `settled`: the last pending op is applied and no ABORT of it can follow, so it may end a
        batch. `everything`: don't wait for size or age. `max_age_ns`: the age that makes one due.
        """
        if settled and self._ops:
            old = now_ns - self._since_ns >= max_age_ns
            if everything or self._cut_next:
                self._cut(len(self._ops), now_ns)
            elif old:
                self._cut(self._last_barrier or len(self._ops), now_ns)
        ready, self._ready = self._ready, []
        return ready

    def _cut(self, count: int, now_ns: int) -> None:
        """End a batch after `count` of the pending ops; the rest counts as new."""
        self._ready.append(self._ops[:count])
        self._ops = self._ops[count:]
        self._bytes = sum(_META_BYTES + len(op.payload) for op in self._ops)
        self._since_ns = now_ns
        self._cut_next = False
        self._last_barrier = 0
