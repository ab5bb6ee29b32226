"""Two machines with one sealed volume: their histories part at the end of a shipment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from replicator.forking import read_parting
from replicator.parting import CommonSearch
from replicator.plan import BatchEnd
from replicator.running import Replicator
from replicator.sealed_source import SealedFolder, SealedSource
from replicator.sealed_wire import MAX_ENDS
from replicator.settings import LinkSettings, ReplicaSettings, SealSettings, save_settings
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.vault.sealed import SealedLine
from replicator.vault.sealed_files import ends_between, held_entries
from store.key_file import create_key_file, read_key_file
from store.volume import Store
from tests.unit.sealed_history import History, line_store
from tests.unit.shipping import all_batches, same_history
from tests.unit.two_machines import TwoMachines
from tests.unit.vault_server import VaultServer


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[TwoMachines]:
    made = TwoMachines(tmp_path / "site")
    yield made
    made.root.close()


@pytest.mark.expects_warnings  # both ends say that history parted
def test_the_second_machine_shares_all_shipments_that_both_have(
    machines: TwoMachines, tmp_path: Path
) -> None:
    key = tmp_path / "seal.key"
    ring = create_key_file(key)
    VaultRoot.create(tmp_path / "vault")
    with VaultServer(tmp_path / "vault") as server:
        (tmp_path / "token").write_text(server.sites.add("branch", "site"))
        (tmp_path / "token").chmod(0o600)
        for store in (machines.one, machines.other):
            link = LinkSettings(url=server.url, token_file=str(tmp_path / "token"))
            seal = SealSettings(key_file=str(key))
            save_settings(store.root, ReplicaSettings(link=link, seal=seal))
            with contextlib.closing(Replicator(store)) as replicator:
                trio.run(replicator.run, -1, True)
        parted = read_parting(machines.other.root)
        assert parted is not None and parted.kept == "main"
        one, other = (
            {(e.header.last_lsn, e.header.digest) for e in held_entries(server.root.store(
                machines.one.config.uuid, line))}
            for line in ("main", parted.line)
        )  # fmt: skip
        ends = {
            (batch.ops[-1].lsn, ring.chain_digest(machines.other.uuid, batch.digest))
            for batch in all_batches(machines.other)
        }
        assert parted.lsn == max((lsn for lsn, digest in one & ends), default=0)
        assert one & other == {end for end in one if end[0] <= parted.lsn}
        for store, line in ((machines.one, "main"), (machines.other, parted.line)):
            source = SealedSource(
                SealedFolder(server.root), store.config.uuid, line, read_key_file(key)
            )
            opened = Store.create(tmp_path / line, store.config)
            with contextlib.closing(LineWriter.open(opened)) as writer:
                for _ in source.feed(writer):
                    pass
            same_history(store, opened)


def test_ends_are_told_of_any_part_of_a_line(tmp_path: Path) -> None:
    store, history = line_store(tmp_path / "line"), History(3)
    line = SealedLine.open(store, few=5)
    ends = []
    for _ in range(200):
        line.take(history.shipment())
        ends.append(history.next - 1)
    line.close()
    for after, upto in (
        (0, ends[-1]),
        (ends[3], ends[4]),
        (ends[3], ends[4] - 1),
        (ends[9], 10**6),
    ):
        known = [end for end in ends if after < end <= upto]
        for most in (1, 3, MAX_ENDS):
            told = ends_between(store, after, upto, most)
            assert len(told) <= most and set(told) <= set(known) and told == sorted(told)
            assert bool(told) == bool(known)
    assert ends_between(store, ends[-1], 10**6, 5) == []


class Table:
    """A journal whose batches end at these LSNs."""

    def __init__(self, ends: list[int], parts_at: int) -> None:
        self.first_lsn, self.indexed_lsn = 1, ends[-1]
        self._ends, self._parts_at = ends, parts_at

    def digest(self, end: int) -> bytes:
        return bytes([end <= self._parts_at]) * 32

    def batch_of(self, lsn: int) -> BatchEnd | None:
        last = min((end for end in self._ends if end >= lsn), default=None)
        first = max((end for end in self._ends if last and end < last), default=0) + 1
        return None if last is None or lsn < 1 else BatchEnd(first, last, self.digest(last))


@given(
    st.sets(st.integers(1, 300), min_size=1), st.sets(st.integers(1, 300)), st.integers(0, 300),
    st.integers(1, 8),
)  # fmt: skip
def test_the_newest_common_end_is_found_whatever_is_told_at_once(
    batches: set[int], vault: set[int], parts_at: int, most: int
) -> None:
    ends = sorted(batches)
    # Up to where histories part, the vault's shipments end where batches do.
    held = sorted(end for end in vault if end > parts_at or end in batches)
    search = CommonSearch(Table(ends, parts_at), 300)
    for _ in range(1000):
        after, upto = search.between
        told = [end for end in held if after < end <= upto]
        told = [told[-(-len(told) * n // most) - 1] for n in range(1, most + 1)] if told else []
        asked = search.question_at(told)
        if not asked and not told:
            break
        common = [b.last_lsn for b in asked if b.last_lsn in held and b.last_lsn <= parts_at]
        search.answer(max(common, default=0))
    else:
        raise AssertionError("it does not end")
    expected = max((end for end in held if end <= parts_at and end in batches), default=0)
    assert (search.common.last_lsn if search.common is not None else 0) == expected
