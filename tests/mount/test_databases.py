"""PostgreSQL and MariaDB as their own system users, on a data directory inside the mount.

Both are hard on a passthrough: files must belong to the caller, a file is opened read-only first
and written later, InnoDB uses O_DIRECT and asynchronous I/O. The same deterministic work on a
plain directory is the oracle for what comes out; the servers' own checks are that for what lies
on disk; and a copy of the past must start, recover, and hold what was committed by then.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.arena import Arena, Pause, open_arena
from tests.mount.peers import frozen, popen
from tests.mount.servers import MariaDB, PostgreSQL, Server


@pytest.fixture
def arena() -> Iterator[Arena]:
    """An empty pair of places."""
    with open_arena(ring_file_bytes=32 << 20) as made:
        yield made


def _run_folder(arena: Arena, name: str) -> Path:
    return arena.outside / name


def _pause_frozen(server: Server, pause: Pause) -> None:
    with frozen(server.pid):
        pause()


# --- PostgreSQL ----------------------------------------------------------------------------------

PG_FILL = """
create table item (id int primary key, name text, big text, price numeric, tags int[]);
alter table item alter big set storage external;
insert into item select i, md5(i::text), repeat(md5(i::text), i % 250), i * 1.5, array[i, i % 7]
  from generate_series(1, 1500) i;
create index on item (name);
create index on item using gin (tags);
create unlogged table scratch as select i from generate_series(1, 3000) i;
create materialized view summary as select id % 10 as k, sum(price) as s from item group by 1;
select lo_from_bytea(4711, decode(repeat('00ff10', 20000), 'hex'));
"""

PG_CHANGE = """
update item set price = price * 1.1, big = big || 'x' where id % 3 = 0;
delete from item where id % 7 = 0;
begin; delete from item; savepoint s; truncate scratch; rollback;
insert into item select i, 'late', null, 0, '{}' from generate_series(2000, 2300) i
  on conflict do nothing;
refresh materialized view summary;
vacuum analyze item;
cluster item using item_pkey;
alter table item add column note text default 'noted';
truncate scratch;
create database other template template0;
drop database other;
checkpoint;
"""

PG_ANSWERS = """
select md5(string_agg(i::text, '|' order by id)), count(*) from item i;
select count(*) from item where name = md5('100');
select count(*), sum(id) from item where tags @> array[3];
select md5(string_agg(s::text, '|' order by k)) from summary s;
select count(*) from scratch;
select md5(lo_get(4711));
select sum(abalance), count(*) from pgbench_accounts;
select sum(tbalance) from pgbench_tellers;
select sum(bbalance) from pgbench_branches;
select count(*), sum(delta) from pgbench_history;
"""


def _pgbench(transactions: int) -> tuple[str, ...]:
    """The same work at each run: clients meet in another order, but sums do not mind."""
    return ("pgbench", "-n", "-c3", "-j1", f"-t{transactions}", "--random-seed=5", "postgres")


def _postgresql_work(arena: Arena, place: Path, pause: Pause, transactions: int) -> list[str]:
    server = PostgreSQL(place / "pg", _run_folder(arena, place.name))
    server.create()
    with server.running():
        server.sql(PG_FILL)
        server.tool("pgbench", "-i", "-q", "postgres")
        server.tool(*_pgbench(transactions))
        _pause_frozen(server, pause)
        server.sql(PG_CHANGE)
        answers = [server.sql(PG_ANSWERS)]
        assert server.tool("pg_amcheck", "--install-missing", "-a", "--heapallindexed") == ""
    server.check_data()
    pause()
    with server.running():
        answers.append(server.sql(PG_ANSWERS))
        server.crash()
        server.start()
        answers.append(server.sql(PG_ANSWERS))
        assert server.tool("pg_amcheck", "-a", "--heapallindexed") == ""
    server.check_data()
    return answers


def _both(arena: Arena, name: str, transactions: int) -> None:
    work = {"postgresql": _postgresql_work, "mariadb": _mariadb_work}[name]
    wanted = work(arena, arena.plain, lambda: None, transactions)
    found = work(arena, arena.volume.tree, lambda: (arena.pause(), None)[1], transactions)
    assert found == wanted
    assert found[0] == found[1]
    arena.check_moments()
    arena.check_after_remount()


def test_postgresql_answers_as_on_a_plain_directory(arena: Arena) -> None:
    _both(arena, "postgresql", 40)


PG_BALANCE = """
with delta as (select coalesce(sum(delta), 0) as total from pgbench_history)
select (select sum(abalance) from pgbench_accounts) = total,
  (select sum(tbalance) from pgbench_tellers) = total,
  (select sum(bbalance) from pgbench_branches) = total from delta;
"""


def test_postgresql_recovers_from_any_past_moment(arena: Arena) -> None:
    server = PostgreSQL(arena.volume.tree / "pg", _run_folder(arena, "live"))
    server.create()
    moments = []
    with server.running():
        server.tool("pgbench", "-i", "-q", "postgres")
        server.sql("create table mark (name text)")
        with _busy(server, *_pgbench(60)):
            for name in ("one", "two"):
                server.sql(f"insert into mark values ('{name}')")
                moments.append(arena.volume.sync())
        server.sql("insert into mark values ('three')")
    for number, lsn in enumerate(moments, 1):
        copy = PostgreSQL(arena.outside / f"pg{number}", _run_folder(arena, f"copy{number}"))
        copy.copy_from(arena.volume.past(lsn) / "pg")
        with copy.running():
            marks = copy.sql("select name from mark order by 1").split()
            assert marks == ["one", "two"][:number]
            assert copy.sql(PG_BALANCE) == "t|t|t\n"
            assert copy.tool("pg_amcheck", "-d", "postgres", "--install-missing") == ""
        copy.check_data()


class _busy:  # noqa: N801  (reads as what it does: with _busy(server): …)
    """A client program of the server works while the block runs; it must succeed."""

    def __init__(self, server: PostgreSQL, *argv: str) -> None:
        where = ("-h", str(server.run_folder), "-U", "postgres")
        command = [argv[0], *where, *argv[1:]]
        self._process = popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        assert self._process.wait() == 0


# --- MariaDB -------------------------------------------------------------------------------------

MARIADB_FILL = """
create database shop; use shop;
create table item (id int primary key, name varchar(64), big longtext, price decimal(12, 3),
  key (name), fulltext (big)) engine=innodb;
insert into item select seq, md5(seq), repeat(md5(seq), seq % 200), seq * 1.5 from seq_1_to_1200;
create table packed (id int primary key, big longblob) engine=innodb row_format=compressed;
insert into packed select seq, repeat(char(seq % 256), 20000) from seq_1_to_60;
create table plain (id int primary key, name text, key (name(20))) engine=myisam;
create table safe (id int primary key, name text) engine=aria transactional=1;
insert into plain select id, name from item; insert into safe select id, name from item;
create table account (id int primary key, balance int) engine=innodb;
insert into account select seq, 0 from seq_1_to_20;
create table history (client int, number int, delta int) engine=innodb;
delimiter //
create procedure pay(client int, times int) begin
  declare number int default 0;
  while number < times do
    start transaction;
    insert into history values (client, number, number * client);
    update account set balance = balance + number * client where id = 1 + number % 20;
    commit;
    set number = number + 1;
  end while;
end //
delimiter ;
"""

MARIADB_CHANGE = """
use shop;
update item set price = price * 1.1, big = concat(big, 'x') where id % 3 = 0;
delete from item where id % 7 = 0;
start transaction; delete from item; rollback;
insert ignore into item select seq, 'late', null, 0 from seq_1000_to_1300;
update plain set name = concat(name, name) where id % 2; delete from plain where id % 5 = 0;
update safe set name = reverse(name) where id % 4 = 0;
alter table item add column note varchar(20) default 'noted' after name, algorithm=copy;
optimize table item, packed, plain, safe;
create table copied like item; insert into copied select * from item;
rename table copied to renamed; truncate table packed; create table gone as select 1;
drop table gone;
flush tables;
"""

MARIADB_ANSWERS = """
use shop;
checksum table item, packed, plain, safe, account, history, renamed extended;
select count(*), sum(price), min(name), max(note) from item;
select count(*) from item where match (big) against (md5(100));
select sum(balance) from account; select count(*), sum(delta) from history;
"""

MARIADB_CHECK = "use shop; check table {} extended;"
_TABLES = "item, packed, plain, safe, account, history, renamed"


def _check_tables(server: MariaDB, tables: str = _TABLES) -> None:
    for line in server.sql(MARIADB_CHECK.format(tables)).splitlines():
        assert line.endswith("\tOK"), line


def _pay(server: MariaDB, transactions: int) -> None:
    """Three clients at once."""
    scripts = [f"call shop.pay({client}, {transactions});" for client in (1, 2, 3)]
    options = ("--no-defaults", f"-S{server.run_folder / 'sock'}", "-uroot", "-e")
    clients = [popen(["mariadb", *options, script]) for script in scripts]
    assert [client.wait() for client in clients] == [0, 0, 0]


def _mariadb_work(arena: Arena, place: Path, pause: Pause, transactions: int) -> list[str]:
    server = MariaDB(place / "maria", _run_folder(arena, place.name))
    server.create()
    with server.running():
        server.sql(MARIADB_FILL)
        _pay(server, transactions)
        assert "ibdata1" in server.direct_files()
        _pause_frozen(server, pause)
        server.sql(MARIADB_CHANGE)
        answers = [server.sql(MARIADB_ANSWERS)]
        _check_tables(server)
    pause()
    with server.running():
        answers.append(server.sql(MARIADB_ANSWERS))
        server.crash()
        server.start()
        answers.append(server.sql(MARIADB_ANSWERS))
        _check_tables(server)
    return answers


def test_mariadb_answers_as_on_a_plain_directory(arena: Arena) -> None:
    _both(arena, "mariadb", 40)


def test_mariadb_recovers_from_any_past_moment(arena: Arena) -> None:
    server = MariaDB(arena.volume.tree / "maria", _run_folder(arena, "live"))
    server.create()
    moments = []
    with server.running():
        server.sql(MARIADB_FILL + "create table mark (name text) engine=innodb;")
        for name in ("one", "two"):
            server.sql(f"insert into shop.mark values ('{name}')")
            moments.append(arena.volume.sync())
            _pay(server, 30)
        server.sql("insert into shop.mark values ('three')")
    for number, lsn in enumerate(moments, 1):
        copy = MariaDB(arena.outside / f"maria{number}", _run_folder(arena, f"copy{number}"))
        copy.copy_from(arena.volume.past(lsn) / "maria")
        with copy.running():
            marks = copy.sql("select name from shop.mark order by 1").split()
            assert marks == ["one", "two"][:number]
            payments = copy.sql("select count(*) from shop.history").strip()
            assert payments == str(90 * (number - 1))
            _check_tables(copy, "item, packed, account, history, mark")


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_databases_work_for_long(arena: Arena, name: str) -> None:
    _both(arena, name, 3000)
