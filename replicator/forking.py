"""The vault has another history than this volume: find where they part, and get a line of its own.

Duty: what the sender does then. Nothing that anybody wrote is given up: the vault's line stays as
it is, and what this machine has that is not in it goes to a new line, from the last batch that both
have. It is noted in the store, and `replica.toml` names the new line from then on. Async (trio).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from replicator.errors import Forked, Gap
from replicator.link import Link
from replicator.outgoing import Outgoing
from replicator.parting import CommonSearch, line_name
from replicator.plan import BatchEnd, Fork
from replicator.settings import ReplicaSettings, load_settings, save_settings
from replicator.status import Parted
from replicator.wire import Common, Mark, NewLine, Position
from store import durable
from store.batch import NO_DIGEST
from store.volume import Store

log = logging.getLogger(__name__)

NOTE_NAME = "parted.json"
NOTHING_COMMON = Common(lsn=0)
Result = TypeVar("Result")


class Forking:
    """How one sender meets another history. `thread`: the limiter for reading the journal."""

    def __init__(self, store: Store, outgoing: Outgoing, thread: trio.CapacityLimiter) -> None:
        self._store = store
        self._outgoing = outgoing
        self._thread = thread

    async def part(self, link: Link, settings: ReplicaSettings, step: Fork) -> Parted:
        """Have the vault make a line, and name it in the settings, on disk and in `settings`.

        Gap when it comes out that the vault's history is a beginning of ours after all: an answer
        had been damaged. Forked when the journal no longer has what both histories share.
        """
        line = settings.link.line
        sealed = bool(settings.seal.key_file)
        common = await self._common(link, line, step.held_lsn, sealed)
        if await self._common(link, line, step.held_lsn, sealed) != common:
            raise Gap("the vault gave two different answers to one question")
        position = await link.position(self._store.uuid, line)
        lsn = common.last_lsn if common is not None else 0
        digest = common.digest if common is not None else NO_DIGEST
        if (position.next_lsn - 1, position.digest) == (lsn, digest.hex()):
            raise Gap("the vault's history is a beginning of ours")
        made = await self._own_line(link, line, lsn)
        if made is None:
            made = (await self._new_line(link, line, lsn, digest)).line
        time_ns = await self._in_thread(self._outgoing.time_of, lsn)
        parted = Parted(lsn=lsn, time_ns=time_ns, kept=line, line=made, parted_ns=time.time_ns())
        await self._in_thread(self._note, settings, parted)
        log.warning("%s", parting_text(parted))
        return parted

    async def _own_line(self, link: Link, line: str, lsn: int) -> str | None:
        """A line that was made for this history before: it has more of it than `line`, whose end
        that both have is `lsn`. (The settings may have been put back.)"""
        best, longest = None, lsn
        for each in (await link.lines(self._store.uuid)).lines:
            if each.line == line or each.next_lsn - 1 <= longest:
                continue
            position = await link.position(self._store.uuid, each.line)
            if await self._in_thread(self._outgoing.has_end, position):
                best, longest = each.line, position.next_lsn - 1
        return best

    async def _new_line(self, link: Link, line: str, lsn: int, digest: bytes) -> Position:
        day = time.strftime("%Y%m%d", time.gmtime())
        name = line_name(lsn, day)
        wanted = NewLine(parent=line, lsn=lsn, digest=digest.hex(), name=name)
        return await link.new_line(self._store.uuid, wanted)

    async def _common(self, link: Link, line: str, held_lsn: int, sealed: bool) -> BatchEnd | None:
        """The newest batch that both have. Forked when that can't be told any more.

        Of a sealed volume: the newest one that ends a shipment at the vault.
        """
        search = await self._in_thread(self._outgoing.common_search, held_lsn)
        while True:
            if sealed:
                ends = await self._ends(link, line, search)
                asked = await self._in_thread(search.question_at, ends)
            else:
                ends, asked = [], await self._in_thread(search.question)
            if not asked and not ends:
                break
            marks = [Mark(lsn=batch.last_lsn, digest=batch.digest.hex()) for batch in asked]
            answer = await link.common(self._store.uuid, line, marks) if marks else NOTHING_COMMON
            search.answer(answer.lsn)
        if search.common is None and search.first_lsn > 1:
            raise Forked(
                f"the vault has another history, and what both share is older than LSN "
                f"{search.first_lsn}, where this journal begins",
                "both are kept where they are. To keep this one at the vault, too, send it as a "
                "volume of its own, or bring it there by disk: cdpfs replicate export",
            )
        return search.common

    async def _ends(self, link: Link, line: str, search: CommonSearch) -> list[int]:
        """Where shipments end in the part of a sealed line that is searched; none: it is over."""
        after, upto = search.between
        told = await link.sealed_ends(self._store.uuid, line, after, upto)
        return [end for end in told.ends if after < end <= upto]

    def _note(self, settings: ReplicaSettings, parted: Parted) -> None:
        """For people, then for the sender: the settings decide."""
        durable.write_file_atomically(self._store.root / NOTE_NAME, msgspec.json.encode(parted))
        newest = load_settings(self._store.root)
        if newest is not None and newest.link == settings.link:
            newest.link.line = parted.line
            save_settings(self._store.root, newest)
        settings.link.line = parted.line

    async def _in_thread(self, work: Callable[..., Result], *args: object) -> Result:
        return await trio.to_thread.run_sync(work, *args, limiter=self._thread)


def read_parting(store_root: Path) -> Parted | None:
    """Where this volume's history parted last, if it did and can be read."""
    try:
        return msgspec.json.decode((store_root / NOTE_NAME).read_bytes(), type=Parted)
    except (OSError, msgspec.MsgspecError):
        return None


def parting_text(parted: Parted) -> str:
    """What to tell people."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(parted.time_ns // 10**9))
    shared = f"after LSN {parted.lsn} ({when})" if parted.lsn else "at the very beginning"
    return (
        f"history parted {shared}: another machine has written to line {parted.kept} under this "
        f"volume's name; what this machine writes is line {parted.line}, and both are kept"
    )
