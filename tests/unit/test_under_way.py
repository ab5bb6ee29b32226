"""Two shipments under way: the second goes out while the vault takes in the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio.testing

from replicator.errors import Gap, ReplicationError, VaultBusy
from replicator.link import Link
from replicator.outgoing import Outgoing, Ready
from replicator.settings import LinkSettings
from replicator.under_way import UnderWay
from replicator.vault.reading_ahead import read_ahead
from replicator.vault.root import VaultRoot
from replicator.vault.sites import Sites
from store.journal import Journal
from store.volume import Store
from tests.unit.shipping import BRANCH, all_batches, make_history, same_history
from tests.unit.vault_server import VaultServer


class Site(NamedTuple):
    store: Store
    ready: list[Ready]
    """All of its history, a batch in each."""
    replica: Store
    link: LinkSettings


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store = make_history(tmp_path / "site")
    root = VaultRoot.create(tmp_path / "vault")
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(Sites(root.sites_dir).add("branch", "site"))
    root.create_volume("branch", store.config.uuid, BRANCH)
    replica = root.store(store.config.uuid)
    with Journal(store) as journal:
        outgoing = Outgoing(store, journal)
        ready = [outgoing.build(batch.ops[0].lsn, 0) for batch in all_batches(store)]
    with VaultServer(tmp_path / "vault") as server:
        yield Site(store, ready, replica, LinkSettings(url=server.url, token_file=str(token)))


class Sending:
    """What is sent, and how."""

    def __init__(self, site: Site) -> None:
        self.sent_bytes = 0
        self.following = 0
        self._by_first = {ready.kept.first_lsn: ready for ready in site.ready}
        self.under_way = UnderWay(site.store.uuid, self._sent, lambda size, took: None, self._next)

    def _sent(self, count: int) -> None:
        self.sent_bytes += count

    async def _next(self, ready: Ready) -> Ready | None:
        found = self._by_first.get(ready.kept.last_lsn + 1)
        self.following += found is not None
        return found


async def test_everything_arrives_once_and_in_order(site: Site) -> None:
    sending = Sending(site)
    async with Link.open(site.link) as link, trio.open_nursery() as nursery:
        for ready in site.ready:
            position = await sending.under_way.ship(nursery, link, "main", ready, 0)
            assert position.next_lsn > ready.kept.last_lsn
        await sending.under_way.drop()
    assert sending.following >= len(site.ready) - 1
    assert sending.sent_bytes == sum(len(ready.data) for ready in site.ready)
    same_history(site.store, site.replica)


@pytest.mark.expects_warnings
async def test_what_follows_a_damaged_shipment_is_refused_and_nothing_is_lost(site: Site) -> None:
    sending = Sending(site)
    first, second = site.ready[:2]
    damaged = first._replace(data=first.data[:-1] + bytes([first.data[-1] ^ 1]))
    async with Link.open(site.link) as link, trio.open_nursery() as nursery:
        with pytest.raises(ReplicationError):
            await sending.under_way.ship(nursery, link, "main", damaged, 0)
        with pytest.raises(Gap):
            await sending.under_way.ship(nursery, link, "main", second, 0)
        await sending.under_way.drop()
        assert (await link.position(site.store.uuid, "main")).next_lsn == 1
        for ready in site.ready:
            await sending.under_way.ship(nursery, link, "main", ready, 0)
        await sending.under_way.drop()
    same_history(site.store, site.replica)


async def test_a_shipment_that_follows_itself_or_nothing_is_sent_away(site: Site) -> None:
    uuid, first = site.store.uuid, site.ready[0]
    name = first.kept.shipment
    async with Link.open(site.link) as link:
        with pytest.raises(VaultBusy):
            await link.ship(uuid, "main", name, first.data, 0, lambda at: None, after=name)
        with pytest.raises(Gap):
            await link.ship(uuid, "main", name, first.data, 0, lambda at: None, after="ab" * 16)
        assert (await link.position(uuid, "main")).partial is None
        await link.ship(uuid, "main", name, first.data, 0, lambda at: None)


async def test_dropping_what_follows_leaves_a_line_that_goes_on(site: Site) -> None:
    sending = Sending(site)
    async with Link.open(site.link) as link, trio.open_nursery() as nursery:
        for ready in site.ready:
            while (position := await link.position(site.store.uuid, "main")).next_lsn <= (
                ready.kept.last_lsn
            ):
                partial = position.partial
                same = partial is not None and partial.shipment == ready.kept.shipment
                start = partial.received_bytes if same and partial is not None else 0
                # A gap: more of what was dropped has arrived since then.
                with contextlib.suppress(Gap):
                    await sending.under_way.ship(nursery, link, "main", ready, start)
            await sending.under_way.drop()
    same_history(site.store, site.replica)


async def _pieces(count: int, error: Exception | None) -> list[bytes]:
    async def made():  # type: ignore[no-untyped-def]
        for number in range(count):
            yield b"%d" % number
        if error is not None:
            raise error

    async with read_ahead(made()) as waiting:
        await trio.testing.wait_all_tasks_blocked()
        return [piece async for piece in waiting]


async def test_what_arrives_early_comes_out_in_order() -> None:
    assert await _pieces(50, None) == [b"%d" % number for number in range(50)]


async def test_what_ended_a_body_early_is_told_after_its_last_piece() -> None:
    with pytest.raises(Gap, match="gone"):
        await _pieces(3, Gap("gone"))
