"""Two histories under one volume's UUID: what they share, and a line of its own for the second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import Forked, Refused
from replicator.vault.lines import clear_half_made, find_common, list_lines, make_line, read_origin
from replicator.vault.root import VaultRoot
from replicator.wire import Mark, NewLine
from store.batch import NO_DIGEST
from store.segment import list_segments
from store.verify import verify
from tests.unit.shipping import all_batches, same_history
from tests.unit.two_machines import TwoMachines, receive

DAY_NS = 86_400 * 10**9


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[TwoMachines]:
    made = TwoMachines(tmp_path / "site")
    yield made
    made.root.close()


def test_the_newest_shared_batch_is_found_among_marks(machines: TwoMachines) -> None:
    marks = [machines.mark(number) for number in range(1, len(all_batches(machines.other)) + 1)]

    def found(asked: list[Mark]) -> int:
        return find_common(machines.root, machines.uuid, "main", asked).lsn

    assert found(marks) == machines.mark(machines.shared).lsn
    assert found(marks[machines.shared :]) == 0
    assert found([Mark(lsn=1 << 40, digest="00" * 32)]) == 0


def test_both_histories_are_kept_whole_and_readable(machines: TwoMachines) -> None:
    before = all_batches(machines.main)
    with pytest.raises(Forked):
        receive(machines.main, machines.other)
    name = make_line(machines.root, machines.uuid, machines.wish(), now_ns=DAY_NS)
    line = machines.root.store(machines.uuid, name)
    receive(line, machines.other, start=machines.shared)
    same_history(machines.other, line)
    assert all_batches(machines.main) == before
    assert verify(line).sound and verify(machines.main).sound


def test_lines_say_where_they_part(machines: TwoMachines) -> None:
    name = make_line(machines.root, machines.uuid, machines.wish(), now_ns=DAY_NS)
    first, second = list_lines(machines.root, machines.uuid).lines
    assert (first.line, first.origin) == ("main", None)
    assert second.line == name
    assert second.origin is not None
    base = machines.mark(machines.shared)
    assert (second.origin.parent, second.origin.lsn) == ("main", base.lsn)
    assert second.next_lsn == base.lsn + 1
    batch = all_batches(machines.one)[machines.shared - 1]
    assert second.origin.time_ns == batch.ops[-1].time_ns
    assert second.origin.made_ns == DAY_NS


def test_sealed_segments_are_shared_and_only_the_cut_one_is_copied(machines: TwoMachines) -> None:
    cut = 0
    for number in range(1, machines.shared + 1):
        wish = machines.wish(machines.mark(number), f"fork-{number}")
        line = machines.root.store(machines.uuid, make_line(machines.root, machines.uuid, wish))
        for file in list_segments(line):
            if file.last_lsn is None:
                assert file.path.stat().st_nlink == 1
                cut += 1
            else:
                assert file.path.samefile(machines.main.segments_dir / file.path.name)
    assert 0 < cut < machines.shared


def test_every_batch_can_be_where_histories_part(machines: TwoMachines) -> None:
    for number in range(1, machines.shared + 1):
        mark = machines.mark(number)
        name = make_line(machines.root, machines.uuid, machines.wish(mark, f"fork-{mark.lsn}"))
        line = machines.root.store(machines.uuid, name)
        assert all_batches(line) == all_batches(machines.one)[:number]
        receive(line, machines.other, start=number)
        same_history(machines.other, line)


def test_histories_that_share_nothing_part_at_the_beginning(machines: TwoMachines) -> None:
    nothing = Mark(lsn=0, digest=NO_DIGEST.hex())
    name = make_line(machines.root, machines.uuid, machines.wish(nothing))
    line = machines.root.store(machines.uuid, name)
    receive(line, machines.other)
    same_history(machines.other, line)


def test_asking_again_gives_the_same_line_until_it_is_used(machines: TwoMachines) -> None:
    root, uuid = machines.root, machines.uuid
    first = make_line(root, uuid, machines.wish())
    assert make_line(root, uuid, machines.wish()) == first == "fork-1"
    receive(root.store(uuid, first), machines.other, start=machines.shared)
    assert make_line(root, uuid, machines.wish()) == "fork-1-2"
    assert root.lines(uuid) == ["main", "fork-1", "fork-1-2"]


def test_a_line_can_part_from_a_line_that_parted(machines: TwoMachines) -> None:
    root, uuid = machines.root, machines.uuid
    first = make_line(root, uuid, machines.wish())
    receive(root.store(uuid, first), machines.other, start=machines.shared)
    mark = machines.mark(machines.shared + 2)
    wish = NewLine(parent=first, lsn=mark.lsn, digest=mark.digest, name="third")
    third = root.store(uuid, make_line(root, uuid, wish))
    assert all_batches(third) == all_batches(machines.other)[: machines.shared + 2]
    origin = read_origin(third)
    assert origin is not None and origin.parent == first


def test_a_mark_that_the_parent_does_not_have_is_refused(machines: TwoMachines) -> None:
    mark = machines.mark(machines.shared + 1)
    with pytest.raises(Refused):
        make_line(machines.root, machines.uuid, machines.wish(mark))
    with pytest.raises(Refused):
        wrong = Mark(lsn=machines.mark(machines.shared).lsn, digest="11" * 32)
        make_line(machines.root, machines.uuid, machines.wish(wrong))
    assert machines.root.lines(machines.uuid) == ["main"]
    assert sorted(path.name for path in _folder(machines.root, machines.uuid).iterdir()) == [
        "about.toml",
        "lines.lock",
        "main",
    ]


def test_what_was_half_made_is_cleared_away(machines: TwoMachines) -> None:
    folder = _folder(machines.root, machines.uuid)
    (folder / ".making-fork-1" / "segments").mkdir(parents=True)
    clear_half_made(machines.root)
    assert not (folder / ".making-fork-1").exists()
    assert machines.root.lines(machines.uuid) == ["main"]


def _folder(root: VaultRoot, uuid: str) -> Path:
    return root.volumes_dir / uuid
