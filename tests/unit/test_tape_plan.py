"""What the spooler does next for a pool, and what it says when it rests."""

from tape.catalogue_state import State
from tape.plan import JournalFacts, Rest, Rules, next_step
from tests.tape_books import DAY_NS, VOLUME, Books

RULES = Rules(
    pool="onsite", volume_uuid=VOLUME, start_bytes=1 << 30, start_age_ns=DAY_NS, full_every_ns=0
)


def covered_up_to_20() -> tuple[State, int]:
    """A set with everything up to LSN 20, and the time."""
    books = Books()
    books.cartridge(1)
    tape_set = books.open_set(10)
    books.full(tape_set, 1)
    books.log(tape_set, 1, 20)
    books.archive(tape_set, 1, "catalogue", 20, 20)
    return books.state, books.now_ns


def reason(end_lsn: int, waiting_bytes: int, goal_lsn: int | None) -> str:
    state, now_ns = covered_up_to_20()
    journal = JournalFacts(1, end_lsn, end_lsn, now_ns, waiting_bytes, now_ns * bool(waiting_bytes))
    step = next_step(state, RULES, journal, now_ns, goal_lsn)
    assert isinstance(step, Rest), step
    return step.reason


def test_everything_is_on_tape_only_when_nothing_waits() -> None:
    for goal_lsn in (None, 20):
        assert reason(20, 0, goal_lsn) == "everything is on tape"
    assert reason(25, 500, None) == "too little waits yet"
    assert reason(25, 500, 20) == "what was asked for is on tape; the rest waits"
