"""The power goes at every sync while a catalogue is written: what was acknowledged is there."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import msgspec
import pytest

from tape.bookkeeping import apply
from tape.catalogue import AnyEvent, Faulted, Moved
from tape.catalogue_file import CatalogueFile, read_catalogue
from tape.catalogue_state import State
from tests.crash.fault_disk import FaultDisk, Mode
from tests.tape_books import Books, uuid


def a_life(rng: random.Random) -> list[list[AnyEvent]]:
    """Groups of events, as a library would record them."""
    books = Books()
    groups: list[list[AnyEvent]] = []
    books.cartridge(1)
    tape_set = books.open_set(10)
    books.full(tape_set, 1)
    for last in range(20, 120, 10):
        books.log(tape_set, 1, last)
        if rng.random() < 0.4:
            books.take(Faulted(time_ns=last, label_id=uuid(1), drive=-1, what="y" * last))
        if rng.random() < 0.4:
            books.take(Moved(time_ns=last, label_id=uuid(1), place="drive", number=last % 2))
    events = books.events
    while events:
        take = rng.randint(1, 3)
        groups.append(events[:take])
        events = events[take:]
    return groups


def states(groups: list[list[AnyEvent]]) -> list[bytes]:
    """The state after each group, and before the first."""
    state = State()
    found = [msgspec.json.encode(state)]
    for group in groups:
        for event in group:
            apply(state, event)
        found.append(msgspec.json.encode(state))
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_acknowledged_events_survive_a_cut_at_any_sync(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    groups = a_life(rng)
    expected = states(groups)
    root = tmp_path / "library"
    root.mkdir()
    CatalogueFile.create(root / "catalogue").close()
    folder = root / "catalogue"
    # A log of 700 bytes is soon full: cuts fall into the taking of snapshots as well.
    with FaultDisk(root) as disk, CatalogueFile.open(folder, max_log_bytes=700) as catalogue:
        for number, group in enumerate(groups, 1):
            catalogue.append(*group)
            disk.promise(number)
    assert any(path.name != "events-1.log" for path in folder.glob("events-*.log"))
    cuts = 0
    for cut, lay_down in disk.cuts():
        for mode in Mode:
            left = tmp_path / "left"
            lay_down(left, mode, rng)
            check(left / "catalogue", expected, cut.promised, groups)
            shutil.rmtree(left)
            cuts += 1
    assert cuts > 80


def check(folder: Path, expected: list[bytes], promised: int, groups: list[list[AnyEvent]]) -> None:
    """It opens, knows what was promised or one append more, and goes on."""
    reader = msgspec.json.encode(read_catalogue(folder))
    with CatalogueFile.open(folder, max_log_bytes=700) as catalogue:
        found = msgspec.json.encode(catalogue.state)
        assert found == reader
        assert found in expected[promised : promised + 2]
        known = expected.index(found, promised)
        if known < len(groups):
            catalogue.append(*groups[known])
            known += 1
    assert msgspec.json.encode(read_catalogue(folder)) == expected[known]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_library_that_is_being_made_has_a_catalogue_or_none(tmp_path: Path, mode: Mode) -> None:
    root = tmp_path / "library"
    root.mkdir()
    rng = random.Random(7)
    with FaultDisk(root) as disk:
        CatalogueFile.create(root / "catalogue").close()
        disk.promise(1)
    for cut, lay_down in disk.cuts():
        left = tmp_path / "left"
        lay_down(left, mode, rng)
        if cut.promised or (left / "catalogue" / "snapshot").exists():
            assert read_catalogue(left / "catalogue") == State()
        shutil.rmtree(left)


def test_replacing_leaves_the_old_or_the_new_catalogue(tmp_path: Path) -> None:
    root = tmp_path / "library"
    groups = a_life(random.Random(5))
    with CatalogueFile.create(root / "catalogue") as catalogue:
        for group in groups:
            catalogue.append(*group)
        old = msgspec.json.encode(catalogue.state)
    new = State()
    rng = random.Random(6)
    with FaultDisk(root) as disk:
        CatalogueFile.replace(root / "catalogue", new).close()
        disk.promise(1)
    for cut, lay_down in disk.cuts():
        for mode in Mode:
            left = tmp_path / "left"
            lay_down(left, mode, rng)
            found = msgspec.json.encode(read_catalogue(left / "catalogue"))
            assert found in (
                [msgspec.json.encode(new)] if cut.promised else [old, msgspec.json.encode(new)]
            )
            shutil.rmtree(left)
