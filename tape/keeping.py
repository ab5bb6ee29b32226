"""What is staged gets onto a cartridge, and on the books (I-7).

Duty: write the staged archive to the cartridge that comes next, and to another one for as long as
it does not get there: the cartridge is full, is at fault or must not be written, or the drive
died. A cartridge is closed where its last good archive ends. Blocking; one thread.
"""

from __future__ import annotations

import logging
from typing import Final

from tape.archive_writer import Written
from tape.catalogue import AnyEvent, ArchiveKept, CartridgeClosed, Faulted
from tape.catalogue_state import Cartridge
from tape.drive import Drive
from tape.errors import (
    ArchiveTooLarge,
    BadArchive,
    DriveDead,
    EarlyWarning,
    EndOfMedium,
    MediaError,
    WriteProtected,
)
from tape.layout import ArchiveHead
from tape.robot import Robot, Wanted
from tape.stage import Stage
from tape.supply import Owner, Supply
from tape.work import Work
from tape.writer import append

log = logging.getLogger(__name__)

MAX_FAILURES: Final = 3
"""So many cartridges may fail one after the other: then it is not the cartridges."""


class Keeper:
    """Brings what is staged onto cartridges, for one run."""

    def __init__(self, work: Work, stage: Stage, robot: Robot, supply: Supply) -> None:
        self._work = work
        self._stage = stage
        self._robot = robot
        self._supply = supply
        self._failures = 0

    def keep(self, pool: str, head: ArchiveHead, written: Written, barrier_time_ns: int) -> None:
        """Bring what is staged onto a cartridge of the pool, however many it takes.

        NoScratch, ChangerJam, DriveDead (of the last drive), ArchiveTooLarge, MediaError when one
        cartridge after the other fails.
        """
        owner = Owner(head.volume_uuid, head.volume_name, pool)
        self._work.cut("staged")
        while True:
            drive, cartridge = self._supply.next_cartridge(owner)
            if self._write(drive, cartridge, head, written, barrier_time_ns):
                break
        self._failures = 0
        self._stage.drop()
        self._work.cut("stage dropped")

    def keep_on(self, cartridge: Cartridge, head: ArchiveHead, written: Written) -> bool:
        """Bring what is staged onto this cartridge; is it there now?"""
        self._work.cut("staged")
        drive = self._robot.fetch(Wanted(cartridge.label_id, cartridge.barcode, cartridge.number))
        kept = self._write(drive, cartridge, head, written, 0)
        self._stage.drop()
        return kept

    def _write(
        self,
        drive: Drive,
        cartridge: Cartridge,
        head: ArchiveHead,
        written: Written,
        barrier_time_ns: int,
    ) -> bool:
        """Write what is staged to a cartridge in a drive; is it there now, and on the books?"""
        work, file = self._work, cartridge.next_file
        work.tally.doing = f"writing file {file} of {cartridge.name}"
        try:
            found = append(drive, file, self._stage.path, cartridge.label.block_bytes, self._count)
        except (EarlyWarning, EndOfMedium) as error:
            if not cartridge.archives:
                raise ArchiveTooLarge(
                    f"an archive of {written.size_bytes >> 20} MiB does"
                    f" not fit on the empty cartridge {cartridge.name}",
                    "choose smaller archives (archive_bytes in tape.toml), or larger cartridges",
                ) from error
            self._close(cartridge, "it is full")
            return False
        except WriteProtected as error:
            self._close(cartridge, str(error))
            return False
        except MediaError as error:
            self._at_fault(drive, cartridge, error)
            return False
        except DriveDead as error:
            self._robot.dead(drive, error)
            return False
        if found.digest != written.digest:
            raise BadArchive(
                f"{self._stage.path} was read otherwise than it was written",
                "look at the store's disk; the archive is made again",
            )
        work.cut("written")
        self._record(
            ArchiveKept(
                time_ns=work.now_ns(),
                label_id=cartridge.label_id,
                file=file,
                blocks=found.blocks,
                head=head,
                digest=found.digest,
                last_part=written.end.last_part,
                next=written.end.next,
                needs_lsn=written.end.needs_lsn,
                barrier_lsn=written.end.barrier_lsn,
                barrier_time_ns=barrier_time_ns,
            )
        )
        work.tally.archives += 1
        work.cut("on the books")
        return True

    def _count(self, size: int) -> None:
        self._work.tally.done_bytes += size
        self._work.check()

    def _close(self, cartridge: Cartridge, reason: str) -> None:
        log.info("%s is closed: %s", cartridge.name, reason)
        self._record(
            CartridgeClosed(time_ns=self._work.now_ns(), label_id=cartridge.label_id, reason=reason)
        )
        self._work.cut("cartridge closed")

    def _at_fault(self, drive: Drive, cartridge: Cartridge, error: MediaError) -> None:
        """It may be the cartridge, or the drive's dirty head: the next one will show."""
        log.warning("%s in %s failed: %s", cartridge.name, drive.name, error)
        now_ns, label_id = self._work.now_ns(), cartridge.label_id
        self._record(
            Faulted(time_ns=now_ns, label_id=label_id, drive=drive.number, what=str(error)),
            CartridgeClosed(time_ns=now_ns, label_id=label_id, reason=str(error)),
        )
        self._work.cut("cartridge closed")
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise MediaError(
                f"{self._failures} cartridges failed one after the other, the last one with:"
                f" {error}",
                "look at the drives; cdpfs tape status shows which cartridges it was",
            ) from error

    def _record(self, *events: AnyEvent) -> None:
        self._work.catalogue.append(*events)
