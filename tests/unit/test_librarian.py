"""A person's work with cartridges: what comes in and goes out is known by its label."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tape.catalogue import Attached, Recycled, Retired
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import State
from tape.changer import Changer, Element, Inventory
from tape.choice import Chooser
from tape.drive import Drive
from tape.errors import (
    BadCartridge,
    ChangerJam,
    NoLabel,
    NoSuchCartridge,
    WriteProtected,
    WrongCartridge,
)
from tape.labelling import write_label
from tape.layout import Label
from tape.librarian import Librarian, find_cartridge
from tape.library import Library, create_virtual, open_library
from tests.tape_books import DAY_NS, VOLUME

CAPACITY_BYTES = 1 << 20
BLOCK_BYTES = 4096


class Scene:
    """A virtual library of six slots, two doors and one drive: four blank cartridges, a cleaner."""

    def __init__(self, library: Library, catalogue: CatalogueFile) -> None:
        self.library = library
        self.now_ns = DAY_NS
        self.catalogue = catalogue
        self.librarian = Librarian(library, catalogue, now_ns=lambda: self.now_ns)
        self.librarian.take_inventory()
        assert library.virtual is not None
        self.virtual = library.virtual

    @property
    def state(self) -> State:
        return self.catalogue.state

    def element(self, barcode: str) -> Element:
        there = self.library.changer.inventory()
        (found,) = (each for each in (*there.slots, *there.doors) if each.barcode == barcode)
        return found

    def labels(self) -> dict[str, str]:
        return {each.barcode: each.label_id for each in self.state.cartridges.values()}

    @contextlib.contextmanager
    def drive_with(self, slot: int) -> Iterator[Drive]:
        """A cartridge in a drive, behind the librarian's back."""
        drive = self.library.drives[0]
        self.library.changer.load(slot, 0)
        drive.open()
        yield drive
        drive.close()
        self.library.changer.unload(0, slot)

    def write(self, slot: int, data: bytes) -> None:
        """Put a file of something onto a cartridge."""
        with self.drive_with(slot) as drive:
            drive.write_block(data)
            drive.write_filemark()

    def write_label(self, slot: int, library_id: str, barcode: str = "X") -> Label:
        label = Label(
            label_id=uuid.uuid4().hex,
            barcode=barcode,
            pool="onsite",
            library_id=library_id,
            volume_uuid=VOLUME,
            volume_name="shop",
            block_bytes=BLOCK_BYTES,
            created_ns=1,
        )
        with self.drive_with(slot) as drive:
            write_label(drive, label)
        return label


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    home = tmp_path / "library"
    create_virtual(
        home,
        slots=6,
        doors=2,
        drives=1,
        capacity_bytes=CAPACITY_BYTES,
        block_bytes=BLOCK_BYTES,
        cartridges=4,
    )
    CatalogueFile.create(home / "catalogue").close()
    with open_library(home, "test") as library, CatalogueFile.open(library.catalogue) as catalogue:
        yield Scene(library, catalogue)


def test_a_new_library_has_cartridges_that_nobody_has_looked_at(scene: Scene) -> None:
    assert {each.finding for each in scene.state.strangers.values()} == {"unknown"}
    chooser = Chooser(scene.state, scene.library.changer.inventory(), "CLN", scene.now_ns)
    assert chooser.scratch_left() == 4


def test_a_labelled_cartridge_is_free_for_any_pool_and_known_in_any_slot(scene: Scene) -> None:
    made = scene.librarian.label_scratch(scene.element("A00002L8"), False)
    assert (made.scratch, made.place, made.number) == (True, "slot", 2)
    scene.library.changer.transfer(2, 5)
    assert [each.number for each in scene.librarian.take_inventory()] == [1, 3, 4]
    assert (made.place, made.number) == ("slot", 5)
    found = scene.librarian.identify(scene.element("A00002L8"))
    assert (found.what, found.cartridge) == ("known", made)


def test_who_comes_back_is_known_by_its_label_not_by_its_barcode(scene: Scene) -> None:
    first = scene.librarian.label_scratch(scene.element("A00001L8"), False)
    door = scene.librarian.send_out(first, "box 3")
    assert first.place == "door"
    scene.virtual.take_out(door)
    scene.librarian.take_inventory()
    assert (first.place, first.note) == ("outside", "box 3")
    # Somebody puts in another cartridge with the same barcode, and it is blank.
    ((other_door, _),) = scene.virtual.insert_blank("SAME01L8")
    taken, refused = scene.librarian.take_in()
    assert ([each.what for each in taken], refused) == (["blank"], [])
    assert first.place == "outside"
    assert other_door > 6
    scene.virtual.insert("A00001L8")
    taken, refused = scene.librarian.take_in()
    assert [each.cartridge for each in taken] == [first]
    assert first.place == "slot"


class OtherSticker:
    """A changer that reads another barcode on one cartridge."""

    def __init__(self, changer: Changer, old: str, new: str) -> None:
        self._changer = changer
        self._names = {old: new}
        self.name = changer.name

    def inventory(self, rescan: bool = False) -> Inventory:
        found = self._changer.inventory(rescan)
        return Inventory(*(tuple(self._shown(each) for each in kind) for kind in found))

    def _shown(self, element: Element) -> Element:
        return element._replace(barcode=self._names.get(element.barcode, element.barcode))

    def load(self, slot: int, drive: int) -> None:
        self._changer.load(slot, drive)

    def unload(self, drive: int, slot: int) -> None:
        self._changer.unload(drive, slot)

    def transfer(self, source: int, target: int) -> None:
        self._changer.transfer(source, target)


def test_a_blank_cartridge_with_the_barcode_of_another_is_not_taken_in(scene: Scene) -> None:
    first = scene.librarian.label_scratch(scene.element("A00001L8"), False)
    ((door, _),) = scene.virtual.insert_blank("NEW001L8")
    changer = OtherSticker(scene.library.changer, "NEW001L8", first.barcode)
    library = replace(scene.library, changer=changer)
    librarian = Librarian(library, scene.catalogue, now_ns=lambda: scene.now_ns)
    unread = librarian.take_inventory()
    assert door in [each.number for each in unread]
    taken, refused = librarian.take_in()
    assert taken == []
    assert [(each.slot, each.what) for each in refused] == [(door, "blank")]
    assert "another cartridge has the barcode" in refused[0].note
    assert first.place == "slot", "it is where it was"
    with pytest.raises(WrongCartridge, match="barcode of another"):
        element = next(each for each in changer.inventory().doors if each.full)
        librarian.label_scratch(element, True)


@pytest.mark.parametrize("kind", ["foreign", "other library", "our own, not on the books"])
def test_what_is_not_ours_stays_in_its_door_and_is_never_written(scene: Scene, kind: str) -> None:
    scene.library.changer.transfer(3, 7)
    if kind == "foreign":
        scene.write(7, b"somebody's data" * 100)
    else:
        own = scene.library.settings.uuid
        scene.write_label(7, own if kind.startswith("our own") else "9" * 32)
    taken, refused = scene.librarian.take_in()
    assert taken == []
    (found,) = refused
    assert (found.slot, found.what) == (7, "foreign")
    expected = {
        "other library": "another library",
        "foreign": "",
        "our own, not on the books": "scan",
    }
    assert expected[kind] in found.note
    assert scene.state.strangers[7].finding == "foreign"
    chooser = Chooser(scene.state, scene.library.changer.inventory(), "CLN", scene.now_ns)
    assert 7 not in [each.number for each in chooser.unknown()]
    with pytest.raises(NoLabel) as caught:
        scene.librarian.label_scratch(scene.element("A00003L8"), False)
    assert "--force" in caught.value.hint
    made = scene.librarian.label_scratch(scene.element("A00003L8"), True)
    assert made.scratch


def test_a_write_protected_cartridge_is_told_and_left_alone(scene: Scene) -> None:
    scene.virtual.set_write_protected("A00001L8", True)
    with pytest.raises(WriteProtected) as caught:
        scene.librarian.label_scratch(scene.element("A00001L8"), False)
    assert "tab" in caught.value.hint
    assert scene.state.strangers[1].finding == "protected"
    assert scene.element("A00001L8").number == 1, "it is back in its slot"


def test_a_half_written_label_counts_as_no_label(scene: Scene) -> None:
    scene.write(1, b"README" + bytes(506))
    found = scene.librarian.identify(scene.element("A00001L8"))
    assert found.what in ("foreign", "unreadable")
    with pytest.raises(BadCartridge):
        scene.librarian.label_scratch(scene.element("A00001L8"), False)


def test_retired_cartridges_are_never_labelled_again(scene: Scene) -> None:
    made = scene.librarian.label_scratch(scene.element("A00001L8"), False)
    scene.catalogue.append(
        Retired(time_ns=1, label_id=made.label_id, barcode=made.barcode, reason="worn")
    )
    scene.catalogue.append(Recycled(time_ns=1, label_id=made.label_id))
    with pytest.raises(BadCartridge, match="retired: worn"):
        scene.librarian.label_scratch(scene.element("A00001L8"), True)


def test_an_import_takes_in_what_there_is_room_for(scene: Scene) -> None:
    scene.virtual.insert_blank(count=2)
    taken, refused = scene.librarian.take_in()
    assert ([each.slot for each in taken], [each.slot for each in refused]) == ([5], [8])
    assert refused[0].note == "no storage slot is free"
    assert scene.element("A00005L8").number == 5, "there was room for the first one"


def test_an_export_without_a_free_door_says_what_to_do(scene: Scene) -> None:
    made = [
        scene.librarian.label_scratch(scene.element(f"A0000{number}L8"), False)
        for number in (1, 2, 3)
    ]
    for each in made[:2]:
        scene.librarian.send_out(each, "box")
    with pytest.raises(ChangerJam, match="every export slot is full"):
        scene.librarian.send_out(made[2], "box")
    assert scene.librarian.send_out(made[0], "box") == made[0].number, "it is there already"


def test_a_cartridge_in_the_wrong_slot_is_not_sent_out_for_another(scene: Scene) -> None:
    made = scene.librarian.label_scratch(scene.element("A00001L8"), False)
    scene.library.changer.transfer(1, 5)
    scene.library.changer.transfer(2, 1)
    with pytest.raises(WrongCartridge):
        scene.librarian.send_out(made, "box")


def test_cartridges_are_named_by_barcode_or_label(scene: Scene) -> None:
    made = scene.librarian.label_scratch(scene.element("A00001L8"), False)
    assert find_cartridge(scene.state, "A00001L8") is made
    assert find_cartridge(scene.state, made.label_id[:8]) is made
    with pytest.raises(NoSuchCartridge):
        find_cartridge(scene.state, "A00009L8")


def test_a_volume_that_is_attached_is_on_the_books(scene: Scene) -> None:
    scene.catalogue.append(
        Attached(time_ns=1, volume_uuid=VOLUME, volume_name="s", directory="/s", keep_ns={"a": 5})
    )
    assert scene.state.volumes[VOLUME].keep_ns == {"a": 5}
