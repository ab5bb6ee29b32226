"""The replicator's process at work: the sender, and what tells it to look up.

Duty: watch the shared page, the settings, the network, the pipe to the daemon and the signals, and
write the status. One trio loop. `replicate` returns when it is told to end.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TypeAlias

import trio

from replicator.backlog import Backlog
from replicator.calendar import rate_text
from replicator.errors import BadSettings
from replicator.link import CONNECTIONS, Link, tls_context
from replicator.metered import transport
from replicator.outgoing import Outgoing
from replicator.pace import Bell, watch_network
from replicator.report import Report
from replicator.sender import FAST_BPS, Sender
from replicator.settings import ReplicaSettings, load_settings, settings_path
from replicator.status import ReplicaStatus, read_status, write_status
from replicator.throttle import Throttle
from store.consumer import told_to_end
from store.journal import Journal
from store.statepage import StatePage
from store.volume import Store, is_locked, take_lock

log = logging.getLogger(__name__)

LOOK_S = 0.05
"""New data is noticed after so long at the most."""
SETTINGS_S = 1.0
STATUS_S = 1.0
STATUS_ANYWAY_S = 20.0
"""The status is written this often though nothing has changed: a sign of life."""
STATUS_PAUSE_S = 0.05
"""The status is written at most this often."""

STILL_S = 10.0
"""A connection that has carried nothing for so long may be dead when the network changes."""

LOCK_NAME = "replicator.lock"
FileState: TypeAlias = tuple[int, int, int] | None


class Replicator:
    """Everything that replicates one store. `run` it once; `close` it afterwards."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Only one sends: two would do no harm, but everything twice.
        self._lock_fd = take_lock(store.root / LOCK_NAME)
        try:
            self._journal = Journal(store)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._page = StatePage(store.state_path)
        self._thread = trio.CapacityLimiter(1)
        self._report = Report()
        self._backlog = Backlog(self._journal, self._page)
        self._outgoing = Outgoing(store, self._journal)
        self._throttle = Throttle(self._tell_limit)
        self._sender = Sender(
            store,
            self._outgoing,
            self._backlog,
            self._report,
            self._open_link,
            self._thread,
            lambda: self._throttle.meter.carried_bps,
        )
        self._settings: ReplicaSettings | None = None
        self._credentials: list[FileState] = []
        self._conversation = trio.CancelScope()
        self._poked = Bell()
        self._resumed = Bell()

    def close(self) -> None:
        """Give everything back."""
        self._throttle.close()
        self._page.close()
        self._journal.close()
        os.close(self._lock_fd)

    async def run(self, line_fd: int = -1, until_caught_up: bool = False) -> None:
        """Replicate until told to end: by a signal, by the end of `line_fd`, by the settings.

        With `until_caught_up`, also when the vault has everything. Any byte on `line_fd` asks for
        a look at the settings.
        """
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(self._until_told, line_fd, scope)
            nursery.start_soon(watch_network, self._network_changed)
            nursery.start_soon(self._watch_page)
            nursery.start_soon(self._watch_settings)
            nursery.start_soon(self._write_status)
            nursery.start_soon(self._throttle.run)
            await self._follow_settings(until_caught_up)
            scope.cancel()
        self._say_goodbye()

    async def _follow_settings(self, until_caught_up: bool) -> None:
        """Send by the settings, and by others when they change; until they say not to."""
        while True:
            try:
                settings = await trio.to_thread.run_sync(load_settings, self._store.root)
            except BadSettings as error:
                self._report.failed("refused", error)
                await self._resumed.wait()
                continue
            if settings is None or not settings.enabled:
                log.info("replication is switched off")
                return
            if self._settings is None or settings.link != self._settings.link:
                await self._remember(settings)
            self._settings = settings
            self._throttle.follow(settings)
            self._credentials = _credentials(settings)
            self._conversation = trio.CancelScope()
            with self._conversation:
                await self._sender.run(settings, until_caught_up)
                return

    async def _remember(self, settings: ReplicaSettings) -> None:
        """Begin with what this vault is known to have, until it says more."""
        link = settings.link
        said = await trio.to_thread.run_sync(read_status, self._store.root)
        same = said is not None and (said.url, said.line) == (link.url, link.line)
        self._report.acked_lsn = said.acked_lsn if same and said is not None else 0
        self._report.introduced = None
        self._report.state = "connecting"
        await trio.to_thread.run_sync(
            self._backlog.begin, self._report.acked_lsn, limiter=self._thread
        )

    async def _watch_settings(self) -> None:
        before = _file_state(settings_path(self._store.root))
        while True:
            poked = await self._poked.wait(SETTINGS_S)
            if self._settings is not None and self._credentials != _credentials(self._settings):
                # A connection goes on with those that it was made with.
                log.info("the token or a certificate was changed")
                self._sender.retry.ring()
                self._conversation.cancel()
            now = _file_state(settings_path(self._store.root))
            if now != before or poked:
                before = now
                await self._reread()

    async def _reread(self) -> None:
        """Go on by the settings as they are now; the connection is kept if it is still right."""
        try:
            settings = await trio.to_thread.run_sync(load_settings, self._store.root)
        except BadSettings as error:
            log.info("the new settings are not used: %s", error)
            settings = None
        self._resumed.ring()
        self._sender.retry.ring()
        if settings is None or not _same_line(settings, self._settings):
            self._conversation.cancel()
        else:
            self._settings = settings
            self._throttle.follow(settings)
        self._report.changed.ring()

    def _network_changed(self) -> None:
        """Try at once; and give up a connection on which nothing moves.

        TCP asks again with pauses that grow to minutes, and does not hear that the line is back.
        """
        self._sender.retry.ring()
        if self._report.state == "sending" and self._report.still_s >= STILL_S:
            log.info("the network has changed while nothing moved: connecting anew")
            self._conversation.cancel()

    async def _watch_page(self) -> None:
        indexed = -1
        while True:
            self._backlog.note()
            if self._report.state == "idle" and self._outgoing.chooser.line_bps >= FAST_BPS:
                # The indexer commits more often for one who has everything else. On a thin line
                # that is not worth the headers of more shipments.
                self._page.awaited_ns = time.time_ns()
            now = self._page.indexed_lsn
            if now != indexed:
                indexed = now
                self._sender.news.ring()
            await trio.sleep(LOOK_S)

    async def _write_status(self) -> None:
        written: ReplicaStatus | None = None
        written_at = 0.0
        while True:
            await self._report.changed.wait(STATUS_S)
            meter = self._throttle.meter
            self._report.tick(meter.sent_bytes, meter.received_bytes)
            if self._backlog.indexed_lsn != self._page.indexed_lsn:
                await trio.to_thread.run_sync(self._backlog.look, limiter=self._thread)
            status = self._report.status(self._settings, self._backlog)
            if written is not None:
                written.time_ns = 0
            if status != written or trio.current_time() - written_at >= STATUS_ANYWAY_S:
                await trio.to_thread.run_sync(write_status, self._store.root, status)
                written, written_at = status, trio.current_time()
            await trio.sleep(STATUS_PAUSE_S)

    def _say_goodbye(self) -> None:
        status = self._report.status(self._settings, self._backlog)
        status.state = "down"
        write_status(self._store.root, status)

    async def _until_told(self, line_fd: int, scope: trio.CancelScope) -> None:
        await told_to_end(line_fd, self._poked.ring)
        scope.cancel()

    def _open_link(self, settings: ReplicaSettings) -> Link:
        tls = tls_context(settings.link)
        return Link.open(
            settings.link, transport(self._throttle.meter, tls, connections=CONNECTIONS)
        )

    def _tell_limit(self) -> None:
        standing = self._throttle.standing
        log.info("limit: %s (%s)", rate_text(standing.rate_bps), standing.reason)
        self._report.limit = standing
        self._report.changed.ring()


def _credentials(settings: ReplicaSettings) -> list[FileState]:
    """What tells whether one of the files that a connection begins with was changed."""
    link = settings.link
    names = (link.token_file, link.ca, link.client_cert, link.client_key, settings.seal.key_file)
    return [_file_state(Path(name)) for name in names if name]


def _file_state(path: Path) -> FileState:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def is_running(store: Store) -> bool:
    """Does some process replicate this store now?"""
    return is_locked(store.root / LOCK_NAME)


def _same_line(one: ReplicaSettings, other: ReplicaSettings | None) -> bool:
    """Can a connection that was made by one be used by the other?"""
    return (
        other is not None
        and one.enabled == other.enabled
        and (one.link, one.seal) == (other.link, other.seal)
    )
