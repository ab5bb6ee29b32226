"""What a scan makes of the sets that it finds: when they were closed, and what may go."""

from tape.catalogue import ArchiveKept, Attached
from tape.retention import Retention
from tape.scan import Read, state_of
from tests.tape_books import DAY_NS, VOLUME, Books, uuid


def read_of(books: Books, number: int, catalogue: bool) -> Read:
    """A cartridge as a scan reads it, with the books as they were on it if they are to be."""
    cartridge = books.state.cartridges[uuid(number)]
    heads = [
        event.head
        for event in books.events
        if isinstance(event, ArchiveKept) and event.label_id == uuid(number)
    ]
    files = list(zip(heads, cartridge.archives, strict=True))
    told = [(books.now_ns, books.state)] if catalogue else []
    return Read(cartridge.label, number, cartridge.barcode, files, told)


def test_a_set_was_closed_when_the_next_one_of_its_pool_began() -> None:
    books = Books()
    for number in (1, 2, 3):
        books.cartridge(number)
        tape_set = books.open_set(number * 100)
        books.full(tape_set, number)
        books.log(tape_set, number, number * 100 + 50)
        books.days(7)
        books.close_set(tape_set)
    books.cartridge(4, "offsite")
    other = books.open_set(350, "offsite")
    books.full(other, 4)
    books.log(other, 4, 360)
    books.days(3)
    found = state_of([read_of(books, number, False) for number in (3, 1, 4, 2)], books.now_ns)
    closed = [round(each.closed_ns / DAY_NS) for each in found.sets_of(VOLUME, "onsite")]
    assert closed == [8, 15, 25], "the last one is closed by the scan"
    assert [each.last_lsn for each in found.sets_of(VOLUME, "onsite")] == [150, 250, 350]
    assert found.open_set(VOLUME, "offsite") is None


def test_without_a_word_of_how_long_nothing_goes_and_with_it_what_is_old_does() -> None:
    books = Books()
    books.take(
        Attached(
            time_ns=1,
            volume_uuid=VOLUME,
            volume_name="shop",
            directory="/srv",
            keep_ns={"onsite": 5 * DAY_NS},
        )
    )
    for number in (1, 2, 3):
        books.cartridge(number)
        tape_set = books.open_set(number * 100)
        books.full(tape_set, number)
        books.log(tape_set, number, number * 100 + 50)
        books.days(7)
        books.close_set(tape_set)
    for told, expected in ((False, []), (True, ["A00001L8", "A00002L8"])):
        reads = [read_of(books, number, told) for number in (1, 2, 3)]
        state = state_of(reads, books.now_ns)
        assert [each.name for each in Retention(state, books.now_ns).recyclable()] == expected
