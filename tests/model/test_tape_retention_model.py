"""Random lives of a library: what is given up is never what the policy keeps.

The oracle keeps its own record: for each set, which LSNs it had and when it was closed. A moment is
kept by a pool while a set of the pool that had it is open or was closed less than `keep` ago.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tape.catalogue import ArchiveBad, Attached, Detached, Recycled, Retired, SetClosed
from tape.catalogue_state import Cartridge, TapeSet
from tape.changer import Inventory
from tape.choice import Chooser
from tape.reach import reach_of
from tape.retention import Retention
from tests.tape_books import DAY_NS, VOLUME, Books, uuid

POOLS = ("onsite", "offsite")
NOTHING = Inventory((), (), ())


@dataclass
class Record:
    """What a set had, whatever became of it."""

    pool: str
    first: int
    last: int = 0
    closed_ns: int = 0
    lost: bool = field(default=False)


class Library(RuleBasedStateMachine):
    """A volume with two pools."""

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.lsn = 10
        self.cartridges = 0
        self.records: dict[str, Record] = {}
        self.harmed: set[str] = set()

    @initialize(onsite=st.integers(1, 6), offsite=st.integers(1, 12))
    def attach(self, onsite: int, offsite: int) -> None:
        self.keep = {"onsite": onsite * DAY_NS, "offsite": offsite * DAY_NS}
        self.books.take(
            Attached(
                time_ns=self.books.now_ns,
                volume_uuid=VOLUME,
                volume_name="shop",
                directory="/srv",
                keep_ns=self.keep,
            )
        )

    # --- what a spooler does --------------------------------------------------------------------

    def cartridge_for(self, pool: str, fresh: bool) -> int:
        """The number of one to write to; the one written last, unless another is wanted."""
        mine = [
            each
            for each in self.books.state.cartridges.values()
            if each.appendable and each.label.pool == pool and each.place == "slot"
        ]
        if mine and not fresh:
            return int(mine[-1].label_id, 16)
        for each in mine:
            if each.archives:
                self.books.close_cartridge(int(each.label_id, 16))
        self.cartridges += 1
        self.books.cartridge(self.cartridges, pool)
        return self.cartridges

    @rule(
        pool=st.sampled_from(POOLS),
        fresh=st.booleans(),
        days=st.floats(0.1, 3),
        reuse=st.booleans(),
    )
    def spool(self, pool: str, fresh: bool, days: float, reuse: bool) -> None:
        """Log for the open set, or a new set with its full and some log."""
        self.books.days(days)
        self.lsn += 10
        tape_set = self.books.state.open_set(VOLUME, pool)
        number = self.cartridge_for(pool, fresh)
        if tape_set is None:
            tape_set = self.books.open_set(self.lsn - 5, pool)
            self.records[tape_set.set_id] = Record(pool, tape_set.base_lsn)
            self.books.full(tape_set, number)
            if reuse:
                number = self.cartridge_for(pool, True)
        self.books.log(tape_set, number, self.lsn)
        self.records[tape_set.set_id].last = self.lsn

    @rule(pool=st.sampled_from(POOLS))
    def close(self, pool: str) -> None:
        """Another set comes next."""
        tape_set = self.books.state.open_set(VOLUME, pool)
        if tape_set is not None:
            self.books.close_set(tape_set)
            self.records[tape_set.set_id].closed_ns = self.books.now_ns

    @rule(pool=st.sampled_from(POOLS))
    def label(self, pool: str) -> None:
        """A run that was ended before it wrote anything."""
        self.cartridges += 1
        self.books.cartridge(self.cartridges, pool)

    @rule()
    def detach(self) -> None:
        """The volume has no copies there any more: what it has is kept all the same."""
        for pool in POOLS:
            self.close(pool)
        self.books.take(Detached(time_ns=self.books.now_ns, volume_uuid=VOLUME))

    @rule()
    def attach_again(self) -> None:
        """And then it has."""
        self.books.take(
            Attached(
                time_ns=self.books.now_ns,
                volume_uuid=VOLUME,
                volume_name="shop",
                directory="/srv",
                keep_ns=self.keep,
            )
        )

    @rule(days=st.floats(0.1, 5))
    def wait(self, days: float) -> None:
        """Nothing happens."""
        self.books.days(days)

    # --- what happens to cartridges ---------------------------------------------------------------

    def used(self) -> list[Cartridge]:
        """Those with something on them."""
        return [each for each in self.books.state.cartridges.values() if each.archives]

    @precondition(lambda self: self.used())
    @rule(data=st.data(), what=st.sampled_from(("bad", "missing", "back", "outside", "lost")))
    def harm(self, data: st.DataObject, what: str) -> None:
        """An archive goes bad, or a cartridge is not where it was."""
        cartridge = data.draw(st.sampled_from(self.used()))
        number = int(cartridge.label_id, 16)
        now_ns = self.books.now_ns
        touched = {each.set_id for each in self.books.state.sets_on(cartridge)}
        if what == "bad":
            file = data.draw(st.integers(1, len(cartridge.archives)))
            self.books.take(
                ArchiveBad(time_ns=now_ns, label_id=uuid(number), file=file, what="unreadable")
            )
        elif what == "lost":
            for set_id in touched:
                tape_set = self.books.state.sets[set_id]
                if not tape_set.closed_ns:
                    self.books.take(SetClosed(time_ns=now_ns, set_id=set_id, whole=tape_set.whole))
                    self.records[set_id].closed_ns = now_ns
            self.books.take(
                Retired(time_ns=now_ns, label_id=uuid(number), barcode="", reason="fire")
            )
            self.books.take(Recycled(time_ns=now_ns, label_id=uuid(number)))
        else:
            place = {"missing": "missing", "back": "slot", "outside": "outside"}[what]
            self.books.move(number, place)  # type: ignore[arg-type]
            if what == "back":
                return
        if what != "outside":
            self.harmed |= touched

    # --- and what is given up -------------------------------------------------------------------

    @rule(min_scratch=st.integers(1, 5))
    def recycle(self, min_scratch: int) -> None:
        """As many as are wanted and may go: what is kept and can be had, can be had afterwards."""
        before = self.restorable()
        pools_before = {pool for pool in POOLS if self.sets_that_work(pool)}
        while True:
            chooser = Chooser(self.books.state, NOTHING, "CLN", self.books.now_ns)
            cartridge = chooser.to_recycle(min_scratch)
            if cartridge is None:
                break
            self.books.take(Recycled(time_ns=self.books.now_ns, label_id=cartridge.label_id))
        assert self.restorable() >= before
        assert {pool for pool in POOLS if self.sets_that_work(pool)} == pools_before

    def kept(self, pool: str) -> list[tuple[str, Record]]:
        """The records whose moments the pool keeps now."""
        return [
            (set_id, record)
            for set_id, record in self.records.items()
            if record.pool == pool
            and record.last
            and (not record.closed_ns or record.closed_ns + self.keep[pool] > self.books.now_ns)
        ]

    def sets_that_work(self, pool: str | None) -> list[TapeSet]:
        """Sets that give something back."""
        return [
            each
            for each in self.books.state.sets.values()
            if pool in (None, each.pool) and reach_of(self.books.state, each) is not None
        ]

    def given_back(self, pool: str | None) -> set[int]:
        """The LSNs that can be had from a pool, or from any."""
        found: set[int] = set()
        for each in self.sets_that_work(pool):
            reach = reach_of(self.books.state, each)
            assert reach is not None
            found |= set(range(reach.base_lsn, reach.last_lsn + 1))
        return found

    def restorable(self) -> set[int]:
        """The LSNs that some pool keeps and that can be had from any."""
        kept: set[int] = set()
        for pool in POOLS:
            for _, record in self.kept(pool):
                kept |= set(range(record.first, record.last + 1))
        return kept & self.given_back(None)

    @invariant()
    def what_a_pool_keeps_is_restorable_from_it_alone(self) -> None:
        """But for what was harmed."""
        for pool in POOLS:
            given_back = self.given_back(pool)
            for set_id, record in self.kept(pool):
                if set_id not in self.harmed:
                    assert set(range(record.first, record.last + 1)) <= given_back

    @invariant()
    def the_state_at_the_beginning_of_what_is_kept_is_restorable(self) -> None:
        """Also when nothing was written for a while: the newest op before it is in some set."""
        if self.harmed:
            return
        for pool in POOLS:
            horizon_ns = self.books.now_ns - self.keep.get(pool, 0) if self.records else 0
            older = [
                each
                for each in self.books.events
                if getattr(each, "head", None) is not None
                and each.head.kind == "log"
                and self.records[each.head.set_id].pool == pool
                and each.head.time_ns <= horizon_ns
            ]
            if older:
                newest = max(each.head.last_lsn for each in older)
                assert newest in self.given_back(pool)

    @invariant()
    def retention_says_why_of_everything_that_stays(self) -> None:
        """And it names only what holds something."""
        retention = Retention(self.books.state, self.books.now_ns)
        attached = all(each.attached for each in self.books.state.volumes.values())
        for each in retention.recyclable():
            assert each.archives or not attached
            assert not each.retired_ns

    @invariant()
    def no_empty_cartridge_waits_for_ever(self) -> None:
        """It is free, its pool writes to it, or it may be recycled."""
        state = self.books.state
        free = {each.label_id for each in Retention(state, self.books.now_ns).recyclable()}
        for each in state.cartridges.values():
            if not each.archives and each.appendable and not state.volumes[VOLUME].attached:
                assert each.label_id in free


Library.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestLibrary = Library.TestCase
