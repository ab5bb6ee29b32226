"""Which sets stay, which cartridge is next, what an inventory tells, and the lists for people."""

import pytest

from store.week import Weekly, parse_days, parse_time
from tape.catalogue import (
    SCRATCH_POOL,
    ArchiveBad,
    Attached,
    Cleaned,
    Detached,
    Moved,
    Recycled,
    Retired,
    Stranger,
)
from tape.catalogue_state import TapeSet
from tape.changer import Element, Inventory
from tape.choice import Chooser
from tape.errors import NoScratch, NoSuchSet
from tape.reach import reach_of
from tape.retention import Retention
from tape.shopping import (
    find_set,
    place_text,
    rotation_due,
    shopping_text,
    to_bring_back,
    to_send_out,
)
from tape.stocktaking import take_stock
from tests.tape_books import DAY_NS, VOLUME, Books, uuid

KEEP = {"onsite": 10 * DAY_NS, "offsite": 100 * DAY_NS}


@pytest.fixture
def books() -> Books:
    books = Books()
    books.take(
        Attached(time_ns=1, volume_uuid=VOLUME, volume_name="shop", directory="/srv", keep_ns=KEEP)
    )
    return books


def a_set(books: Books, number: int, first: int, last: int, pool: str = "onsite") -> TapeSet:
    """A set from one LSN to another on a cartridge of its own; open."""
    books.cartridge(number, pool)
    tape_set = books.open_set(first, pool)
    books.full(tape_set, number)
    books.log(tape_set, number, last)
    return tape_set


def recyclable(books: Books) -> list[str]:
    return [each.name for each in Retention(books.state, books.now_ns).recyclable()]


def why(books: Books, tape_set: TapeSet) -> str:
    return Retention(books.state, books.now_ns).why_kept(tape_set)


def slots(*barcodes: str, doors: tuple[str, ...] = (), drives: tuple[str, ...] = ()) -> Inventory:
    """An inventory by barcode: "" for an empty slot, "?" for an unreadable one."""

    def element(number: int, code: str) -> Element:
        return Element(number, bool(code), "" if code == "?" else code)

    first_door = len(barcodes) + 1
    return Inventory(
        tuple(element(at, code) for at, code in enumerate(drives)),
        tuple(element(at, code) for at, code in enumerate(barcodes, 1)),
        tuple(element(at, code) for at, code in enumerate(doors, first_door)),
    )


def chooser(books: Books, inventory: Inventory | None = None) -> Chooser:
    return Chooser(books.state, inventory or slots(), "CLN", books.now_ns)


# --- what stays ---------------------------------------------------------------------


def test_a_set_goes_when_its_time_is_up_and_a_newer_one_covers_what_is_kept(books: Books) -> None:
    old = a_set(books, 1, 10, 20)
    assert why(books, old) == "more is written to it"
    books.close_set(old)
    assert "for a while" in why(books, old)
    books.days(11)
    assert "no newer set" in why(books, old), "the newest whole set stays, however old"
    a_set(books, 2, 25, 30)
    assert "no newer set" in why(books, old), "until the newer one is as old as what is kept"
    books.days(9.9)
    assert recyclable(books) == []
    books.days(0.2)
    assert recyclable(books) == ["A00001L8"]


def test_time_counts_from_the_closing(books: Books) -> None:
    old = a_set(books, 1, 10, 20)
    books.days(50)
    books.close_set(old)
    a_set(books, 2, 25, 30)
    books.days(9.9)
    assert recyclable(books) == []
    books.days(0.2)
    assert recyclable(books) == ["A00001L8"]


def test_a_newer_set_that_went_bad_is_no_successor(books: Books) -> None:
    books.close_set(a_set(books, 1, 10, 20))
    a_set(books, 2, 25, 30)
    books.days(11)
    assert recyclable(books) == ["A00001L8"]
    books.take(ArchiveBad(time_ns=1, label_id=uuid(2), file=1, what="unreadable"))
    assert recyclable(books) == []


def test_a_newer_set_whose_cartridge_is_missing_is_no_successor(books: Books) -> None:
    books.close_set(a_set(books, 1, 10, 20))
    a_set(books, 2, 25, 30)
    books.days(11)
    books.move(2, "missing")
    assert recyclable(books) == []
    books.move(2, "outside")
    assert recyclable(books) == ["A00001L8"]


def test_the_only_copy_of_what_another_pool_lost_stays(books: Books) -> None:
    books.close_set(a_set(books, 1, 10, 20, "onsite"))
    offsite = a_set(books, 2, 10, 30, "offsite")
    books.close_set(offsite)
    a_set(books, 3, 25, 40, "onsite")
    books.days(11)
    assert recyclable(books) == ["A00001L8"]
    books.take(ArchiveBad(time_ns=1, label_id=uuid(2), file=2, what="unreadable"))
    (onsite, *_) = books.state.sets.values()
    assert "only copy" in why(books, onsite)
    assert recyclable(books) == []
    a_set(books, 4, 5, 30, "offsite")
    assert recyclable(books) == ["A00001L8"], "there is a copy again"


def test_the_only_copy_of_a_cartridge_that_burnt_stays_as_long_as_it_was_kept(books: Books) -> None:
    books.close_set(a_set(books, 1, 10, 20, "onsite"))
    books.close_set(a_set(books, 2, 10, 30, "offsite"))
    a_set(books, 3, 25, 40, "onsite")
    books.days(11)
    books.take(Retired(time_ns=books.now_ns, label_id=uuid(2), barcode="", reason="fire"))
    books.take(Recycled(time_ns=books.now_ns, label_id=uuid(2)))
    assert recyclable(books) == []
    books.days(90)
    assert recyclable(books) == ["A00001L8"]


def test_what_nobody_set_a_time_for_stays_for_ever() -> None:
    books = Books()
    books.close_set(a_set(books, 1, 10, 20))
    a_set(books, 2, 25, 30)
    books.days(10_000)
    assert recyclable(books) == []


def test_an_unfinished_set_keeps_nothing(books: Books) -> None:
    books.cartridge(1)
    tape_set = books.open_set(10)
    books.archive(tape_set, 1, "full", 10, 10)
    books.close_set(tape_set)
    assert recyclable(books) == ["A00001L8"]


def test_a_cartridge_with_something_that_stays_stays(books: Books) -> None:
    books.close_set(a_set(books, 1, 10, 20))
    newer = books.open_set(25)
    books.full(newer, 1)
    books.log(newer, 1, 30)
    books.days(11)
    assert recyclable(books) == []


def test_an_empty_cartridge_is_free_again_unless_its_pool_writes_to_it(books: Books) -> None:
    books.cartridge(1)
    assert recyclable(books) == []
    other = uuid(77)
    with pytest.raises(NoScratch, match="1: its pool writes to it"):
        chooser(books).next_cartridge(other, "onsite")
    books.take(Detached(time_ns=1, volume_uuid=VOLUME))
    found = chooser(books).next_cartridge(other, "onsite")
    assert (found.how, found.barcode) == ("recycle", "A00001L8")
    books.take(Recycled(time_ns=1, label_id=uuid(1)))
    assert recyclable(books) == [], "it is free"
    assert chooser(books).next_cartridge(other, "onsite").how == "scratch"


def test_an_empty_cartridge_of_a_pool_that_is_no_more_is_free_again(books: Books) -> None:
    books.cartridge(1, "onsite")
    books.cartridge(2, "offsite")
    left = {"offsite": KEEP["offsite"]}
    books.take(
        Attached(time_ns=1, volume_uuid=VOLUME, volume_name="shop", directory="/srv", keep_ns=left)
    )
    assert recyclable(books) == ["A00001L8"]


def test_an_empty_cartridge_of_a_volume_that_nobody_knows_is_free() -> None:
    books = Books()
    books.cartridge(1)
    assert recyclable(books) == ["A00001L8"]
    assert chooser(books).next_cartridge(VOLUME, "onsite").how == "append", "its pool comes first"


def test_an_empty_cartridge_that_failed_is_not_tried_again_for_ever(books: Books) -> None:
    books.cartridge(1)
    books.close_cartridge(1)
    books.take(Detached(time_ns=1, volume_uuid=VOLUME))
    assert recyclable(books) == []
    with pytest.raises(NoScratch, match="it was closed: full"):
        chooser(books).next_cartridge(VOLUME, "onsite")


# --- which comes next ---------------------------------------------------------------


def test_archives_go_behind_those_of_the_pool_then_to_scratch_then_to_the_unknown(
    books: Books,
) -> None:
    a_set(books, 1, 10, 20)
    books.cartridge(2, SCRATCH_POOL)
    inventory = slots("A00001L8", "A00002L8", "B00003L8", "CLN001L1")
    found = chooser(books, inventory).next_cartridge(VOLUME, "onsite")
    assert (found.how, found.barcode) == ("append", "A00001L8")
    found = chooser(books, inventory).next_cartridge(VOLUME, "offsite")
    assert (found.how, found.barcode) == ("scratch", "A00002L8")
    books.close_cartridge(1)
    without: list[str | int] = [uuid(2)]
    found = chooser(books, inventory).next_cartridge(VOLUME, "onsite", without)
    assert (found.how, found.slot, found.barcode) == ("unknown", 3, "B00003L8")
    without.append(3)
    with pytest.raises(NoScratch, match=r"more is written to it") as caught:
        chooser(books, inventory).next_cartridge(VOLUME, "onsite", without)
    assert "import" in caught.value.hint


def test_a_full_library_recycles_the_oldest_and_says_why_when_nothing_may_go(books: Books) -> None:
    for number in (1, 2, 3):
        books.close_set(a_set(books, number, number * 100, number * 100 + 50))
        books.close_cartridge(number)
        books.days(1)
    with pytest.raises(NoScratch, match="3: it is kept for a while"):
        chooser(books).next_cartridge(VOLUME, "onsite")
    books.days(11)
    found = chooser(books).next_cartridge(VOLUME, "onsite")
    assert (found.how, found.barcode) == ("recycle", "A00001L8")


def test_volumes_share_what_is_free_and_keep_what_each_of_them_keeps(books: Books) -> None:
    other = uuid(77)
    books.close_set(a_set(books, 1, 10, 20))
    a_set(books, 2, 25, 30)
    with pytest.raises(NoScratch):
        chooser(books).next_cartridge(other, "onsite")
    books.days(11)
    found = chooser(books).next_cartridge(other, "onsite")
    assert (found.how, found.barcode) == ("recycle", "A00001L8")
    books.take(Recycled(time_ns=books.now_ns, label_id=uuid(1)))
    found = chooser(books).next_cartridge(other, "onsite")
    assert (found.how, found.barcode) == ("scratch", "A00001L8")


@pytest.mark.parametrize("how", ["retired", "missing", "outside", "door", "other volume"])
def test_what_can_not_be_written_is_not_chosen(books: Books, how: str) -> None:
    a_set(books, 1, 10, 20)
    if how == "retired":
        books.take(Retired(time_ns=1, label_id=uuid(1), barcode="", reason="worn"))
    elif how in ("missing", "outside", "door"):
        books.move(1, how)  # type: ignore[arg-type]
    volume = uuid(77) if how == "other volume" else VOLUME
    with pytest.raises(NoScratch):
        chooser(books).next_cartridge(volume, "onsite")


def test_strangers_and_second_claims_to_a_barcode_are_not_written(books: Books) -> None:
    books.cartridge(1)
    books.move(1, "outside")
    books.take(Stranger(time_ns=1, barcode="F0", slot=2, finding="foreign"))
    books.take(Stranger(time_ns=1, barcode="N0", slot=3, finding="newer"))
    books.take(Stranger(time_ns=1, barcode="P0", slot=4, finding="protected"))
    books.take(Stranger(time_ns=1, barcode="B0", slot=5, finding="blank"))
    inventory = slots("A00001L8", "F0", "N0", "P0", "B0", "?")
    assert [each.number for each in chooser(books, inventory).unknown()] == [5, 6]
    other = slots("A00001L8", "ELSE", "N0", "P0")
    assert [each.number for each in chooser(books, other).unknown()] == [2]


def test_recycling_stops_when_enough_are_free(books: Books) -> None:
    for number in (1, 2, 3, 4):
        books.close_set(a_set(books, number, number * 100, number * 100 + 50))
    books.days(20)
    given_up = []
    while (cartridge := chooser(books, slots("", "", "", "", "NEW")).to_recycle(3)) is not None:
        given_up.append(cartridge.name)
        books.take(Recycled(time_ns=books.now_ns, label_id=cartridge.label_id))
    assert given_up == ["A00001L8", "A00002L8"]


def test_cleaning_cartridges_are_used_evenly_and_not_for_ever(books: Books) -> None:
    inventory = slots("CLN001L1", "CLN002L1", "A00009L8")
    assert chooser(books, inventory).scratch_left() == 1
    used = []
    for _ in range(4):
        element = chooser(books, inventory).cleaning_cartridge(2)
        assert element is not None
        used.append(element.barcode)
        books.take(Cleaned(time_ns=1, barcode=element.barcode, drive=0))
    assert used == ["CLN001L1", "CLN002L1"] * 2
    assert chooser(books, inventory).cleaning_cartridge(2) is None


# --- what an inventory tells --------------------------------------------------------


def stock(books: Books, inventory: Inventory) -> tuple[list[str], list[int]]:
    found = take_stock(books.state, inventory, "CLN", books.now_ns)
    for event in found.events:
        books.take(event)
    moves = [
        f"{books.state.cartridges[event.label_id].barcode} {event.place} {event.number}"
        for event in found.events
        if isinstance(event, Moved)
    ]
    return moves, [each.number for each in found.unread]


def test_an_inventory_that_agrees_changes_nothing(books: Books) -> None:
    books.cartridge(1)
    books.cartridge(2)
    assert stock(books, slots("A00001L8", "A00002L8", "CLN001L1")) == ([], [])


def test_a_cartridge_in_another_slot_is_known_by_its_barcode(books: Books) -> None:
    books.cartridge(1)
    books.cartridge(2)
    moves, unread = stock(books, slots("A00002L8", "A00001L8"))
    assert sorted(moves) == ["A00001L8 slot 2", "A00002L8 slot 1"]
    assert unread == []
    assert {each.place for each in books.state.cartridges.values()} == {"slot"}


def test_what_left_by_a_door_is_outside_and_what_vanished_is_missing(books: Books) -> None:
    books.cartridge(1)
    books.cartridge(2)
    books.move(1, "door", "off-site, box 3")
    moves, _ = stock(books, slots("", ""))
    assert moves == ["A00001L8 outside 0", "A00002L8 missing 0"]
    assert place_text(books.state.cartridges[uuid(1)]) == "off-site, box 3"
    assert place_text(books.state.cartridges[uuid(2)]) == "not found in the library"


def test_what_comes_back_shows_its_label(books: Books) -> None:
    books.cartridge(1)
    books.move(1, "outside")
    assert stock(books, slots("", "", doors=("A00001L8",))) == ([], [3])


def test_a_barcode_that_is_there_twice_or_can_not_be_read_proves_nothing(books: Books) -> None:
    books.cartridge(1)
    books.cartridge(2)
    moves, unread = stock(books, slots("?", "", "A00002L8", "A00002L8", "?"))
    assert (moves, unread) == (["A00002L8 missing 0"], [3, 4, 5])
    assert books.state.cartridges[uuid(1)].place == "slot", "nobody says that it went"


def test_a_stranger_is_looked_at_once(books: Books) -> None:
    books.take(Stranger(time_ns=1, barcode="F0", slot=1, finding="foreign"))
    assert stock(books, slots("F0", "G0")) == ([], [2])
    assert stock(books, slots("", "F0")) == ([], [2])
    assert [(each.slot, each.finding) for each in books.state.strangers.values()] == [
        (2, "unknown")
    ]
    assert stock(books, slots("", "")) == ([], [])
    assert not books.state.strangers


# --- lists --------------------------------------------------------------------------


def test_the_shopping_list_names_the_cartridges_of_a_restore_and_their_places(books: Books) -> None:
    tape_set = a_set(books, 12, 10, 20, "offsite")
    books.cartridge(13, "offsite")
    books.log(tape_set, 13, 30)
    books.move(12, "outside", "off-site, box 3")
    found = find_set(books.state, VOLUME, lsn=15)
    assert shopping_text(found.missing) == "A00012L8 (off-site, box 3)"
    assert [len(part.archives) for part in found.parts] == [2]
    found = find_set(books.state, VOLUME)
    assert (found.lsn, len(found.parts)) == (30, 2)
    names = shopping_text(part.cartridge for part in found.parts)
    assert names == "A00012L8 (off-site, box 3), A00013L8 (slot 13)"
    with pytest.raises(NoSuchSet, match="onsite"):
        find_set(books.state, VOLUME, lsn=15, pool="onsite")
    with pytest.raises(NoSuchSet):
        find_set(books.state, VOLUME, lsn=31)


def test_a_restore_takes_what_is_in_the_library_if_it_can(books: Books) -> None:
    a_set(books, 1, 10, 30, "offsite")
    books.days(1)
    a_set(books, 2, 12, 28, "onsite")
    books.move(1, "outside")
    assert find_set(books.state, VOLUME, lsn=20).tape_set.pool == "onsite"
    assert find_set(books.state, VOLUME, lsn=11).tape_set.pool == "offsite"
    assert find_set(books.state, VOLUME).tape_set.pool == "offsite", "its barrier is newer"


def test_a_time_goes_to_the_set_that_knows_most_of_what_was_before_it(books: Books) -> None:
    start_ns = books.now_ns
    books.close_set(a_set(books, 1, 10, 20))
    books.days(2)
    newer = a_set(books, 2, 30, 40)
    books.days(1)
    books.log(newer, 2, 50)
    found = find_set(books.state, VOLUME, time_ns=start_ns + DAY_NS)
    assert (found.tape_set.base_lsn, found.lsn) == (10, 20)
    found = find_set(books.state, VOLUME, time_ns=start_ns + int(2.5 * DAY_NS))
    assert (found.tape_set.base_lsn, found.lsn) == (30, 50)
    with pytest.raises(NoSuchSet):
        find_set(books.state, VOLUME, time_ns=start_ns - 1)


def test_a_store_is_made_of_the_set_that_goes_back_furthest(books: Books) -> None:
    long, short = a_set(books, 1, 10, 20, "onsite"), a_set(books, 2, 19, 20, "offsite")
    books.log(long, 1, 25)
    books.log(long, 1, 30)
    books.log(short, 2, 30)
    assert find_set(books.state, VOLUME).tape_set is short
    assert find_set(books.state, VOLUME, history=True).tape_set is long


def test_a_set_is_of_no_use_before_its_log_reaches_what_its_full_needs(books: Books) -> None:
    books.cartridge(1)
    tape_set = books.open_set(10)
    books.archive(tape_set, 1, "full", 10, 10, last_part=True, needs=25)
    books.log(tape_set, 1, 20)
    assert reach_of(books.state, tape_set) is None
    books.log(tape_set, 1, 30)
    books.log(tape_set, 1, 40)
    assert [len(part.archives) for part in find_set(books.state, VOLUME, lsn=12).parts] == [3]


def test_a_cartridge_that_was_begun_after_the_time_of_rotation_goes_out_with_its_set(
    books: Books,
) -> None:
    weekly = Weekly(parse_days("fri"), parse_time("18:00"), "UTC")
    books.days(1)
    tape_set = a_set(books, 1, 10, 20, "offsite")
    books.close_set(tape_set)
    (out,) = to_send_out(books.state, VOLUME, "offsite", weekly, books.now_ns)
    assert out.came_ns > weekly.last(books.now_ns)


def test_rotation_sends_closed_sets_out_once_and_expired_ones_home(books: Books) -> None:
    weekly = Weekly(parse_days("fri"), parse_time("18:00"), "UTC")
    # The first of January 1970 was a Thursday; the books begin on the 2nd, at midnight.
    tape_set = a_set(books, 1, 10, 20, "offsite")
    assert not rotation_due(tape_set, weekly, books.now_ns)
    books.days(0.8)
    assert rotation_due(tape_set, weekly, books.now_ns)
    assert to_send_out(books.state, VOLUME, "offsite", weekly, books.now_ns) == []
    books.close_set(tape_set)
    books.close_cartridge(1)
    (out,) = to_send_out(books.state, VOLUME, "offsite", weekly, books.now_ns)
    books.move(1, "outside")
    assert to_send_out(books.state, VOLUME, "offsite", weekly, books.now_ns) == []
    books.days(1)
    books.move(1, "slot")
    assert to_send_out(books.state, VOLUME, "offsite", weekly, books.now_ns) == [], "for a restore"
    books.days(7)
    assert to_send_out(books.state, VOLUME, "offsite", weekly, books.now_ns) == [out]
    books.move(1, "outside")
    a_set(books, 2, 25, 30, "offsite")
    books.days(101)
    assert to_bring_back(books.state, books.now_ns) == [out]
    books.move(1, "slot")
    assert to_send_out(books.state, VOLUME, "offsite", weekly, books.now_ns) == []
