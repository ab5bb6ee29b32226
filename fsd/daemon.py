"""The daemon of one volume: from the store's lock to the mount, and back in order.

Duty: the order of things at the beginning (lock, intake log, indexer, recovery, external changes,
mount) and at the end (unmount, times, checkpoint, CLEAN, indexer, lock). One trio loop.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pyfuse3
import trio

from fsd.arrival import Arrival
from fsd.backing_note import BackingNote
from fsd.control import Control
from fsd.errors import FsdError
from fsd.external import ExternalChanges
from fsd.handshake import Handshake
from fsd.housekeeping import Housekeeper, syncfs
from fsd.mountpoint import (
    check_directory,
    check_fuse,
    check_mount_point,
    check_reserved,
    mount_options,
    mounts,
)
from fsd.opening import check_settings, end_of_log, indexed_lsn
from fsd.operations import Operations
from fsd.power_cut import PowerCut
from fsd.present import LivePresent
from fsd.readiness import install as install_readiness
from fsd.recovery import Recovery
from fsd.resync import CLOCK_SLACK_NS
from fsd.session import Session, boot_of
from fsd.snapshots import Snapshots
from fsd.starter import Starter, begin_process, describe_error, first_of
from fsd.supervisor import Supervisor
from fsd.touched import Before, look_back, undisturbed_since
from fsd.unmount import unmount
from store.barriers import describe
from store.errors import StoreError, StoreFault, StoreFull, TemporaryStoreError
from store.format import FEATURE_GAPS, Kind
from store.intake import Intake
from store.journal import Journal, OpMeta
from store.ops import Gap
from store.relocation import read_relocation, refuse_short, refuse_unfinished
from store.statepage import StatePage
from store.types import ROOT, Lsn, TimeNs
from store.volume import Store
from timetravel.errors import TimetravelError

log = logging.getLogger("fsd")

SWITCH_S = 0.0005
"""A thread that reads the past lets go of the interpreter this soon when a request waits."""

SEED_AGAIN_S = 10.0
"""So long after an error of the backing disk the initial backup is tried again."""

DAEMON_ENDED = "the daemon ended while the store could not be written"
STORE_LOST = "the store was lost, and its replica ends there"

CRASH_SLACK_NS = 200_000_000
"""A busy daemon notes that it is alive so much too late at the most."""

ALIVE_SLACK_NS = 60_000_000_000
"""As `CRASH_SLACK_NS`, of the note on disk: it gets there with checkpoints, or when it must."""


def main() -> None:
    """Run the daemon; exits 0 after an unmount, 1 when it could not start or had to give up."""
    parser = argparse.ArgumentParser(prog="python -m fsd", description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--ready-fd", type=int, default=-1)
    options = parser.parse_args()
    starter = begin_process(options.ready_fd)
    if options.ready_fd >= 0:
        os.set_inheritable(options.ready_fd, False)
    try:
        _prepare_process()
        trio.run(_run, options.store, starter)
    except* (FsdError, StoreError, TimetravelError, OSError) as group:
        error = first_of(group)
        log.error("%s; %s", error, getattr(error, "hint", ""), exc_info=error)
        starter.say({"ok": False, "error": describe_error(error)})
        sys.exit(1)


def _prepare_process() -> None:
    """No umask of the caller's, enough descriptors, and requests before threads."""
    os.umask(0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(SWITCH_S)


async def _run(root: Path, starter: Starter) -> None:
    store = Store.open(root)
    lock = store.lock()
    try:
        await _serve(store, starter)
    finally:
        os.close(lock)


async def _serve(store: Store, starter: Starter) -> None:
    directory, mount_point = store.config.directory, store.config.mount_point
    check_directory(directory)
    check_mount_point(directory, mount_point)
    check_fuse()
    root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    check_reserved(root_fd)
    check_settings(store)
    # All of this only looks: what is refused here has not been touched.
    indexed = await trio.to_thread.run_sync(indexed_lsn, store)
    refuse_unfinished(store)
    end = await trio.to_thread.run_sync(end_of_log, store, indexed)
    refuse_short(store, max(indexed, end.lsn))
    page = StatePage(store.state_path)
    page.reset()
    page.fsd_pid = os.getpid()
    supervisor = Supervisor(store, page)
    async with trio.open_nursery() as nursery:
        page.appended_lsn = page.applied_lsn = end.lsn
        await nursery.start(supervisor.run)
        await supervisor.wait_ready(end.lsn)
        journal = Journal(store)
        with journal.snapshot() as snapshot:
            indexed = snapshot.indexed_lsn
            last = snapshot.last()
            before = look_back(journal, snapshot, indexed)
        in_order = last is not None and last.kind == Kind.CLEAN and last.lsn == end.lsn
        power_cut = not in_order and before.boot != boot_of(root_fd, store.root)
        intake = Intake.open(store, end, indexed, power_cut=power_cut)
        if last is not None and last.time_ns > intake.time_ns:
            intake.time_ns = TimeNs(last.time_ns)
        session = Session(store, page, intake, journal, supervisor, root_fd)
        keeper = Housekeeper(session)
        await _begin(session, indexed, starter, keeper, log_lost=end.ring is None)
        try:
            await _mounted(session, mount_point, starter, keeper)
        finally:
            with trio.CancelScope(shield=True):
                await _finish(session, keeper)
        nursery.cancel_scope.cancel()


async def _begin(
    session: Session, end: Lsn, starter: Starter, keeper: Housekeeper, log_lost: bool
) -> None:
    """Start the session in the log: a first one, or one that goes on after an earlier."""
    payload = _describe_session(session)
    adopter = session.adopter
    gap_ns = session.page.gap_ns or BackingNote(session.root_fd).read()
    with session.journal.snapshot() as snapshot:
        known = snapshot.state(ROOT, end) is not None
    if not known:
        # Its base content is to outlive a power cut, whoever wrote it just now.
        await trio.to_thread.run_sync(syncfs, session.root_fd)
        adopter.protected_ns = time.time_ns()
        # LSN 1 also when an earlier start ended before it had adopted the root.
        session.intake.append(Kind.MOUNT, 0, 0, payload)
        adopter.since = adopter.first = Lsn(1)
        root = session.nodes.root
        adopter.log_adoption(ROOT, None, b"", os.fstat(root.fd), adopter.since)
        session.names.used_node(ROOT)
        return
    with session.journal.snapshot() as snapshot:
        first, last = snapshot.first(), snapshot.last()
        before = look_back(session.journal, snapshot, end)
        ended_ns = undisturbed_since(snapshot, end)
    assert first is not None
    assert last is not None
    crash_ns = 0 if ended_ns else _crash_ns(session, before)
    recovered = read_relocation(session.store)
    if recovered is not None:
        # The tree is the recovery's, or outlived its store: there is nothing to take back.
        gap_ns = recovered.ended_ns if recovered.kept else 0
        if gap_ns:
            await trio.to_thread.run_sync(session.intake.start_anew, FEATURE_GAPS)
    elif last.kind == Kind.CLEAN:
        gap_ns = 0
    elif gap_ns:
        # What was changed in the gap is in the tree alone: nothing in it may be taken back. What
        # was logged before the gap is in it as well, on disk.
        log.warning("the last session ended while changes were not logged; they are looked for")
        await trio.to_thread.run_sync(session.intake.start_anew, FEATURE_GAPS)
    elif log_lost:
        # The tree may well be ahead of the journal: nothing in it may be taken back.
        log.warning("the intake log is missing; what it alone held counts as external changes")
    else:
        starter.say({"progress": {"phase": "recovery", "ops": end - before.checkpoint}})
        await trio.to_thread.run_sync(_recover, session, end, before)
    _know_the_beginning(session, first)
    adopter.since = session.intake.append(Kind.MOUNT, 0, 0, payload)
    search: ExternalChanges
    if gap_ns:
        _log_gap(session, gap_ns, DAEMON_ENDED if recovered is None else STORE_LOST)
    if recovered is not None:
        search = Arrival(session, end, recovered, starter.seen)
    elif gap_ns:
        search = ExternalChanges(session, end, _doubtful_ns(gap_ns), True, starter.seen, True)
    else:
        search = ExternalChanges(session, end, ended_ns or crash_ns, bool(ended_ns), starter.seen)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await search.run()
        nursery.cancel_scope.cancel()
    if search.found:
        await trio.to_thread.run_sync(syncfs, session.root_fd)
        log.info("%d external changes found and logged", search.found)
    if gap_ns:
        await session.flusher.durable(session.intake.lsn)
        session.page.gap_ns = 0
        BackingNote(session.root_fd).remove()


def _know_the_beginning(session: Session, first: OpMeta) -> None:
    """Since when the tree was protected here; on another machine nothing was there before."""
    foreign = session.store.config.foreign_lsn
    session.adopter.protected_ns = 0 if foreign else first.time_ns
    session.adopter.first = Lsn(max(first.lsn, foreign + 1))


def _log_gap(session: Session, since_ns: int, why: str) -> None:
    gap = Gap(time.time_ns(), why, True)
    session.intake.append(Kind.GAP, 0, since_ns, gap.encode())


def _describe_session(session: Session) -> bytes:
    """The payload of MOUNT."""
    said = {"version": 1, "boot": session.boot, "time_ns": time.time_ns()}
    return json.dumps({**said, "barriers": describe(session.store.barrier_settings)}).encode()


def _crash_ns(session: Session, before: Before) -> int:
    """When the daemon died; 0 when the whole machine went down, or nobody knows."""
    if before.boot != session.boot or not session.page.alive_ns:
        return 0
    return session.page.alive_ns + CRASH_SLACK_NS


def _doubtful_ns(gap_ns: int) -> int:
    """Files whose inodes changed after this are compared byte by byte: all, if the clock went back
    behind the beginning of the gap since then."""
    return max(gap_ns - CLOCK_SLACK_NS, 1) if gap_ns <= time.time_ns() else 1


def _power_cut_ns(session: Session, before: Before) -> int:
    """When the machine had gone down for certain, as far as can be told.

    Not after it came up again; and not long after the last time that fsd noted on disk.
    """
    same_boot = before.boot.split(" ")[0] == session.boot.split(" ")[0]
    up_ns = 0 if same_boot else time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    alive_ns = session.page.alive_ns
    latest_ns = time.time_ns() - up_ns
    return min(latest_ns, alive_ns + ALIVE_SLACK_NS) if alive_ns else latest_ns


def _recover(session: Session, end: Lsn, before: Before) -> None:
    crash_ns = _crash_ns(session, before)
    what = (session.journal, session.root_fd, end, session.page)
    if crash_ns and not session.page.recovering_ns:
        recovery = Recovery(*what)
        recovery.run(before.checkpoint, crash_ns)
        repairs = recovery.repairs
    else:
        power_cut = PowerCut(*what)
        power_cut.run(before.checkpoint, _power_cut_ns(session, before))
        syncfs(session.root_fd)
        power_cut.finish()
        repairs = power_cut.repairs
    log.info("recovery from LSN %d to %d: %d repairs", before.checkpoint, end, len(repairs))
    for repair in repairs[:100]:
        log.info("repaired: %s", repair)


async def _mounted(
    session: Session, mount_point: str, starter: Starter, keeper: Housekeeper
) -> None:
    """Mount, serve until unmounted or told to stop."""
    snapshots = Snapshots(LivePresent(session))
    options = mount_options(session.store.config.name)
    readiness = install_readiness()
    session.flusher.others_wait = readiness.pending
    handshake = Handshake(mount_point, options, readiness)
    try:
        pyfuse3.init(Operations(session, snapshots, handshake), handshake.device, set())
        _calm_collector()
        control = Control(session, snapshots)
        async with trio.open_nursery() as nursery:
            snapshots.start_soon = nursery.start_soon
            nursery.start_soon(keeper.run)
            await nursery.start(control.run)
            nursery.start_soon(_seed, session)
            nursery.start_soon(session.consumers.run)
            nursery.start_soon(_stop_on_signal)
            nursery.start_soon(_announce, session, mount_point, starter)
            session.serving = True
            session.publish()
            await trio.to_thread.run_sync(session.page.flush)
            await pyfuse3.main(min_tasks=4)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            pyfuse3.close(unmount=False)
            await _leave(mount_point)


async def _announce(session: Session, mount_point: str, starter: Starter) -> None:
    """Tell the starter as soon as the mount answers."""
    await trio.to_thread.run_sync(os.stat, mount_point)
    log.info("mounted at %s, store %s", mount_point, session.store.root)
    starter.say({"ok": True, "pid": os.getpid(), "lsn": session.intake.lsn})
    starter.finish()


async def _seed(session: Session) -> None:
    session.seeder.rate_bytes_s = session.store.config.seed_rate_bytes_s
    while True:
        try:
            await session.seeder.run()
        except TemporaryStoreError as error:
            if isinstance(error, StoreFull | StoreFault):
                session.protection.suspend_for(error)
            await session.wait_for_room()
        except OSError as error:
            log.error("the initial backup is interrupted, and tried again: %s", error)
            await trio.sleep(SEED_AGAIN_S)
        except StoreError:
            log.exception("seeding stopped; it goes on at the next mount")
            return
        else:
            return


async def _stop_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("told to stop by signal %d", number)
            pyfuse3.terminate()
            return


async def _leave(mount_point: str) -> None:
    """Take away what is still mounted there of ours (after a signal; lazily if in use)."""
    if any(place == mount_point and kind == "fuse.cdpfs" for place, kind in mounts()):
        try:
            await unmount(mount_point, lazily=True)
        except FsdError as error:
            log.error("%s", error)


async def _finish(session: Session, keeper: Housekeeper) -> None:
    """End in order: everything applied, on disk, indexed, and said so.

    An indexer that gets no further is not waited for: the intake log holds what is not indexed.
    """
    session.serving = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await keeper.checkpoint()
        if session.protection.is_suspended():
            log.warning("the session ends while changes are not logged; the next mount finds them")
        elif await _has_room_at_last(session):
            # The clock's time, not the log's: it is compared with the ctimes of files.
            lsn = session.intake.append(Kind.CLEAN, 0, time.time_ns())
            await session.flusher.durable(lsn)
            wait = session.supervisor.wait_indexed_or_give_up
            if not await wait(lsn, session.publish):
                log.warning("the journal ends before LSN %d; it goes on at the next mount", lsn)
        nursery.cancel_scope.cancel()
    await session.supervisor.stop()
    session.names.close()
    session.journal.close()
    session.intake.close()
    session.store.socket_path.unlink(missing_ok=True)
    log.info("ended in order at LSN %d", session.intake.lsn)


async def _has_room_at_last(session: Session) -> bool:
    """Wait for room in the log while there is hope; without CLEAN the next mount recovers."""
    while not (session.intake.has_room() or session.intake.has_little_room()):
        before = session.page.indexed_lsn
        with trio.move_on_after(session.supervisor.patience_s):
            await session.wait_for_room()
        if not session.intake.has_room() and session.page.indexed_lsn == before:
            log.warning("the intake log is full; the session ends without its closing op")
            return False
    return True


def _calm_collector() -> None:
    """Full collections would stall requests; what stays for ever needs none.

    Young objects are looked at in small numbers: 50,000 at a time took up to 130 ms while a large
    tree was listed, and let garbage with megabytes of content pile up.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 5, 1_000)
