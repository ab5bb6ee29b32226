"""The index and its snapshots against a naive model, at every past LSN.

Random valid logs of all kinds of ops, cut into random batches that really go through segments,
with commits, crashes of the indexer, adoptions that reach into the past, and ops that failed.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from store.format import CHUNK_BYTES, Kind
from store.journal import Journal
from store.volume import Store, new_config
from tests.model.journal_writer import JournalWriter
from tests.model.log_maker import NAMES, LogMaker
from tests.model.oracle_compare import assert_same_at, assert_same_log

CHOICES = st.integers(0, 1000)
PLACES = st.sampled_from([0, CHUNK_BYTES - 60, CHUNK_BYTES, 2 * CHUNK_BYTES - 30])
LSNS_PER_CHECK = 12
"""Longer logs are compared at the end and at so many random LSNs."""


class IndexMachine(RuleBasedStateMachine):
    """The log grows by rules; `settle` indexes and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        store = Store.create(Path(self.folder.name) / "store", new_config("/nowhere", 1))
        self.writer = JournalWriter(store)
        self.journal = Journal(store)
        self.log = LogMaker()

    def teardown(self) -> None:
        try:
            self.settle(random.Random(0), crash=False)
        finally:
            self.journal.close()
            self.writer.close()
            self.folder.cleanup()

    @initialize(seeds=st.lists(st.integers(0, 40), max_size=6))
    def start(self, seeds: list[int]) -> None:
        self.log.start(seeds)
        self.log.create(0, b"first", 0)
        for place in (0, CHUNK_BYTES + 10, 2 * CHUNK_BYTES - 50):
            self.log.write(0, place, 100)

    @rule(choice=CHOICES, place=PLACES, shift=st.integers(0, 90), length=st.integers(0, 120))
    def write(self, choice: int, place: int, shift: int, length: int) -> None:
        self.log.write(choice, place + shift, length)

    @rule(choice=CHOICES, region=st.integers(0, 1), length=st.sampled_from([4096, CHUNK_BYTES]))
    def write_much(self, choice: int, region: int, length: int) -> None:
        self.log.write(choice, region * CHUNK_BYTES + region, length)

    @rule(choice=CHOICES, place=PLACES, count=st.integers(9, 30), randomness=st.randoms())
    def write_often(self, choice: int, place: int, count: int, randomness: random.Random) -> None:
        for _ in range(count):
            self.log.write(choice, place + randomness.randrange(60), randomness.randrange(1, 50))

    @rule(choice=CHOICES, place=PLACES, shift=st.integers(0, 90))
    def truncate(self, choice: int, place: int, shift: int) -> None:
        self.log.truncate(choice, place + shift)

    @rule(choice=CHOICES, keep=PLACES, shift=st.integers(0, 90))
    def cut(self, choice: int, keep: int, shift: int) -> None:
        self.log.cut(choice, keep + shift, 2 * CHUNK_BYTES + shift)

    @rule(seeds=st.lists(CHOICES, min_size=1, max_size=5), count=st.integers(9, 25))
    def adopt_late(self, seeds: list[int], count: int) -> None:
        """Outsiders' names come to light when their directories have moved on."""
        self.log.new_session([], seeds)
        self.create_many(seeds[0], count)
        for seed in seeds:
            self.log.adopt_some(seed)
            self.log.unlink(seed)
        self.create_many(seeds[-1], count)
        self.unlink(seeds[-1], count)

    @rule(choice=CHOICES, name=st.sampled_from(NAMES), kind=st.integers(0, 9))
    def create(self, choice: int, name: bytes, kind: int) -> None:
        self.log.create(choice, name, kind)

    @rule(choice=CHOICES, count=st.integers(9, 25))
    def create_many(self, choice: int, count: int) -> None:
        for number in range(count):
            self.log.create(choice, b"n%d" % ((choice + number) % 40), 0)

    @rule(choice=CHOICES, count=st.integers(1, 20))
    def unlink(self, choice: int, count: int) -> None:
        for number in range(count):
            self.log.unlink(choice + number)

    @rule(choice=CHOICES, where=CHOICES, name=st.sampled_from(NAMES))
    def link(self, choice: int, where: int, name: bytes) -> None:
        self.log.link(choice, where, name)

    @rule(choice=CHOICES, where=CHOICES, name=st.sampled_from(NAMES), exchange=st.booleans())
    def rename(self, choice: int, where: int, name: bytes, exchange: bool) -> None:
        self.log.rename(choice, where, name, exchange)

    @rule(choice=CHOICES, where=CHOICES, count=st.integers(9, 25))
    def rename_often(self, choice: int, where: int, count: int) -> None:
        for number in range(count):
            self.log.rename(choice, where, b"r%d" % (number % 3), number % 5 == 0)

    @rule(choice=CHOICES, mask=st.integers(0, 31))
    def set_attributes(self, choice: int, mask: int) -> None:
        self.log.set_attributes(choice, mask)

    @rule(
        choice=CHOICES,
        name=st.sampled_from([b"user.0", b"user.1", b"user.other"]),
        length=st.sampled_from([-1, -1, 0, 5, 5000]),
    )
    def set_xattr(self, choice: int, name: bytes, length: int) -> None:
        self.log.set_xattr(choice, name, length)

    @rule(choice=CHOICES)
    def noise(self, choice: int) -> None:
        self.log.noise(choice)

    @rule()
    def fail_next(self) -> None:
        self.log.abort_next = True

    @rule(choice=CHOICES)
    def adopt(self, choice: int) -> None:
        self.log.adopt_some(choice)

    @rule(choice=CHOICES)
    def seed_dir(self, choice: int) -> None:
        self.log.seed_dir(choice)

    @rule(choice=CHOICES)
    def seed_chunk(self, choice: int) -> None:
        self.log.seed_chunk(choice)

    @rule(changed=st.lists(CHOICES, max_size=2), seeds=st.lists(CHOICES, max_size=3))
    def new_session(self, changed: list[int], seeds: list[int]) -> None:
        self.log.new_session(changed, seeds)

    @rule(randomness=st.randoms(), crash=st.booleans())
    def settle(self, randomness: random.Random, crash: bool) -> None:
        if crash:
            self._index(randomness)
            self.journal.close()
            self.writer.reopen()
            self.journal = Journal(self.writer.store)
        self._index(randomness)
        self.writer.commit()
        self._compare(randomness)

    def _index(self, randomness: random.Random) -> None:
        ops = self.log.history.ops[self.writer.next_lsn - 1 :]
        while ops:
            count = min(randomness.choice([1, 3, 10, 1000]), len(ops))
            while count < len(ops) and ops[count].kind == Kind.ABORT:
                count += 1
            self.writer.add(ops[:count])
            ops = ops[count:]

    def _compare(self, randomness: random.Random) -> None:
        history = self.log.history
        with self.journal.snapshot() as snapshot:
            assert_same_log(snapshot, history)
            lsns = range(1, history.last_lsn + 1)
            chosen = randomness.sample(lsns, min(LSNS_PER_CHECK, len(lsns)))
            for lsn in {*chosen, *lsns[-1:]}:
                assert_same_at(snapshot, history, lsn)
            for op in randomness.sample(history.ops, min(3, len(history.ops))):
                assert snapshot.payload(op.lsn) == op.payload


TestIndex = IndexMachine.TestCase
if settings.get_current_profile_name() != "nightly":
    TestIndex.settings = settings(max_examples=40, stateful_step_count=25)
