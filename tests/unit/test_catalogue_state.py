"""What the events of a catalogue add up to, and which of them can't be."""

import msgspec
import pytest

from tape.bookkeeping import apply
from tape.catalogue import (
    SCRATCH_POOL,
    ArchiveBad,
    Cleaned,
    Faulted,
    Moved,
    Recycled,
    Retired,
    SetClosed,
    SetOpened,
    Stranger,
)
from tape.catalogue_state import State
from tape.errors import ImpossibleEvent
from tests.tape_books import VOLUME, Books, uuid


def a_set(books: Books) -> None:
    books.cartridge(1)
    tape_set = books.open_set(10)
    books.full(tape_set, 1)
    books.log(tape_set, 1, 20)


def test_archives_come_to_their_cartridge_and_their_set_in_order() -> None:
    books = Books()
    a_set(books)
    (tape_set,) = books.state.sets.values()
    books.cartridge(2)
    books.close_cartridge(1)
    books.log(tape_set, 2, 35)
    assert tape_set.whole
    assert not tape_set.broken
    archives = list(books.state.whole_archives(tape_set))
    assert [(c.name, a.file, a.first_lsn, a.last_lsn) for c, a in archives] == [
        ("A00001L8", 1, 10, 10),
        ("A00001L8", 2, 10, 20),
        ("A00002L8", 1, 21, 35),
    ]
    assert books.state.cartridges[uuid(1)].used_bytes == 20 * 1024
    assert [each.name for each in books.state.cartridges_of(tape_set)] == ["A00001L8", "A00002L8"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": 2}, "file 3 comes next"),
        ({"file": 4}, "file 3 comes next"),
        ({"label_id": uuid(99)}, "no cartridge has the label"),
        ({"sequence": 3}, "of which 2 comes next"),
        ({"sequence": 1}, "of which 2 comes next"),
        ({"first_lsn": 22}, "does not continue"),
        ({"first_lsn": 20}, "does not continue"),
        ({"last_lsn": 20}, "does not continue"),
        ({"set_id": uuid(77)}, "there is no set"),
        ({"volume_uuid": uuid(3)}, "another volume"),
        ({"kind": "full"}, "out of turn"),
    ],
)
def test_an_archive_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    books = Books()
    a_set(books)
    (tape_set,) = books.state.sets.values()
    books.log(tape_set, 1, 30)
    good = books.events.pop()
    state = Books()
    for event in books.events:
        state.take(event)
    top = {key: value for key, value in change.items() if key in ("file", "label_id")}
    head = {key: value for key, value in change.items() if key not in top}
    bad = msgspec.structs.replace(good, **top, head=msgspec.structs.replace(good.head, **head))
    before = msgspec.json.encode(state.state)
    with pytest.raises(ImpossibleEvent, match=message):
        apply(state.state, bad)
    assert msgspec.json.encode(state.state) == before
    apply(state.state, good)


def test_log_comes_only_behind_a_finished_full_that_it_holds_the_barrier_of() -> None:
    books = Books()
    books.cartridge(1)
    tape_set = books.open_set(10)
    with pytest.raises(ImpossibleEvent, match="before its full"):
        books.archive(tape_set, 1, "log", 10, 20)
    books.archive(tape_set, 1, "full", 10, 10)
    with pytest.raises(ImpossibleEvent, match="before its full"):
        books.archive(tape_set, 1, "log", 10, 20)
    books.archive(tape_set, 1, "full", 10, 10, last_part=True)
    with pytest.raises(ImpossibleEvent, match="does not continue"):
        books.archive(tape_set, 1, "log", 11, 20)
    books.archive(tape_set, 1, "log", 7, 20)


def test_a_pool_has_one_open_set_of_a_volume() -> None:
    books = Books()
    tape_set = books.open_set(10)
    with pytest.raises(ImpossibleEvent, match="before"):
        books.open_set(20)
    books.open_set(20, pool="offsite")
    books.close_set(tape_set)
    assert books.state.open_set(VOLUME, "onsite") is None
    books.open_set(20)


def test_a_set_without_archives_goes_when_it_is_closed() -> None:
    books = Books()
    tape_set = books.open_set(10)
    books.close_set(tape_set)
    assert not books.state.sets


def test_an_unfinished_set_can_not_be_closed_as_whole() -> None:
    books = Books()
    books.cartridge(1)
    tape_set = books.open_set(10)
    books.archive(tape_set, 1, "full", 10, 10)
    with pytest.raises(ImpossibleEvent, match="without its full"):
        books.take(SetClosed(time_ns=1, set_id=tape_set.set_id, whole=True))
    books.take(SetClosed(time_ns=1, set_id=tape_set.set_id, whole=False))


def test_a_closed_set_takes_nothing_more() -> None:
    books = Books()
    a_set(books)
    (tape_set,) = books.state.sets.values()
    books.close_set(tape_set)
    with pytest.raises(ImpossibleEvent, match="closed"):
        books.log(tape_set, 1, 30)


@pytest.mark.parametrize("how", ["closed", "retired", "recycled", "scratch", "other pool"])
def test_what_takes_no_archives_gets_none(how: str) -> None:
    books = Books()
    books.cartridge(1, {"scratch": SCRATCH_POOL, "other pool": "offsite"}.get(how, "onsite"))
    if how == "closed":
        books.close_cartridge(1)
    elif how == "retired":
        books.take(Retired(time_ns=5, label_id=uuid(1), barcode="", reason="old"))
    elif how == "recycled":
        books.take(Recycled(time_ns=5, label_id=uuid(1)))
    tape_set = books.open_set(10)
    with pytest.raises(ImpossibleEvent):
        books.full(tape_set, 1)


def test_recycling_breaks_the_sets_that_lay_on_it_and_drops_those_with_nothing_left() -> None:
    books = Books()
    a_set(books)
    (tape_set,) = books.state.sets.values()
    books.cartridge(2)
    books.log(tape_set, 2, 30)
    with pytest.raises(ImpossibleEvent, match="open set"):
        books.take(Recycled(time_ns=9, label_id=uuid(1)))
    books.close_set(tape_set)
    books.take(Recycled(time_ns=9, label_id=uuid(1)))
    assert books.state.cartridges[uuid(1)].scratch
    assert tape_set.broken
    books.take(Recycled(time_ns=9, label_id=uuid(2)))
    assert not books.state.sets
    books.cartridge(3, replaces=1)
    assert uuid(1) not in books.state.cartridges
    assert not books.state.cartridges[uuid(3)].scratch


def test_a_retired_cartridge_counts_until_it_is_given_up_and_is_never_scratch() -> None:
    books = Books()
    a_set(books)
    (tape_set,) = books.state.sets.values()
    books.close_set(tape_set)
    books.take(Retired(time_ns=5, label_id=uuid(1), barcode="", reason="faults"))
    assert len(list(books.state.whole_archives(tape_set))) == 2
    books.take(Recycled(time_ns=6, label_id=uuid(1)))
    assert not books.state.cartridges[uuid(1)].scratch
    with pytest.raises(ImpossibleEvent, match="retired"):
        books.cartridge(2, replaces=1)


def test_a_set_ends_before_an_archive_that_went_bad() -> None:
    books = Books()
    a_set(books)
    (tape_set,) = books.state.sets.values()
    books.log(tape_set, 1, 30)
    books.take(ArchiveBad(time_ns=5, label_id=uuid(1), file=2, what="medium error"))
    assert [archive.file for _, archive in books.state.whole_archives(tape_set)] == [1]
    with pytest.raises(ImpossibleEvent, match="no archive as file 9"):
        books.take(ArchiveBad(time_ns=5, label_id=uuid(1), file=9, what=""))


def test_what_is_seen_in_a_slot_drives_out_what_the_books_had_there() -> None:
    books = Books()
    books.cartridge(1)
    books.cartridge(2)
    books.take(Moved(time_ns=5, label_id=uuid(2), place="slot", number=1, barcode="NEW001L8"))
    assert books.state.cartridges[uuid(1)].place == "missing"
    assert books.state.cartridges[uuid(2)].name == "NEW001L8"
    books.take(Moved(time_ns=6, label_id=uuid(1), place="drive", number=1))
    assert books.state.cartridges[uuid(2)].place == "slot", "drives are counted by themselves"
    books.take(Stranger(time_ns=7, barcode="", slot=1, finding="foreign", note="a tar"))
    assert books.state.cartridges[uuid(2)].place == "missing"
    assert books.state.strangers[1].finding == "foreign"
    books.take(Moved(time_ns=8, label_id=uuid(2), place="slot", number=1))
    assert not books.state.strangers


def test_a_barcode_may_be_claimed_twice_and_the_labels_tell_them_apart() -> None:
    books = Books()
    books.cartridge(1)
    books.cartridge(2)
    books.take(Moved(time_ns=5, label_id=uuid(2), place="slot", number=2, barcode="A00001L8"))
    assert {each.label_id for each in books.state.claims("A00001L8")} == {uuid(1), uuid(2)}


def test_a_label_is_given_once() -> None:
    books = Books()
    books.cartridge(1)
    with pytest.raises(ImpossibleEvent, match="twice"):
        books.cartridge(1)
    with pytest.raises(ImpossibleEvent, match="no cartridge"):
        books.cartridge(2, replaces=9)


def test_faults_and_cleanings_are_counted() -> None:
    books = Books()
    books.cartridge(1)
    books.take(Faulted(time_ns=5, label_id=uuid(1), drive=-1, what="write error"))
    books.take(Faulted(time_ns=6, label_id=uuid(1), drive=1, what="no answer"))
    books.take(Cleaned(time_ns=7, barcode="CLN001L8", drive=1))
    books.take(Cleaned(time_ns=8, barcode="CLN001L8", drive=0))
    state = books.state
    assert state.cartridges[uuid(1)].faults == 2
    assert (state.drives[1].faults, state.drives[1].cleanings) == (1, 1)
    assert state.cleanings == {"CLN001L8": 2}
    with pytest.raises(ImpossibleEvent):
        books.take(Faulted(time_ns=5, label_id=uuid(9), drive=-1, what=""))


def test_a_state_is_the_same_after_a_snapshot() -> None:
    books = Books()
    a_set(books)
    books.take(SetOpened(
        time_ns=5, set_id=uuid(50), pool="offsite", volume_uuid=VOLUME, base_lsn=1, base_time_ns=2
    ))  # fmt: skip
    books.take(Stranger(time_ns=7, barcode="X", slot=9, finding="blank"))
    books.take(Faulted(time_ns=6, label_id="", drive=1, what="no answer"))
    data = msgspec.json.encode(books.state)
    again = msgspec.json.decode(data, type=State)
    assert msgspec.json.encode(again) == data
    (tape_set,) = again.sets_of(VOLUME, "onsite")
    assert len(list(again.whole_archives(tape_set))) == 2
