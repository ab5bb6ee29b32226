"""What every changer must do: the suite that each implementation of `tape.changer.Changer` passes.

A test class inherits from `ChangerSuite` and gives the fixture `bench`: a library with two empty
drives at least, one full and one empty storage slot at least, and an empty import/export slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tape.changer import Changer, Element, Inventory
from tape.drive import Drive
from tape.errors import ChangerJam


@dataclass
class ChangerBench:
    """A changer whose drives are empty and closed."""

    changer: Changer
    drives: tuple[Drive, ...]
    knows_origin: bool = True
    """Whether it tells which slot a loaded cartridge came from."""


def _full(places: tuple[Element, ...]) -> Element:
    return next(place for place in places if place.full)


def _empty(places: tuple[Element, ...]) -> Element:
    return next(place for place in places if not place.full)


def _barcodes(inventory: Inventory) -> list[str]:
    places = inventory.drives + inventory.slots + inventory.doors
    return sorted(place.barcode for place in places if place.full)


class ChangerSuite:
    """The tests. Each leaves the cartridges where they were."""

    @pytest.fixture
    def changer(self, bench: ChangerBench) -> Changer:
        return bench.changer

    def test_places_are_numbered_as_mtx_changer_does(self, changer: Changer) -> None:
        drives, slots, doors = changer.inventory()
        assert [place.number for place in drives] == list(range(len(drives)))
        numbers = [place.number for place in slots + doors]
        assert numbers == list(range(1, len(slots) + len(doors) + 1))

    def test_cartridges_have_barcodes_and_empty_places_none(self, changer: Changer) -> None:
        inventory = changer.inventory()
        for place in inventory.drives + inventory.slots + inventory.doors:
            assert bool(place.barcode) == place.full

    def test_a_new_look_tells_the_same(self, changer: Changer) -> None:
        assert changer.inventory(rescan=True) == changer.inventory()

    def test_a_cartridge_is_loaded_and_brought_back(
        self, changer: Changer, bench: ChangerBench
    ) -> None:
        before = changer.inventory()
        source = _full(before.slots)
        changer.load(source.number, 1)
        loaded = changer.inventory()
        assert not loaded.slots[source.number - 1].full
        assert loaded.drives[1].barcode == source.barcode
        assert loaded.drives[1].origin == source.number or not bench.knows_origin
        assert not loaded.drives[0].full
        assert bench.drives[1].status().loaded
        changer.unload(1, source.number)
        assert changer.inventory() == before

    def test_both_drives_are_loaded_at_once(self, changer: Changer) -> None:
        before = changer.inventory()
        one, other = [place for place in before.slots if place.full][:2]
        changer.load(one.number, 0)
        changer.load(other.number, 1)
        drives = changer.inventory().drives
        assert [drive.barcode for drive in drives[:2]] == [one.barcode, other.barcode]
        changer.unload(0, one.number)
        changer.unload(1, other.number)
        assert changer.inventory() == before

    def test_a_cartridge_comes_back_to_another_slot(self, changer: Changer) -> None:
        before = changer.inventory()
        source, target = _full(before.slots), _empty(before.slots)
        changer.load(source.number, 0)
        changer.unload(0, target.number)
        after = changer.inventory()
        assert after.slots[target.number - 1].barcode == source.barcode
        assert not after.slots[source.number - 1].full
        changer.transfer(target.number, source.number)
        assert changer.inventory() == before

    def test_cartridges_go_through_the_doors(self, changer: Changer) -> None:
        before = changer.inventory()
        source, door = _full(before.slots), _empty(before.doors)
        changer.transfer(source.number, door.number)
        at_door = changer.inventory()
        found = next(place for place in at_door.doors if place.number == door.number)
        assert found.barcode == source.barcode
        assert not at_door.slots[source.number - 1].full
        changer.load(door.number, 0)
        assert changer.inventory().drives[0].barcode == source.barcode
        changer.unload(0, door.number)
        changer.transfer(door.number, source.number)
        assert changer.inventory() == before

    def test_no_cartridge_is_loaded_from_an_empty_slot(self, changer: Changer) -> None:
        before = changer.inventory()
        with pytest.raises(ChangerJam):
            changer.load(_empty(before.slots).number, 0)
        assert changer.inventory() == before

    def test_no_cartridge_is_loaded_into_a_full_drive(self, changer: Changer) -> None:
        before = changer.inventory()
        one, other = [place for place in before.slots if place.full][:2]
        changer.load(one.number, 0)
        with pytest.raises(ChangerJam):
            changer.load(other.number, 0)
        assert changer.inventory().drives[0].barcode == one.barcode
        assert _barcodes(changer.inventory()) == _barcodes(before)
        changer.unload(0, one.number)
        assert changer.inventory() == before

    def test_no_cartridge_is_put_into_a_full_slot(self, changer: Changer) -> None:
        before = changer.inventory()
        one, other = [place for place in before.slots if place.full][:2]
        with pytest.raises(ChangerJam):
            changer.transfer(one.number, other.number)
        changer.load(one.number, 0)
        with pytest.raises(ChangerJam):
            changer.unload(0, other.number)
        changer.unload(0, one.number)
        assert changer.inventory() == before

    def test_an_empty_drive_is_not_unloaded(self, changer: Changer) -> None:
        before = changer.inventory()
        with pytest.raises(ChangerJam):
            changer.unload(0, _empty(before.slots).number)
        assert changer.inventory() == before

    def test_places_that_do_not_exist_are_refused(self, changer: Changer) -> None:
        before = changer.inventory()
        last = len(before.slots) + len(before.doors)
        full = _full(before.slots).number
        for source, target in ((full, last + 1), (0, _empty(before.slots).number)):
            with pytest.raises(ChangerJam):
                changer.transfer(source, target)
        with pytest.raises(ChangerJam):
            changer.load(full, len(before.drives))
        assert changer.inventory() == before
