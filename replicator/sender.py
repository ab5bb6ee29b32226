"""The site's end of replication: what is committed goes to the vault, in order, for ever.

Duty: connect, ask where the vault stands, plan, send, and again. Async (trio), one task, beside one
that builds the next shipment; the journal is read in a worker thread. Nothing but a cache is kept
on disk: where to go on is what the vault says.

How failures are met: a broken line or a busy vault is tried again for ever, with growing pauses; a
refusal is asked about again once a minute, and at once when the settings change; when the vault has
another history than ours, ours goes on in a line of its own (`forking`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import trio

from replicator.backlog import Backlog
from replicator.effort import TELLING_BYTES
from replicator.errors import (
    BadRequest,
    BadSettings,
    BadShipment,
    Forked,
    Gap,
    LinkDown,
    Refused,
    ReplicationError,
)
from replicator.forking import Forking, read_parting
from replicator.link import Link
from replicator.outgoing import Outgoing, Ready
from replicator.pace import Backoff, Bell
from replicator.plan import Fork, Lost, Resume, Send, UpToDate
from replicator.report import Report
from replicator.sealer import sealer_of
from replicator.settings import ReplicaSettings
from replicator.under_way import UnderWay
from replicator.wire import MAIN_LINE, Description, Hello, Position
from store.errors import BadKeyFile, StoreError
from store.holds import place_hold
from store.types import Lsn
from store.volume import Store

log = logging.getLogger(__name__)

FIRST_RECHECK_S, RECHECK_S = 0.5, 60.0
"""After a refusal or a fork the vault is asked again soon, and then ever more seldom."""

FAST_BPS = 1e6
"""From here on a line is fast: keeping it busy, and being close behind, is worth some bytes."""

HOLD_EVERY_S = 5.0
MAX_STRANGE = 3
"""So many answers in a row that do not fit count as a failure of the line."""

HOLD = "replica"
SEALED_DIRECTORY = "/sealed"
OpenLink: TypeAlias = Callable[[ReplicaSettings], Link]
Result = TypeVar("Result")


class _Ahead:
    """The next shipment, being built; `ready` stays None when there is too little for it."""

    def __init__(self, first_lsn: int) -> None:
        self.first_lsn = first_lsn
        self.done = trio.Event()
        self.ready: Ready | None = None


class Sender:
    """Keeps the vault up to date. Run `run` in a task; `report` says how it is.

    `thread` is the limiter, of 1, under which `outgoing` and `backlog` are worked on.
    """

    def __init__(
        self,
        store: Store,
        outgoing: Outgoing,
        backlog: Backlog,
        report: Report,
        open_link: OpenLink,
        thread: trio.CapacityLimiter,
        carried_bps: Callable[[], float],
    ) -> None:
        self._carried_bps = carried_bps
        self._store = store
        self._outgoing = outgoing
        self._backlog = backlog
        self._report = report
        self._open_link = open_link
        self._thread = thread
        self._sizer = report.sizer
        self._forking = Forking(store, outgoing, thread)
        report.parted = read_parting(store.root)
        self.news = Bell()
        """Rung when something was indexed."""
        self.retry = Bell()
        """Rung when trying again at once may help: other settings, another network."""
        self._backoff = Backoff()
        self._ahead: _Ahead | None = None
        self._under_way = UnderWay(store.uuid, report.sent, self._shipped, self._following)
        self._builder = trio.CapacityLimiter(1)
        self._held_at, self._held_lsn = float("-inf"), -1
        self._strange = 0
        self._refusals = 0

    async def run(self, settings: ReplicaSettings, until_caught_up: bool = False) -> None:
        """Send by these settings until cancelled, or until the vault has everything.

        With `until_caught_up`, what only a person can mend is raised, and not waited for.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                pause_s = await self._try(settings, until_caught_up)
                if pause_s is None:
                    nursery.cancel_scope.cancel()
                    return
                if await self.retry.wait(pause_s):
                    self._backoff.reset()

    async def _try(self, settings: ReplicaSettings, until_caught_up: bool) -> float | None:
        """One connection to its end; how long to wait before the next. None: caught up."""
        try:
            sealer = sealer_of(settings, self._store.uuid)
            await self._in_thread(self._outgoing.use_sealer, sealer)
            link = await trio.to_thread.run_sync(self._open_link, settings)
            async with link:
                try:
                    await self._converse(link, settings, until_caught_up)
                finally:
                    await self._under_way.drop()
            return None
        except (Forked, Refused, BadRequest, BadSettings, BadKeyFile) as error:
            self._report.introduced = None
            return self._refused(error, until_caught_up)
        except ReplicationError as error:
            self._report.failed("waiting", error)
        except StoreError as error:
            log.warning("the journal can't be read: %s", error)
            self._report.failed("waiting", error)
            return RECHECK_S
        self._refusals = 0
        return self._backoff.next_s()

    def _refused(self, error: ReplicationError | BadKeyFile, until_caught_up: bool) -> float:
        """How long to wait after a refusal. The first may be that of a damaged request."""
        self._refusals += 1
        if self._refusals == 1 and not isinstance(error, Forked):
            self._report.failed("waiting", error)
        elif until_caught_up:
            raise error
        else:
            self._report.failed("forked" if isinstance(error, Forked) else "refused", error)
        return min(FIRST_RECHECK_S * 4.0 ** min(self._refusals - 1, 8), RECHECK_S)

    async def _converse(self, link: Link, settings: ReplicaSettings, until_caught_up: bool) -> None:
        """Speak to the vault until it has everything (and for ever, if not `until_caught_up`)."""
        position = await self._begin(link, settings)
        await self._take(position, self._backlog.begin)
        while True:
            try:
                newer = await self._step(link, settings, position)
            except (Gap, BadShipment) as error:
                # It expects something else, or what arrived was damaged on the way.
                await self._doubt(error)
                newer = await link.position(self._store.uuid, settings.link.line)
            if newer is None:
                if until_caught_up:
                    return
                self._report.state = "idle"
                await self.news.wait()
                continue
            position = newer
            await self._take(position, self._backlog.acknowledge)

    async def _begin(self, link: Link, settings: ReplicaSettings) -> Position:
        """Introduce ourselves; where the vault stands."""
        line = settings.link.line
        if self._report.introduced == (settings.link.url, line):
            return await link.position(self._store.uuid, line)
        hello, position = await describe_volume(link, self._store, settings)
        self._report.met(hello)
        self._report.introduced = (settings.link.url, line)
        return position

    async def _doubt(self, error: ReplicationError) -> None:
        log.info("the vault does not take what was sent: %s", error)
        await self._under_way.drop()
        self._strange += 1
        if isinstance(error, BadShipment):
            self._outgoing.chooser.refused()
            self._ahead = None
            await self._in_thread(self._outgoing.drop)
        if self._strange >= MAX_STRANGE:
            self._strange = 0
            raise LinkDown(str(error), error.hint) from error

    async def _take(self, position: Position, count: Callable[[int], None]) -> None:
        """Note what the vault has said it holds, and `count` what waits; not of another history:
        who waits for the vault to have ours must not hear of it."""
        partial = position.partial
        self._backoff.reached(position.next_lsn, partial.received_bytes if partial else 0)
        if await self._in_thread(self._outgoing.is_foreign, position):
            return
        await self._in_thread(count, position.next_lsn - 1)
        self._report.acknowledged(position)

    # --- one step --------------------------------------------------------------------------------

    async def _step(
        self, link: Link, settings: ReplicaSettings, position: Position
    ) -> Position | None:
        """Do what is next; the vault's new position, None when there is nothing to do."""
        limit_s = settings.policy.fold_after_s
        self._outgoing.folding = 0 < limit_s < self._backlog.lag_s()
        step = await self._in_thread(self._outgoing.next_step, position)
        if isinstance(step, UpToDate):
            self._strange = self._refusals = 0
            await self._settle(position.next_lsn - 1, idle=True)
            return None
        if isinstance(step, Fork):
            return await self._part(link, settings, step)
        if isinstance(step, Lost):
            raise Refused(
                f"the vault expects LSN {step.next_lsn}, the journal begins at {step.first_lsn}",
                "bring the beginning there by disk: cdpfs replicate export",
            )
        start = 0
        if isinstance(step, Resume):
            ready = self._outgoing.current()
            start = step.start
        else:
            ready = await self._make(step)
        newer = await self._ship(link, settings.link.line, ready, start)
        if newer.next_lsn <= position.next_lsn and newer.partial == position.partial:
            raise Gap("the vault took a shipment and holds no more than before")
        self._strange = self._refusals = 0
        await self._settle(newer.next_lsn - 1, idle=False)
        return newer

    async def _part(self, link: Link, settings: ReplicaSettings, step: Fork) -> Position:
        """Go on with a line of our own; where it stands."""
        log.info("%s", _fork_text(step))
        self._report.parted = await self._forking.part(link, settings, step)
        self._report.introduced = settings.link.url, settings.link.line
        await self._in_thread(self._outgoing.drop)
        return await link.position(self._store.uuid, settings.link.line)

    async def _make(self, step: Send) -> Ready:
        """The shipment that begins with `step`, from what was built ahead or made now."""
        ahead, self._ahead = self._ahead, None
        ready = None
        if ahead is not None:
            await ahead.done.wait()
            if ahead.first_lsn == step.first_lsn:
                ready = ahead.ready
            if ready is not None and not self._outgoing.suits(ready):
                ready = None  # the settings have changed since
        if ready is None:
            ready = await trio.to_thread.run_sync(
                self._outgoing.build,
                step.first_lsn,
                self._raw_bytes(),
                limiter=self._builder,
            )
        self._sizer.learn(ready)
        await self._in_thread(self._outgoing.keep, ready)
        return ready

    def _raw_bytes(self) -> int:
        """How much the next shipment is to hold, by what the line carried when it was last used."""
        chooser = self._outgoing.chooser
        chooser.limit_bps = self._report.limit.rate_bps
        return self._sizer.raw_bytes(chooser.line_bps)

    async def _ship(self, link: Link, line: str, ready: Ready, start: int) -> Position:
        self._report.state = "sending"
        if self._ahead is None:
            self._ahead = _Ahead(ready.kept.last_lsn + 1)
            self._nursery.start_soon(self._build_ahead, self._ahead)
        return await self._under_way.ship(self._nursery, link, line, ready, start)

    async def _following(self, ready: Ready) -> Ready | None:
        """What comes after `ready`, if it is worth a second connection."""
        ahead = self._ahead
        if self._outgoing.chooser.line_bps < FAST_BPS or ahead is None:
            return None
        await ahead.done.wait()
        following = ahead.ready
        if following is None or following.kept.first_lsn != ready.kept.last_lsn + 1:
            return None
        return following if self._outgoing.suits(following) else None

    def _shipped(self, wire_bytes: int, took_s: float) -> None:
        self._outgoing.chooser.shipped(wire_bytes, self._line_s(wire_bytes, took_s))

    def _line_s(self, wire_bytes: int, took_s: float) -> float:
        """How long so many bytes took the line, which is not how long the vault took to answer.

        The kernel's measure is of the line alone. Of a few bytes it says as little as the clock.
        """
        carried_bps = self._carried_bps()
        if wire_bytes < TELLING_BYTES or not carried_bps:
            return took_s
        return min(took_s, wire_bytes * 8 / carried_bps)

    async def _build_ahead(self, ahead: _Ahead) -> None:
        """Make the next shipment while this one is on its way, if there is enough for a full one.

        Otherwise it is made when it is its turn, of what there is then.
        """
        size = self._raw_bytes()
        try:
            ahead.ready = await trio.to_thread.run_sync(
                self._outgoing.build_full, ahead.first_lsn, size, limiter=self._builder
            )
        except StoreError as error:
            log.info("the next shipment could not be built ahead: %s", error)
        finally:
            ahead.done.set()

    async def _settle(self, acked_lsn: int, idle: bool) -> None:
        """Let go of what the vault has; place the hold, not too often."""
        now = trio.current_time()
        due = now - self._held_at >= HOLD_EVERY_S or idle
        if due:
            self._held_at = now
        await self._in_thread(self._settle_now, acked_lsn, due)

    def _settle_now(self, acked_lsn: int, due: bool) -> None:
        kept = self._outgoing.kept
        if kept is not None and kept.last_lsn <= acked_lsn:
            self._outgoing.drop()
        if due and acked_lsn != self._held_lsn:
            place_hold(self._store.root, HOLD, Lsn(acked_lsn))
            self._held_lsn = acked_lsn

    async def _in_thread(self, work: Callable[..., Result], *args: object) -> Result:
        return await trio.to_thread.run_sync(work, *args, limiter=self._thread)


async def describe_volume(
    link: Link, store: Store, settings: ReplicaSettings
) -> tuple[Hello, Position]:
    """Introduce the volume to its vault: who that is, and what it holds of the line."""
    hello = await link.hello()
    if settings.link.line != MAIN_LINE:
        # The volume is that of the machine which writes its main line, and so are its words.
        return hello, await link.position(store.uuid, settings.link.line)
    return hello, await link.describe(store.uuid, description_of(store, settings))


def description_of(store: Store, settings: ReplicaSettings | None) -> Description:
    """What the vault is told of the volume."""
    config = store.config
    sealed = settings is not None and bool(settings.seal.key_file)
    return Description(
        name=config.name,
        # Of a sealed volume the vault needs to know no path.
        directory=SEALED_DIRECTORY if sealed else config.directory,
        created_ns=config.created_ns,
        quiet_s=config.quiet_s,
        point_limit_s=config.point_limit_s,
        sealed=sealed,
    )


def _fork_text(step: Fork) -> str:
    if step.ahead:
        return f"the vault holds LSN {step.held_lsn}, which this volume has never had"
    return f"the vault holds another history than this volume at LSN {step.held_lsn}"
