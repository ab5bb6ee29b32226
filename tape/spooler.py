"""From the journal onto cartridges: carrying out, one by one, the steps that `tape/plan.py` names.

Duty: for each pool of a volume, what is needed until its set has the journal. The order for an
archive: made whole on disk and synced, written, marked synchronously and read back (`writer`), on
the books, dropped from the disk, the hold moved. A process that is killed between any two of these
does the step again; it never leaves out one. Blocking; one thread; it has the library's lock.
"""

from __future__ import annotations

import logging
import os
import uuid

import msgspec

from store.baseline_state import collect_state
from store.errors import NotSeeded
from store.holds import place_hold
from store.types import Lsn
from tape.archive_writer import Written, new_head
from tape.catalogue import CartridgeClosed, Moved, SetClosed, SetOpened
from tape.catalogue_state import Cartridge, State
from tape.errors import BackupUnfinished, NeedsCartridge
from tape.facts import Barrier, given_back, journal_facts, newest_barrier
from tape.full import FullWriter
from tape.keeping import Keeper
from tape.layout import ArchiveHead, Kind
from tape.log_archive import log_range, write_log_archive
from tape.plan import (
    CatalogueArchive,
    CloseSet,
    FullArchive,
    JournalFacts,
    LogArchive,
    OpenSet,
    Rest,
    Rotate,
    Rules,
    Step,
    next_step,
)
from tape.robot import Robot, Wanted
from tape.sealed_writer import write_catalogue_archive
from tape.stage import Stage, StageFile
from tape.supply import Supply
from tape.work import Work
from timetravel.view import View

log = logging.getLogger(__name__)


class Spooler:
    """One run over the pools of a volume."""

    def __init__(self, work: Work, robot: Robot, supply: Supply) -> None:
        self._work = work
        self._robot = robot
        self._stage = Stage(work.store, work.check)
        self._keeper = Keeper(work, self._stage, robot, supply)

    @property
    def _state(self) -> State:
        return self._work.catalogue.state

    def run(self, rules: Rules, goal_lsn: int | None) -> Rest:
        """Carry out what one pool needs. `goal_lsn`: have at least that on tape, whatever the
        settings say of when to begin; None: as they say. Returns why nothing is left to do.

        TapeError, StoreError, OSError: what is on the books is true, and a run goes on from there.
        """
        work = self._work
        while True:
            work.check()
            facts = self._facts(rules)
            step = next_step(self._state, rules, facts, work.now_ns(), goal_lsn)
            if isinstance(step, Rest):
                work.tally.pools[rules.pool] = step
                return step
            # Once begun it goes on to where the journal ended then.
            goal_lsn = goal_lsn if goal_lsn is not None else facts.end_lsn
            if isinstance(step, Rotate):
                rules = rules._replace(free_doors=self._rotate(rules, step))
            else:
                self._carry_out(rules, step)

    def _facts(self, rules: Rules) -> JournalFacts:
        work = self._work
        facts = journal_facts(
            work.journal, self._state, rules.volume_uuid, rules.pool, rules.start_bytes
        )
        if facts.first_lsn and self._state.open_set(rules.volume_uuid, rules.pool) is None:
            barrier = self._barrier(self._begin_at(rules, facts))
            if barrier.lsn < facts.first_lsn:
                barrier = self._barrier(facts.end_lsn)
            facts = facts._replace(barrier_lsn=barrier.lsn, barrier_time_ns=barrier.time_ns)
        return facts

    def _begin_at(self, rules: Rules, facts: JournalFacts) -> int:
        """A new set begins where the one before it ends, so that no point is in neither.

        The journal may have gone on since, and the set before may have ended early.
        """
        before = given_back(self._state, rules.volume_uuid, rules.pool)
        if before is None or not facts.first_lsn <= before.lsn < facts.end_lsn:
            return facts.end_lsn
        op = self._work.journal.op(Lsn(before.lsn))
        same = op is not None and op.time_ns == before.time_ns
        return before.lsn if same else facts.end_lsn

    def _barrier(self, lsn: int) -> Barrier:
        """The newest barrier at or before an op."""
        work = self._work
        return newest_barrier(work.store, work.journal, lsn, work.now_ns())

    def _carry_out(self, rules: Rules, step: Step) -> None:
        match step:
            case OpenSet():
                self._open_set(rules, step)
            case FullArchive():
                self._write_full(rules, step)
            case LogArchive():
                self._write_log(rules, step)
            case CatalogueArchive():
                self._write_catalogue(step)
            case CloseSet():
                self._close_set(rules, step)
            case Rotate() | Rest():
                raise AssertionError(step)

    # --- sets -----------------------------------------------------------------------------------

    def _open_set(self, rules: Rules, step: OpenSet) -> None:
        """The hold first: what the set's log will begin with must not go."""
        work = self._work
        with work.journal.snapshot() as snapshot:
            batch = snapshot.batch_of(Lsn(step.base_lsn))
        assert batch is not None
        self._hold(rules.pool, batch.first_lsn - 1)
        work.cut("hold placed")
        set_id = uuid.uuid4().hex
        work.catalogue.append(
            SetOpened(
                time_ns=work.now_ns(),
                set_id=set_id,
                pool=rules.pool,
                volume_uuid=rules.volume_uuid,
                base_lsn=step.base_lsn,
                base_time_ns=step.base_time_ns,
            )
        )
        log.info("set %s of the pool %s begins at LSN %d", set_id[:8], rules.pool, step.base_lsn)
        work.cut("set opened")

    def _close_set(self, rules: Rules, step: CloseSet) -> None:
        work = self._work
        log.info("set %s of the pool %s is closed: %s", step.set_id[:8], rules.pool, step.reason)
        work.catalogue.append(
            SetClosed(time_ns=work.now_ns(), set_id=step.set_id, whole=step.whole)
        )
        work.cut("set closed")

    def _rotate(self, rules: Rules, step: Rotate) -> int:
        """Bring cartridges to the doors; from there a person takes them.

        Returns how many doors are left, which the plan must know before it goes on. What has no
        door follows when a person has emptied them.
        """
        work = self._work
        self._robot.put_all_away()
        there = work.library.changer.inventory()
        doors = [door.number for door in there.doors if not door.full]
        for label_id in step.label_ids:
            if not doors:
                break
            cartridge = self._state.cartridge(label_id)
            work.tally.doing = f"bringing {cartridge.name} to the export slots"
            if not cartridge.closed_ns:
                reason = "it goes out of the library"
                work.catalogue.append(
                    CartridgeClosed(time_ns=work.now_ns(), label_id=label_id, reason=reason)
                )
                work.cut("cartridge closed")
            if slot := self._slot_of(cartridge):
                door = doors.pop(0)
                self._robot.move(cartridge.label, slot, door)
                log.info("%s of the pool %s is at door %d", cartridge.name, rules.pool, door)
                work.cut("at the door")
        return len(doors)

    def _slot_of(self, cartridge: Cartridge) -> int:
        """Where it is by its label, not by its barcode or the books; 0 when it isn't found."""
        wanted = Wanted(cartridge.label_id, cartridge.barcode, cartridge.number)
        try:
            return self._robot.put_away(self._robot.fetch(wanted))
        except NeedsCartridge as error:
            log.warning("%s", error)
            now_ns = self._work.now_ns()
            missing = Moved(time_ns=now_ns, label_id=cartridge.label_id, place="missing")
            self._work.catalogue.append(missing)
            return 0

    # --- archives -------------------------------------------------------------------------------

    def _write_full(self, rules: Rules, step: FullArchive) -> None:
        work = self._work
        tape_set = self._state.set_of(step.set_id)
        head = self._head(
            step.set_id,
            step.sequence,
            "full",
            tape_set.base_lsn,
            tape_set.base_lsn,
            tape_set.base_time_ns,
            step.part,
        )
        work.tally.doing = f"making part {step.part + 1} of a full for {rules.pool}"
        view = View(work.journal, Lsn(tape_set.base_lsn))
        block_bytes = work.library.settings.block_bytes

        def write(file: StageFile) -> Written:
            with FullWriter(
                view,
                collect_state,
                archive_bytes=work.archive_bytes,
                block_bytes=block_bytes,
                ring=work.ring,
            ) as writer:
                try:
                    made = writer.write(head, file, step.cursor)
                except NotSeeded as error:
                    raise BackupUnfinished(
                        f"the initial backup of {head.volume_name} is not done yet"
                    ) from error
                if writer.lost:
                    log.warning(
                        "content that was never captured is zeros on tape: %s",
                        ", ".join(repr(os.fsdecode(path)) for path in writer.lost),
                    )
                return made

        written = self._stage.make(work.archive_bytes, write)
        self._keeper.keep(rules.pool, head, written, tape_set.base_time_ns)

    def _write_log(self, rules: Rules, step: LogArchive) -> None:
        work = self._work
        block_bytes = work.library.settings.block_bytes
        found = log_range(
            work.journal,
            Lsn(step.first_lsn),
            Lsn(step.goal_lsn),
            work.archive_bytes,
            block_bytes,
            sealed=work.ring is not None,
        )
        assert found is not None, "the journal has what the plan asks for"
        head = self._head(
            step.set_id,
            step.sequence,
            "log",
            found.first_lsn,
            found.last_lsn,
            int(found.time_ns),
        )
        barrier = self._barrier(found.last_lsn)
        inside = barrier.clean and found.first_lsn <= barrier.lsn <= found.last_lsn
        barrier_lsn = barrier.lsn if inside else 0
        work.tally.doing = f"making the log of {rules.pool} from LSN {found.first_lsn}"

        def write(file: StageFile) -> Written:
            return write_log_archive(
                work.journal,
                head,
                file,
                block_bytes=block_bytes,
                barrier_lsn=Lsn(barrier_lsn),
                ring=work.ring,
            )

        written = self._stage.make(found.archive_bytes, write)
        self._keeper.keep(rules.pool, head, written, barrier.time_ns if barrier_lsn else 0)
        self._hold(rules.pool, found.last_lsn)
        work.cut("hold moved")

    def _write_catalogue(self, step: CatalogueArchive) -> None:
        """What the library knows goes behind the set's last archive, if there is room."""
        work = self._work
        tape_set = self._state.set_of(step.set_id)
        cartridge = self._state.cartridge(tape_set.archives[-1].label_id)
        head = self._head(step.set_id, step.sequence, "catalogue", 0, 0, work.now_ns())
        known = msgspec.json.encode(self._state)

        def write(file: StageFile) -> Written:
            return write_catalogue_archive(
                head,
                known,
                file,
                block_bytes=work.library.settings.block_bytes,
                ring=work.ring,
            )

        work.tally.doing = f"leaving the catalogue on {cartridge.name}"
        written = self._stage.make(2 * len(known) + work.library.settings.block_bytes, write)
        if not self._keeper.keep_on(cartridge, head, written):
            # It is a convenience; what stands on the cartridge can be read without it.
            log.info("the catalogue did not get onto %s", cartridge.name)

    def _head(
        self,
        set_id: str,
        sequence: int,
        kind: Kind,
        first_lsn: int,
        last_lsn: int,
        time_ns: int,
        part: int = 0,
    ) -> ArchiveHead:
        return new_head(
            self._work.store,
            set_id=set_id,
            sequence=sequence,
            kind=kind,
            first_lsn=first_lsn,
            last_lsn=last_lsn,
            time_ns=time_ns,
            created_ns=self._work.now_ns(),
            part=part,
        )

    def _hold(self, pool: str, lsn: int) -> None:
        place_hold(self._work.store.root, hold_name(pool), Lsn(lsn))


def hold_name(pool: str) -> str:
    """The name of a pool's hold."""
    return f"tape-{pool}"
