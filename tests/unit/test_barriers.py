"""Recovery points from the ops of programs: each pattern as the program makes it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from store.format import Flag, Kind
from tests.unit.program_log import ProgramLog

PAGE = bytes(range(1, 256)) * 16
HEADER = bytes(8) + b"\1" * 504
MAGIC = bytes.fromhex("d9d505f920a163d7") + bytes(4)


@pytest.fixture
def log() -> ProgramLog:
    """An empty volume."""
    made = ProgramLog()
    made.program(1000)
    return made


def rollback_transaction(log: ProgramLog, retire: Callable[[], int], spills: int = 0) -> int:
    """One transaction of SQLite with a rollback journal; returns the LSN that commits it."""
    log.write("app.db-journal", 0, HEADER)
    log.write("app.db-journal", 512, PAGE)
    log.sync("app.db-journal")
    log.write("app.db-journal", 0, MAGIC)
    log.sync("app.db-journal")
    for spill in range(spills):
        log.write("app.db", 4096 * spill, PAGE)
        log.write("app.db-journal", 8192 + 4096 * spill, PAGE)
        log.sync("app.db-journal")
    log.write("app.db", 0, PAGE)
    log.write("app.db", 8192, PAGE)
    log.sync("app.db")
    return retire()


RETIRE: dict[str, Callable[[ProgramLog], int]] = {
    "delete": lambda log: log.unlink("app.db-journal"),
    "truncate": lambda log: log.truncate("app.db-journal"),
    "persist": lambda log: log.write("app.db-journal", 0, bytes(28)),
}


@pytest.mark.parametrize("mode", RETIRE)
@pytest.mark.parametrize("spills", [0, 3])
def test_a_rollback_journal_commits_when_it_is_retired(
    log: ProgramLog, mode: str, spills: int
) -> None:
    log.write("app.db", 0, PAGE)
    log.sync("app.db")
    commits = []
    for _ in range(10):
        commits.append(rollback_transaction(log, lambda: RETIRE[mode](log), spills))
        if mode != "delete":
            log.sync("app.db-journal")
    assert log.transactions() == commits
    point = next(point for point in log.points() if point.lsn == commits[-1])
    assert "app.db-journal after fsync of app.db" in point.reason


def test_nothing_inside_a_transaction_is_a_point_once_the_journal_is_known(
    log: ProgramLog,
) -> None:
    log.write("app.db", 0, PAGE)
    for _ in range(5):
        rollback_transaction(log, lambda: log.unlink("app.db-journal"), spills=2)
    known = len(log.ops)
    last = rollback_transaction(log, lambda: log.unlink("app.db-journal"), spills=2)
    assert [p.lsn for p in log.points() if known + 1 < p.lsn] == [last]


def test_a_rollback_without_a_write_completes_a_transaction(log: ProgramLog) -> None:
    log.write("app.db", 0, PAGE)
    rollback_transaction(log, lambda: log.unlink("app.db-journal"))
    log.write("app.db-journal", 0, HEADER)
    back = log.unlink("app.db-journal")
    assert log.transactions()[-1] == back


def test_a_log_beside_a_database_that_is_never_synced_does_not_stand_in_the_way(
    log: ProgramLog,
) -> None:
    log.write("app.db", 0, PAGE)
    log.sync("app.db")
    commits = []
    for number in range(5):
        log.write("app.log", number * 10, b"0123456789")
        commits.append(rollback_transaction(log, lambda: log.unlink("app.db-journal")))
        log.write("app.log", number * 10 + 5, b"01234")
    assert log.transactions() == commits


def test_each_fsync_of_a_log_is_a_commit_whatever_else_is_dirty(log: ProgramLog) -> None:
    commits = []
    for number in range(20):
        log.write("app.db-wal", 32 + number * 4096, PAGE)
        commits.append(log.sync("app.db-wal"))
        log.write("app.db-shm", 0, b"x")
    assert log.transactions() == commits[3:]


def test_a_checkpoint_does_not_confuse_a_log(log: ProgramLog) -> None:
    commits = []
    for number in range(60):
        if number % 20 == 0:
            log.write("app.db", 0, PAGE)
            log.sync("app.db")
            log.write("app.db-wal", 0, b"header")
            log.sync("app.db-wal")
        log.write("app.db-wal", 32 + number * 4096, PAGE)
        commits.append(log.sync("app.db-wal"))
    missing = set(commits[4:]) - set(log.transactions())
    assert len(missing) <= 3
    assert set(log.transactions()) <= set(commits)


def pair(log: ProgramLog, first: str, second: str, count: int) -> list[int]:
    """A program that syncs one file, then another one; returns the LSNs of its commits."""
    commits = []
    for number in range(count):
        for name in (first, second):
            log.write(name, number * 100 if name == "data" else 4096, b"x" * 100)
            last = log.sync(name)
        commits.append(last)
    return commits


@pytest.mark.parametrize(("first", "second"), [("data", "index"), ("index", "data")])
@pytest.mark.parametrize("prepared", [1, 2, 3])
def test_a_pair_is_consistent_after_its_second_file(
    log: ProgramLog, first: str, second: str, prepared: int
) -> None:
    for _ in range(prepared):
        log.write("index", 0, PAGE + PAGE)
        log.sync("index")
    log.program(1001, 1000)
    commits = pair(log, first, second, 40)
    found = [lsn for lsn in log.transactions() if lsn > commits[0]]
    assert set(found) <= set(commits)
    assert len(found) >= 36


@pytest.mark.parametrize(("first", "second"), [("data", "index"), ("index", "data")])
@pytest.mark.parametrize("anywhere", [True, False])
def test_a_program_that_is_held_up_between_two_fsyncs_has_not_begun_anew(
    log: ProgramLog, first: str, second: str, anywhere: bool
) -> None:
    log.write("index", 0, PAGE + PAGE)
    log.sync("index")
    log.program(1001, 1000)
    chance, commits = random.Random(1), pair(log, first, second, 10)
    for number in range(10, 500):
        for name in (first, second):
            log.write(name, number * 100 if name == "data" else 4096, b"x" * 100)
            last = log.sync(name)
            if chance.random() < 0.05 and (anywhere or name == first):
                log.wait(chance.uniform(0.5, 1.9))
        commits.append(last)
    found = log.transactions()
    assert set(found) <= set(commits)
    assert len(found) >= 490


def test_where_a_program_keeps_waking_up_is_its_beginning(log: ProgramLog) -> None:
    for _ in range(3):
        log.write("index", 0, PAGE)
        log.sync("index")
    for _ in range(20):
        late = pair(log, "index", "data", 20)
        log.wait(3)
    assert set(late) <= set(log.transactions())
    assert not {lsn - 2 for lsn in late} & set(log.transactions())


def test_a_pair_whose_order_does_not_tell_has_no_transactions(log: ProgramLog) -> None:
    for name in ("two", "one", "one", "two"):
        log.write(name, 0, b"same")
        log.sync(name)
    for _ in range(30):
        for name in ("one", "two"):
            log.write(name, 0, b"same")
            log.sync(name)
    assert log.transactions() == []


def test_a_pair_written_before_both_fsyncs_is_clean_only_after_the_second(
    log: ProgramLog,
) -> None:
    commits = []
    for number in range(20):
        log.write("one", 0, b"x")
        log.write("two", number, b"x")
        log.sync("one")
        commits.append(log.sync("two"))
    assert set(log.transactions()) <= set(commits)
    assert len(log.transactions()) >= 16


def test_a_pair_in_two_directories_becomes_one_group(log: ProgramLog) -> None:
    for name in ("d", "i"):
        log.mkdir(name)
    log.program(1001)
    commits = []
    for number in range(40):
        log.write("d/data", number * 10, b"0123456789")
        log.sync("d/data")
        log.write("i/index", 0, b"x")
        commits.append(log.sync("i/index"))
    late = [point for point in log.points() if point.lsn > commits[12]]
    assert {p.lsn for p in late if p.grade == "transaction"} <= set(commits)
    assert len([p for p in late if p.grade == "transaction"]) >= 20


def test_an_interrupted_cycle_makes_no_transaction(log: ProgramLog) -> None:
    log.program(1001)
    pair(log, "data", "index", 10)
    log.write("data", 2000, b"x")
    log.sync("data")
    log.program(1002)
    log.write("data", 2001, b"x")
    half = log.sync("data")
    log.write("index", 4096, b"x")
    whole = log.sync("index")
    assert half not in log.transactions()
    assert log.transactions()[-1] == whole


@pytest.mark.parametrize("synced", [True, False])
def test_a_finished_file_renamed_over_another_is_a_transaction(
    log: ProgramLog, synced: bool
) -> None:
    log.write("text", 0, b"old")
    log.close("text")
    renames = []
    for number in range(3):
        log.write(f"sed{number}", 0, b"new")
        if synced:
            log.sync(f"sed{number}")
        log.close(f"sed{number}")
        renames.append(log.rename(f"sed{number}", "text"))
    assert log.transactions() == renames


def test_an_editor_that_keeps_a_backup_is_done_when_all_its_files_are(log: ProgramLog) -> None:
    log.write("text", 0, b"old")
    log.sync("text")
    log.close("text")
    ends = []
    for _ in range(2):
        log.program(2000 + len(ends))
        log.write(".text.swp", 0, PAGE)
        log.sync(".text.swp")
        log.rename("text", "text~")
        log.write("text", 0, b"new")
        log.sync("text")
        log.close("text")
        log.write(".text.swp", 0, PAGE)
        log.unlink("text~")
        ends.append(log.close(".text.swp"))
        log.unlink(".text.swp")
    assert log.transactions() == ends


def test_mail_delivered_by_link_is_a_transaction(log: ProgramLog) -> None:
    for name in ("tmp", "new"):
        log.mkdir(name)
    links = []
    for number in range(5):
        log.write(f"tmp/{number}", 0, b"mail")
        log.sync(f"tmp/{number}")
        log.close(f"tmp/{number}")
        log.link(f"tmp/{number}", f"new/{number}")
        links.append(log.unlink(f"tmp/{number}"))
    assert log.transactions() == links


def git_command(log: ProgramLog, pid: int) -> int:
    """What git does to commit: objects, index and branch, each under a lock."""
    log.program(pid)
    log.create(".git/index.lock")
    log.write(f".git/objects/tmp{pid}", 0, b"object")
    log.close(f".git/objects/tmp{pid}")
    log.link(f".git/objects/tmp{pid}", f".git/objects/{pid}")
    log.unlink(f".git/objects/tmp{pid}")
    log.write(".git/index.lock", 0, b"index")
    log.close(".git/index.lock")
    log.rename(".git/index.lock", ".git/index")
    log.create(".git/HEAD.lock")
    log.write(".git/refs/main.lock", 0, b"id")
    log.close(".git/refs/main.lock")
    log.rename(".git/refs/main.lock", ".git/refs/main")
    return log.unlink(".git/HEAD.lock")


def test_git_has_committed_when_its_last_lock_is_gone(log: ProgramLog) -> None:
    for name in (".git", ".git/objects", ".git/refs"):
        log.mkdir(name)
    commits = [git_command(log, 2000 + number) for number in range(5)]
    index = [commit - 6 for commit in commits]
    found = log.transactions()
    assert set(commits) <= set(found)
    assert set(found) <= set(commits) | set(index)


def test_files_of_one_database_in_many_directories_are_one_group(log: ProgramLog) -> None:
    for name in ("wal", "base", "base/1"):
        log.mkdir(name)
    for number in range(30):
        log.write("base/1/table", number * 8192, PAGE)
        log.write("wal/1", number * 8192, PAGE)
        log.program(1000 + number % 3)
        log.sync("wal/1")
    last = log.points()[-1]
    assert last.grade == "transaction"
    log.write("base/1/table", 0, PAGE)
    changed = len(log.ops)
    log.write("wal/1", 0, PAGE)
    log.sync("wal/1")
    assert {point.until for point in log.points() if point.lsn == last.lsn} == {changed}


def test_two_programs_in_one_directory_are_groups_of_their_own(log: ProgramLog) -> None:
    commits = []
    for number in range(10):
        log.program(1000, 900)
        log.write("a.log", number, b"x")
        log.program(2000, 1900)
        log.write("b.log", number, b"x")
        log.program(1000, 900)
        commits.append(log.sync("a.log"))
        log.program(2000, 1900)
        commits.append(log.sync("b.log"))
    assert log.transactions() == commits[6:]
    assert len({point.group for point in log.points()}) == 2


def test_what_nobody_syncs_is_consistent_when_closed_or_quiet(log: ProgramLog) -> None:
    log.write("copy", 0, b"x")
    closed = log.close("copy")
    log.wait(10)
    written = log.write("scratch", 0, b"x")
    log.wait(10)
    log.create("other")
    grades = {point.lsn: (point.grade, point.reason) for point in log.points()}
    assert grades[closed] == ("sync", "close of copy")
    assert grades[written] == ("sync", "quiet for 2 s")


def test_an_unmount_in_order_closes_everything(log: ProgramLog) -> None:
    written = log.write("f", 0, b"x")
    log.op(Kind.CLEAN)
    assert (written, "sync", "unmount") in log.found()


def test_a_write_through_o_sync_needs_no_fsync(log: ProgramLog) -> None:
    writes = [log.write("meta", 0, b"x", Flag.SYNCHRONOUS) for _ in range(6)]
    assert log.transactions() == writes[3:]


def test_a_point_holds_until_the_next_change(log: ProgramLog) -> None:
    log.write("f", 0, b"x")
    closed = log.close("f")
    log.op(Kind.MARK, payload=b"m")
    changed = log.write("f", 0, b"y")
    ends = {point.lsn: point.until for point in log.points()}
    assert ends[closed] == changed


def test_an_aborted_op_never_happened(log: ProgramLog) -> None:
    log.write("f", 0, b"x")
    closed = log.close("f")
    lost = log.write("f", 0, b"y")
    log.op(Kind.ABORT, offset=lost)
    assert {p.until for p in log.points() if p.lsn == closed} == {0}


@pytest.mark.parametrize("seed", range(6))
def test_where_batches_end_and_processes_restart_makes_no_difference(seed: int) -> None:
    def play(restarts: random.Random | None) -> list[object]:
        log, chance = ProgramLog(), random.Random(seed)
        for step in range(150):
            _random_step(log, chance)
            if step % 7 == 0:
                log.commit(restart=restarts is not None and restarts.random() < 0.5)
        return [log.points(), log.rows.groups, log.rows.rows]

    assert play(random.Random(1)) == play(None) == play(random.Random(2))


def _random_step(log: ProgramLog, chance: random.Random) -> None:
    log.program(chance.choice((1000, 1001, 2000)), chance.choice((900, 1000)))
    if chance.random() < 0.1:
        log.wait(chance.choice((0.1, 1, 3)))
    match chance.randrange(6):
        case 0:
            log.write("app.db", 0, PAGE)
            rollback_transaction(log, lambda: log.unlink("app.db-journal"))
        case 1:
            pair(log, "data", "index", 2)
        case 2:
            log.write("new", 0, b"x")
            log.close("new")
            log.rename("new", "text")
        case 3:
            log.write("log", 0, b"x")
            log.sync("log")
        case 4:
            log.write(f"f{chance.randrange(4)}", 0, b"x")
        case _:
            log.write("gone", 0, b"x")
            log.unlink("gone")


def test_a_log_goes_on_in_its_next_file(log: ProgramLog) -> None:
    commits = []
    for number in range(12):
        name = f"00000001{1 + number // 6:08X}"
        log.write(name, number * 8192, PAGE)
        commits.append(log.sync(name))
    assert log.transactions() == commits[3:]


def test_what_lies_there_while_a_log_is_synced_is_no_journal(log: ProgramLog) -> None:
    log.write("data", 0, PAGE)
    log.sync("data")
    log.write("ddl.log", 0, PAGE)
    log.sync("ddl.log")
    log.write("data", 0, PAGE)
    log.sync("data")
    log.unlink("ddl.log")
    log.write("ddl.log", 0, PAGE)
    log.sync("ddl.log")
    commits = []
    for number in range(40):
        log.write("redo", number * 512, PAGE)
        commits.append(log.sync("redo"))
    assert set(commits[20:]) <= set(log.transactions())


def test_an_edit_opens_its_group_and_leaves_no_point_while_the_file_is_gone(
    log: ProgramLog,
) -> None:
    log.write("text", 0, b"old")
    log.sync("text")
    log.close("text")
    for number in range(3):
        log.program(2000 + number)
        first = log.write(".text.swp", 0, PAGE) - 1
        gone = log.rename("text", "text~")
        log.write("text", 0, b"new")
        saved = log.sync("text")
        log.close("text")
        log.unlink("text~")
        log.close(".text.swp")
        log.unlink(".text.swp")
        for point in log.points():
            assert point.lsn < first or point.lsn >= saved, point
            assert point.lsn >= saved or 0 < point.until <= gone, point
