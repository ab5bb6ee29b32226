"""What of a library a person is told to look at."""

from pathlib import Path

from console.doctor import alarm_findings
from fsd.consumers import tape_alarms
from store.volume import Store, VolumeConfig
from tape.alarms import free_cartridges, library_alarms
from tape.catalogue import (
    SCRATCH_POOL,
    ArchiveBad,
    Attached,
    Cleaned,
    Faulted,
    Moved,
    Retired,
    Stranger,
)
from tests.tape_books import DAY_NS, VOLUME, Books, uuid


def alarms(books: Books, min_scratch: int = 1) -> list[str]:
    return library_alarms(books.state, min_scratch, "CLN", books.now_ns)


def a_library() -> Books:
    """One cartridge with a set, one scratch."""
    books = Books()
    books.take(
        Attached(
            time_ns=1,
            volume_uuid=VOLUME,
            volume_name="shop",
            directory="/srv",
            keep_ns={"onsite": DAY_NS},
        )
    )
    books.cartridge(1)
    tape_set = books.open_set(10)
    books.full(tape_set, 1)
    books.log(tape_set, 1, 20)
    books.cartridge(2, SCRATCH_POOL)
    return books


def test_a_library_that_is_well_says_nothing() -> None:
    assert alarms(a_library()) == []


def test_scratch_is_missed_only_when_nothing_may_be_recycled() -> None:
    books = a_library()
    assert "1 free cartridges" in alarms(books, 2)[0]
    (tape_set,) = books.state.sets.values()
    books.close_set(tape_set)
    books.cartridge(3)
    newer = books.open_set(25)
    books.full(newer, 3)
    books.log(newer, 3, 30)
    books.days(2)
    assert alarms(books, 2) == []


def test_cartridges_nobody_has_looked_at_count_as_free_but_not_in_doors() -> None:
    books = a_library()
    assert free_cartridges(books.state, "CLN") == 1
    for slot, barcode, door in ((5, "B5", False), (6, "CLN6", False), (9, "B9", True)):
        books.take(Stranger(time_ns=1, barcode=barcode, slot=slot, finding="unknown", door=door))
    assert free_cartridges(books.state, "CLN") == 2


def test_what_a_person_has_to_see_to_is_named() -> None:
    books = a_library()
    books.take(ArchiveBad(time_ns=1, label_id=uuid(1), file=2, what="unreadable"))
    for _ in range(3):
        books.take(Faulted(time_ns=books.now_ns, label_id=uuid(1), drive=0, what="write error"))
    books.move(1, "missing")
    books.take(Stranger(time_ns=1, barcode="F0", slot=5, finding="foreign", note="a tar"))
    for _ in range(50):
        books.take(Cleaned(time_ns=1, barcode="CLN1", drive=0))
    told = "\n".join(alarms(books))
    for words in (
        "A00001L8 has 1 archives that can't be read",
        "A00001L8 is not where it should be",
        "A00001L8 failed 3 times: cdpfs tape retire A00001L8",
        "F0 in slot 5 is foreign: a tar",
        "drive 0 failed 3 times, last with: write error",
        "the cleaning cartridge CLN1 is used up",
    ):
        assert words in told
    books.take(Retired(time_ns=1, label_id=uuid(1), barcode="", reason="worn"))
    books.days(8)
    told = "\n".join(alarms(books))
    assert "failed" not in told, "a retired cartridge and an old fault need nobody"


def test_barcodes_that_are_there_twice_are_told() -> None:
    books = a_library()
    books.take(Stranger(time_ns=1, barcode="A00001L8", slot=5, finding="unknown"))
    assert alarms(books) == ["A00001L8 in slot 5 has the barcode of another cartridge"]
    books.move(1, "outside")
    assert alarms(books) == [
        "A00001L8 in slot 5 seems to be back: cdpfs tape inventory --read-labels"
    ]
    books.take(Moved(time_ns=1, label_id=uuid(2), place="slot", number=5, barcode="A00001L8"))
    assert alarms(books) == ["2 cartridges claim the barcode A00001L8"]


def test_a_cartridge_whose_barcode_another_one_has_is_not_free() -> None:
    books = a_library()
    free = free_cartridges(books.state, "CLN")
    for barcode, slot in (("A00001L8", 5), ("A00009L8", 6)):
        books.take(Stranger(time_ns=1, barcode=barcode, slot=slot, finding="unknown"))
    assert free_cartridges(books.state, "CLN") == free + 1


def test_doctor_sends_what_is_wrong_with_tape_to_its_status(tmp_path: Path) -> None:
    directory = str(tmp_path / "tree")
    config = VolumeConfig(name="shop", uuid="a" * 32, directory=directory, created_ns=1)
    store = Store.create(tmp_path / "store", config)
    said = {"state": "idle", "pools": [], "alarms": ["A00001L8 is not where it should be"]}
    status = {"tape": said, "alarms": ["the store is not there", *tape_alarms(said)]}
    of_store, of_tape = alarm_findings(store, status)
    assert of_store.next_step.endswith("fsd.log")
    assert of_tape.text == "tape: A00001L8 is not where it should be"
    assert of_tape.next_step == f"see: cdpfs tape status {directory}"
